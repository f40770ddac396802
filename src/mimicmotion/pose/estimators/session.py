"""ONNX sessions on the CPU or a GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.runtime.extras import install_command

logger = logging.getLogger(__name__)


def open_session(path: Path, *, threads: int | None = None, device: str = "auto") -> Any:
    """Open an onnxruntime session, on CUDA if available, else on the CPU.

    Raises:
        WeightsError: the file is missing or is not an ONNX network.
        ConfigError: `device` is "cuda" and onnxruntime has no CUDA.
    """
    import onnxruntime as ort

    if not path.is_file():
        raise WeightsError(f"{path} does not exist", "an ONNX file", "correct the path, or reinstall mimicmotion")
    options, wanted = ort.SessionOptions(), providers(device)
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # Idle threads that spin take cores away from the next network and from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=wanted)
    except Exception as e:  # onnxruntime's errors have no common base class other than Exception
        raise WeightsError(f"{path}: {e}", "an ONNX network", "download the file again") from e
    if session.get_providers()[0] != wanted[0]:
        logger.warning("onnxruntime could not start CUDA for %s and runs it on the CPU", path.name)
    return session


def providers(device: str) -> list[str]:
    """Return the onnxruntime execution providers for "auto", "cpu" or "cuda", the preferred one first.

    Raises:
        ConfigError: `device` is "cuda" and onnxruntime has no CUDA.
    """
    import onnxruntime as ort

    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            "device 'cuda' for poses",
            f"a device that onnxruntime supports ({', '.join(ort.get_available_providers())})",
            f"{', then '.join(cuda_lines())}; or use device 'cpu'",
        )
    if device == "auto" and not has_cuda and gpu_present():
        logger.warning(
            "there is an NVIDIA GPU, but this onnxruntime cannot use it: poses are computed on the CPU, which is "
            "many times slower. To fix this: %s",
            ", then ".join(cuda_lines()),
        )
    return ["CUDAExecutionProvider"] * (has_cuda and device != "cpu") + ["CPUExecutionProvider"]


def cuda_lines() -> list[str]:
    """Return commands that install onnxruntime's CUDA build, last because it shares files with the CPU build."""
    reinstall = "pip install --force-reinstall --no-deps onnxruntime-gpu"
    return [install_command("gpu"), "pip uninstall -y onnxruntime", reinstall]


def gpu_present() -> bool:
    """Return whether there is an NVIDIA GPU."""
    return any(Path(p).exists() for p in ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg"))
