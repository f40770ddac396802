"""Pose maps with and without confidence-aware guidance, and hand crops of several results (paper figures 2 and 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from mimicmotion import plot
from mimicmotion.arrays import Frame
from mimicmotion.errors import InputError, PoseError
from mimicmotion.evaluation.figures.clips import (
    Clip,
    check_frames,
    check_same_length,
    check_shapes,
    estimate,
    open_clips,
    parse_names,
    spaced,
)
from mimicmotion.evaluation.figures.specs import FigureResult, HandsSpec, PosesSpec
from mimicmotion.generate import inputs
from mimicmotion.pose.files import open_poses
from mimicmotion.pose.guidance.skeleton import draw_pose
from mimicmotion.pose.hands import hand_boxes
from mimicmotion.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, NUM_POINTS, RIGHT_HAND, VISIBLE, PoseSequence
from mimicmotion.runtime.progress import Job
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import GenerateConfig, parse
from mimicmotion.tables import write_csv

PARTS = {"body": BODY, "feet": FEET, "face": FACE, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
SHOWN_POSES = 4
DRAWN_SIDE = 512  # longer side in pixels: as many as the page shows
STROKE = 3.0  # thicker than for the network, because the page is small
MARGIN = 0.1
ROWS = ("frame", "with confidence", "without")
SIDES = ("left", "right")
PADDING = 0.3
LEAST_SHARE = 1 / 16  # least side of a crop as a share of the frame's short side
SHOWN_HANDS = 4
CANDIDATES = 12  # frames that are searched for hands
Box = tuple[int, int, int, int]


def make_poses(spec: PosesSpec) -> Job[FigureResult]:
    """Draw pose maps with and without confidence; write position and confidence of every point to OUTPUT.csv.

    Raises:
        InputError: the poses do not match the video, a frame is out of range, or nobody is visible.
        OutputError: a file cannot be written.
    """
    known = open_poses(spec.poses) if spec.poses else None
    clip = open_clips([("video", spec.video)])[0]
    count = clip.count()
    shown = check_frames(spec.frames or (), 0, count) or spaced(0, count - 1, SHOWN_POSES)
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
    maps = make_maps(pictures, found)
    rows = (
        (t, k, part_of(k), float(xy[k, 0]), float(xy[k, 1]), float(c[k]), int(c[k] > VISIBLE))
        for t, xy, c in zip(pictures, found.xy, found.confidence, strict=True)
        for k in range(NUM_POINTS)
    )
    head = ("frame", "point", "part", "x", "y", "confidence", "drawn_without")
    table = write_csv(spec.output.with_suffix(".csv"), head, rows)
    seen_in = zip(pictures, found.confidence, strict=True)
    titles = [f"frame {t}" + ("" if c.any() else ": nobody found") for t, c in seen_in]
    height, width = maps["frame"][0].shape[:2]
    row = min((plot.PAGE_WIDTH - 0.4) / max(len(titles), 3) * height / width, 2.6)
    with plot.figure(spec.output, height=3 * row + 0.45) as sheet:
        plot.picture_grid(sheet, maps, titles, coloured=False, interpolation="antialiased")
    seen = found.confidence[found.confidence > 0]
    dim = float((seen < 0.5).mean()) if len(seen) else 0.0
    source = found.source or spec.poses
    note = f"frames {', '.join(map(str, shown))} by {source}; {dim:.0%} of the visible points are below 0.5"
    return FigureResult([spec.output, table], [note])


def part_of(point: int) -> str:
    """Name of the body part that a point belongs to, such as "left hand"."""
    return next(name for name, part in PARTS.items() if part.start <= point < part.stop)


def pose_box(poses: PoseSequence) -> tuple[int, int, int, int]:
    """Bounding box (left, top, right, bottom) of the drawn points of all frames, plus a margin, clipped to the frame.

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


