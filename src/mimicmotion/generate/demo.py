"""The bundled example: a bundled picture makes the movements of a real man."""

from __future__ import annotations

from pathlib import Path

from mimicmotion.generate.job import GenerateResult, generate
from mimicmotion.runtime.progress import Job
from mimicmotion.settings import GenerateConfig
from mimicmotion.weights.registry import find_asset


def demo(folder: Path) -> Job[GenerateResult]:
    """Run the demo into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = GenerateConfig(
        picture=find_asset("demo/person.png"),
        video=find_asset("demo/driving.mp4"),
        output=folder / "demo.mp4",
        tempo=0.4,  # the clip lasts 1.7 s, the result 4.2 s
        side_by_side=True,
    )
    return (yield from generate(config))
