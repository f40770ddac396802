"""Web page of a hosted demo: a picture, a video, a button, and the result."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

import mimicmotion
from mimicmotion.weights.registry import find_asset

MODEL, CHECKPOINT = os.environ.get("MODEL"), os.environ.get("CHECKPOINT")
LONGEST = 10.0
"""Maximum length of a result in seconds."""
HOUR = 3600


@cache
def pipeline() -> mimicmotion.MimicMotionPipeline:
    """The model, loaded once."""
    from mimicmotion.runtime.device import choose_device, choose_dtype

    device = choose_device("auto")
    return mimicmotion.MimicMotionPipeline.from_pretrained(
        MODEL, CHECKPOINT, device=device, dtype=choose_dtype("auto", device)
    )


def make(picture: str, video: str, seconds: float, seed: float, progress: Any = gr.Progress()) -> str:  # noqa: B008
    """Generate a result and return its path."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
    try:
        result = mimicmotion.animate(
            picture,
            video,
            folder / "result.mp4",
            pipeline=pipeline(),
            on_progress=lambda p: progress((p.done, p.total), desc=p.stage),
            duration=min(seconds, LONGEST),
            seed=int(seed),
            label="visible",
        )
    except mimicmotion.errors.MimicMotionError as e:
        raise gr.Error(str(e)) from e
    return str(result.path)


def page() -> gr.Blocks:
    """Build the page."""
    with gr.Blocks(title="MimicMotion", delete_cache=(HOUR, HOUR)) as blocks:
        gr.Markdown("# MimicMotion\nAnimate the person in your picture with the motion of a video.")
        with gr.Row():
            picture = gr.Image(label="Picture", type="filepath")
            video = gr.Video(label="Driving video")
            result = gr.Video(label="Result")
        with gr.Row():
            seconds = gr.Slider(0.5, LONGEST, 2, step=0.5, label="Seconds")
            seed = gr.Number(42, precision=0, label="Seed")
            button = gr.Button("Animate", variant="primary")
        gr.Examples([[str(find_asset("demo/person.png")), str(find_asset("demo/driving.mp4"))]], [picture, video])
        button.click(make, [picture, video, seconds, seed], result, concurrency_limit=1)
    return blocks


if __name__ == "__main__":
    page().launch()
