"""The holistic estimator: person selection, regions of interest, and tracking between frames."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import ConfigError, MediaError
from mimicmotion.pose.estimators.base import Person, PoseEstimator, PosePoints, no_person
from mimicmotion.pose.estimators.holistic import layout
from mimicmotion.pose.estimators.holistic.geometry import Picture, Roi, overlap
from mimicmotion.pose.estimators.holistic.layout import assemble, body_confidence, part_size, same_hand
from mimicmotion.pose.estimators.holistic.networks import (
    BodyPoints,
    Networks,
    PartPoints,
    hand_roi_from_points,
    person_roi,
)
from mimicmotion.pose.estimators.session import providers
from mimicmotion.pose.estimators.track import check_chosen, check_person, choose_person, person_box
from mimicmotion.pose.keypoints import VISIBLE

logger = logging.getLogger(__name__)

SOURCE = "holistic (mediapipe 0.10.21 networks)"
MIN_SCORE = 0.5  # minimum score of a person, hand or face; MediaPipe's own default
MIN_TILE_SCORE = 0.9  # the same for a body found in a tile: tiles show smaller people, but give more false positives
MIN_SURE_FOUND, MIN_SURE_FOLLOWED = 0.6, 0.45  # minimum `top_confidence` of a detected and of a tracked body
SEARCH_EVERY = 10  # frames without a person between two searches of the tiles
PATIENCE = 15  # frames for which a lost person must reappear at the same position; after that, anyone is followed
MIN_WRIST = VISIBLE * layout.SURE_WRIST  # wrist confidence below which the hand would not be visible
MAX_WRIST_GAP = 1.0  # a hand farther from its wrist, in hand sizes, belongs to someone else
SAME_POSITION = 0.3  # minimum IoU of the regions in which a person is lost and found again
PART = 0.6  # a body with more than this fraction of its box inside a larger one's is part of it
SAME_BODY = 0.12  # mean distance of points, relative to the region's side, below which two bodies are the same

UPPER = ((11, 12), (13, 14), (15, 16))  # shoulders, elbows, wrists
LOWER = ((23, 24), (25, 26), (27, 28))  # hips, knees, ankles
WITH_UPPER = ((1, 4), (2, 5), (3, 6), (7, 8), (9, 10), (17, 18), (19, 20), (21, 22))  # head, fingers: also swapped
WITH_LOWER = ((29, 30), (31, 32))
SWAP_COST = 0.01  # per frame, relative to the region's side: the weight of the network's own left and right


@dataclass(frozen=True, slots=True)
class HolisticPoints:
    """Points found by the networks for one person, in frame pixels; None for parts that were not found.

    "left" and "right" are the person's own.
    """

    body: BodyPoints
    left_hand: PartPoints | None = None
    right_hand: PartPoints | None = None
    face: PartPoints | None = None


class HolisticEstimator(PoseEstimator):
    """Whole-body pose with the bundled networks of MediaPipe Holistic, on onnxruntime alone.

    Confidence: each body and foot point has its own (the network's visibility times the peak of its heat map). The 21
    points of a hand share ONE score (lowered if the wrist is uncertain), and so do the 68 of the face. Small toes are
    not detected (confidence 0). Points outside the frame, and all points of a frame without a person, have
    confidence 0.

    In a video, the points of a frame determine the region of the next one. The person detector runs only when no one is
    being followed, so the person chosen first keeps being followed. Left and right are kept consistent (see `Sides`).

    Args:
        person: person to follow if there are several; see `Person`. A chosen person who was lost is only followed again
            at the same position; with "largest", anyone is followed after some frames.
        threads: CPU threads; None lets onnxruntime decide.
        device: "auto", "cpu" or "cuda".
        static: treat frames as unrelated pictures: run the detector on each one and on its tiles, and do not track.

    Raises:
        ConfigError: `person` is invalid, or CUDA is requested but not available.
    """

    source = SOURCE

    def __init__(
        self, *, person: Person = "largest", threads: int | None = None, device: str = "auto", static: bool = False
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads={threads}", "at least 1, or None", "leave it out to let onnxruntime decide")
        check_person(person)
        self._person, self._static = person, static
        self.provider = providers(device)[0]
        self._networks = Networks(threads, device)

    def estimate_stream(self, frames: Iterable[Frame]) -> Iterator[PosePoints]:
        """Yield (xy in pixels, confidence) for each frame as soon as it is ready.

        Raises:
            PoseError: people were seen, but never the chosen one (raised after the last frame).
            MediaError: a frame is not uint8 (height, width, 3).
        """
        for found, size in self._follow(frames):
            if found is None:
                yield no_person()
            else:
                good = _plausible(found)
                yield assemble(good.body, good.left_hand, good.right_hand, good.face, size)

    def _follow(self, frames: Iterable[Frame]) -> Iterator[tuple[HolisticPoints | None, tuple[int, int]]]:
        """Yield each frame's raw points (33 body, 21 per hand, 468 face; None without a person) and its size."""
        state = _State()
        chosen = False
        for frame in frames:
            picture = Picture(_checked_frame(frame))
            self.people = 0
            body = self._track(picture, state) or self._detect(picture, state)
            if body is None:
                state.found = None
                yield None, picture.size
                continue
            chosen = True
            if not self._static:
                body = state.sides.corrected(body)
            found = self._parts(picture, body, state.found)
            if not self._static:
                state.found, state.roi = found, body.next_roi
            yield found, picture.size
        if not chosen:
            check_chosen(self._person, state.max_people)

    def count_people(self, frame: Frame) -> int:
        """Count the people in a frame. If no one is found, tiles are searched too, which takes ten times as long."""
        picture = Picture(_checked_frame(frame))
        return len(self._find_people(picture, tiled=False)) or len(self._find_people(picture, tiled=True)[:1])

    def _track(self, picture: Picture, state: _State) -> BodyPoints | None:
        """Return the body in the region predicted by the last frame; None if no one is followed or the body is lost."""
        if state.found is None or not state.found.body.next_roi.usable:
            return None
        body = self._networks.body(picture, state.found.body.next_roi)
        return body if body.score >= MIN_SCORE and top_confidence(body, picture.size) >= MIN_SURE_FOLLOWED else None

    def _detect(self, picture: Picture, state: _State) -> BodyPoints | None:
        """Detect the person to follow; None if no detection is confident enough."""
        state.sides = Sides()
        waiting = self._person != "largest" and state.roi is None  # for a person who may be small
        found = self._find_people(picture, tiled=self._static or waiting)
        chosen = self._choose(found, state)
        if chosen is None and not (self._static or waiting) and state.frames_lost % SEARCH_EVERY == 0:
            found = self._find_people(picture, tiled=True)
            chosen = self._choose(found, state)
        self.people = len(found)
        state.max_people = max(state.max_people, self.people)
        state.frames_lost = 0 if chosen is not None else state.frames_lost + 1
        return chosen

    def _choose(self, people: list[BodyPoints], state: _State) -> BodyPoints | None:
        """Return the person to follow among those found: once someone was followed, the nearest to the last position.

        The regions must then overlap; with "largest", only for the first `PATIENCE` frames.
        """
        if (last := state.roi) is not None:
            if self._person != "largest" or state.frames_lost <= PATIENCE:
                people = [p for p in people if overlap(p.next_roi, last) >= SAME_POSITION]
            return min(people, key=lambda p: math.dist((p.next_roi.x, p.next_roi.y), (last.x, last.y)), default=None)
        boxes = [person_box(p.xy, body_confidence(p)) for p in people]
        chosen = choose_person([box for box in boxes if box is not None], self._person)
        return None if chosen is None else people[chosen]

    def _find_people(self, picture: Picture, tiled: bool) -> list[BodyPoints]:
        """Detect people and locate their body points, the most confident first in each searched region.

        Args:
            picture: the frame.
            tiled: also search tiles of the frame, to find smaller people. Parts of larger people are dropped.
        """
        bodies: list[BodyPoints] = []
        windows = [(picture.whole, MIN_SCORE), *((tile, MIN_TILE_SCORE) for tile in picture.tiles() if tiled)]
        for window, min_score in windows:
            for detection in sorted(self._networks.detect_people(picture, window, MIN_SCORE), key=lambda d: -d.score):
                roi = person_roi(detection.points)
                body = self._networks.body(picture, roi) if roi.usable else None
                if body is None or body.score < min_score or top_confidence(body, picture.size) < MIN_SURE_FOUND:
                    continue
                if not any(same_person(body, other) for other in bodies):
                    bodies.append(body)
        return [body for body in bodies if not any(is_part(body, other) for other in bodies)]

    def _parts(self, picture: Picture, body: BodyPoints, last: HolisticPoints | None) -> HolisticPoints:
        left = self._hand(picture, body, layout.LEFT_ARM, last.left_hand if last else None)
        right = self._hand(picture, body, layout.RIGHT_ARM, last.right_hand if last else None)
        roi = self._networks.face_roi(picture, body.xy[:11], MIN_SCORE)
        face = self._networks.face(picture, roi) if roi is not None else None
        return HolisticPoints(body, left, right, face if face is not None and face.score >= MIN_SCORE else None)

    def _hand(
        self, picture: Picture, body: BodyPoints, arm: tuple[int, int, int], last: PartPoints | None
    ) -> PartPoints | None:
        """Return the hand near the body's wrist and fingers, else the one near its last position; None if not found."""
        wrist, little, index = arm
        if body_confidence(body)[wrist] < MIN_WRIST:
            return None
        roi = self._networks.hand_roi(picture, body.xy[wrist], body.xy[little], body.xy[index])
        hand = self._networks.hand(picture, roi) if roi.usable else None
        if (hand is None or hand.score < MIN_SCORE) and last is not None:
            roi = hand_roi_from_points(last.xy)
            hand = self._networks.hand(picture, roi) if roi.usable else None
        return hand if hand is not None and hand.score >= MIN_SCORE else None


class Sides:
    """Keeps left and right of a person consistent over time, separately for arms and legs.

    Each group has two hypotheses: the network's sides are correct, or swapped. The cost of a hypothesis is the
    distance its points have jumped so far (relative to the side of the person's region), plus `SWAP_COST` for each
    frame in which it contradicts the network. The cheaper one wins (Viterbi's algorithm without lookahead). Brief
    swaps are thus corrected, a persistent labelling is trusted, and where both sides overlap, the network decides.
    """

    def __init__(self) -> None:
        self._last: BodyPoints | None = None
        self._costs = np.zeros((2, 2))  # (arms, legs) x (network correct, swapped)

    def corrected(self, body: BodyPoints) -> BodyPoints:
        """Return the body with the sides of the cheaper hypothesis."""
        order = np.arange(len(body.xy))
        for i, (pairs, others) in enumerate(((UPPER, WITH_UPPER), (LOWER, WITH_LOWER))):
            if self._last is not None:
                stay, swap = point_jumps(self._last, body, pairs)
                correct, swapped = self._costs[i]
                self._costs[i] = min(correct + stay, swapped + swap), min(swapped + stay, correct + swap)
            self._costs[i] += 0.0, SWAP_COST
            self._costs[i] -= self._costs[i].min()
            if self._costs[i, 1] < self._costs[i, 0]:
                for a, b in pairs + others:
                    order[[a, b]] = b, a
        self._last = body
        return dataclasses.replace(body, xy=body.xy[order], visibility=body.visibility[order], peak=body.peak[order])


def point_jumps(before: BodyPoints, now: BodyPoints, pairs: tuple[tuple[int, int], ...]) -> tuple[float, float]:
    """Compute how far points move between two frames, without and with left and right swapped.

    Distances are weighted by visibility, and relative to the side of the person's region.
    """
    left, right = np.array(pairs).T
    weight = np.minimum.reduce([p.visibility[side] for p in (before, now) for side in (left, right)])

    def gap(a: ndarray, b: ndarray) -> ndarray:
        return np.linalg.norm(before.xy[a] - now.xy[b], axis=1)

    stay, swap = gap(left, left) + gap(right, right), gap(left, right) + gap(right, left)
    scale = 2 * len(pairs) * max(now.next_roi.size, 1.0)
    return float((weight * stay).sum() / scale), float((weight * swap).sum() / scale)


@dataclass(slots=True)
class _State:
    """State of a run: last points (None if lost) and region, sides, frames without a person, most people in a frame."""

    found: HolisticPoints | None = None
    roi: Roi | None = None
    sides: Sides = field(default_factory=Sides)
    frames_lost: int = 0
    max_people: int = 0


def same_person(a: BodyPoints, b: BodyPoints) -> bool:
    """Return whether two sets of body points belong to the same person."""
    distance = float(np.linalg.norm(a.xy - b.xy, axis=1).mean())
    return distance < SAME_BODY * min(a.next_roi.size, b.next_roi.size)


def is_part(a: BodyPoints, b: BodyPoints) -> bool:
    """Return whether `a` is only a part of the larger body `b`, such as a leg, or has fewer than two visible points."""
    box_a, box_b = person_box(a.xy, body_confidence(a)), person_box(b.xy, body_confidence(b))
    if box_a is None or box_b is None:
        return box_a is None
    area, other = ((box[2:] - box[:2]).prod() for box in (box_a, box_b))
    shared = np.clip(np.minimum(box_a[2:], box_b[2:]) - np.maximum(box_a[:2], box_b[:2]), 0, None).prod()
    return bool(area < other and shared > PART * area)


def top_confidence(body: BodyPoints, size: tuple[int, int]) -> float:
    """Return the mean confidence of the five surest points in the frame, high even if few parts are visible."""
    height, width = size
    inside = (body.xy >= 0).all(1) & (body.xy[:, 0] < width) & (body.xy[:, 1] < height)
    return float(np.sort(body_confidence(body) * inside)[-5:].mean())


def _plausible(found: HolisticPoints) -> HolisticPoints:
    """Drop hands that are far from their wrist, and one of two detections of the same hand."""
    gaps = {}
    for name, hand, wrist in (
        ("right_hand", found.right_hand, layout.R_WRIST),
        ("left_hand", found.left_hand, layout.L_WRIST),
    ):
        if hand is not None:
            gaps[name] = math.dist(hand.xy[0], found.body.xy[wrist]) / max(part_size(hand), 1e-6)
    dropped = [name for name, gap in gaps.items() if gap > MAX_WRIST_GAP]
    if not dropped and same_hand(found.left_hand, found.right_hand):
        dropped = [max(gaps, key=lambda name: gaps[name])]  # the hand belongs to the nearer wrist
    nothing: dict[str, Any] = dict.fromkeys(dropped)
    return dataclasses.replace(found, **nothing)


def _checked_frame(frame: Frame) -> Frame:
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise MediaError(f"a frame is {got}", "uint8, height x width x 3 (RGB)", "convert the frame first")
    if 0 in frame.shape:
        raise MediaError(f"a frame is {frame.shape}", "at least 1 x 1 pixel", "check the video")
    return frame
