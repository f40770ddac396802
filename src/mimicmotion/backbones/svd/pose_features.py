"""PoseNet's features of a video, stored if they fit in memory, and otherwise recomputed from the drawn frames."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.diffusion.sampling import check_finite
from mimicmotion.errors import PoseError
from mimicmotion.runtime.files import writing
from mimicmotion.runtime.threads import prefetch

Features = Float[Tensor, "batch frames features h w"]

FEATURE_BUDGET = 1 << 30
"""Maximum bytes of stored features on a GPU. At 576x1024, a frame takes 5.9 MB in float16, so 180 frames fit."""
HOST_BUDGET = 1 << 26
"""Maximum bytes of stored features on a CPU, so small that memory hardly depends on the length of the video."""

POSE_CHUNK = 16
"""Frames encoded at once."""


def feature_budget(device: torch.device | str) -> int:
    """Return the maximum bytes of features to store on a device."""
    return HOST_BUDGET if torch.device(device).type == "cpu" else FEATURE_BUDGET


class PoseFeatures(Protocol):
    """Features of the frames of a video, by frame index."""

    def __len__(self) -> int:
        """Number of frames of the video."""
        ...

    def frames(self, index: Sequence[int]) -> Features:
        """Return the features of the frames with these indices."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class StoredFeatures:
    """Features that are stored in memory."""

    features: Float[Tensor, "batch frames features h w"]

    def __len__(self) -> int:
        return self.features.shape[1]

    def frames(self, index: Sequence[int]) -> Features:
        """Return the features of the frames with these indices."""
        return self.features[:, list(index)]


@dataclass(frozen=True, slots=True, eq=False)
class RecomputedFeatures:
    """Features that are recomputed on each access, for videos whose features do not fit in memory.

    The poses are redrawn as well. PoseNet takes 0.2% of the U-Net's compute for the same frames.
    """

    encoder: PoseEncoder
    poses: PoseFrames
    count: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return self.count

    def frames(self, index: Sequence[int]) -> Features:
        """Return the features of the frames with these indices."""
        parts = []
        for start in range(0, len(index), POSE_CHUNK):
            drawn = [read_frames(self.poses, i, i + 1, self.size) for i in index[start : start + POSE_CHUNK]]
            parts.append(self.encoder(np.concatenate(drawn)))
        return torch.cat(parts, dim=1)