def make_maps(frames: Mapping[int, Frame], poses: PoseSequence) -> dict[str, list[Frame]]:
    """Draw the poses of some frames, and crop frames and pose maps to the visible points.

    Args:
        frames: frame number -> frame.
        poses: one pose for each frame, in the same order and in pixels of the frames.

    Returns:
        Name of each row of the figure (`ROWS`) -> its pictures: the cropped frames; pose maps with colours multiplied
        by confidence; and pose maps with only the points above 0.3, in full colours.

    Raises:
        PoseError: nobody is visible in any of the frames.
    """
    if not (poses.confidence > VISIBLE).any():
        got = f"nobody visible in the frames {', '.join(map(str, frames))}"
        raise PoseError(got, "a person", "choose other frames with --frames")
    left, top, right, bottom = pose_box(poses)
    scale = DRAWN_SIDE / max(right - left, bottom - top)
    size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    at = (poses.xy - np.array([left, top])) * np.array([size[1] / (right - left), size[0] / (bottom - top)])
    aware, plain = (
        [
            draw_pose(xy, confidence, size, canvas_short_side=None, stroke=STROKE, confidence_aware=on)
            for xy, confidence in zip(at, poses.confidence, strict=True)
        ]
        for on in (True, False)
    )
    return dict(zip(ROWS, ([f[top:bottom, left:right] for f in frames.values()], aware, plain), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class HandCrop:
    """One hand in one frame.

    Attributes:
        frame: number of the frame.
        side: left or right, of the person.
        confidence: the lowest of its 21 points.
        boxes: name of each result -> (left, top, right, bottom) in its pixels.
        crops: name of each result -> content of its box; black outside the frame.
    """

    frame: int
    side: str
    confidence: float
    boxes: dict[str, Box]
    crops: dict[str, Frame]

    def difference(self, name: str) -> float:
        """Mean absolute difference from the first result's crop in grey levels, at the first crop's size."""
        import cv2

        first = next(iter(self.crops.values()))
        other = self.crops[name]
        if other.shape != first.shape:
            other = cv2.resize(other, first.shape[1::-1], interpolation=cv2.INTER_AREA)
        return float(np.abs(other.astype(np.float64) - first).mean())


def make_hands(spec: HandsSpec) -> Job[FigureResult]:
    """Draw hand crops; write the boxes and each crop's difference from the first result's to OUTPUT.csv.

    Raises:
        InputError: results and poses do not match, a frame is out of range, or no hand is clearly visible.
        OutputError: a file cannot be written.
    """
    clips = open_clips(parse_names(spec.results), scaled=False, max_frames=spec.max_frames)
    numbers, frames = None, spec.frames or ()
    if spec.poses is None:
        count = clips[0].count()
        numbers = check_frames(frames, 0, count) or spaced(0, count - 1, CANDIDATES)
        known = yield from estimate(list(clips[0].chosen(numbers).values()))
    else:
        settings = _sidecar(spec.poses) if spec.poses.suffix.lower() == ".json" else None
        if settings is None:
            known = open_poses(spec.poses)
        else:  # the driving poses in pixels of the result, estimated and fitted as when it was made
            config, size = settings
            known = inputs.prepare(config, (yield from inputs.find_poses(config)), size).aligned
        known = known if spec.max_frames is None else known[: spec.max_frames]
    data = cut_hands(clips, known, numbers=numbers, frames=frames)
    head = ("result", "frame", "hand", "left", "top", "right", "bottom", "confidence", "difference_from_first")
    lines = ((n, h.frame, h.side, *box, h.confidence, h.difference(n)) for h in data for n, box in h.boxes.items())
    table = write_csv(spec.output.with_suffix(".csv"), head, lines)
    rows = {name: [hand.crops[name] for hand in data] for name in data[0].crops}
    titles = [f"frame {hand.frame}\n{hand.side} {hand.confidence:.2f}" for hand in data]
    cell = min((plot.PAGE_WIDTH - 0.4) / max(len(data), 4), 1.6)
    with plot.figure(spec.output, height=cell * len(rows) + 0.5) as sheet:
        plot.picture_grid(sheet, rows, titles, interpolation="antialiased")
    note = f"{len(data)} hands in frames {', '.join(map(str, sorted({h.frame for h in data})))}"
    return FigureResult([spec.output, table], [note])


def _sidecar(path: Path) -> tuple[GenerateConfig, tuple[int, int]] | None:
    """Settings and size (height, width) of a result, from its RESULT.json; None for another JSON file."""
    data = read_json(path, "a pose file or RESULT.json", "check the path")
    if not (isinstance(data, dict) and isinstance(data.get("settings"), dict) and "size" in data):
        return None
    return parse(GenerateConfig, data["settings"]), (int(data["size"][0]), int(data["size"][1]))


def square_boxes(poses: PoseSequence) -> tuple[Float[ndarray, "frames 2 4"], ndarray]:
    """Return squares around both hands, as fractions of width and height, and a mask of clearly visible hands.

    A square is as large as the hand's longer extent plus a margin, and at least 1/16 of the frame's short side.
    """
    boxes, reliable = hand_boxes(poses.xy, poses.confidence, threshold=VISIBLE, padding=PADDING)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    side = (boxes[..., 2:] - boxes[..., :2]).max(-1, keepdims=True)
    half = np.maximum(side, LEAST_SHARE * min(poses.size)) / 2
    inside = ((centre > 0) & (centre < np.array(poses.size[::-1]))).all(-1)
    squares = np.concatenate([centre - half, centre + half], -1) / np.tile(poses.size[::-1], 2)
    return squares, reliable & inside


def crop(frame: Frame, box: Box) -> Frame:
    """Crop a box (left, top, right, bottom), padded with black outside the frame."""
    return np.asarray(Image.fromarray(frame).crop(box))


def cut_hands(
    clips: Sequence[Clip], poses: PoseSequence, *, numbers: Sequence[int] | None = None, frames: Sequence[int] = ()
) -> list[HandCrop]:
    """Crop the hands from each result at the same positions.

    Args:
        clips: results of the same length and aspect ratio; sizes may differ.
        poses: true poses, with the same aspect ratio.
        numbers: numbers of the frames that `poses` holds; None means all frames.
        frames: frames to show; by default four in which a hand is visible, evenly spaced.

    Raises:
        InputError: lengths or aspect ratios differ, or a frame is out of range.
        PoseError: no hand is clearly visible in the frames.
    """
    check_shapes(clips, poses)
    count = check_same_length(clips, {c.name: c.count() for c in clips}, least=1)
    known = range(count) if numbers is None else numbers
    if len(known) != len(poses):
        got = f"{len(poses)} poses ({poses.source or 'given'}) for {len(known)} frames of {clips[0]}"
        raise InputError(got, "a pose for each frame", "estimate the poses at the frame rate of the results")
    squares, seen = square_boxes(poses)
    row = {t: i for i, t in enumerate(known)}
    usable = [t for t in check_frames(frames or known, 0, count) if t in row and seen[row[t]].any()]
    if not usable:
        parts = [poses.confidence[:, part].min(1).max() for part in (LEFT_HAND, RIGHT_HAND)]
        raise PoseError(
            f"no hand with all points above {VISIBLE:g} (best: left {parts[0]:.2f}, right {parts[1]:.2f})",
            "a clearly visible hand",
            "choose other frames",
        )
    shown = usable if frames else [usable[i] for i in spaced(0, len(usable) - 1, SHOWN_HANDS)]
    pictures = {c.name: c.chosen(shown) for c in clips}
    found = []
    for t in shown:
        i = row[t]
        for k in np.flatnonzero(seen[i]):
            part = (LEFT_HAND, RIGHT_HAND)[k]
            boxes = {c.name: _pixels(squares[i, k], c.size) for c in clips}
            crops = {n: crop(pictures[n][t], box) for n, box in boxes.items()}
            found.append(HandCrop(t, SIDES[k], float(poses.confidence[i, part].min()), boxes, crops))
    return found


def _pixels(square: Float[ndarray, " 4"], size: tuple[int, int]) -> Box:
    left, top, right, bottom = square * np.tile(size[::-1], 2)
    side = max(2, round(float(max(right - left, bottom - top))))
    x, y = round(float(left + right - side) / 2), round(float(top + bottom - side) / 2)
    return x, y, x + side, y + side
