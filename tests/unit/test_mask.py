"""Person masks: the network as MediaPipe runs it, the influence of the pose, mask files and the job."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy import ndarray

from mimicmotion.errors import InputError, MediaError, PoseError
from mimicmotion.generate import inputs
from mimicmotion.generate.mask import mask as mask_job
from mimicmotion.pose.estimators.holistic.networks import Networks
from mimicmotion.pose.estimators.open import open_estimator
from mimicmotion.pose.keypoints import BODY, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence
from mimicmotion.pose.mask import PersonSegmenter, SelfieSegmenter
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import MaskConfig
from mimicmotion.video.writer import open_writer
from planted_job import FRAMES, SIZE, frames_of, planted, random_frames, standing

PEOPLE = Path(__file__).parents[1] / "data" / "people"


def read(name: str) -> ndarray:
    return cv2.cvtColor(cv2.imread(str(PEOPLE / f"{name}.jpg")), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def segmenter() -> SelfieSegmenter:
    return SelfieSegmenter(threads=1, device="cpu")


@pytest.fixture(scope="module")
def two() -> tuple[ndarray, PoseSequence, PoseSequence]:
    """A frame with two people, and both poses."""
    frame = read("two")
    left, right = (open_estimator(person=i, threads=1, device="cpu").estimate([frame]) for i in (0, 1))
    return frame, left, right


def at_points(mask: ndarray, pose: PoseSequence) -> ndarray:
    xy = pose.xy[0, BODY][pose.confidence[0, BODY] > 0.5].astype(int)
    return mask[xy[:, 1].clip(0, mask.shape[0] - 1), xy[:, 0].clip(0, mask.shape[1] - 1)]


def test_network_answers_as_mediapipe() -> None:
    picture = cv2.resize(read("astronaut"), (256, 256), interpolation=cv2.INTER_AREA)
    likely = Networks(1).person(picture).reshape(32, 8, 32, 8).mean((1, 3))
    with np.load(PEOPLE / "astronaut_mask.npz") as recorded:
        # the same picture gives 2e-5; JPEG decoders differ by a level, edges by more
        np.testing.assert_allclose(likely, recorded["likely"], rtol=0, atol=0.05)


def upright() -> PoseSequence:
    """A standing figure of 185 pixels; all points are sure, hands and face lie in wrists and nose."""
    x = {2: 80, 3: 70, 4: 65, 5: 120, 6: 130, 7: 135, 8: 88, 9: 88, 10: 88, 11: 112, 12: 112, 13: 112}
    y = {0: 40, 1: 60, 2: 60, 3: 90, 4: 115, 5: 60, 6: 90, 7: 115, 8: 120, 9: 175, 10: 225, 11: 120, 12: 175, 13: 225}
    xy = np.full((NUM_POINTS, 2), 100.0, np.float32)
    xy[:, 1] = 40
    for k, value in x.items():
        xy[k, 0] = value
    for k, value in y.items():
        xy[k, 1] = value
    xy[18:21], xy[21:24] = xy[13] + [[10, 6], [6, 8], [-2, 4]], xy[10] + [[-10, 6], [-6, 8], [2, 4]]
    xy[RIGHT_HAND], xy[LEFT_HAND] = xy[4], xy[7]
    return PoseSequence(xy[None], np.full((1, NUM_POINTS), 0.9, np.float32), (260, 200))


def test_limbs_that_the_pose_loses_are_left_to_the_network(
    segmenter: SelfieSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Knees below the picture's edge are not found, but thighs are seen."""
    pose, frame = upright(), np.zeros((260, 200, 3), np.uint8)
    monkeypatch.setattr(segmenter._networks, "person", lambda crop: np.ones(crop.shape[:2], np.float32))
    (mask,) = segmenter.masks([frame], pose)
    assert (mask[:20, :20] < 128).all()  # away from all limbs, whatever the network says
    pose.confidence[0, [9, 10, 12, 13, *range(18, 24)]] = 0
    (mask,) = segmenter.masks([frame], pose)
    assert (mask[125:250, 85:115] >= 128).all()


