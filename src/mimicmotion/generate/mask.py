"""Segment the person in a video, and write the masks as a video or as PNG frames."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimicmotion.errors import MediaError, OutputError
from mimicmotion.generate import inputs
from mimicmotion.pose.files import PoseCache
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.pose.mask import Mask, SelfieSegmenter
from mimicmotion.runtime.files import check_not_inputs
from mimicmotion.runtime.progress import Job, Progress, Stopwatch
from mimicmotion.settings import MaskConfig
from mimicmotion.video.reader import VideoReader, open_video
from mimicmotion.video.writer import check_output, open_writer

logger = logging.getLogger(__name__)

VERSION = 1  # version of the segmentation method, part of the cache key


@dataclass(frozen=True, slots=True)
class MaskResult:
    """Result of a mask job.

    Attributes:
        output: path of the masks.
        frames: number of masks.
        size: (height, width) of the masks.
        fraction: fraction of all pixels that belong to the person.
        seconds: time spent per stage.
    """

    output: Path
    frames: int
    size: tuple[int, int]
    fraction: float
    seconds: dict[str, float]

    def summary(self) -> str:
        """A short summary for the user."""
        return "\n".join(
            [
                f"{self.frames} masks of {self.size[1]}x{self.size[0]}; "
                f"{self.fraction:.1%} of the pixels show the person",
                "seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()),
                f"masks: {self.output}",
            ]
        )


def mask(config: MaskConfig) -> Job[MaskResult]:
    """Segment the person in a video, and write the masks.

    Raises:
        InputError: the video or a setting is invalid.
        OutputError: the result cannot be written.
    """
    watch = Stopwatch()
    poses, fraction = yield from watch.watch(_mask(config))
    return MaskResult(config.output, len(poses), poses.size, fraction, watch.seconds)


def _mask(config: MaskConfig) -> Job[tuple[PoseSequence, float]]:
    check_not_inputs(inputs.input_files(config), [config.output])
    check_output(config.output)
    source = inputs.open_driving(config)
    for note in inputs.source_notes(config, source):
        logger.warning("%s", note)
    if isinstance(source, PoseSequence):
        raise MediaError(f"{config.video} contains poses", "a video, since masks need its pixels", "pass the video")
    poses = yield from inputs.driving_poses(config, source, inputs.find_estimator(config))
    total = 0.0
    for done, mask in enumerate(_saved(_masks(config, source, poses), config.output, poses), 1):
        total += float((mask >= 128).mean())
        yield Progress("mask", done, len(poses))
    return poses, total / len(poses)


def _masks(config: MaskConfig, reader: VideoReader, poses: PoseSequence) -> Iterator[Mask]:
    """Read the masks from the cache (a folder of PNG frames), or compute and cache them."""
    path = None
    if config.pose_cache and config.video.is_file():
        path = PoseCache().path(config.video, inputs.cache_settings(config) | {"masks": VERSION}).with_suffix("")
        with contextlib.suppress(MediaError):
            if path.is_dir() and sum(1 for _ in open_video(path)) == len(poses):  # complete and undamaged
                return (frame[..., 0] for frame in open_video(path))
    masks = SelfieSegmenter(device=config.pose_device).masks(inputs.sampled_frames(config, reader), poses)
    if path is None:
        return masks
    try:
        check_output(path)
    except OutputError as e:
        logger.warning("the masks cannot be cached: %s", e.got)
        return masks
    return _saved(masks, path, poses)


def _saved(masks: Iterator[Mask], path: Path, poses: PoseSequence) -> Iterator[Mask]:
    """Write each mask to `path`, then yield it."""
    with open_writer(path, poses.size, poses.fps) as writer:
        for mask in masks:
            writer.write(np.repeat(mask[..., None], 3, -1))
            yield mask
