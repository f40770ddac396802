"""PoseNet's features of a whole video: kept where there is room, else made again from the drawn frames when needed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.errors import PoseError
from mimicmotion.runtime.files import Spool
from mimicmotion.runtime.threads import prefetch

Rows = Float[Tensor, "batch rows features h w"]

FEATURE_BUDGET = 1 << 30
"""Bytes of features that are kept on a GPU. At 576x1024 a frame has 5.9 MB in float16, so 1 GiB holds 180 frames."""
HOST_BUDGET = 1 << 26
"""The same on a CPU: so little that the memory of a process hardly depends on the length of the video."""


def feature_budget(device: torch.device | str) -> int:
    """Bytes of features that are kept on a device."""
    return HOST_BUDGET if torch.device(device).type == "cpu" else FEATURE_BUDGET


class PoseFeatures(Protocol):
    """Features of the frames of a video, picked by number."""

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        ...

    def rows(self, index: Sequence[int]) -> Rows:
        """Features of the frames of these numbers."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class KeptFeatures:
    """Features computed once and kept, (batch, frames, features, h, w)."""

    features: Float[Tensor, "batch frames features h w"]

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return self.features.shape[1]

    def rows(self, index: Sequence[int]) -> Rows:
        """Features of the frames of these numbers."""
        return self.features[:, list(index)]


@dataclass(frozen=True, slots=True, eq=False)
class RepeatedFeatures:
    """Features made again each time, for videos whose features would not fit into memory.

    The drawn frames are kept packed in a temporary file (mostly black: some 10 kB a frame); PoseNet's work is 0.2 %
    of the U-Net's on the same frames.
    """

    encoder: PoseEncoder
    packed: Spool
    size: tuple[int, int]
    chunk: int

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return len(self.packed)

    def rows(self, index: Sequence[int]) -> Rows:
        """Features of the frames of these numbers."""
        parts = []
        for start in range(0, len(index), self.chunk):
            pixels = b"".join(zlib.decompress(self.packed[i]) for i in index[start : start + self.chunk])
            parts.append(self.encoder(np.frombuffer(pixels, np.uint8).reshape(-1, *self.size, 3)))
        return torch.cat(parts, dim=1)


