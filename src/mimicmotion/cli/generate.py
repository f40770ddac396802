"""The commands generate, plan, batch, replay, inspect, poses, mask and demo."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Annotated

from mimicmotion.cli.options import Option, Output, app, run_job, say, settings_command
from mimicmotion.errors import MimicMotionError
from mimicmotion.settings import BatchConfig, GenerateConfig, MaskConfig, PlanConfig, PosesConfig

logger = logging.getLogger(__name__)

FACES = 30
"""Approximate number of frames of a result in which the face is compared with the picture's."""
PLAN_OUTPUT = Option(default=Path("plan.png"), help="Picture to write: the aligned driving pose over the picture.")


@settings_command(app, GenerateConfig, "picture", "video", name="generate")
def generate(settings: GenerateConfig) -> None:
    """Make the person in PICTURE move like the person in VIDEO (or in a pose file) and write the result as a video.

    Writes OUTPUT and OUTPUT.json (settings, seed, versions, and checksums of weights and inputs). The state of an
    unfinished run is saved in OUTPUT.state: if the run is killed, repeat the command with --resume. After `mimicmotion
    weights fetch faces`, it also reports how similar the faces in the result are to the one in the picture.
    """
    from mimicmotion.evaluation.metrics.identity import ALIKE, likeness
    from mimicmotion.generate.job import generate as job
    from mimicmotion.settings.poses import person_choice

    result = run_job(job(settings))
    say(result.summary())
    try:
        frames = itertools.islice(result.frames, 0, None, max(1, result.num_frames // FACES))
        alike = likeness(settings.picture, frames, person_choice(settings.picture_person))
    except MimicMotionError as e:  # the video itself is complete
        logger.warning("face similarity not measured: %s", e.got)
        return
    if alike is not None:
        far = "" if alike >= ALIKE else f"; below {ALIKE}, viewers may see a different person"
        say(f"face similarity: {alike:.2f} (1: identical){far}")


@settings_command(
    app,
    PlanConfig,
    "picture",
    "video",
    name="plan",
    without=["side_by_side", "preview", "audio", "resume", "save_every", "label", "producer", "signer", "output_fps"],
    options={"output": PLAN_OUTPUT},
)
def plan(settings: PlanConfig) -> None:
    """Show what `generate` would do with the same arguments, without generating the video."""
    from mimicmotion.generate.plan import plan as job

    say(run_job(job(settings)).summary())


@settings_command(app, BatchConfig, "jobs", name="batch")
def batch(settings: BatchConfig) -> int:
    """Run `generate` for every job in JOBS, each in its own process; a failing job does not stop the others.

    Run it again to resume: finished results are kept, and interrupted jobs continue. The exit code is 1 if a job
    failed.
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
    model: str | None = None,
    checkpoint: str | None = None,
    resume: bool = False,
) -> None:
    """Reproduce the result described by SIDECAR (the OUTPUT.json of `generate`) and check that the file is identical.

    Inputs and weights must match the recorded checksums; different package versions only cause a warning.

    Args:
        sidecar: The file OUTPUT.json next to a result.
        output: Path of the new result; default: OUTPUT-replay, next to the sidecar.
        picture: New path of the picture, if it was moved.
        video: New path of the driving video or pose file, if it was moved.
        model: New path of the model, if it was moved.
        checkpoint: New path of the checkpoint, if it was moved.
        resume: Resume an interrupted replay.
    """
    from mimicmotion.generate.replay import replay as job

    moved = {"picture": picture, "video": video, "model": model, "checkpoint": checkpoint}
    say(run_job(job(sidecar, output, resume=resume, **moved)).summary())


@app.command
def inspect(file: Path, /) -> int:
    """Show how FILE is labelled: whether it is marked as AI-generated, by whom, and whether it has changed since.

    The exit code is 1 if it has changed.

    Args:
        file: A video, a picture or a folder of frames.
    """
    from mimicmotion.generate.inspect import inspect as job

    found = job(file)
    say(found.summary())
    return int(found.changed)


@settings_command(app, PosesConfig, "video", name="poses")
def poses(settings: PosesConfig) -> None:
    """Estimate the poses of the person in VIDEO and save them in a file that `generate` accepts instead of a video."""
    from mimicmotion.generate.poses import poses as job

    say(run_job(job(settings)).summary())


@settings_command(app, MaskConfig, "video", name="mask")
def mask(settings: MaskConfig) -> None:
    """Make a mask of the person in VIDEO: a video that is white where the person is and black elsewhere."""
    from mimicmotion.generate.mask import mask as job

    say(run_job(job(settings)).summary())


@app.command
def demo(*, output: Annotated[Path, Output] = Path("out")) -> None:
    """Run the bundled examples: a rendered person driven by a video of a man, and a photograph driven by a man talking.

    Args:
        output: Folder for the results.
    """
    from mimicmotion.generate.demo import demo as job

    for result in run_job(job(output)):
        say(result.summary())