def test_feet_without_small_toes_belong_to_the_person(
    segmenter: SelfieSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    pose, frame = upright(), np.zeros((260, 200, 3), np.uint8)
    monkeypatch.setattr(segmenter._networks, "person", lambda crop: np.zeros(crop.shape[:2], np.float32))
    pose.confidence[0, [19, 22]] = 0
    (mask,) = segmenter.masks([frame], pose)
    for middle in (pose.xy[0, 18:21:2].mean(0), pose.xy[0, 21:24:2].mean(0)):
        x, y = middle.astype(int)
        assert mask[y, x] >= 128


def test_mask_follows_the_person_of_the_pose(
    segmenter: SelfieSegmenter, two: tuple[ndarray, PoseSequence, PoseSequence]
) -> None:
    frame, left, right = two
    assert isinstance(segmenter, PersonSegmenter)
    for own, other in ((left, right), (right, left)):
        (mask,) = segmenter.masks([frame], own)
        assert mask.shape == frame.shape[:2]
        assert mask.dtype == np.uint8
        assert np.mean(at_points(mask, own) >= 128) > 0.8
        assert np.mean(at_points(mask, other) >= 128) < 0.2  # one stands in front of the other
        assert 0.01 < np.mean(mask >= 128) < 0.3


def test_without_a_pose_the_whole_frame_is_looked_at(segmenter: SelfieSegmenter) -> None:
    frame = read("astronaut")
    nobody = segmenter.mask(frame, np.zeros((NUM_POINTS, 2), np.float32), np.zeros(NUM_POINTS, np.float32))
    assert nobody[60:110, 140:190].min() >= 128  # the face
    assert nobody[:100, [*range(60), *range(300, 384)]].max() < 128  # the wall beside it


def test_person_outside_of_the_frame_has_no_pixels(segmenter: SelfieSegmenter) -> None:
    pose = standing(1, (64, 48))
    assert not segmenter.mask(np.full((64, 48, 3), 127, np.uint8), pose.xy[0] + 1000, pose.confidence[0]).any()


@pytest.mark.parametrize("count", [1, 3])
def test_other_number_of_poses_is_refused(segmenter: SelfieSegmenter, count: int) -> None:
    with pytest.raises(PoseError, match=f"{count} poses"):
        list(segmenter.masks(random_frames(2, SIZE), standing(count)))


def test_poses_of_another_size_are_refused(segmenter: SelfieSegmenter) -> None:
    with pytest.raises(PoseError, match="in pixels of the frame"):
        next(segmenter.masks(random_frames(1, (32, 32)), standing(1)))


# --- the job ----------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MaskConfig:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inputs, "find_estimator", planted(standing(1), standing(FRAMES)))
    with open_writer(tmp_path / "video.mp4", SIZE, 15.0) as writer:
        for frame in random_frames(FRAMES, SIZE):
            writer.write(frame)
    return MaskConfig(video=tmp_path / "video.mp4", output=tmp_path / "masks")


def test_job_writes_what_is_asked_for_and_remembers(config: MaskConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    result = finish(mask_job(config))
    assert f"{FRAMES} masks of {SIZE[1]}x{SIZE[0]}" in result.summary()
    masks = frames_of(config.output)
    assert masks.shape == (FRAMES, *SIZE, 3)
    assert result.fraction == pytest.approx(np.mean(masks >= 128))
    (cached,) = (config.output.parent / "cache").rglob("frame_000000.png")

    def found(*_: object) -> Iterator[None]:
        raise AssertionError("the masks were found again")

    monkeypatch.setattr(SelfieSegmenter, "masks", found)
    again = dataclasses.replace(config, output=config.output.with_name("again"))
    finish(mask_job(again))
    np.testing.assert_array_equal(frames_of(again.output), masks)
    with pytest.raises(AssertionError, match="found again"):
        finish(mask_job(dataclasses.replace(config, pose_cache=False)))
    cached.write_bytes(cached.read_bytes()[:50])
    with pytest.raises(AssertionError, match="found again"):
        finish(mask_job(config))


def test_job_refuses_poses_and_unknown_suffixes(config: MaskConfig, tmp_path: Path) -> None:
    from mimicmotion.pose.files import save_poses

    save_poses(standing(2), tmp_path / "poses.npz")
    with pytest.raises(MediaError, match="contains poses"):
        finish(mask_job(dataclasses.replace(config, video=tmp_path / "poses.npz")))
    with pytest.raises(InputError, match="xyz"):
        finish(mask_job(dataclasses.replace(config, output=tmp_path / "masks.xyz")))