class SpooledRows:
    """Rows of a tensor (1, frames, ...) in a temporary file, for those that are too much for memory.

    Args:
        device: where rows are handed out.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device, self.spool = device, Spool()
        self.shape: tuple[int, ...] = ()
        self.dtype = torch.float32

    def add(self, rows: Float[Tensor, "frames ..."]) -> None:
        """Add the next frames."""
        self.shape, self.dtype = tuple(rows.shape[1:]), rows.dtype
        for row in rows.cpu():
            self.spool.add(row.contiguous().view(-1).view(torch.uint8).numpy().data)

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return len(self.spool)

    def rows(self, index: Sequence[int]) -> Float[Tensor, "1 rows ..."]:
        """The frames of these numbers."""
        data = bytearray().join(self.spool[i] for i in index)
        return torch.frombuffer(data, dtype=self.dtype).view(1, len(index), *self.shape).to(self.device)


@dataclass(frozen=True, slots=True, eq=False)
class StackedFeatures:
    """Features of a batch of videos of one length."""

    videos: tuple[PoseFeatures, ...]

    @property
    def num_frames(self) -> int:
        """Frames of each video."""
        return self.videos[0].num_frames

    def rows(self, index: Sequence[int]) -> Rows:
        """Features of the frames of these numbers, of all videos."""
        return torch.cat([v.rows(index) for v in self.videos])


class PoseEncoder:
    """PoseNet on drawn frames; one with six input channels gets the reference pose beside each driving pose.

    Args:
        pose_net: the network.
        reference: the drawn pose of the picture, or None.
        device: where the features lie.

    Raises:
        PoseError: this PoseNet needs a reference pose.
    """

    def __init__(self, pose_net: PoseNet, reference: Frame | None, device: torch.device | str) -> None:
        self.pose_net, self.device = pose_net, device
        self.two_poses = pose_net.widths[0] == 6
        if self.two_poses and reference is None:
            raise PoseError(
                "no reference_pose", "the drawn pose of the picture: this model compares the two", "pass it"
            )
        self.dtype = next(pose_net.parameters()).dtype
        self.reference = None if reference is None else to_unit(reference[None]).to(device)

    @torch.inference_mode()
    def __call__(self, frames: UInt8[ndarray, "frames height width 3"]) -> Float[Tensor, "1 frames features h w"]:
        """Features of drawn frames."""
        x = to_unit(frames).to(self.device)
        if self.two_poses and self.reference is not None:
            x = torch.cat([x, self.reference.expand(x.shape[0], -1, -1, -1)], dim=1)
        return self.pose_net(x.to(self.dtype)[None])


def encode_poses(
    pose_net: PoseNet,
    poses: PoseFrames,
    reference_pose: Frame | None,
    size: tuple[int, int],
    *,
    num_frames: int | None = None,
    device: torch.device | str = "cpu",
    chunk: int = 16,
    budget: int | None = None,
) -> tuple[PoseFeatures, Float[Tensor, "1 1 features h w"] | None]:
    """PoseNet's features of the video and of the reference slot, `chunk` frames at a time.

    Args:
        pose_net: encoder of pose frames.
        poses: drawn frames; each is asked for once.
        reference_pose: the picture's own pose, drawn.
        size: (height, width) of the frames.
        num_frames: use the first so many; None uses all.
        device: where the features lie.
        chunk: frames per call of PoseNet.
        budget: bytes of features that are kept; where they need more, they are made again for each segment. None is
            `feature_budget`.

    Raises:
        PoseError: pose frames of another size or kind, or no reference pose where the model needs one.
    """
    if reference_pose is not None:
        (reference_pose,) = next(pose_chunks(reference_pose[None], 1, size, 1))
    encoder = PoseEncoder(pose_net, reference_pose, device)
    count = len(poses) if num_frames is None else num_frames
    cells = (size[0] // pose_net.downscale) * (size[1] // pose_net.downscale)
    limit = feature_budget(device) if budget is None else budget
    keep = count * cells * pose_net.out_channels * encoder.dtype.itemsize <= limit
    kept: Tensor | None = None
    packed: Spool | None = None if keep else Spool()
    with prefetch(pose_chunks(poses, count, size, chunk), 1) as parts:  # drawn while PoseNet is at the last ones
        for index, part in enumerate(parts):
            if packed is not None:
                for frame in part:
                    packed.add(zlib.compress(np.ascontiguousarray(frame).data, 1))
                continue
            out = encoder(part)
            if kept is None:  # one buffer for all: collecting chunks and joining them would hold everything twice
                kept = out.new_empty(1, count, *out.shape[2:])
            kept[:, index * chunk : index * chunk + out.shape[1]] = out
    if packed:
        features: PoseFeatures = RepeatedFeatures(encoder, packed, size, chunk)
    elif kept is not None:
        features = KeptFeatures(kept)
    else:
        raise PoseError("no pose frames", "at least one", "check that the driving video is not empty")
    return features, None if reference_pose is None else encoder(reference_pose[None])


def to_unit(frames: UInt8[ndarray, "frames height width 3"]) -> Float[Tensor, "frames 3 height width"]:
    """Frames of 0..255 to float32 in [-1, 1], channels first."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def pose_chunks(poses: PoseFrames, count: int, size: tuple[int, int], chunk: int) -> Iterator[ndarray]:
    """Take `count` pose frames in chunks and check each chunk.

    Raises:
        PoseError: a chunk is not uint8 of (frames, height, width, 3) with the expected size.
    """
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        part = _as_array(poses[start:stop])
        if part.shape != (stop - start, *size, 3) or part.dtype != np.uint8:
            raise PoseError(
                f"pose frames {start}..{stop - 1}: {part.dtype} of shape {part.shape}",
                f"uint8 of shape ({stop - start}, {size[0]}, {size[1]}, 3)",
                "draw the poses at height x width of the generated video",
            )
        yield part


def _as_array(frames: Any) -> ndarray:
    try:
        return np.asarray(frames)
    except ValueError as e:
        raise PoseError(f"pose frames: {e}", "frames of one size", "draw all poses at height x width") from e
