"""A training sample in numpy, and a batch of samples as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sample:
    """A clip with its reference picture, all of one size (height, width) and one crop.

    Attributes:
        number: number of the sample, which together with the seed determines everything in it.
        key: key of the record with the driving frames.
        frames: RGB frames of the slots; None if latents are given.
        latents: latents of the slots (mode of the VAE's posterior, not scaled); None if frames are given.
        reference: RGB reference picture.
        reference_latents: latents of the reference picture; None if frames are given.
        poses: drawn pose of each slot; slot 0 is the reference's own pose if there is a reference slot.
        reference_pose: drawn pose of the reference picture.
        hand_mask: fraction of each latent cell that lies in the box of a reliable hand, 0..1 (paper section 3.4); 0 in
            the reference slot.
        fps: frames per second of the driving slots (1 / interval), or their mean for frames spread over a scene.
        warped: the reference picture warped to each slot's pose, for models that use it; the reference itself in the
            reference slot.
    """

    number: int
    key: str
    frames: UInt8[ndarray, "slots H W 3"] | None = None
    latents: Float32[ndarray, "slots c h w"] | None = None
    reference: UInt8[ndarray, "H W 3"]
    reference_latents: Float32[ndarray, "c h w"] | None = None
    poses: UInt8[ndarray, "slots H W 3"]
    reference_pose: UInt8[ndarray, "H W 3"]
    hand_mask: Float32[ndarray, "slots h w"]
    fps: float
    warped: UInt8[ndarray, "slots H W 3"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples of one shape, stacked; pictures are in [-1, 1], channels first. See `Sample` for the fields."""

    numbers: list[int]
    keys: list[str]
    frames: Float32[Tensor, "b s 3 H W"] | None
    latents: Float32[Tensor, "b s c h w"] | None
    reference: Float32[Tensor, "b 3 H W"]
    reference_latents: Float32[Tensor, "b c h w"] | None
    poses: Float32[Tensor, "b s 3 H W"]
    reference_pose: Float32[Tensor, "b 3 H W"]
    hand_mask: Float32[Tensor, "b s h w"]
    fps: Float32[Tensor, " b"]
    warped: Float32[Tensor, "b s 3 H W"] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on `device`."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, for fast copies to a GPU; called by DataLoader."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: change(v) for k, v in values.items() if isinstance(v, Tensor)})


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples in order. All must have the same shapes, and set the same optional fields."""

    def stack(name: str) -> Tensor | None:
        if getattr(samples[0], name) is None:
            return None
        stacked = np.stack([getattr(s, name) for s in samples])
        if stacked.dtype != np.uint8:
            return torch.from_numpy(stacked.astype(np.float32, copy=False))
        # pictures: transposing bytes instead of floats takes a quarter of the memory traffic
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(stacked, -1, -3))).float().div_(127.5).sub_(1)

    given = ("number", "key", "fps")
    arrays: dict[str, Any] = {f.name: stack(f.name) for f in dataclasses.fields(Sample) if f.name not in given}
    fps = torch.tensor([s.fps for s in samples], dtype=torch.float32)
    return Batch(numbers=[s.number for s in samples], keys=[s.key for s in samples], fps=fps, **arrays)
