"""What `generate` would do, said before any long work."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mimicmotion.generate import inputs as inputs_module
from mimicmotion.generate.inputs import Inputs
from mimicmotion.generate.poses import describe_poses
from mimicmotion.generate.setup import load, plan_run, recipe_for, result_size, with_estimator
from mimicmotion.runtime.progress import Job
from mimicmotion.settings import GenerateConfig

if TYPE_CHECKING:
    from mimicmotion.backbones.base import Plan
    from mimicmotion.diffusion.recipe import Recipe
    from mimicmotion.pipeline import MimicMotionPipeline


COUNTED_FRAMES = 3


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a generate job would do.

    Attributes:
        inputs: the fitted picture and the poses.
        people: people seen in the picture, and in some frames of the video (nothing for a pose file).
        overlay: picture with the aligned driving pose of a few frames drawn over it.
        fps: frames per second.
        recipe: segments, how they are joined, and the denoising steps.
        execution: how the networks would run in the memory there is, with the predicted peaks.
    """

    inputs: Inputs
    people: tuple[int, list[int]]
    overlay: Path
    fps: float
    recipe: Recipe
    execution: Plan

    def summary(self) -> str:
        """A few lines for a person to read."""
        found, recipe, seen = self.inputs, self.recipe, self.people[1]
        height, width = found.picture.shape[:2]
        return "\n".join(
            [
                f"picture   {describe_poses(found.reference)}",
                f"video     {describe_poses(found.driving)}",
                f"people    {self.people[0]} in the picture, "
                f"{' to '.join(map(str, sorted({min(seen), max(seen)}))) if seen else 'not counted'} in the video",
                *(f"note      {w}" for w in found.warnings),
                f"result    {len(found.driving)} frames of {width}x{height} at {self.fps:g} per second",
                f"segments  {len(recipe.plan.segments)} of up to {recipe.fusion.segment_frames} frames, "
                f"{recipe.fusion.overlap_frames} shared, {recipe.fusion.mode}",
                f"steps     {len(recipe.passes)}, so {recipe.network_passes} passes of the U-Net",
                f"runs with {self.execution.describe()}",
                f"memory    {self.execution.describe_peaks()}",
                f"overlay   {self.overlay}",
            ]
        )


def plan(config: GenerateConfig, pipeline: MimicMotionPipeline | None = None) -> Job[PlanReport]:
    """Look at the inputs and say what would be done; writes the overlay picture to `config.output`.

    Raises:
        InputError: as `generate`.
        OutputError: the picture cannot be written.
    """
    from mimicmotion.runtime.files import check_not_inputs, check_writable
    from mimicmotion.video.picture import check_picture_output, write_picture

    check_not_inputs(inputs_module.input_files(config), [config.output])
    check_writable(check_picture_output(config.output))
    inputs_module.check_inputs(config)
    config, notes = with_estimator(config, pipeline)
    found = yield from inputs_module.find(config)
    pipe = yield from load(config, pipeline)
    inputs = yield from inputs_module.prepare(config, result_size(config, pipe), pipe.backbone.size_multiple, found)
    inputs.warnings[:0] = notes
    size: tuple[int, int] = inputs.picture.shape[:2]
    recipe = recipe_for(config, pipe, len(inputs.aligned))
    write_picture(config.output, draw_overlay(config, pipe, inputs))
    return PlanReport(
        inputs=inputs,
        people=count_people(config),
        overlay=config.output,
        fps=config.fps,
        recipe=recipe,
        execution=plan_run(config, pipe, size, recipe, predict=True),
    )


def count_people(config: GenerateConfig) -> tuple[int, list[int]]:
    """People in the picture, and in the first frame and one or two later ones of the video."""
    from mimicmotion.pose.keypoints import PoseSequence
    from mimicmotion.video.picture import read_picture

    estimator = inputs_module.find_estimator(config)(static=True)
    source = inputs_module.open_driving(config)
    picture = estimator.count_people(read_picture(config.picture))
    if isinstance(source, PoseSequence):
        return picture, []
    every = max(1, (inputs_module.expected_frames(config, source) or 1) // COUNTED_FRAMES)
    frames = itertools.islice(inputs_module.sampled_frames(config, source), 0, every * COUNTED_FRAMES, every)
    return picture, [estimator.count_people(f) for f in frames]


def draw_overlay(config: GenerateConfig, pipe: MimicMotionPipeline, inputs: Inputs) -> np.ndarray:
    """Picture beside picture: the reference with its own pose, and with the driving pose of three moments."""
    import cv2

    size: tuple[int, int] = inputs.picture.shape[:2]
    scale = max(1.0, 448 / size[0])
    shown = (round(size[0] * scale), round(size[1] * scale))
    drawer = pipe.backbone.pose_drawer(shown, confidence_aware=config.confidence_aware)
    base = cv2.resize(inputs.picture, shown[::-1], interpolation=cv2.INTER_CUBIC)
    aligned = inputs.aligned.scaled(shown)
    moments = sorted({0, len(aligned) // 2, len(aligned) - 1})
    reference = inputs.reference.scaled(shown)
    poses = [(reference.xy[0], reference.confidence[0]), *((aligned.xy[i], aligned.confidence[i]) for i in moments)]
    panes = []
    for xy, confidence in poses:
        drawn = drawer.draw(xy, confidence)
        panes.append(np.where(drawn.any(-1, keepdims=True), drawn, (base * 0.6).astype(np.uint8)))
    return np.concatenate(panes, axis=1)
