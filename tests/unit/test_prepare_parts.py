from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.data.prepare.analysis import SceneMeasures, Survey, sharpness
from mimicmotion.data.prepare.crop import person_boxes, plan_crop
from mimicmotion.data.prepare.duplicates import Fingerprint, fingerprint_distance, near_duplicates, picture_hash
from mimicmotion.data.prepare.filters import Judgement, judge, judge_length
from mimicmotion.data.prepare.plan import SceneReport, VideoReport, find_videos, plan_set, split_of, video_id
from mimicmotion.data.prepare.scenes import CutFinder, find_peaks, plan_scenes
from mimicmotion.errors import ConfigError, MediaError
from mimicmotion.pose.keypoints import BODY, NUM_POINTS, PoseSequence
from mimicmotion.settings import parse
from mimicmotion.settings.prepare import PrepareConfig, analysis_settings, result_settings


def config(**values: Any) -> PrepareConfig:
    return parse(PrepareConfig, {"videos": "v", "output": "o", "height": 256, "width": 128, **values})


# --- scenes


@given(st.integers(1, 500), st.lists(st.integers(1, 499), unique=True), st.integers(1, 100))
def test_scenes_cover_the_video_once_and_are_not_too_long(n: int, cuts: list[int], most: int) -> None:
    cuts = sorted(c for c in cuts if c < n)
    scenes = plan_scenes(n, cuts, most)
    assert [i for s in scenes for i in range(s.start, s.stop)] == list(range(n))
    assert all(1 <= len(s) <= most for s in scenes)
    assert set(cuts) <= {s.start for s in scenes}


def test_parts_of_a_long_scene_are_equal() -> None:
    assert [len(s) for s in plan_scenes(10, [], 4)] == [3, 4, 3]


@pytest.mark.parametrize(
    ("changes", "cuts"),
    [
        ([1, 1, 1, 50, 1, 1, 1], [3]),
        ([20, 25, 22, 30, 24, 21, 26], []),  # fast movement
        ([1, 1, 1, 14, 1, 1, 1], []),  # below the minimum change
        ([50, 1, 1, 1, 1, 60], [0, 5]),  # at both ends
        ([1, 1, 40, 50, 1, 1, 1], [2, 3]),  # one frame of something else
        ([30], [0]),
        ([], []),
    ],
)
def test_peaks(changes: list[float], cuts: list[int]) -> None:
    assert find_peaks(changes, 3.0, 15.0) == cuts


def moving(colour: tuple[int, int, int], count: int) -> list[np.ndarray]:
    """A light square that moves over a coloured background."""
    frames = [np.full((180, 120, 3), colour, np.uint8) for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[40:80, 5 * i : 5 * i + 40] = 230
    return frames


def cuts_of(frames: list[np.ndarray]) -> list[int]:
    finder = CutFinder()
    for frame in frames:
        finder.push(frame)
    return finder.finish()


def test_a_cut_is_found_and_movement_is_none() -> None:
    a, b = moving((20, 60, 160), 12), moving((170, 60, 20), 9)
    assert cuts_of(a) == []
    assert cuts_of([*a, *b]) == [12]
    assert cuts_of([b[0], *a]) == [1]  # a frame left over from an edit


def test_repeated_frames_neither_make_nor_hide_cuts() -> None:
    frames = [*moving((20, 60, 160), 12), *moving((170, 60, 20), 9)]
    assert cuts_of([f for f in frames for _ in range(2)]) == [24]


# --- duplicates


def noise(seed: int) -> np.ndarray:
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (160, 240), interpolation=cv2.INTER_CUBIC)


