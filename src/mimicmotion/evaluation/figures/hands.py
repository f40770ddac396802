"""Hand crops of several results, side by side at the same frames (paper figure on hand region enhancement)."""

from __future__ import annotations

from collections.abc import Sequence
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
from mimicmotion.evaluation.figures.specs import FigureResult, HandsSpec
from mimicmotion.generate import inputs
from mimicmotion.pose.files import open_poses
from mimicmotion.pose.hands import hand_boxes
from mimicmotion.pose.keypoints import LEFT_HAND, RIGHT_HAND, VISIBLE, PoseSequence
from mimicmotion.runtime.progress import Job
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import GenerateConfig, parse
from mimicmotion.tables import write_csv

SIDES = ("left", "right")
PADDING = 0.3
LEAST_SHARE = 1 / 16  # least side of a crop as a share of the frame's short side
SHOWN = 4
CANDIDATES = 12  # frames that are searched for hands
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class HandCrop:
    """One hand in one frame.

    Attributes:
        frame: number of the frame.
        side: left or right, of the person.
        confidence: the lowest of its 21 points.
        boxes: name -> (left, top, right, bottom) in pixels of that result.
        crops: name -> content of the box; black outside the frame.
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


def make(spec: HandsSpec) -> Job[FigureResult]:
    """The figure, and OUTPUT.csv with the boxes and each crop's difference from the first result's.

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
            known = inputs.prepare(config, (yield from inputs.find(config)), size).aligned
        known = known if spec.max_frames is None else known[: spec.max_frames]
    data = cut_hands(clips, known, numbers=numbers, frames=frames)
    head = ("result", "frame", "hand", "left", "top", "right", "bottom", "confidence", "difference_from_first")
    rows = ((n, h.frame, h.side, *box, h.confidence, h.difference(n)) for h in data for n, box in h.boxes.items())
    table = write_csv(spec.output.with_suffix(".csv"), head, rows)
    _paint(data, spec.output)
    note = f"{len(data)} hands in frames {', '.join(map(str, sorted({h.frame for h in data})))}"
    return FigureResult([spec.output, table], [note])


def _sidecar(path: Path) -> tuple[GenerateConfig, tuple[int, int]] | None:
    """Settings and size (height, width) of a result, if this is the file that `generate` wrote beside it."""
    data = read_json(path, "a pose file or RESULT.json", "check the path")
    if not (isinstance(data, dict) and isinstance(data.get("settings"), dict) and "size" in data):
        return None
    return parse(GenerateConfig, data["settings"]), (int(data["size"][0]), int(data["size"][1]))


def square_boxes(poses: PoseSequence) -> tuple[Float[ndarray, "frames 2 4"], ndarray]:
    """Squares around both hands as fractions of the frame's width and height, and which hands are clearly visible.

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
    """The content of a box (left, top, right, bottom); black outside the frame."""
    return np.asarray(Image.fromarray(frame).crop(box))


def cut_hands(
    clips: Sequence[Clip],
    poses: PoseSequence,
    *,
    numbers: Sequence[int] | None = None,
    frames: Sequence[int] = (),
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
    shown = usable if frames else [usable[i] for i in spaced(0, len(usable) - 1, SHOWN)]
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


def _paint(data: Sequence[HandCrop], output: Path) -> None:
    rows = {name: [hand.crops[name] for hand in data] for name in data[0].crops}
    titles = [f"frame {hand.frame}\n{hand.side} {hand.confidence:.2f}" for hand in data]
    cell = min((plot.PAGE_WIDTH - 0.4) / max(len(data), 4), 1.6)
    with plot.figure(output, height=cell * len(rows) + 0.5) as sheet:
        plot.picture_grid(sheet, rows, titles, interpolation="antialiased")


def _pixels(square: Float[ndarray, " 4"], size: tuple[int, int]) -> Box:
    left, top, right, bottom = square * np.tile(size[::-1], 2)
    side = max(2, round(float(max(right - left, bottom - top))))
    x, y = round(float(left + right - side) / 2), round(float(top + bottom - side) / 2)
    return x, y, x + side, y + side
