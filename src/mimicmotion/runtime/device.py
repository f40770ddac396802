"""Device and number format from their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimicmotion.errors import ConfigError

if TYPE_CHECKING:
    import torch


def choose_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is the GPU where there is one.

    Raises:
        ConfigError: the name is unknown, or the device is not on this machine.
    """
    import torch

    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"device={name!r}", "auto, cpu, cuda, cuda:1 or mps", "correct 'device'") from e
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    here = count.get(device.type, 0)
    if (device.index or 0) >= here:
        fix = "use 'auto' or 'cpu', or look at `mimicmotion doctor`"
        raise ConfigError(f"device={name!r}", f"a device of this machine, which has {here} of this kind", fix)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a name; "auto" is float32 on a CPU and float16 (as the published code) on a GPU."""
    import torch

    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
