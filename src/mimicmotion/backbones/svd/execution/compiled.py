"""Compile a network's repeated layers with torch.compile, and cache the compiled code on disk.

Compiling the whole network takes minutes, once per segment length. Instead, each kind of layer is compiled once per
shape of its parameters, so that layers of the same size share the code. When the number of frames changes for the first
time, PyTorch compiles a version for any number.
"""

from __future__ import annotations

import functools
import os
import shutil
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from mimicmotion.errors import ConfigError
from mimicmotion.weights import registry as weights

F = TypeVar("F", bound=Callable[..., Any])


def check_compiler(device: torch.device) -> None:
    """Check that torch.compile can be used on a device.

    Raises:
        ConfigError: there is no C++ compiler (which Triton needs as well), or no Triton for the GPU.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    if not any(shutil.which(name) for name in names):
        raise ConfigError(
            f"compile=True without a C++ compiler (looked for {', '.join(names)})",
            "a C++ compiler on the PATH, or its path in the environment variable CXX",
            "install g++ (Debian, Ubuntu: apt install g++), or turn off compile",
        )
    if device.type == "cuda" and not torch.utils._triton.has_triton():
        fix = "pip install triton, or turn off compile"
        raise ConfigError("compile=True on a GPU without Triton", "the triton package", fix)


def keep_compiled_code() -> None:
    """Cache compiled code in this package's cache folder, unless the user set TORCHINDUCTOR_CACHE_DIR.

    PyTorch's default is a temporary folder, which may be lost on restart.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # PyTorch itself sets the variable to its default
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", "") in ("", default_cache_dir()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(weights.cache_folder() / "compiled")


def compiled(function: F, module: nn.Module) -> F:
    """Compile `function`, whose first argument is `module`, for all modules with parameters of the same shapes."""
    shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
    return _compiled(function, shapes)


@functools.cache
def _compiled(function: Any, shapes: tuple[Any, ...]) -> Any:
    # PyTorch compiles at most eight versions of a code object, so each size gets its own.
    code = function.__code__.replace(co_name=f"{function.__name__}_{len(shapes)}_{abs(hash(shapes)):x}")
    own = types.FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    fast = torch.compile(own, fullgraph=True)

    def run(*args: Any) -> Any:
        from torch._inductor.exc import InductorError

        try:
            return fast(*args)
        except InductorError as e:
            # PyTorch does not write its files atomically, so a killed process may leave a partial one.
            folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
            raise ConfigError(
                f"torch.compile failed: {e}",
                "a working compiler and an intact cache",
                f"delete the folder {folder} and try again, or turn off compile",
            ) from e

    return run
