"""Report what `generate` would do, without generating a video."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mimicmotion.generate import inputs as inputs_module
from mimicmotion.generate.inputs import Inputs
from mimicmotion.generate.poses import describe_poses
from mimicmotion.generate.setup import load, plan_run, recipe_for, with_estimator
from mimicmotion.pose.align import AlignMethod, align
from mimicmotion.runtime.files import check_not_inputs, check_writable
from mimicmotion.runtime.progress import Job
from mimicmotion.settings import GenerateConfig, PlanConfig
from mimicmotion.video.picture import check_picture_output, read_picture, write_picture

if TYPE_CHECKING:
    from mimicmotion.backbones.base import Plan
    from mimicmotion.diffusion.recipe import Recipe
    from mimicmotion.pipeline import MimicMotionPipeline
    from mimicmotion.pose.keypoints import PoseSequence
    from mimicmotion.video.geometry import Fit

COMPARED: tuple[AlignMethod, ...] = ("limbs", "weighted", "released")


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Report on what a generate job would do.

    Attributes:
        inputs: the fitted picture and the poses.
        overlay: path of the overlay picture; see `draw_overlays`.
        fps: frames per second of the result.
        recipe: the segments, how they are fused, and the denoising steps.
        execution: execution plan of the networks, with predicted peak memory.
    """

    inputs: Inputs
    overlay: Path
    fps: float
    recipe: Recipe
    execution: Plan

    def summary(self) -> str:
        """A short summary for the user."""
        found, recipe = self.inputs, self.recipe
        height, width = found.picture.shape[:2]
        cut = describe_cut(found.fit)
        return "\n".join(
            [
                f"picture   {describe_poses(found.reference)}",
                f"video     {describe_poses(found.driving)}",
                *([f"cut off   {cut} of the picture; --fit letterbox keeps all"] if cut else []),
                f"people    {_max_people(found.reference)} in the picture, {_max_people(found.driving)} in the video",
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


def describe_cut(fit: Fit) -> str:
    """Describe what a crop cuts off the picture at each side; empty if less than 2% at every side."""
    sides = zip(("top", "bottom", "left", "right"), fit.cut, strict=True)
    return ", ".join(f"{margin:.0%} at the {side}" for side, margin in sides if margin >= 0.02)


def _max_people(poses: PoseSequence) -> str:
    """Return the largest number of people in a frame, or "not counted", as some estimators do not count people."""
    return str(count) if (count := int(poses.people.max())) else "not counted"


def plan(config: GenerateConfig, pipeline: MimicMotionPipeline | None = None) -> Job[PlanReport]:
    """Estimate the poses, plan the generation, and write the overlay picture to `config.output`.

    Raises:
        InputError: as in `generate`.
        OutputError: the picture cannot be written.
    """
    check_not_inputs(inputs_module.input_files(config), [config.output])
    check_writable(check_picture_output(config.output))
    inputs_module.check_inputs(config)
    config, notes = with_estimator(config, pipeline)
    found = yield from inputs_module.find_poses(config)
    pipe = yield from load(config, pipeline)
    size = pipe.video_size(found.reference, config.height, config.width, config.fit)
    inputs = inputs_module.prepare(config, found, size)
    inputs.warnings[:0] = notes
    recipe = recipe_for(config, pipe, len(inputs.aligned))
    write_picture(config.output, draw_overlays(config, pipe, inputs))
    return PlanReport(
        inputs=inputs,
        overlay=config.output,
        fps=config.fps,
        recipe=recipe,
        execution=plan_run(config, pipe, size, recipe, predict=True),
    )


def draw_overlays(config: GenerateConfig, pipe: MimicMotionPipeline, inputs: Inputs) -> np.ndarray:
    """Draw the overlay; with `compare_alignments`, one per alignment method, stacked vertically."""
    if not (isinstance(config, PlanConfig) and config.compare_alignments):
        return draw_overlay(config, pipe, inputs)
    rows = []
    for method in COMPARED:
        aligned = align(inputs.driving, inputs.reference, inputs.aligned.size, method)
        row = draw_overlay(config, pipe, dataclasses.replace(inputs, aligned=aligned))
        rows.append(cv2.putText(row, method, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2))
    return np.concatenate(rows)


def draw_overlay(config: GenerateConfig, pipe: MimicMotionPipeline, inputs: Inputs) -> np.ndarray:
    """Draw the reference picture with its own pose and with the driving pose in three frames, side by side.

    If the picture is cropped, the whole picture is shown first, with the parts that are cut off darkened.
    """
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
    if describe_cut(inputs.fit):
        original, fit = read_picture(config.picture), inputs.fit
        top, bottom, left, right = np.multiply(fit.cut, np.repeat(fit.source, 2)).round().astype(int)
        kept = np.zeros((*fit.source, 1), bool)
        kept[top : fit.source[0] - bottom, left : fit.source[1] - right] = True
        width = round(shown[0] * fit.source[1] / fit.source[0])
        darkened = np.where(kept, original, original // 4)
        panes.append(cv2.resize(darkened, (width, shown[0]), interpolation=cv2.INTER_AREA))
    for xy, confidence in poses:
        drawn = drawer.draw(xy, confidence)
        panes.append(np.where(drawn.any(-1, keepdims=True), drawn, (base * 0.6).astype(np.uint8)))
    return np.concatenate(panes, axis=1)
