"""Make videos, and what goes with it: plan, replay, poses, mask, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from mimicmotion.cli.options import Option, Output, app, run_job, say, settings_command
from mimicmotion.settings import BatchConfig, GenerateConfig, MaskConfig, PlanConfig, PosesConfig

PLAN_OUTPUT = Option(default=Path("plan.png"), help="The picture: the aligned driving pose over the reference picture.")


@settings_command(app, GenerateConfig, "picture", "video", name="generate")
def generate(settings: GenerateConfig) -> None:
    """Make a video of the person in PICTURE moving as the person in VIDEO (or in a pose file).

    Writes OUTPUT and OUTPUT.json (seed, settings, versions and checksums of weights and inputs). While it runs, its
    state lies in OUTPUT.state: killed at any moment, the same command with --resume goes on.
    """
    from mimicmotion.generate.job import generate as job

    say(run_job(job(settings)).summary())


@settings_command(
    app,
    PlanConfig,
    "picture",
    "video",
    name="plan",
    without=["side_by_side", "preview", "audio", "resume", "save_every"],
    options={"output": PLAN_OUTPUT},
)
def plan(settings: PlanConfig) -> None:
    """Say what `generate` would do with the same arguments, before any long work."""
    from mimicmotion.generate.plan import plan as job

    say(run_job(job(settings)).summary())


@settings_command(app, BatchConfig, "jobs", name="batch")
def batch(settings: BatchConfig) -> int:
    """Run `generate` for every job of JOBS, each in a process of its own; one that fails does not stop the others.

    Run it again to resume: finished results are kept, interrupted jobs continue. Exit code 1: a job failed.
    """
    from mimicmotion.generate.batch import batch as job

    result = run_job(job(settings))
    say(result.summary())
    return int(bool(result.failed))


@app.command
def replay(
    sidecar: Path,
    /,
    *,
    output: Annotated[Path | None, Output] = None,
    picture: Path | None = None,
    video: Path | None = None,
    detector: Path | None = None,
    pose_model: Path | None = None,
    model: str | None = None,
    checkpoint: str | None = None,
    resume: bool = False,
) -> None:
    """Make the result of SIDECAR (OUTPUT.json, as `generate` writes it) again, and say whether it is the same file.

    Inputs and weights must be those that it names, by their contents; other versions of packages are noted.

    Args:
        sidecar: The file OUTPUT.json beside a result.
        output: The new result; OUTPUT-replay beside the sidecar by default.
        picture: Where the picture lies now.
        video: Where the driving video or pose file lies now.
        detector: Where the person detector of dwpose lies now.
        pose_model: Where the whole-body network of dwpose lies now.
        model: Where the model lies now.
        checkpoint: Where the checkpoint lies now.
        resume: Go on with an interrupted replay.
    """
    from mimicmotion.generate.replay import replay as job

    moved = {"picture": picture, "video": video, "detector": detector, "pose_model": pose_model}
    say(run_job(job(sidecar, output, resume=resume, model=model, checkpoint=checkpoint, **moved)).summary())


@app.command
def inspect(file: Path, /) -> int:
    """Say what FILE declares of itself: that a model made it, by whom, and whether it was changed since.

    Exit code 1 means that it was changed.

    Args:
        file: A video, a picture or a folder of frames.
    """
    from mimicmotion.generate.inspect import inspect as job

    found = job(file)
    say(found.summary())
    return int(found.changed)


@settings_command(app, PosesConfig, "video", name="poses")
def poses(settings: PosesConfig) -> None:
    """Find the poses of the person in VIDEO and keep them in a file that `generate` takes in place of the video."""
    from mimicmotion.generate.poses import poses as job

    say(run_job(job(settings)).summary())


@settings_command(app, MaskConfig, "video", name="mask")
def mask(settings: MaskConfig) -> None:
    """Find the pixels of the person in each frame of VIDEO: white where the person is, black elsewhere."""
    from mimicmotion.generate.mask import mask as job

    say(run_job(job(settings)).summary())


@app.command
def demo(*, output: Annotated[Path, Output] = Path("out")) -> None:
    """Run the bundled example: a bundled picture moves as a real man in a real video.

    Args:
        output: The folder of the results.
    """
    from mimicmotion.generate.demo import demo as job

    say(run_job(job(output)).summary())
