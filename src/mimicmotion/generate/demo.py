"""The bundled examples: a rendered person driven by a video of a man, and a photograph driven by a man talking."""

from __future__ import annotations

from pathlib import Path

from mimicmotion.generate.job import GenerateResult, generate
from mimicmotion.runtime.progress import Job
from mimicmotion.settings import GenerateConfig
from mimicmotion.weights.registry import find_asset


def demo(folder: Path) -> Job[list[GenerateResult]]:
    """Generate the videos of both examples in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    person = GenerateConfig(
        picture=find_asset("demo/person.png"),
        video=find_asset("demo/driving.mp4"),
        output=folder / "demo.mp4",
        tempo=0.4,  # the clip lasts 1.7 s, the result 4.2 s
        side_by_side=True,
    )
    photograph = GenerateConfig(
        picture=find_asset("demo/astronaut.jpg"),
        video=find_asset("demo/talking.mp4"),
        output=folder / "photograph.mp4",
        height=256,
        width=256,
        fps=10.0,
        side_by_side=True,
    )
    return [(yield from generate(person)), (yield from generate(photograph))]
