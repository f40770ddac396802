"""torch.compile of a network's repeated layers, with compiled code kept on disk.

The network as one graph takes minutes to compile, again for each length of a segment. Here each kind of layer is
compiled once for each shape of its parameters, as one graph: layers of one size share the code, and another number of
frames makes PyTorch compile a version for any number.
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
    """Check that the requirements of torch.compile are met.

    Raises:
        ConfigError: there is no C++ compiler (which Triton needs as well), or no Triton for the GPU.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    if not any(shutil.which(name) for name in names):
        raise ConfigError(
            f"compile=True without a C++ compiler (looked for {', '.join(names)})",
            "a C++ compiler on the PATH, or its path in the variable CXX",
            "install g++ (Debian, Ubuntu: apt install g++), or leave compile off",
        )
    if device.type == "cuda" and not torch.utils._triton.has_triton():
        raise ConfigError("compile=True on a GPU without Triton", "the package triton", "install it, or leave it off")


def keep_compiled_code() -> None:
    """Keep compiled code in the package's cache folder, unless the user has chosen another.

    PyTorch's own default is a folder for temporary files, which is lost when the machine restarts.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # PyTorch writes its default there itself.
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", "") in ("", default_cache_dir()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(weights.cache_folder() / "compiled")


def compiled(function: F, module: nn.Module) -> F:
    """`function`, which takes `module` first, compiled for modules with parameters of these shapes."""
    shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
    return _compiled(function, shapes)


@functools.cache
def _compiled(function: Any, shapes: tuple[Any, ...]) -> Any:
    # PyTorch counts versions by code object and gives up after eight: each size needs a code object of its own.
    code = function.__code__.replace(co_name=f"{function.__name__}_{len(shapes)}_{abs(hash(shapes)):x}")
    own = types.FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    fast = torch.compile(own, fullgraph=True)

    def run(*args: Any) -> Any:
        from torch._inductor.exc import InductorError

        try:
            return fast(*args)
        except InductorError as e:
            # PyTorch does not write its files in one go: a process that is killed meanwhile leaves a torn one.
            folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
            raise ConfigError(
                f"torch.compile failed: {e}",
                "a working compiler and whole files in its cache",
                f"delete the folder {folder} and try again, or leave compile off",
            ) from e

    return run
