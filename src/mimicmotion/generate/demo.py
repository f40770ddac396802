"""The bundled example: a bundled picture makes the movements of a real man."""

from __future__ import annotations

from pathlib import Path

from mimicmotion.generate.job import GenerateResult, generate
from mimicmotion.runtime.progress import Job
from mimicmotion.settings import GenerateConfig
from mimicmotion.weights.registry import find_asset

# The clip lasts 1.7 s; at 0.4 times its speed the result lasts 4.2 s.
TEMPO = 0.4


def demo_config(folder: Path) -> GenerateConfig:
    """The settings of the demo: its results go to `folder`."""
    return GenerateConfig(
        picture=find_asset("demo/person.png"),
        video=find_asset("demo/driving.mp4"),
        output=folder / "demo.mp4",
        tempo=TEMPO,
        side_by_side=True,
    )


def demo(folder: Path) -> Job[GenerateResult]:
    """Run the demo into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return (yield from generate(demo_config(folder)))
