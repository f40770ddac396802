"""List and convert weights."""

from __future__ import annotations

from pathlib import Path

from mimicmotion.errors import OutputError
from mimicmotion.weights.registry import KNOWN, verify


def listing() -> str:
    """The known weights, a line each."""
    return "\n".join(str(w) for w in KNOWN)


def convert(base: str, checkpoint: str | None, output: Path) -> str:
    """Write base model + checkpoint as one folder of safetensors, and verify it.

    Raises:
        OutputError: the folder exists already.
        WeightsError: something is missing or does not fit.
    """
    import torch

    from mimicmotion.pipeline import MimicMotionPipeline

    if output.exists():
        raise OutputError(f"{output} exists", "a new folder", "choose another name or remove it")
    pipe = MimicMotionPipeline.from_pretrained(base, checkpoint, dtype=torch.float16)
    pipe.save_pretrained(output)
    return f"{verify(output)}\nuse it with --model {output}"