def shrink_by(frame: np.ndarray, times: int) -> np.ndarray:
    import cv2

    size = (frame.shape[1] // times, frame.shape[0] // times)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def fingerprint(seeds: list[int], shrink: int = 1, seconds: float | None = None) -> Fingerprint:
    hashes = [picture_hash(shrink_by(noise(s), shrink)) for s in seeds]
    return float(seconds or len(seeds)), np.stack(hashes)


def test_a_smaller_copy_looks_the_same_and_others_do_not() -> None:
    first, again, other = fingerprint([1, 2, 3]), fingerprint([1, 2, 3], 2), fingerprint([1, 5, 6])
    assert fingerprint_distance(first, first) == 0
    assert fingerprint_distance(first, again) < 0.05
    assert 0.2 < fingerprint_distance(first, other) < 0.5
    assert fingerprint_distance(first, fingerprint([1, 2, 3], seconds=9)) == 1  # another length


def test_the_first_stays() -> None:
    prints = [fingerprint([1, 2]), fingerprint([3, 4]), fingerprint([1, 2], 2), fingerprint([1, 2])]
    found = near_duplicates(prints, 0.06)
    assert {i: k for i, (k, _) in found.items()} == {2: 0, 3: 0}
    assert near_duplicates(prints, 0.0) == {}


# --- crop


def standing(
    x: float | np.ndarray = 200.0, y: float = 150.0, size: tuple[int, int] = (300, 500), frames: int = 5
) -> PoseSequence:
    """A body of 40 x 120 pixels around (x, y) that is fully seen."""
    rng = np.random.default_rng(0)
    xy = rng.uniform([-20, -60], [20, 60], (NUM_POINTS, 2))
    xy[0], xy[1] = (-20, -60), (20, 60)
    centre = np.stack([np.broadcast_to(x, frames), np.broadcast_to(y, frames)], -1)
    points = (xy + centre[:, None]).astype(np.float32)
    return PoseSequence(points, np.full((frames, NUM_POINTS), 0.9, np.float32), size, 10.0, "test")


@given(st.floats(0, 500), st.floats(0, 300), st.integers(1, 40), st.integers(1, 40))
def test_a_crop_never_shows_what_is_outside(x: float, y: float, rows: int, columns: int) -> None:
    size = (rows * 16, columns * 16)
    fit = plan_crop(standing(x, y), size)
    assert fit.scale[0] == fit.scale[1]
    for axis in (0, 1):
        assert -1e-6 <= -fit.offset[axis] <= fit.scale[axis] * fit.source[axis] - size[axis] + 1e-6


def test_the_person_stays_in_the_crop() -> None:
    for x in (30.0, 120.0, 470.0):
        stored = standing(x).fitted(plan_crop(standing(x), (300, 150)))
        assert stored.size == (300, 150)
        seen = stored.confidence[:, BODY] > 0
        assert seen.mean() > 0.9
    walk = np.linspace(50, 450, 41)  # wider than the crop: where the person is most of the time
    walk[:30] = 100
    assert plan_crop(standing(walk, frames=41), (300, 150)).offset[1] == -25


def test_frames_and_keypoints_move_alike() -> None:
    poses = standing(400.0, 140.0)
    frame = np.zeros((*poses.size, 3), np.uint8)
    x, y = poses.xy[0, 1].astype(int)
    frame[y - 4 : y + 4, x - 4 : x + 4] = 255
    for mode in ("crop", "letterbox"):
        fit = plan_crop(poses, (256, 128), mode)
        light = np.argwhere(fit.apply(frame)[..., 0] > 128)
        middle = light.mean(0)[::-1] + 0.5
        marked = fit.points(np.array([x, y], np.float64))
        assert np.abs(middle - marked).max() < 0.6


def test_what_the_crop_cuts_off_is_not_seen() -> None:
    poses = standing(np.array([100.0, 100.0, 100.0, 100.0, 480.0]))
    stored = poses.fitted(plan_crop(poses, (300, 150)))
    assert stored.confidence[0].all()
    assert not stored.confidence[4].any()


def test_no_box_where_nobody_is() -> None:
    poses = standing()
    poses.confidence[2] = 0
    boxes = person_boxes(poses)
    assert np.isnan(boxes[2]).all()
    np.testing.assert_allclose(boxes[0], [180, 90, 220, 210])


# --- filters


def measures(**change: Any) -> SceneMeasures:
    poses = standing(size=(256, 128), x=64.0, y=128.0, frames=30)
    fine = {"people": np.ones(6, np.int64), "sharpness": np.full(30, 300.0, np.float32)}
    return SceneMeasures(**({"poses": poses, "change": np.full(30, 9.0, np.float32)} | fine | change))


def verdict(found: SceneMeasures, enlargement: float = 1.0, **settings: Any) -> Judgement:
    return judge(found, found.poses, enlargement, config(**settings))


def with_confidence(value: float, frames: slice = slice(None), points: slice = slice(None)) -> SceneMeasures:
    poses = measures().poses
    poses.confidence[frames, points] = value
    return measures(poses=poses)


def test_a_good_scene_is_accepted_with_its_numbers() -> None:
    found = verdict(measures())
    assert found.accepted
    want = {"seconds": 3.0, "frames": 30, "found": 1.0, "crowded": 0.0, "body": 1.0, "sharpness": 300.0, "hands": 1.0}
    assert want.items() <= found.numbers.items()
    assert found.numbers["confidence"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("found", "enlargement", "reason"),
    [
        (with_confidence(0, slice(0, 6)), 1.0, "min_found"),
        (measures(people=np.array([1, 2, 2, 1, 1, 1])), 1.0, "max_crowded"),
        (with_confidence(0.1, points=slice(0, 11)), 1.0, "min_body"),
        (with_confidence(0.4), 1.0, "min_confidence"),
        (measures(sharpness=np.array([*[3.0] * 20, *[500.0] * 10], np.float32)), 1.0, "min_sharpness"),
        (measures(change=np.array([np.nan, *[0.2] * 20, *[5.0] * 9], np.float32)), 1.0, "max_static"),
        (measures(poses=standing(size=(256, 128), x=64.0, y=128.0, frames=19)), 1.0, "min_seconds"),
        (measures(), 2.5, "max_enlargement"),
        (measures(problem="person 3 was never seen"), 1.0, "person 3"),
    ],
)
def test_each_filter_alone_leaves_a_scene_out(found: SceneMeasures, enlargement: float, reason: str) -> None:
    judged = verdict(found, enlargement)
    assert len(judged.reasons) == 1
    assert reason in next(iter(judged.reasons.values()))


def test_thresholds_are_settings() -> None:
    assert verdict(with_confidence(0.4), min_confidence=0.35).accepted
    assert verdict(measures(people=np.full(6, 2)), max_crowded=1).accepted
    assert not judge_length(30, 10.0, 1.0, config(min_seconds=3.5)).accepted
    assert judge_length(30, 10.0, 1.0, config(min_seconds=3)).accepted  # exactly as long


def test_nobody_is_one_reason() -> None:
    assert len(verdict(with_confidence(0)).reasons) == 1


def test_sharpness_falls_with_blur_and_with_enlarging_but_not_with_shrinking() -> None:
    import cv2

    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft2(rng.normal(size=(512, 512))) / (np.hypot(*np.meshgrid(range(257), range(512))) + 1)
    picture = np.fft.irfft2(spectrum)  # as rich in edges at every scale as photographs are
    grey = np.clip(128 + 50 * picture / picture.std(), 0, 255).astype(np.uint8)
    plain = sharpness(grey, 1.0)
    assert sharpness(cv2.GaussianBlur(grey, (0, 0), 2), 1.0) < 0.1 * plain
    assert sharpness(grey, 2.0) < 0.35 * plain
    assert 0.3 < sharpness(grey, 0.5) / plain < 3


# --- settings


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"height": 250}, "height=250"),
        ({"min_body": 1.5}, "min_body"),
        ({"fps": 0}, "fps"),
        ({"max_seconds": 3.0}, "max_seconds"),
        ({"validation": -0.1}, "validation"),
        ({"store": "tiff"}, "store"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config(**wrong)


def test_what_changes_nothing_is_no_part_of_the_identity() -> None:
    base = config()
    same = dataclasses.replace(base, processes=7, output=Path("elsewhere"), videos=Path("moved"), pose_cache=False)
    assert result_settings(same) == result_settings(base)
    for name, value in {"seed": 1, "min_body": 0.3, "width": 136, "person": "0"}.items():
        assert result_settings(dataclasses.replace(base, **{name: value})) != result_settings(base)
    # what was measured stays good when a threshold changes
    assert analysis_settings(dataclasses.replace(base, min_body=0.3, seed=1)) == analysis_settings(base)
    assert analysis_settings(dataclasses.replace(base, fps=12.0)) != analysis_settings(base)


# --- files, names, splits


def test_videos_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/z.MOV", "a/notes.txt", ".hidden.mp4", ".git/x.mp4", "out/train.mp4", "noending", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos(tmp_path, tmp_path / "out") == ["a/z.MOV", "b.mp4", "noending"]


def test_a_folder_without_videos(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="contains no video"):
        find_videos(tmp_path, tmp_path / "out")
    with pytest.raises(MediaError, match="is not a folder"):
        find_videos(tmp_path / "missing", tmp_path)


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=80), unique=True, max_size=20))
def test_ids_are_plain_and_unique(paths: list[str]) -> None:
    ids = [video_id(p) for p in paths]
    assert len(set(ids)) == len(ids)
    assert all(i.isascii() and not set(i) & set("./ ") and len(i) <= 70 for i in ids)


