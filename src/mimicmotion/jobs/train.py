"""Train a model by the settings of a file."""

from __future__ import annotations

from pathlib import Path


def train(config: Path, *, resume: bool = True) -> str:
    """Run a training to its end and say where the result is."""
    from mimicmotion.training import run

    return str(run(config, resume=resume))