class DiskFeatures:
    """Features that are stored in a temporary file (in TMPDIR), since they do not fit in memory.

    The file is deleted with the object, or when the process ends. The operating system caches what is read often.

    Args:
        device: device of the returned features.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device, self.count = device, 0
        self.folder = Path(tempfile.gettempdir())
        with writing(self.folder):
            self.file = tempfile.TemporaryFile(prefix="mimicmotion-")  # noqa: SIM115 - lives with self
        weakref.finalize(self, self.file.close)

    def add(self, frames: Float[Tensor, "frames ..."]) -> None:
        """Append the features of the next frames.

        Raises:
            OutputError: the disk is full.
        """
        self.shape, self.dtype, self.bytes = frames.shape[1:], frames.dtype, frames[0].nbytes
        with writing(self.folder):
            self.file.write(frames.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            self.file.flush()
        self.count += len(frames)

    def __len__(self) -> int:
        return self.count

    def frames(self, index: Sequence[int]) -> Float[Tensor, "1 frames ..."]:
        """Return the features of the frames with these indices."""
        data = bytearray()
        for i in index:
            self.file.seek(i * self.bytes)
            data += self.file.read(self.bytes)
        return torch.frombuffer(data, dtype=self.dtype).view(1, len(index), *self.shape).to(self.device)


def store_features(
    parts: Iterable[Float[Tensor, "frames ..."]], count: int, device: torch.device | str, budget: int
) -> PoseFeatures:
    """Store the features of `count` frames: in memory if they need at most `budget` bytes, else on disk."""
    stored: Tensor | None = None  # one buffer, since concatenating the parts would need twice the memory
    disk: DiskFeatures | None = None
    done = 0
    for part in parts:
        if done == 0 and count * part[0].nbytes <= budget:
            stored = part.new_empty(1, count, *part.shape[1:])
        if stored is None:
            disk = disk or DiskFeatures(device)
            disk.add(part)
        else:
            stored[0, done : done + len(part)] = part
        done += len(part)
    if stored is None and disk is None:
        raise PoseError("no pose frames", "at least one", "check that the driving video is not empty")
    return disk if stored is None else StoredFeatures(stored)  # type: ignore[return-value]


class PoseEncoder:
    """Applies PoseNet to drawn frames. If it has six input channels, they are the driving and the reference pose.

    Args:
        pose_net: the network.
        reference: drawn reference pose, or None.
        device: device of the features.
    """

    def __init__(self, pose_net: PoseNet, reference: Frame | None, device: torch.device | str) -> None:
        self.pose_net, self.device = pose_net, device
        self.two_poses = pose_net.widths[0] == 6
        self.dtype = next(pose_net.parameters()).dtype
        self.reference = None if reference is None else to_unit(reference[None]).to(device)

    @torch.inference_mode()
    def __call__(self, frames: UInt8[ndarray, "frames height width 3"]) -> Float[Tensor, "1 frames features h w"]:
        """Encode drawn frames."""
        x = to_unit(frames).to(self.device)
        if self.two_poses and self.reference is not None:
            x = torch.cat([x, self.reference.expand(x.shape[0], -1, -1, -1)], dim=1)
        features = self.pose_net(x.to(self.dtype)[None])
        check_finite(features, "PoseNet's features")
        return features


def encode_poses(
    pose_net: PoseNet,
    poses: PoseFrames,
    reference_pose: Frame | None,
    size: tuple[int, int],
    *,
    num_frames: int | None = None,
    device: torch.device | str = "cpu",
    budget: int | None = None,
) -> tuple[PoseFeatures, Float[Tensor, "1 1 features h w"] | None]:
    """Encode the driving poses and the reference pose with PoseNet.

    Args:
        pose_net: encoder of pose frames.
        poses: drawn pose frames.
        reference_pose: drawn reference pose.
        size: (height, width) of the frames.
        num_frames: number of frames to use, from the start; None uses all.
        device: device of the features.
        budget: maximum bytes of features to store; if they need more, they are recomputed for each segment. None uses
            `feature_budget`.

    Returns:
        (features of the video, features of the reference slot or None without a reference pose).

    Raises:
        PoseError: pose frames have the wrong size or type.
    """
    if reference_pose is not None:
        (reference_pose,) = read_frames(reference_pose[None], 0, 1, size)
    encoder = PoseEncoder(pose_net, reference_pose, device)
    count = len(poses) if num_frames is None else num_frames
    cells = (size[0] // pose_net.downscale) * (size[1] // pose_net.downscale)
    limit = feature_budget(device) if budget is None else budget
    features: PoseFeatures = RecomputedFeatures(encoder, poses, count, size)
    if count * cells * pose_net.out_channels * encoder.dtype.itemsize <= limit:
        with prefetch(read_chunks(poses, count, size), 1) as parts:  # draws while PoseNet computes
            features = store_features((encoder(part)[0] for part in parts), count, device, limit)
    return features, None if reference_pose is None else encoder(reference_pose[None])


def to_unit(frames: UInt8[ndarray, "frames height width 3"]) -> Float[Tensor, "frames 3 height width"]:
    """Convert uint8 frames to float32 in [-1, 1], channels first."""
    return torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def read_chunks(frames: PoseFrames, count: int, size: tuple[int, int], name: str = "pose frames") -> Iterator[ndarray]:
    """Read `count` frames in chunks; see `read_frames`."""
    for start in range(0, count, POSE_CHUNK):
        yield read_frames(frames, start, min(start + POSE_CHUNK, count), size, name)


def read_frames(
    frames: PoseFrames, start: int, stop: int, size: tuple[int, int], name: str = "pose frames"
) -> UInt8[ndarray, "frames height width 3"]:
    """Read the frames `start` to `stop` - 1.

    Raises:
        PoseError: they are not uint8 (frames, height, width, 3) of the expected size.
    """
    try:
        part = np.asarray(frames[start:stop])
    except ValueError as e:
        raise PoseError(f"pose frames: {e}", "frames of one size", "draw all poses at height x width") from e
    if part.shape != (stop - start, *size, 3) or part.dtype != np.uint8:
        raise PoseError(
            f"{name} {start}..{stop - 1}: {part.dtype} of shape {part.shape}",
            f"uint8 of shape ({stop - start}, {size[0]}, {size[1]}, 3)",
            "draw them at the height and width of the generated video",
        )
    return part
