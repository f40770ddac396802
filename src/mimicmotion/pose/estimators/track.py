"""Follow one person through frames with several people.

All people are tracked, not only the target: a passer-by who stands where the target was lost has a separate track and
is not mistaken for the target. A new person who appears while the target is lost is assumed to be the target.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mimicmotion.errors import PoseError
from mimicmotion.pose.estimators.base import Person
from mimicmotion.pose.keypoints import VISIBLE
from mimicmotion.settings import person_choice

logger = logging.getLogger(__name__)

MATCH = 0.15  # minimum similarity to match a person in two frames
SAME_BOX = 0.3  # minimum IoU between the given box and the chosen person's
FORGET = 300  # frames after which the track of a lost passer-by is deleted


def person_box(xy: Float[ndarray, "points 2"], confidence: Float[ndarray, " points"]) -> Float[ndarray, " 4"] | None:
    """Return the bounding box (left, top, right, bottom) of the visible points; None if there are fewer than two."""
    points = xy[confidence > VISIBLE]
    if len(points) < 2:
        return None
    return np.concatenate([points.min(0), points.max(0)]).astype(np.float64)


def box_iou(a: Float[ndarray, " 4"], b: Float[ndarray, " 4"]) -> float:
    """Compute the intersection over union of two boxes (left, top, right, bottom)."""
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap
    return float(overlap / union) if union > 0 else 0.0


@dataclass(slots=True)
class _Track:
    """A person's last keypoints, box and velocity (pixels per frame), and the first and last frame with a match."""

    xy: Float[ndarray, "points 2"]
    confidence: Float[ndarray, " points"]
    box: Float[ndarray, " 4"]
    first_seen: int
    last_seen: int
    velocity: Float[ndarray, " 2"] = field(default_factory=lambda: np.zeros(2))

    def similarity(self, xy: ndarray, confidence: ndarray, box: ndarray, now: int) -> float:
        """Return the mean of box IoU and point similarity (0..1), after extrapolating at the last velocity."""
        # The velocity of a person lost long ago is no longer valid.
        step = self.velocity * min(now - self.last_seen, 5)
        overlap = box_iou(self.box + np.tile(step, 2), box)
        both = (self.confidence > VISIBLE) & (confidence > VISIBLE)
        if not both.any():
            return overlap / 2
        scale = 0.15 * max(np.hypot(*(box[2:] - box[:2])), 1.0)
        distance = np.hypot(*(self.xy[both] + step - xy[both]).T) / scale
        return overlap / 2 + float(np.exp(-(distance**2) / 2).mean()) / 2

    def update(self, xy: ndarray, confidence: ndarray, box: ndarray, now: int) -> None:
        moved = (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / 2 / max(now - self.last_seen, 1)
        self.velocity = 0.5 * self.velocity + 0.5 * moved
        self.xy, self.confidence, self.box, self.last_seen = xy, confidence, box, now


class PersonTracker:
    """Selects the person to follow in each frame.

    Args:
        person: person to follow; see `choose_person`.

    Raises:
        ConfigError: `person` is invalid.
    """

    def __init__(self, person: Person = "largest") -> None:
        check_person(person)
        self.person = person
        self._tracks: list[_Track] = []
        self._target: _Track | None = None
        self._frame = -1
        self._max_people = 0

    def check_found(self) -> None:
        """Check the result after the last frame.

        Raises:
            PoseError: people were seen, but never the chosen one.
        """
        if self._target is None:
            check_chosen(self.person, self._max_people)

    def choose(self, xy: Float[ndarray, "people points 2"], confidence: Float[ndarray, "people points"]) -> int | None:
        """Return the index of the person to follow among those in the next frame; None if the person is not found."""
        self._frame += 1
        boxes = {i: box for i in range(len(xy)) if (box := person_box(xy[i], confidence[i])) is not None}
        self._max_people = max(self._max_people, len(boxes))
        assigned = self._match(xy, confidence, boxes)
        matched = set(assigned.values())
        for i in boxes.keys() - matched:
            track = _Track(xy[i], confidence[i], boxes[i], self._frame, self._frame)
            self._tracks.append(track)
            assigned[id(track)] = i
        for track in self._tracks:
            if (i := assigned.get(id(track))) is not None:
                track.update(xy[i], confidence[i], boxes[i], self._frame)
        self._tracks = [t for t in self._tracks if t is self._target or self._frame - t.last_seen < FORGET]
        if self._target is None:
            self._target = self._choose_first(assigned)
        elif id(self._target) not in assigned:
            self._target = self._find_returned(assigned) or self._target
        return None if self._target is None else assigned.get(id(self._target))

    def _match(self, xy: ndarray, confidence: ndarray, boxes: dict[int, ndarray]) -> dict[int, int]:
        """Match tracks and people, the most similar pair first. Returns the person's index by `id` of the track."""
        pairs = [
            (track.similarity(xy[i], confidence[i], box, self._frame), k, i)
            for k, track in enumerate(self._tracks)
            for i, box in boxes.items()
        ]
        matches: dict[int, int] = {}
        for similarity, k, i in sorted(pairs, reverse=True):
            if similarity >= MATCH and id(self._tracks[k]) not in matches and i not in matches.values():
                matches[id(self._tracks[k])] = i
        return matches

    def _visible(self, assigned: dict[int, int]) -> list[_Track]:
        return [t for t in self._tracks if id(t) in assigned]

    def _choose_first(self, assigned: dict[int, int]) -> _Track | None:
        visible = self._visible(assigned)
        chosen = choose_person([t.box for t in visible], self.person)
        return None if chosen is None else visible[chosen]

    def _find_returned(self, assigned: dict[int, int]) -> _Track | None:
        """Return the track of a new person of similar size, assumed to be the lost one; None if no one is new."""
        if self._target is None:
            return None
        size = np.hypot(*(self._target.box[2:] - self._target.box[:2]))
        new = [t for t in self._visible(assigned) if t.first_seen == self._frame]
        new = [t for t in new if 0.4 < np.hypot(*(t.box[2:] - t.box[:2])) / max(size, 1e-6) < 2.5]
        back = max(new, key=lambda t: (t.box[2:] - t.box[:2]).prod(), default=None)
        if back is not None:
            logger.info("frame %d: assume that this is the person lost after %d", self._frame, self._target.last_seen)
            self._tracks = [t for t in self._tracks if t is not self._target]
        return back


def choose_person(boxes: Sequence[Float[ndarray, " 4"]], person: Person) -> int | None:
    """Return the index of the chosen person among those in a frame; None if no one matches.

    Args:
        boxes: bounding boxes (left, top, right, bottom) of the people's keypoints.
        person: "largest"; n for the n-th from the left (from 0), if there are more than n people; (x, y) for the
            nearest one whose box contains this point, with a margin of a tenth of its height, as hair and clothes
            extend beyond it; (left, top, right, bottom) for the one with the highest IoU, at least `SAME_BOX`.
    """
    numbers = range(len(boxes))
    if person == "largest":
        return max(numbers, key=lambda i: (boxes[i][2:] - boxes[i][:2]).prod(), default=None)
    if isinstance(person, int):
        return sorted(numbers, key=lambda i: boxes[i][0] + boxes[i][2])[person] if person < len(boxes) else None
    wanted = np.array(person, np.float64)
    if len(wanted) == 4:
        best = max(numbers, key=lambda i: box_iou(boxes[i], wanted), default=None)
        return None if best is None or box_iou(boxes[best], wanted) < SAME_BOX else best
    offset = [np.abs((box[:2] + box[2:]) / 2 - wanted) for box in boxes]  # of the point from each centre
    near = [i for i in numbers if (offset[i] <= (boxes[i][2:] - boxes[i][:2]) / 2 + 0.1 * np.ptp(boxes[i][1::2])).all()]
    return min(near, key=lambda i: np.hypot(*offset[i]), default=None)


def check_chosen(person: Person, max_people: int) -> None:
    """Raise PoseError because the chosen person was never seen, unless no one was (`max_people` per frame is 0)."""
    if max_people:
        raise PoseError(
            f"person {person!r} was never seen; no frame shows more than {max_people}",
            "an index below that number (0 is leftmost), a point inside a person, or a box around one",
            "choose another person, or 'largest'",
        )


def check_person(person: Person) -> None:
    """Raise ConfigError unless the choice of a person is valid."""
    person_choice(",".join(map(str, person)) if isinstance(person, tuple) else str(person))
