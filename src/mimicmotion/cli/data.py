"""Make training data: of videos, or of synthetic people."""

from __future__ import annotations

from cyclopts import App

from mimicmotion.cli.options import app, run_job, say, settings_command
from mimicmotion.settings.prepare import PrepareConfig
from mimicmotion.settings.synthetic import SyntheticConfig

prepare_app = App(name="prepare", help="Make training data: shards of scenes with poses.")
app.command(prepare_app)


@settings_command(prepare_app, PrepareConfig, "videos")
def prepare(settings: PrepareConfig) -> None:
    """Make shards for training of the folder VIDEOS: scenes, poses, filters, crops, and a report to look at.

    Stopped and started again it goes on; started with more videos it adds them.
    """
    from mimicmotion.data.prepare.job import prepare as job

    say(run_job(job(settings)).summary())


@settings_command(prepare_app, SyntheticConfig, "count", name="synthetic")
def prepare_synthetic(settings: SyntheticConfig) -> None:
    """Render COUNT clips of synthetic people with exact poses into the folder OUTPUT."""
    from mimicmotion.data.synthetic import prepare_synthetic as job

    say(run_job(job(settings)).summary())
