"""Pose maps with and without confidence-aware guidance, next to the frames (paper figures 2 and 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.figures.clips import check_frames, check_shapes, estimate, open_clips, spaced
from mimicmotion.evaluation.figures.specs import FigureResult, PosesSpec
from mimicmotion.pose.files import open_poses
from mimicmotion.pose.guidance.skeleton import draw_pose
from mimicmotion.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, NUM_POINTS, RIGHT_HAND, VISIBLE, PoseSequence
from mimicmotion.runtime.progress import Job
from mimicmotion.tables import write_csv

PARTS = {"body": BODY, "feet": FEET, "face": FACE, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
SHOWN = 4
DRAWN_SIDE = 512  # longer side in pixels: as many as the page shows
STROKE = 3.0  # thicker than for the network, because the page is small
MARGIN = 0.1
ROWS = ("frame", "with confidence", "without")


@dataclass(frozen=True, slots=True, eq=False)
class PoseMaps:
    """The figure's contents, by frame number.

    Attributes:
        frames: the frames, cropped to the shown part.
        aware: pose maps with colours multiplied by confidence.
        plain: pose maps with only the points above 0.3, in full colours.
        poses: (xy in pixels of the whole frame, confidence).
    """

    frames: dict[int, Frame]
    aware: dict[int, UInt8[ndarray, "height width 3"]]
    plain: dict[int, UInt8[ndarray, "height width 3"]]
    poses: dict[int, tuple[Float[ndarray, "134 2"], Float[ndarray, " 134"]]]


def make(spec: PosesSpec) -> Job[FigureResult]:
    """The figure, and OUTPUT.csv with position and confidence of every point.

    Raises:
        InputError: the poses do not match the video, a frame is out of range, or nobody is visible.
        OutputError: a file cannot be written.
    """
    known = open_poses(spec.poses) if spec.poses else None
    clip = open_clips([("video", spec.video)])[0]
    count = clip.count()
    shown = check_frames(spec.frames or (), 0, count) or spaced(0, count - 1, SHOWN)
    pictures = clip.chosen(shown)
    if known is None:
        found = yield from estimate(list(pictures.values()))
    else:
        if len(known) != count:
            got = f"{spec.poses} has {len(known)} poses, {spec.video} has {count} frames"
            fix = f"make it with 'mimicmotion poses {spec.video}' without --fps"
            raise InputError(got, "a pose for each frame", fix)
        check_shapes([clip], known)
        found = known[shown].scaled(clip.size)
    data = make_maps(pictures, found)
    rows = (
        (t, k, part_of(k), float(xy[k, 0]), float(xy[k, 1]), float(c[k]), int(c[k] > VISIBLE))
        for t, (xy, c) in data.poses.items()
        for k in range(NUM_POINTS)
    )
    head = ("frame", "point", "part", "x", "y", "confidence", "drawn_without")
    table = write_csv(spec.output.with_suffix(".csv"), head, rows)
    _paint(data, spec.output)
    seen = found.confidence[found.confidence > 0]
    dim = float((seen < 0.5).mean()) if len(seen) else 0.0
    source = found.source or spec.poses
    note = f"frames {', '.join(map(str, shown))} by {source}; {dim:.0%} of the visible points are below 0.5"
    return FigureResult([spec.output, table], [note])


def part_of(point: int) -> str:
    """The body part of a point."""
    return next(name for name, part in PARTS.items() if part.start <= point < part.stop)


def pose_box(poses: PoseSequence) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of all drawn points of all frames with a margin, clipped to the frame.

    The whole frame if nobody is visible.
    """
    height, width = poses.size
    seen = poses.xy[poses.confidence > VISIBLE]
    if not len(seen):
        return 0, 0, width, height
    low, high = seen.min(0), seen.max(0)
    margin = MARGIN * max(high - low)
    left, top = np.clip(np.floor(low - margin), 0, [width - 2, height - 2]).astype(int)
    right, bottom = np.clip(np.ceil(high + margin), [left + 2, top + 2], [width, height]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def make_maps(frames: Mapping[int, Frame], poses: PoseSequence) -> PoseMaps:
    """Draw the poses of some frames both ways.

    Args:
        frames: frame number -> frame.
        poses: one pose for each frame, in the same order and in pixels of the frames.

    Raises:
        PoseError: nobody is visible in any of the frames.
    """
    if not (poses.confidence > VISIBLE).any():
        got = f"nobody visible in the frames {', '.join(map(str, frames))}"
        raise PoseError(got, "a person", "choose other frames with --frames")
    left, top, right, bottom = pose_box(poses)
    scale = DRAWN_SIDE / max(right - left, bottom - top)
    size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    to_map = np.array([size[1] / (right - left), size[0] / (bottom - top)])
    aware, plain = {}, {}
    for t, xy, confidence in zip(frames, poses.xy, poses.confidence, strict=True):
        at = (xy - np.array([left, top])) * to_map
        for pictures, on in ((aware, True), (plain, False)):
            pictures[t] = draw_pose(at, confidence, size, canvas_short_side=None, stroke=STROKE, confidence_aware=on)
    cut = {t: f[top:bottom, left:right] for t, f in frames.items()}
    points = {t: (poses.xy[i], poses.confidence[i]) for i, t in enumerate(frames)}
    return PoseMaps(cut, aware, plain, points)


def _paint(data: PoseMaps, output: Path) -> None:
    height, width = next(iter(data.frames.values())).shape[:2]
    row = min((plot.PAGE_WIDTH - 0.4) / max(len(data.frames), 3) * height / width, 2.6)
    maps = zip(ROWS, (data.frames, data.aware, data.plain), strict=True)
    rows = {name: list(pictures.values()) for name, pictures in maps}
    titles = [f"frame {t}" + ("" if c.any() else ": nobody found") for t, (_, c) in data.poses.items()]
    with plot.figure(output, height=3 * row + 0.45) as sheet:
        plot.picture_grid(sheet, rows, titles, coloured=False, interpolation="antialiased")
