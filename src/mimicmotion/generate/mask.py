"""Segment the person in a video; write the masks as a video, as PNG frames or as an array."""

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
from mimicmotion.pose.mask_files import VERSION, are_whole, load_masks, save_masks
from mimicmotion.runtime.files import check_not_inputs, check_writable
from mimicmotion.runtime.progress import Job, Progress, Stopwatch
from mimicmotion.settings import MaskConfig
from mimicmotion.video.reader import VideoReader
from mimicmotion.video.writer import check_output, open_writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MaskResult:
    """Result of a mask job.

    Attributes:
        output: the masks.
        frames: number of masks.
        size: (height, width).
        share: share of all pixels that belong to the person.
        seconds: time spent per stage.
    """

    output: Path
    frames: int
    size: tuple[int, int]
    share: float
    seconds: dict[str, float]

    def summary(self) -> str:
        """A short summary for the user."""
        return "\n".join(
            [
                f"{self.frames} masks of {self.size[1]}x{self.size[0]}; {self.share:.1%} of the pixels are person",
                "seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()),
                f"masks: {self.output}",
            ]
        )


def mask(config: MaskConfig) -> Job[MaskResult]:
    """Segment the person in a video.

    Raises:
        InputError: the video or a setting is invalid.
        OutputError: the result cannot be written.
    """
    watch = Stopwatch()
    poses, share = yield from watch.watch(_mask(config))
    return MaskResult(config.output, len(poses), poses.size, share, watch.seconds)


def _mask(config: MaskConfig) -> Job[tuple[PoseSequence, float]]:
    as_array = config.output.suffix == ".npz"
    check_not_inputs(inputs.input_files(config), [config.output])
    (check_writable if as_array else check_output)(config.output)
    source = inputs.open_driving(config)
    for note in inputs.source_notes(config, source):
        logger.warning("%s", note)
    if isinstance(source, PoseSequence):
        raise MediaError(f"{config.video} holds poses", "a video: masks need its pixels", "pass the video itself")
    poses = yield from inputs.driving_poses(config, source, inputs.find_estimator(config))
    masks = _masks(config, source, poses)
    total = 0.0
    with contextlib.ExitStack() as stack:
        writer = None
        if as_array:
            masks = save_masks(masks, config.output, len(poses), poses.size)
        else:
            writer = stack.enter_context(open_writer(config.output, poses.size, poses.fps))
        for done, one in enumerate(masks, 1):
            if writer is not None:
                writer.write(np.repeat(one[..., None], 3, -1))
            total += float((one >= 128).mean())
            yield Progress("mask", done, len(poses))
    return poses, total / len(poses)


def _masks(config: MaskConfig, reader: VideoReader, poses: PoseSequence) -> Iterator[Mask]:
    """The masks, from the cache, or computed and cached."""
    path = None
    if config.pose_cache and config.video.is_file():
        path = PoseCache().path(config.video, inputs.cache_settings(config) | {"masks": VERSION})
        if are_whole(path):
            return load_masks(path)
    segmenter = SelfieSegmenter(config.pose_threads or None, config.pose_device)
    masks = segmenter.masks(inputs.sampled_frames(config, reader), poses)
    if path is None:
        return masks
    try:
        check_writable(path)
    except OutputError as e:
        logger.warning("the masks cannot be cached: %s", e.got)
        return masks
    return save_masks(masks, path, len(poses), poses.size)
