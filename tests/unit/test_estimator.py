from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mimicmotion.errors import ConfigError, PoseError
from mimicmotion.pose.estimators.base import PoseEstimator, no_person
from mimicmotion.pose.estimators.open import open_estimator
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from static_pose import StaticPose


def moving(frames: int = 2) -> PoseSequence:
    xy = np.arange(frames, dtype=np.float32)[:, None, None].repeat(NUM_POINTS, 1).repeat(2, 2)
    return PoseSequence(xy, np.full((frames, NUM_POINTS), 0.5, np.float32), (10, 20))


def frames(count: int, size: tuple[int, int] = (20, 40)) -> Iterator[np.ndarray]:
    return (np.zeros((*size, 3), np.uint8) for _ in range(count))


def test_the_double_answers_in_the_size_of_the_frames_and_repeats_its_end() -> None:
    estimator = StaticPose(moving(2))
    assert isinstance(estimator, PoseEstimator)
    poses = estimator.estimate(frames(4), fps=7.0)
    np.testing.assert_array_equal(poses.xy[:, 0, 0], [0, 2, 2, 2])
    assert (poses.size, poses.fps, poses.source, len(poses)) == ((20, 40), 7.0, "static", 4)


def test_frames_are_read_one_at_a_time() -> None:
    taken = []

    def source() -> Iterator[np.ndarray]:
        for k in range(3):
            taken.append(k)
            yield np.zeros((4, 4, 3), np.uint8)

    stream = StaticPose(moving()).estimate_stream(source())
    next(stream)
    assert taken == [0]


def test_frames_of_two_sizes_and_no_frames_are_refused() -> None:
    def mixed() -> Iterator[np.ndarray]:
        yield from frames(2)
        yield from frames(1, (8, 8))

    with pytest.raises(PoseError, match="frame 2"):
        StaticPose(moving()).estimate(mixed())
    with pytest.raises(PoseError, match="without frames"):
        StaticPose(moving()).estimate([])
    with pytest.raises(PoseError, match="without frames"):
        StaticPose(moving()[:0])


def test_nobody_has_no_confidence() -> None:
    xy, confidence = no_person()
    assert len(PoseSequence(xy[None], confidence[None], (4, 4))) == 1
    assert not confidence.any()


@pytest.mark.parametrize(
    "arguments",
    [{"name": "openpose"}, {"device": "tpu"}, {"pose_path": "x.onnx"}, {"name": "dwpose"}, {"person": "tallest"}],
    ids=str,
)
def test_invalid_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="fix"):
        open_estimator(**arguments)
