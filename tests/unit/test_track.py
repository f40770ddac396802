from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray

from mimicmotion.errors import ConfigError, PoseError
from mimicmotion.pose.estimators.track import PersonTracker, box_iou, choose_person, person_box

GRID = np.stack(np.meshgrid([0.0, 0.3, 1.0], np.linspace(0, 1, 6)), -1).reshape(-1, 2)


def figure(x: float, y: float = 100.0, height: float = 100.0) -> ndarray:
    """18 points about (x, y)."""
    return (GRID - 0.5) * (height / 2, height) + (x, y)


def run(tracker: PersonTracker, frames: list[list[ndarray]]) -> list[int | None]:
    chosen = []
    for people in frames:
        xy = np.stack(people) if people else np.zeros((0, 18, 2))
        chosen.append(tracker.choose(xy, np.full(xy.shape[:2], 0.9)))
    return chosen


def test_the_largest_is_followed_even_when_another_grows_larger() -> None:
    frames = [[figure(50), figure(300, height=80 + 10 * t)] for t in range(8)]
    assert run(PersonTracker(), frames) == [0] * 8


def test_a_person_can_be_chosen_by_index_from_the_left_or_by_a_point() -> None:
    frames = [[figure(300), figure(50), figure(180, height=150)]] * 3
    assert run(PersonTracker(0), frames) == [1] * 3
    assert run(PersonTracker(2), frames) == [0] * 3
    assert run(PersonTracker((301.0, 90.0)), frames) == [0] * 3
    assert run(PersonTracker(), frames) == [2] * 3


def test_an_index_waits_for_the_first_frame_with_enough_people() -> None:
    frames = [[], [figure(50)], [figure(50), figure(200)], [figure(200)]]
    tracker = PersonTracker(1)
    assert run(tracker, frames) == [None, None, 1, 0]


def test_a_choice_matches_one_person_or_none() -> None:
    boxes = [np.array(b, float) for b in ([300, 50, 350, 150], [20, 40, 80, 160], [60, 60, 110, 140])]
    assert [choose_person(boxes, n) for n in range(4)] == [1, 2, 0, None]
    assert choose_person(boxes, (75.0, 100.0)) == 2  # within two boxes: the nearer middle
    assert choose_person(boxes, (325.0, 42.0)) == 0  # the hair, above the highest point
    assert choose_person(boxes, (325.0, 30.0)) is None
    assert choose_person(boxes, (200.0, 100.0)) is None
    assert choose_person(boxes, (290.0, 40.0, 360.0, 170.0)) == 0
    assert choose_person(boxes, (150.0, 40.0, 260.0, 170.0)) is None
    assert choose_person(boxes, "largest") == 1
    assert [choose_person([], who) for who in ("largest", (1.0, 1.0), (0.0, 0.0, 1.0, 1.0))] == [None] * 3


@given(order=st.lists(st.booleans(), min_size=41, max_size=41))
def test_identities_survive_crossing_in_any_order_of_detection(order: list[bool]) -> None:
    """Two people of unlike height walk through each other; only the target's index may be answered."""
    tracker = PersonTracker()
    for t, swapped in enumerate(order):
        people = [figure(100 + 5 * t, height=120), figure(300 - 5 * t, height=100)]
        (chosen,) = run(tracker, [people[::-1] if swapped else people])
        assert chosen == int(swapped)


def test_a_passer_by_is_not_taken_for_the_person_he_hides() -> None:
    """The target disappears behind someone who was seen before, and comes out on the other side."""
    frames, expected = [], []
    for t in range(60):
        walker, target = figure(20 + 6 * t), figure(200, height=110)
        hidden = abs(20 + 6 * t - 200) < 30
        frames.append([walker] if hidden else [target, walker])
        expected.append(None if hidden else 0)
    assert None in expected
    assert run(PersonTracker(), frames) == expected


def test_leaving_and_returning() -> None:
    here, gone = [[figure(50 - 5 * t)] for t in range(10)], [[] for _ in range(50)]
    back = [[figure(400)]] * 3
    assert run(PersonTracker(), here + gone + back) == [0] * 10 + [None] * 50 + [0] * 3


def test_a_known_bystander_does_not_take_over_when_the_target_leaves() -> None:
    both, alone = [[figure(50, height=120), figure(300)]] * 5, [[figure(300)]] * 20
    assert run(PersonTracker(), both + alone + both) == [0] * 5 + [None] * 20 + [0] * 5


def test_someone_of_quite_another_size_is_not_the_target_returning() -> None:
    frames = [[figure(50, height=200)]] * 3 + [[]] * 5 + [[figure(400, height=20)]] * 4
    assert run(PersonTracker(), frames) == [0] * 3 + [None] * 9


def test_a_person_who_never_comes_is_an_error_at_the_end() -> None:
    for person, text in ((5, "more than 2"), ((900.0, 900.0), "never seen")):
        tracker = PersonTracker(person)
        assert run(tracker, [[figure(50)], [figure(50), figure(200)]]) == [None, None]
        with pytest.raises(PoseError, match=text):
            tracker.check_found()
    tracker = PersonTracker(5)
    run(tracker, [[]])
    tracker.check_found()  # nobody at all is for the caller to judge


def test_ghosts_without_confident_points_are_no_one() -> None:
    tracker = PersonTracker()
    assert tracker.choose(figure(50)[None], np.full((1, 18), 0.2)) is None
    assert person_box(figure(50), np.zeros(18)) is None


def test_box_overlap() -> None:
    a = np.array([0, 0, 2, 2.0])
    assert box_iou(a, a) == 1
    assert box_iou(a, a + 1) == pytest.approx(1 / 7)
    assert box_iou(a, a + 5) == 0
    assert box_iou(a * 0, a * 0) == 0


@pytest.mark.parametrize("person", ["smallest", -1, 1.5, True, (1, 2, 3), (5, 5, 4, 9), ("a", "b"), None])
def test_invalid_choices_are_refused(person: object) -> None:
    with pytest.raises(ConfigError, match="largest"):
        PersonTracker(person)  # type: ignore[arg-type]
