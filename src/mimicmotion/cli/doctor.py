"""What this machine has and what would be used."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mimicmotion import __version__
from mimicmotion.cli.options import app, say
from mimicmotion.runtime.device import choose_device, choose_dtype

# Two OpenCV wheels in one environment overwrite each other's files; the GUI ones fail on machines without a display.
CONFLICTING = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")


@app.command
def doctor() -> None:
    """Print what this machine has and what would be used."""
    say("\n".join(_facts()))


def _facts() -> Iterator[str]:
    """One line a fact; warnings begin with "!"."""
    import onnxruntime
    import torch

    from mimicmotion.generate.provenance import PACKAGES, installed
    from mimicmotion.weights.registry import KNOWN

    yield f"mimicmotion   {__version__} (Python {platform.python_version()}, {platform.platform()})"
    yield "packages      " + ", ".join(f"{p} {v}" for p, v in installed(*PACKAGES).items())
    yield f"processor     {os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"
    yield f"memory        {_memory()}"
    yield from _gpus()
    device = choose_device("auto")
    yield f"would use     device {device}, dtype {str(choose_dtype('auto', device)).removeprefix('torch.')}"
    providers = onnxruntime.get_available_providers()
    yield f"pose runs on  {'CUDA' if 'CUDAExecutionProvider' in providers else 'CPU'} ({', '.join(providers)})"
    if device.type == "cuda" and "CUDAExecutionProvider" not in providers:
        yield "! A GPU is here, but onnxruntime has no CUDA provider: poses are found on the CPU."
        yield "!   fix: pip uninstall onnxruntime, then pip install 'mimicmotion[gpu]'"
    for name, version in installed(*CONFLICTING).items():
        if version != "missing":
            yield f"! {name} is installed beside opencv-python-headless: they overwrite each other."
            yield f"!   fix: pip uninstall {name}, then pip install --force-reinstall opencv-python-headless"
    yield "video codecs  " + _codecs()
    for w in KNOWN:
        yield f"weights       {w}"
    yield f"disk          {shutil.disk_usage('.').free / 2**30:.0f} GiB free here"


def _memory() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split()[1].isdigit()}
        return f"{kib['MemTotal'] / 2**20:.1f} GiB, {kib['MemAvailable'] / 2**20:.1f} GiB free"
    return "unknown on this system"


def _gpus() -> Iterator[str]:
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            name = torch.cuda.get_device_name(i)
            yield f"GPU           cuda:{i} {name}, {total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"
    elif torch.backends.mps.is_available():
        yield "GPU           mps (Apple)"
    else:
        yield "GPU           none: the bundled tiny model runs on the CPU; the full model wants a GPU"


def _codecs() -> str:
    import av

    wanted = {"h264": "libx264", "hevc": "hevc", "vp9": "vp9", "av1": "av1"}
    return ", ".join(
        f"{name} {'yes' if codec in av.codec.codecs_available else 'NO'}" for name, codec in wanted.items()
    )
