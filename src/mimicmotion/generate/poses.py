"""Estimate the poses of a video and save them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimicmotion.errors import ConfigError
from mimicmotion.generate import inputs
from mimicmotion.pose.files import save_openpose, save_poses
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.pose.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, PoseSequence
from mimicmotion.runtime.files import check_not_inputs, check_writable
from mimicmotion.runtime.progress import Job, Progress, Stopwatch
from mimicmotion.settings import PosesConfig
from mimicmotion.video.writer import check_output, open_writer

logger = logging.getLogger(__name__)

DRAWN_SHORT_SIDE = 576


@dataclass(frozen=True, slots=True)
class PosesResult:
    """Result of a pose job: the poses, paths of the pose file and the drawn video (if any), and seconds per stage."""

    poses: PoseSequence
    output: Path
    draw: Path | None
    seconds: dict[str, float]

    def summary(self) -> str:
        """A short summary for the user."""
        return "\n".join(
            [
                f"{len(self.poses)} frames at {self.poses.fps:g} per second by {self.poses.source}",
                describe_poses(self.poses),
                "seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()),
                f"poses: {self.output}",
                *([f"drawn: {self.draw}"] if self.draw else []),
            ]
        )


def describe_poses(poses: PoseSequence) -> str:
    """Describe in how many frames a person was found, and the mean confidence of body, face and hands in them."""
    found = poses.confidence.any(1)
    if not found.any():
        return "no person found"
    parts = {"body": BODY, "face": FACE, "left hand": LEFT_HAND, "right hand": RIGHT_HAND}
    means = ", ".join(f"{name} {poses.confidence[found, part].mean():.2f}" for name, part in parts.items())
    return f"a person in {int(found.sum())} of {len(poses)} frames; mean confidence: {means}"


def poses(config: PosesConfig) -> Job[PosesResult]:
    """Estimate the poses of a video, and write a pose file and, if requested, a video of the drawn poses.

    Raises:
        InputError: the video or a setting is invalid.
        OutputError: a result cannot be written.
    """
    watch = Stopwatch()
    result = yield from watch.watch(_poses(config))
    return PosesResult(result, config.output, config.draw, watch.seconds)


def _poses(config: PosesConfig) -> Job[PoseSequence]:
    folder = config.output.suffix == ""
    if not folder and config.output.suffix != ".npz":
        raise ConfigError(f"output={config.output}", "NAME.npz, or a folder for OpenPose JSON", "correct 'output'")
    drawn = [config.draw] if config.draw else []
    old_frames = config.output.glob("*.json") if folder else ()
    check_not_inputs(inputs.input_files(config), [config.output, *drawn, *old_frames])
    check_writable(config.output / f"{config.output.name}_{0:012d}_keypoints.json" if folder else config.output)
    for path in drawn:
        check_output(path)
    source = inputs.open_driving(config)
    for note in inputs.source_notes(config, source):
        logger.warning("%s", note)
    found = yield from inputs.driving_poses(config, source, inputs.find_estimator(config))
    (save_openpose if folder else save_poses)(found, config.output)
    if config.draw:
        yield from _draw(found, config.draw, config.confidence_aware)
    return found


def _draw(poses: PoseSequence, path: Path, confidence_aware: bool) -> Job[None]:
    scale = DRAWN_SHORT_SIDE / min(poses.size)
    size = (round(poses.size[0] * scale / 2) * 2, round(poses.size[1] * scale / 2) * 2)
    drawer = PoseDrawer(size, confidence_aware=confidence_aware)
    small = poses.scaled(size)
    with open_writer(path, size, poses.fps or 15.0) as writer:
        for i, (xy, confidence) in enumerate(zip(small.xy, small.confidence, strict=True)):
            writer.write(np.ascontiguousarray(drawer.draw(xy, confidence)))
            yield Progress("draw", i + 1, len(poses))
