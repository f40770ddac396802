"""The background of a job's frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mimicmotion.generate.inputs import Inputs
from mimicmotion.generate.outputs import Frame
from mimicmotion.pose.mask import SelfieSegmenter
from mimicmotion.settings import GenerateConfig
from mimicmotion.video.background import keep_background


def with_background(config: GenerateConfig, inputs: Inputs, frames: Iterator[Frame]) -> Iterator[Frame]:
    """The decoded frames with the background that the settings ask for."""
    if config.background == "model":
        return frames
    segmenter = SelfieSegmenter(config.pose_threads or None, config.pose_device)
    (person,) = segmenter.masks([inputs.picture], inputs.reference)
    frames, seen = itertools.tee(frames)  # one ahead of the other by one frame at most
    return keep_background(inputs.picture, person, frames, segmenter.masks(seen, inputs.aligned))
