"""The main job: generate a video from a picture and a driving video."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicmotion.errors import MimicMotionError
from mimicmotion.generate.inputs import check_inputs, find_poses, prepare
from mimicmotion.generate.outputs import (
    GenerateResult,
    check_outputs,
    preview_path,
    side_by_side_path,
    sidecar_path,
    with_background,
    write_preview,
    write_sidecar,
    write_video,
)
from mimicmotion.generate.provenance import Facts
from mimicmotion.generate.record import RunRecord
from mimicmotion.generate.run_state import RunState
from mimicmotion.generate.setup import load, plan_run, recipe_for, run_device
from mimicmotion.runtime.interrupt import Interrupts, Stopped
from mimicmotion.runtime.progress import Job, Progress, finish
from mimicmotion.settings import GenerateConfig, parse

if TYPE_CHECKING:
    from mimicmotion.backbones.base import Request
    from mimicmotion.diffusion.recipe import Recipe
    from mimicmotion.diffusion.sampling import Step
    from mimicmotion.pipeline import MimicMotionPipeline

logger = logging.getLogger(__name__)

TINY_LIMITS = (
    "the bundled model is small and only for demonstration: it was trained on rendered people of up to 320x192 pixels, "
    "so hands and whatever the picture hides become rough shapes; use --model and --checkpoint for full quality"
)


def animate(
    picture: str | Path,
    video: str | Path,
    output: str | Path,
    *,
    on_progress: Callable[[Progress], object] | None = None,
    pipeline: MimicMotionPipeline | None = None,
    **settings: Any,
) -> GenerateResult:
    """Make a video of the person in `picture` moving like the person in `video`: `mimicmotion generate` as a function.

    Args:
        picture: path of a picture of the person.
        video: path of the driving video or a pose file.
        output: path of the result: a file such as .mp4, .gif or .webp, or a folder name ending in / for PNG frames.
        on_progress: called with reports that have `stage`, `done`, `total` and `note`. An exception that it raises ends
            the job; raise `mimicmotion.Stopped` to stop the job so that `resume=True` can continue it.
        pipeline: a loaded model; None loads the one that the settings select.
        settings: settings as on the command line; see `GenerateConfig`.

    Raises:
        ConfigError: a setting is unknown or invalid.
        InputError: an input is invalid; for this and other errors see `generate`.
    """
    config = parse(GenerateConfig, {"picture": picture, "video": video, "output": output, **settings})
    return finish(generate(config, pipeline), on_progress)


def generate(
    config: GenerateConfig, pipeline: MimicMotionPipeline | None = None, *, expected: Facts | None = None
) -> Job[GenerateResult]:
    """Generate the video.

    While the job runs, its state is saved next to the output (see `generate.run_state`), so that `config.resume` can
    continue a run that was interrupted or killed.

    Args:
        config: all settings.
        pipeline: a loaded model; None loads the one that the settings select.
        expected: provenance of an earlier result (`generate.provenance`), whose inputs and model this run must match.

    Raises:
        InputError: the inputs or settings are invalid, or do not match the interrupted run or `expected`; raised before
            the model runs.
        WeightsError: the model cannot be loaded.
        OutputError: the result cannot be written; no partial file is left behind.
        Stopped: Ctrl-C or SIGTERM was received; the message describes what was saved.
    """
    with Interrupts() as interrupts, RunState(config.output, enabled=config.save_every > 0) as state:
        record = RunRecord(config, state, expected)
        try:
            pipe, result = yield from record.watch.watch(_generate(record, pipeline, interrupts))
            result = dataclasses.replace(result, seconds=record.watch.seconds, peak_memory=record.peak_memory())
            write_sidecar(result.sidecar, record.sidecar(result, pipe))
        except KeyboardInterrupt as e:
            if state.done is None:
                raise
            raise Stopped(f"stopped; {record.describe_saved()}") from e
        except MimicMotionError:
            if record.has_saved:
                logger.warning("%s", record.describe_saved())
            raise
        state.remove()
    return result


def _generate(
    record: RunRecord, pipeline: MimicMotionPipeline | None, interrupts: Interrupts
) -> Job[tuple[MimicMotionPipeline, GenerateResult]]:
    from mimicmotion.backbones.base import Request

    config = record.config
    check_outputs(config)
    check_inputs(config)
    record.begin()
    found = None
    if record.saved is None:
        record.choose_estimator(pipeline)
        found = yield from find_poses(record.config)
    pipe = yield from load(config, pipeline)
    record.record_model(pipe)
    if found is not None:
        size = pipe.video_size(found.reference, config.height, config.width, config.fit)
        inputs = prepare(record.config, found, size)
    else:
        assert record.saved is not None
        inputs = record.saved.inputs
        yield Progress("poses", len(inputs.driving), len(inputs.driving))
    record.save_inputs(inputs, pipe)
    inputs, found = dataclasses.replace(inputs, driving=inputs.aligned), None  # free the poses before alignment
    size = (inputs.picture.shape[0], inputs.picture.shape[1])
    poses, reference_pose = pipe.guide(
        inputs.picture, inputs.reference, inputs.aligned, confidence_aware=config.confidence_aware
    )
    request = Request(inputs.picture, poses, reference_pose, len(poses), config.seed)
    recipe = recipe_for(config, pipe, len(poses))
    if not pipe.backbone.is_configured:
        plan = plan_run(config, pipe, size, recipe, earlier=record.earlier_plan())
        logger.info("runs with %s", plan.describe())
        pipe.backbone.configure(plan, run_device(config, pipe))
    step = yield from _denoise(record, pipe, request, recipe, interrupts)
    frames = with_background(config, inputs, pipe.decode_step(step, recipe, request))
    written, unsigned = yield from write_video(config, inputs, poses, frames, record.result_id(pipe))
    with contextlib.suppress(OSError):
        preview_path(config.output).unlink(missing_ok=True)
    limits = [TINY_LIMITS] if config.model is None and pipeline is None else []
    return pipe, GenerateResult(
        path=config.output,
        side_by_side=side_by_side_path(config.output) if config.side_by_side else None,
        sidecar=sidecar_path(config.output),
        num_frames=written,
        fps=config.output_fps or config.fps,
        size=size,
        seconds={},
        peak_memory={},
        warnings=[*record.warnings(), *inputs.warnings, *limits],
        resumed_at=record.resumed_at,
        unsigned_sha256=unsigned,
    )


def _denoise(
    record: RunRecord, pipe: MimicMotionPipeline, request: Request, recipe: Recipe, interrupts: Interrupts
) -> Job[Step]:
    """Encode the inputs and denoise, resuming from a saved step if there is one; return the last step.

    The first Ctrl-C takes effect once the current step is finished and saved. If the generator is closed, the step that
    has just finished is saved.
    """
    config = record.config
    saved = record.saved.step if record.saved else None
    record.saved = None  # keep only one copy of the latents in memory
    if saved is not None and saved.index + 1 == saved.total:
        yield Progress("denoise", saved.total, saved.total)
        return saved
    noise = pipe.draw_noise(recipe, request.size, seed=request.seed)
    yield Progress("encode", 0, 1)
    conditioning = pipe.backbone.encode(request, recipe.sampling, noise.picture)
    yield Progress("encode", 1, 1)
    latents, start, memory = noise.latents, 0, None
    if saved is not None:
        latents, start, memory = saved.latents, saved.index + 1, saved.memory
    steps = pipe.denoise(
        conditioning, latents, recipe, start=start, memory=memory, keep_x0=config.preview, in_place=True
    )
    notice = "stopping once this step is finished and saved; press Ctrl-C again to stop at once"
    with interrupts.deferred(notice) if record.state.enabled else contextlib.nullcontext():
        for step in steps:
            if step.x0 is not None:
                write_preview(config.output, recipe.plan.video(step.x0)[0], pipe.decode)
            try:
                yield Progress("denoise", step.index + 1, step.total)
            except GeneratorExit:
                record.save_step(step)
                raise
            if interrupts.stop_requested or record.is_due(step):
                record.save_step(step)
            if interrupts.stop_requested:
                raise Stopped
    return step
