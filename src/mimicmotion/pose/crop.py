"""Fit the picture of a person to the output size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.pose.keypoints import NECK, NOSE, VISIBLE, PoseSequence
from mimicmotion.video.geometry import Fit, Size, plan_fit, plan_size, released_round_trip, similar_sizes

PictureFit = Literal["auto", "crop", "letterbox", "released"]
PUBLISHED: Size = (1024, 576)
NEAR_SIZES = 4  # candidates, nearest aspect ratio first: others would crop away more of the picture than they keep


def choose_size(pose: PoseSequence, mode: PictureFit, model: Size | None, multiple: int) -> Size:
    """Choose the (height, width) of the output from the aspect ratio of the picture.

    Args:
        pose: pose of the person, one frame, in pixels of the picture.
        mode: "auto" takes the nearest size at which a crop keeps the whole person, if there is one; "released" takes
            the model's own size, or follows the published rule.
        model: the model's own size; None means the published one. All candidates have about its area.
        multiple: height and width are multiples of this.
    """
    if mode == "released":
        return model or plan_size(pose.size, multiple=multiple)
    sizes = similar_sizes(pose.size, model or PUBLISHED, multiple)[:NEAR_SIZES]
    whole = [size for size in sizes if keeps_person(_plan_crop(pose, size), pose)]
    return whole[0] if whole and mode == "auto" else sizes[0]


def fit_picture(picture: Frame, pose: PoseSequence, size: Size, mode: PictureFit) -> tuple[Frame, Fit]:
    """Fit a picture of a person to `size` = (height, width). Also returns the transform, to map the pose.

    Args:
        picture: the original picture.
        pose: pose of the person, one frame, in pixels of the picture.
        size: target (height, width).
        mode: "crop" crops around the person, or from the head down if the whole person does not fit; "auto" letterboxes
            in that case. For the others see `plan_fit`.
    """
    fit = _plan_crop(pose, size) if mode in ("auto", "crop") else plan_fit(pose.size, size, mode)
    if mode == "auto" and not keeps_person(fit, pose):
        fit = plan_fit(pose.size, size, "letterbox")
    fitted = fit.apply(picture)
    return (released_round_trip(fitted) if mode == "released" else fitted), fit


def person_extent(pose: PoseSequence) -> Float64[ndarray, "2 2"]:
    """Minimum and maximum (y, x) of the person's bounding box in pixels, clipped to the picture.

    The top of the head is assumed to be as far above the nose as the neck is below it.
    """
    seen = pose.confidence[0] > VISIBLE
    points = pose.xy[0, seen]
    if seen[[NOSE, NECK]].all():
        points = np.concatenate([points, 2 * pose.xy[:1, NOSE] - pose.xy[:1, NECK]])
    return np.clip(np.stack([points.min(0), points.max(0)])[:, ::-1], 0, pose.size)


def keeps_person(fit: Fit, pose: PoseSequence) -> bool:
    """Whether the fitted picture keeps everything the original shows of the person, to within 1% of its sides."""
    placed = person_extent(pose) * fit.scale + fit.offset
    spare = np.multiply(fit.target, 0.01)
    return bool((placed[0] >= -spare).all() and (placed[1] <= fit.target + spare).all())


def _plan_crop(pose: PoseSequence, target: Size) -> Fit:
    """Plan a crop centred on the person, or aligned with the head if the person is too tall."""
    scale = max(t / s for t, s in zip(target, pose.size, strict=True))
    first, last = person_extent(pose) * scale
    start = (first + last - target) / 2
    start[0] = min(start[0], first[0])
    spare = np.multiply(pose.size, scale) - target
    anchor = np.where(spare > 1e-6, np.clip(start / np.maximum(spare, 1e-6), 0, 1), 0.5)
    return plan_fit(pose.size, target, "crop", anchor=(float(anchor[0]), float(anchor[1])))
