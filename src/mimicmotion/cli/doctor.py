"""The command doctor, which reports on this machine and what to install."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence

from mimicmotion import __version__
from mimicmotion.cli.options import app, say
from mimicmotion.runtime.device import choose_device, choose_dtype, host_free

# Two OpenCV wheels in one environment overwrite each other's files; the GUI ones fail on machines without a display.
CONFLICTING = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")

PUBLISHED = ("svd-xt-1.1", "mimicmotion-1.1", "dwpose")


@app.command
def doctor() -> None:
    """Show this machine's hardware and packages, the default device, and commands to install what is missing."""
    say("\n".join(_facts()))


def _facts() -> Iterator[str]:
    """Yield the lines of the report; warnings begin with "!", commands with "$"."""
    import onnxruntime
    import torch

    from mimicmotion.generate.provenance import PACKAGES, installed
    from mimicmotion.weights.registry import KNOWN

    yield f"mimicmotion   {__version__} (Python {platform.python_version()}, {platform.platform()})"
    yield "packages      " + ", ".join(f"{p} {v}" for p, v in installed(*PACKAGES).items())
    yield f"processor     {os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch"
    free = host_free()
    yield f"memory        {'unknown on this system' if free is None else f'{free / 2**30:.1f} GiB free'}"
    yield from _gpus()
    device = choose_device("auto")
    yield f"default       device {device}, dtype {str(choose_dtype('auto', device)).removeprefix('torch.')}"
    providers = onnxruntime.get_available_providers()
    yield f"pose runs on  {'CUDA' if 'CUDAExecutionProvider' in providers else 'CPU'} ({', '.join(providers)})"
    yield "video codecs  " + _codecs()
    for w in KNOWN:
        yield f"weights       {w}"
    yield f"disk          {shutil.disk_usage('.').free / 2**30:.0f} GiB free here"
    yield from _to_do(device.type, providers)


def _to_do(device: str, providers: Sequence[str]) -> Iterator[str]:
    """Yield problems and the commands that fix them, then how to fetch and use the published weights."""
    from huggingface_hub import get_token

    from mimicmotion.generate.provenance import installed
    from mimicmotion.pose.estimators.session import cuda_lines, gpu_present
    from mimicmotion.weights.registry import known

    for name, version in installed(*CONFLICTING).items():
        if version != "missing":
            yield f"! {name} and opencv-python-headless are both installed and overwrite each other's files."
            yield f"$ pip uninstall -y {name}"
            yield "$ pip install --force-reinstall opencv-python-headless"
    if gpu_present() and device == "cpu":
        yield "! This PyTorch cannot use the NVIDIA GPU: it is a CPU build or does not match the driver."
        if sys.platform == "linux":  # where the default index has CUDA builds
            yield "$ pip install --force-reinstall torch"
        else:
            yield "!   see https://pytorch.org/get-started for this system's command"
    if gpu_present() and "CUDAExecutionProvider" not in providers:
        yield "! There is an NVIDIA GPU, but onnxruntime has no CUDA provider: poses are estimated on the CPU."
        yield from (f"$ {line}" for line in cuda_lines())
    missing = [name for name in PUBLISHED if known(name).find() is None]
    if missing:
        yield "To get the published weights, accept their licence on the hub, then run:"
        yield from (["$ hf auth login"] if any(known(name).gated for name in missing) and not get_token() else [])
        yield f"$ mimicmotion weights fetch {' '.join(missing)}"
    else:
        yield "The published weights are downloaded. To use them:"
    use = "--model svd-xt-1.1 --checkpoint mimicmotion-1.1"
    yield f"$ mimicmotion generate person.png dance.mp4 -o result.mp4 {use}"


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
        yield "GPU           none: the bundled tiny model runs on the CPU; the full model needs a GPU"


def _codecs() -> str:
    import av

    wanted = {"h264": "libx264", "hevc": "hevc", "vp9": "vp9", "av1": "av1"}
    return ", ".join(
        f"{name} {'yes' if codec in av.codec.codecs_available else 'NO'}" for name, codec in wanted.items()
    )
