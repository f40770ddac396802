"""Checks of what a caller hands to the pipeline: everything is refused before long work, with a cure."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.backbones.svd.pose_features import PoseFrames
from mimicmotion.backbones.tiny.detail import DetailGuide
from mimicmotion.errors import ConfigError, InputError, PoseError


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One video to make, checked."""

    image: Frame
    poses: PoseFrames
    reference_pose: Frame | None
    num_frames: int
    seed: int
    generator: torch.Generator | None
    warped: PoseFrames | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the video in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def detail_from(self) -> DetailGuide | None:
        """What a detail network takes detail from; None where the picture is not warped."""
        if self.warped is None:
            return None
        own = np.zeros_like(self.image) if self.reference_pose is None else self.reference_pose
        return DetailGuide(self.image, own, self.warped, self.poses)


def picture_array(image: Any) -> UInt8[ndarray, "height width 3"]:
    """A picture as an array; accepts PIL pictures of any mode and uint8 arrays.

    Raises:
        InputError: it is something else.
    """
    if hasattr(image, "convert"):  # PIL
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} of shape {image.shape}" if isinstance(image, ndarray) else type(image).__name__
        raise InputError(f"image: {what}", "a PIL picture or a uint8 array (height, width, 3)", "convert the picture")
    return image


def check_numbers(**limits: tuple[float | None, float, float]) -> None:
    """Raise ConfigError unless each value is a finite number within its limits; None is not checked."""
    for name, (value, low, high) in limits.items():
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise ConfigError(f"{name}={value}", f"a number from {low:g} to {high:g}", f"correct {name!r}")


def check_size(image: Frame, height: int | None, width: int | None, multiple: int) -> None:
    """Raise InputError unless the picture has the asked size and its sides are multiples of `multiple`."""
    size = image.shape[:2]
    asked = (size[0] if height is None else height, size[1] if width is None else width)
    for name, value in zip(("height", "width"), asked, strict=True):
        if value < multiple or value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise InputError(f"{name}={value}", f"a multiple of {multiple} for this model", f"use {near}")
    if asked != size:
        raise InputError(
            f"image of {size[0]}x{size[1]} for a video of {asked[0]}x{asked[1]}",
            "the picture at the size of the video (height x width)",
            "resize it with mimicmotion.video.geometry, with the same transform as its pose",
        )


def build_requests(
    *,
    image: Any,
    poses: Any,
    reference_pose: Any,
    seed: int | Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    num_frames: int | None,
    warped: Any = None,
) -> tuple[list[Request], bool]:
    """One request per video; single values go with every item of the lists. Also says whether lists were given.

    Raises:
        InputError: lists of different lengths, an empty list, too few frames, a picture of the wrong kind.
    """
    given: dict[str, Any] = {
        "image": image if isinstance(image, list | tuple) else None,
        "poses": poses if _is_list_of_videos(poses) else None,
        "reference_pose": reference_pose if isinstance(reference_pose, list | tuple) else None,
        "seed": None if isinstance(seed, numbers.Integral) else seed,
        "generator": generator if isinstance(generator, list | tuple) else None,
        "warped": warped if _is_list_of_videos(warped) else None,
    }
    lists = {name: values for name, values in given.items() if values is not None}
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise InputError(f"lists of different length: {counts}", "the same number of items, at least 1", "correct them")
    single: dict[str, Any] = {
        "image": image,
        "poses": poses,
        "reference_pose": reference_pose,
        "seed": seed,
        "generator": generator,
        "warped": warped,
    }
    requests = []
    for i in range(max(counts.values(), default=1)):
        item: dict[str, Any] = {name: lists[name][i] if name in lists else value for name, value in single.items()}
        requests.append(_one(num_frames=num_frames, **item))
    if len({(r.size, r.num_frames) for r in requests}) > 1:
        found = sorted({(*r.size, r.num_frames) for r in requests})
        raise InputError(f"(height, width, frames) {found}", "the same in one batch", "call the pipeline for each")
    return requests, bool(lists)


def _is_list_of_videos(poses: Any) -> bool:
    """A list of frames is one video; a list of videos is a batch."""
    return isinstance(poses, list | tuple) and bool(poses) and np.ndim(poses[0]) != 3


def _one(
    *,
    image: Any,
    poses: Any,
    reference_pose: Any,
    seed: int,
    generator: torch.Generator | None,
    num_frames: int | None,
    warped: Any,
) -> Request:
    image = picture_array(image)
    if not (hasattr(poses, "__len__") and hasattr(poses, "__getitem__")):
        raise PoseError(
            f"poses: {type(poses).__name__}", "an array or sequence of drawn pose frames", "draw the poses first"
        )
    available = len(poses)
    count = available if num_frames is None else num_frames
    if not 1 <= count <= available:
        raise PoseError(
            f"{count} frames wanted, {available} pose frames given",
            "at least 1, and no more than there are poses",
            "check the driving video, or lower num_frames",
        )
    for name, frame in (("poses[0]", np.asarray(poses[0:1])[0]), ("reference_pose", reference_pose)):
        if frame is not None and (frame.shape != image.shape or frame.dtype != np.uint8):
            raise PoseError(
                f"{name}: {frame.dtype} of shape {frame.shape}, the picture has {image.shape}",
                "uint8 pose frames of the picture's size (height, width, 3)",
                "draw the poses at the size of the picture",
            )
    if warped is not None and len(warped) < count:
        raise InputError(f"{len(warped)} warped frames", f"one per pose, {count}", "warp the picture to each pose")
    return Request(image, poses, reference_pose, count, int(seed), generator, warped)
