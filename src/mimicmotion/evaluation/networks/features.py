"""Networks that turn clips into features: I3D for FVD, InceptionV3 for FID, a 3D ResNet-50 for FID-VID."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError, WeightsError
from mimicmotion.evaluation.metrics.pixels import unit_frames
from mimicmotion.weights.registry import known

if TYPE_CHECKING:
    import torch

I3D_MIN_FRAMES = 9
"""Shorter clips leave nothing for I3D's last pooling."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How frames become a network's input.

    Attributes:
        size: side of the square input in pixels; frames are brought straight to it, bicubic with antialiasing (DisCo's
            protocol).
        mean: subtracted from values in 0..255.
        std: what is left is divided by it.
    """

    size: int = 224
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __call__(
        self, frame: UInt8[ndarray, "height width 3"] | Float[ndarray, "height width 3"]
    ) -> Float32[ndarray, "3 size size"]:
        """One frame, uint8 or float in 0..1, as input of the network.

        Raises:
            InputError: another shape or type, NaN, or values out of range.
        """
        x = (unit_frames(np.asarray(frame)[None])[0] * 255).astype(np.float32)
        x = _squashed(x, self.size)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.ascontiguousarray(((x - mean) / std).transpose(2, 0, 1))


I3D_INPUT = Preprocess()
FID_VID_INPUT = Preprocess(112, mean=(114.7748, 107.7354, 99.4750), std=(1.0, 1.0, 1.0))
FID_INPUT = Preprocess(299, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _squashed(x: Float32[ndarray, "height width 3"], size: int) -> Float32[ndarray, "size size 3"]:
    from PIL import Image

    # channel by channel as floats: Pillow has no float pictures with colours, and rounding to uint8 would blur
    # small differences between methods
    planes = [Image.fromarray(x[..., c]).resize((size, size), Image.Resampling.BICUBIC) for c in range(3)]
    return np.stack([np.asarray(p) for p in planes], -1).clip(0, 255)


class TorchFeatures:
    """A torch network, called on preprocessed clips.

    Args:
        module: takes (n, 3, frames, size, size), or (n, 3, size, size) where `length` is 1.
        name: the network, for people.
        length: frames a clip; 1 for networks that see single pictures.
        preprocess: how frames become its input.
        device: where it runs.
    """

    def __init__(
        self, module: Callable[[Any], Any], name: str, *, length: int, preprocess: Preprocess, device: str
    ) -> None:
        self.module, self.name, self.device = module, name, device
        self.length, self.preprocess = length, preprocess

    def __call__(self, clips: Float32[ndarray, "n frames 3 size size"]) -> Float32[ndarray, "n dim"]:
        """Features of clips that went through `preprocess`.

        Raises:
            WeightsError: the network gives something else than a vector of numbers a clip.
        """
        import torch

        x = torch.from_numpy(clips).to(self.device).transpose(1, 2)  # channels before time
        with torch.inference_mode():
            out = self.module(x.squeeze(2) if self.length == 1 else x)
        if not isinstance(out, torch.Tensor) or out.ndim < 2 or len(out) != len(clips):
            got = f"{self.name} returns {tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__}"
            raise WeightsError(got, "features (clips, numbers)", "give the network without its classifier")
        return out.flatten(1).float().cpu().numpy()


def best_device(device: str | None) -> str:
    """The device asked for, else a GPU where there is one, else the CPU."""
    if device is not None:
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def weights_path(name: str, path: Path | str | None) -> Path:
    """The file given by path, or the fetched one.

    Raises:
        WeightsError: it is not there; the message names the command that fetches it.
    """
    if path is not None:
        if not Path(path).is_file():
            raise WeightsError(f"{path} is not there", f"a .safetensors file of {name}", "correct the path")
        return Path(path)
    found = known(name).find()
    if found is None:
        raise WeightsError(f"the weights {name!r} are not here", "fetched weights", f"mimicmotion weights fetch {name}")
    return found


def load_strictly(module: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Fill a network that was built on the meta device; every parameter must be in the file, and nothing else.

    Raises:
        WeightsError: the file is damaged or of another network.
    """
    from safetensors.torch import load_file

    try:
        module.load_state_dict({k: v.float() for k, v in load_file(path).items()}, assign=True)
    except Exception as e:
        reason = " ".join(str(e).split())[:300]
        fix = "fetch it again, or give the file that `mimicmotion weights fetch` made"
        raise WeightsError(f"{path} does not fit: {reason}", f"weights of {type(module).__name__}", fix) from e
    return module.eval().requires_grad_(requires_grad=False)


def i3d_path(path: Path | str | None, length: int) -> Path:
    """`weights_path` of I3D for clips of `length` frames.

    Raises:
        WeightsError: the weights are not there.
        InputError: clips too short for this network.
    """
    if length < I3D_MIN_FRAMES:
        raise InputError(f"clips of {length} frames", f"at least {I3D_MIN_FRAMES} for I3D", "use 16")
    return weights_path("i3d", path)


def load_i3d(path: Path | str | None = None, *, length: int = 16, device: str | None = None) -> TorchFeatures:
    """I3D, the network of FVD: 400 logits a clip.

    Args:
        path: weights; default are those of `mimicmotion weights fetch i3d`.
        length: frames a clip.
        device: default is a GPU where there is one.

    Raises:
        WeightsError: the weights are missing or do not fit.
        InputError: clips too short for this network.
    """
    import torch

    from mimicmotion.evaluation.networks.i3d import I3D

    file, where = i3d_path(path, length), best_device(device)
    with torch.device("meta"):
        module = I3D()
    network = load_strictly(module, file).to(where)
    return TorchFeatures(network, "I3D Kinetics-400", length=length, preprocess=I3D_INPUT, device=where)


def load_network(
    path: Path | str, *, length: int = 16, preprocess: Preprocess = I3D_INPUT, device: str | None = None
) -> TorchFeatures:
    """A network given by path as a TorchScript file.

    Args:
        path: TorchScript file that returns features (n, dim).
        length: frames a clip; 1 for pictures (n, 3, size, size).
        preprocess: how frames become its input: FID_INPUT, FID_VID_INPUT or your own.
        device: default is a GPU where there is one.

    Raises:
        WeightsError: missing, or not such a file.
    """
    import torch

    path, where = Path(path), best_device(device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer torch calls TorchScript old
            module = torch.jit.load(str(path), map_location=where).eval()
    except Exception as e:
        reason = str(e).strip().splitlines()[0]
        raise WeightsError(f"{path}: {reason}", "a TorchScript file", "save the network with torch.jit.save") from e
    return TorchFeatures(module, path.stem, length=length, preprocess=preprocess, device=where)
