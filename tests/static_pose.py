"""A pose estimator that answers with given poses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mimicmotion.arrays import Frame
from mimicmotion.errors import PoseError
from mimicmotion.pose.estimators.base import PoseEstimator, PosePoints
from mimicmotion.pose.keypoints import PoseSequence


class StaticPose(PoseEstimator):
    """A test double that yields the given poses, one per frame, and then repeats the last one."""

    source = "static"

    def __init__(self, pose: PoseSequence) -> None:
        if not len(pose):
            raise PoseError("a pose sequence without frames", "at least one frame", "give a pose")
        self.pose = pose

    def estimate_stream(self, frames: Iterable[Frame]) -> Iterator[PosePoints]:
        """Yield the stored pose, scaled to the frame's size."""
        for i, frame in enumerate(frames):
            k = min(i, len(self.pose) - 1)
            pose = self.pose[k : k + 1].scaled((frame.shape[0], frame.shape[1]))
            self.people = int(pose.people[0]) or int(pose.confidence[0].any())
            yield pose.xy[0], pose.confidence[0]

    def count_people(self, frame: Frame) -> int:
        """Return 1, or 0 if the first stored pose is empty."""
        return int(self.pose.confidence[0].any())