def test_same_stem_different_files() -> None:
    assert len({video_id(p) for p in ("d/a.mp4", "d/a.mov", "d_a.mp4", "d/a", "d/á.mp4")}) == 5
    assert video_id("tanz/Größe 1.mp4").startswith("tanz_Groe_1-")


def test_a_split_has_about_its_share_and_depends_on_the_video_alone() -> None:
    ids = [video_id(f"{i}.mp4") for i in range(2000)]
    share = sum(split_of(i, 0, 0.1) == "val" for i in ids) / len(ids)
    assert 0.07 < share < 0.13
    assert [split_of(i, 1, 0.1) for i in ids] != [split_of(i, 0, 0.1) for i in ids]
    # a larger share keeps what was chosen
    assert all(split_of(i, 0, 0.2) == "val" for i in ids if split_of(i, 0, 0.1) == "val")
    assert {split_of(i, 0, 0.0) for i in ids} == {"train"}
    assert {split_of(i, 0, 1.0) for i in ids} == {"val"}


# --- plan


def video(name: str, lengths: list[int], refused: set[int] | None = None) -> VideoReport:
    edges = np.cumsum([0, *lengths]).tolist()
    scenes = [range(a, b) for a, b in pairwise(edges)]
    survey = Survey((256, 128), 10.0, 10.0, 9.0, edges[-1], False, scenes, np.zeros((1, 32), np.uint8))
    judged = [Judgement({}, {"min_body": "no"} if i in (refused or set()) else {}) for i in range(len(scenes))]
    reports = tuple(SceneReport(i, s, j, None) for i, (s, j) in enumerate(zip(scenes, judged, strict=True)))
    return VideoReport(name, name, "used", "", survey, reports)


@given(
    st.lists(st.lists(st.integers(1, 50), max_size=6), min_size=1, max_size=12),
    st.integers(1, 120),
    st.sampled_from([0.0, 0.4]),
)
def test_every_scene_is_stored_once_in_order_in_shards_that_are_filled(
    lengths: list[list[int]], full: int, validation: float
) -> None:
    videos = [video(f"{i:02d}.mp4", some, {1}) for i, some in enumerate(lengths)]
    plan = plan_set(videos, config(shard_frames=full, validation=validation))
    for split in ("train", "val"):
        mine = [p for p in plan if p.split == split]
        assert [p.number for p in mine] == list(range(len(mine)))
        stored = [(i.source, s.number) for p in mine for i in p.items for s in i.scenes]
        of_split = [v for v in videos if split_of(v.video, 0, validation) == split]
        assert stored == [(v.source, s.number) for v in of_split for s in v.scenes if s.number != 1]
        counts = [[s.stop - s.start for i in p.items for s in i.scenes] for p in mine]
        assert all(sum(c) >= full for c in counts[:-1])  # no shard is begun before the one before it is full
        assert all(sum(c[:-1]) < full for c in counts)  # and none goes on after it is
