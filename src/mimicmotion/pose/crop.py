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
NEAR_SIZES = 4  # number of candidate sizes, the most similar first; the others would crop off most of the picture


def choose_size(pose: PoseSequence, mode: PictureFit, model: Size | None, multiple: int) -> Size:
    """Choose the (height, width) of the output from the aspect ratio of the picture.

    Args:
        pose: pose of the person, one frame, in pixels of the picture.
        mode: "auto" prefers the nearest size at which a crop keeps the whole person; "released" uses `model`, or the
            rule of the published code (`plan_size`); other modes use the nearest size.
        model: size that the model was trained on; None for the published model. All candidates have about this area.
        multiple: height and width are multiples of this.
    """
    if mode == "released":
        return model or plan_size(pose.size, multiple=multiple)
    sizes = similar_sizes(pose.size, model or PUBLISHED, multiple)[:NEAR_SIZES]
    complete = [size for size in sizes if keeps_person(_plan_crop(pose, size), pose)]
    return complete[0] if complete and mode == "auto" else sizes[0]


def fit_picture(picture: Frame, pose: PoseSequence, size: Size, mode: PictureFit) -> tuple[Frame, Fit]:
    """Fit a picture of a person to `size` = (height, width). Return it with the transform, which also maps the pose.

    Args:
        picture: the original picture.
        pose: pose of the person, one frame, in pixels of the picture.
        size: target (height, width).
        mode: "crop" crops around the person, or from the head down if the person does not fit; "auto" adds bars in that
            case instead. For the others, see `plan_fit`.
    """
    fit = _plan_crop(pose, size) if mode in ("auto", "crop") else plan_fit(pose.size, size, mode)
    if mode == "auto" and not keeps_person(fit, pose):
        fit = plan_fit(pose.size, size, "letterbox")
    fitted = fit.apply(picture)
    return (released_round_trip(fitted) if mode == "released" else fitted), fit


def person_extent(pose: PoseSequence) -> Float64[ndarray, "2 2"]:
    """Return the minimum and maximum (y, x) of the person's bounding box in pixels, clipped to the picture.

    The top of the head is assumed to be as far above the nose as the neck is below it.
    """
    seen = pose.confidence[0] > VISIBLE
    points = pose.xy[0, seen]
    if seen[[NOSE, NECK]].all():
        points = np.concatenate([points, 2 * pose.xy[:1, NOSE] - pose.xy[:1, NECK]])
    return np.clip(np.stack([points.min(0), points.max(0)])[:, ::-1], 0, pose.size)


def keeps_person(fit: Fit, pose: PoseSequence) -> bool:
    """Return whether the person's bounding box stays inside the fitted picture, to within 1% of its sides."""
    box = person_extent(pose) * fit.scale + fit.offset
    tolerance = np.multiply(fit.target, 0.01)
    return bool((box[0] >= -tolerance).all() and (box[1] <= fit.target + tolerance).all())


def _plan_crop(pose: PoseSequence, target: Size) -> Fit:
    """Plan a crop centred on the person, or aligned with the head if the person is too tall."""
    scale = max(t / s for t, s in zip(target, pose.size, strict=True))
    first, last = person_extent(pose) * scale
    start = (first + last - target) / 2
    start[0] = min(start[0], first[0])
    excess = np.multiply(pose.size, scale) - target
    anchor = np.where(excess > 1e-6, np.clip(start / np.maximum(excess, 1e-6), 0, 1), 0.5)
    return plan_fit(pose.size, target, "crop", anchor=(float(anchor[0]), float(anchor[1])))
