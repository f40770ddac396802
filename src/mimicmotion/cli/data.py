"""The commands prepare and prepare synthetic, which make training data."""

from __future__ import annotations

from cyclopts import App

from mimicmotion.cli.options import app, run_job, say, settings_command
from mimicmotion.settings.prepare import PrepareConfig
from mimicmotion.settings.synthetic import SyntheticConfig

prepare_app = App(name="prepare", help="Make training data: shards of video scenes with poses.")
app.command(prepare_app)


@settings_command(prepare_app, PrepareConfig, "videos")
def prepare(settings: PrepareConfig) -> None:
    """Make training shards from the folder VIDEOS: find scenes, estimate poses, filter, crop, and write a report.

    Run it again to resume after an interruption, or to add new videos.
    """
    from mimicmotion.data.prepare.job import prepare as job

    say(run_job(job(settings)).summary())


@settings_command(prepare_app, SyntheticConfig, "count", name="synthetic")
def prepare_synthetic(settings: SyntheticConfig) -> None:
    """Render COUNT clips of synthetic people with exact poses into the folder OUTPUT."""
    from mimicmotion.data.synthetic import prepare_synthetic as job

    say(run_job(job(settings)).summary())
