"""Validation of the pipeline's inputs, before any network runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.backbones.base import Request
from mimicmotion.errors import InputError, PoseError
from mimicmotion.pose.estimators.open import choose_estimator, find_estimator
from mimicmotion.pose.keypoints import BODY, VISIBLE, PoseSequence
from mimicmotion.settings import PoseOptions
from mimicmotion.video.geometry import check_size
from mimicmotion.video.picture import check_picture_size, read_picture
from mimicmotion.video.reader import RELEASED_FPS, open_video

logger = logging.getLogger(__name__)


def picture_array(image: Any) -> Frame:
    """Convert a picture to an array. Accepts PIL images of any mode and uint8 arrays.

    Raises:
        InputError: `image` is neither.
    """
    if hasattr(image, "convert"):  # PIL
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} of shape {image.shape}" if isinstance(image, ndarray) else type(image).__name__
        raise InputError(f"image: {got}", "a PIL image or a uint8 array (height, width, 3)", "convert the picture")
    return image


def find_poses(
    image: Any, video: Any, num_frames: int | None, trained_with: str | None
) -> tuple[Frame, PoseSequence, PoseSequence]:
    """Estimate the poses of the picture and of the driving video.

    Args:
        image: a path, a PIL image or a uint8 array (height, width, 3).
        video: a path (sampled at 15 frames per second), a sequence of frames (all are used), or a `PoseSequence`.
        num_frames: number of video frames to use, from the start; None uses all.
        trained_with: pose estimator that the model was trained with.

    Returns:
        (picture, reference pose, driving poses).

    Raises:
        InputError: the picture or video cannot be read, or shows no person.
    """
    picture = read_picture(image) if isinstance(image, str | os.PathLike) else picture_array(image)
    check_picture_size(picture, name="image")
    name, notes = choose_estimator(PoseOptions(), trained_with)
    for note in notes:
        logger.warning("%s", note)
    open_chosen = find_estimator(PoseOptions(estimator=name))  # type: ignore[arg-type]
    if isinstance(video, PoseSequence):
        driving = video[:num_frames]
    else:
        frames: Iterable[Frame]
        if isinstance(video, str | os.PathLike):
            frames = open_video(video).frames(fps=RELEASED_FPS, max_frames=num_frames)
        else:
            frames = map(picture_array, islice(video, num_frames))
        driving = open_chosen().estimate(frames, fps=RELEASED_FPS)
    reference = open_chosen(static=True).estimate([picture])
    for what, poses in (("image", reference), ("video", driving)):
        if not (poses.confidence[:, BODY] > VISIBLE).any():
            raise PoseError(f"no person found in {what!r}", "a person in full view", f"choose another {what}")
    return picture, reference, driving


def check_request(image: Frame, height: int | None, width: int | None, multiple: int) -> None:
    """Raise InputError unless the picture has the requested size and its sides are multiples of `multiple`."""
    size = image.shape[:2]
    requested = (size[0] if height is None else height, size[1] if width is None else width)
    check_size(requested, multiple)
    if requested != size:
        raise InputError(
            f"image of {size[0]}x{size[1]} for a video of {requested[0]}x{requested[1]}",
            "the picture at the size of the video (height x width)",
            "resize it with mimicmotion.video.geometry, with the same transform as its pose",
        )


def build_requests(
    image: Any,
    poses: Any,
    reference_pose: Any,
    seed: int | Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    num_frames: int | None,
) -> tuple[list[Request], bool]:
    """Build one request per video. Arguments that are not lists apply to all videos.

    Returns:
        (requests, whether any argument is a list).

    Raises:
        InputError: lists are empty or differ in length, an item is invalid, or the videos differ in size or length.
    """
    given = {"image": image, "poses": poses, "reference_pose": reference_pose, "seed": seed, "generator": generator}
    lists = {name: value for name, value in given.items() if isinstance(value, list | tuple)}
    if "poses" in lists and (not poses or getattr(poses[0], "ndim", None) == 3):  # frames of a single video
        del lists["poses"]
    counts = {name: len(values) for name, values in lists.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise InputError(f"lists of lengths {counts}", "lists of equal length, at least 1", "correct the lists")
    items = [{**given, **{n: v[i] for n, v in lists.items()}} for i in range(max(counts.values(), default=1))]
    requests = [_request(**item, num_frames=num_frames) for item in items]
    if len({(r.size, r.num_frames) for r in requests}) > 1:
        found = sorted({(*r.size, r.num_frames) for r in requests})
        raise InputError(f"(height, width, frames) {found}", "one size and length", "call the pipeline once per video")
    return requests, bool(lists)


def _request(image: Any, poses: Any, reference_pose: Any, seed: Any, generator: Any, num_frames: int | None) -> Request:
    image = picture_array(image)
    if not (hasattr(poses, "__len__") and hasattr(poses, "__getitem__")):
        raise PoseError(
            f"poses: {type(poses).__name__}", "an array or sequence of drawn pose frames", "draw the poses first"
        )
    available = len(poses)
    count = available if num_frames is None else num_frames
    if not 1 <= count <= available:
        raise PoseError(
            f"num_frames={count} with {available} pose frames",
            "at least 1, and no more than there are pose frames",
            "check the driving video, or lower num_frames",
        )
    for name, frame in (("poses[0]", np.asarray(poses[0:1])[0]), ("reference_pose", reference_pose)):
        if frame is not None and (frame.shape != image.shape or frame.dtype != np.uint8):
            raise PoseError(
                f"{name}: {frame.dtype} of shape {frame.shape}, the picture has {image.shape}",
                "uint8 pose frames of the picture's size (height, width, 3)",
                "draw the poses at the size of the picture",
            )
    return Request(image, poses, reference_pose, count, int(seed), generator)
