"""Networks that turn clips into features, and what a distance on them may be called.

FVD means I3D, FID means InceptionV3, FID-VID a 3D ResNet-50: a distance on any other features is no such number and is
not to be called one. `TorchFeatures.title` is the name to print.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError, WeightsError
from mimicmotion.evaluation.metrics.pixels import unit_frames
from mimicmotion.runtime.extras import import_extra
from mimicmotion.weights.registry import known

if TYPE_CHECKING:
    import torch

Fit = Literal["squash", "crop"]
PUBLISHED = ("FVD", "FID", "FID-VID", "CD-FVD")
"""Distances that are defined on one network each: I3D, InceptionV3, a 3D ResNet-50, a VideoMAE."""
I3D_MIN_FRAMES = 9
"""Shorter clips leave nothing for I3D's last pooling."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How frames become a network's input.

    Attributes:
        size: side of the square input in pixels.
        fit: "squash": straight to the square, bicubic with antialiasing (DisCo's protocol). "crop": the shorter side
            to `size`, bilinear without antialiasing, then the central square (the usual protocol of FVD).
        mean: subtracted from values in 0..255.
        std: what is left is divided by it.
    """

    size: int = 224
    fit: Fit = "squash"
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
        x = (_squashed if self.fit == "squash" else _cropped)(x, self.size)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.ascontiguousarray(((x - mean) / std).transpose(2, 0, 1))


I3D_INPUT = Preprocess()
FID_VID_INPUT = Preprocess(112, mean=(114.7748, 107.7354, 99.4750), std=(1.0, 1.0, 1.0))
FID_INPUT = Preprocess(299, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
IMAGENET_INPUT = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def _squashed(x: Float32[ndarray, "height width 3"], size: int) -> Float32[ndarray, "size size 3"]:
    from PIL import Image

    # channel by channel as floats: Pillow has no float pictures with colours, and rounding to uint8 would blur
    # small differences between methods
    planes = [Image.fromarray(x[..., c]).resize((size, size), Image.Resampling.BICUBIC) for c in range(3)]
    return np.stack([np.asarray(p) for p in planes], -1).clip(0, 255)


def _cropped(x: Float32[ndarray, "height width 3"], size: int) -> Float32[ndarray, "size size 3"]:
    import cv2

    height, width = x.shape[:2]
    # the longer side is rounded up, so that the square always fits
    new_h, new_w = (max(size, -(-side * size // min(height, width))) for side in (height, width))
    y = cv2.resize(x, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    top, left = (new_h - size) // 2, (new_w - size) // 2
    return y[top : top + size, left : left + size]


class FeatureNetwork(Protocol):
    """What `fvd.features` needs of a network.

    Attributes:
        length: frames a clip; 1 for networks that see single pictures.
        preprocess: how frames become its input.
    """

    length: int
    preprocess: Preprocess

    def __call__(self, clips: Float32[ndarray, "n frames 3 size size"]) -> Float32[ndarray, "n dim"]:
        """Features of preprocessed clips."""
        ...


class TorchFeatures:
    """A torch network as a `FeatureNetwork`.

    Args:
        module: takes (n, 3, frames, size, size), or (n, 3, size, size) where `length` is 1.
        name: the network, for people.
        metric: the published metric of which this is the network; None makes it a stand-in.
        length: frames a clip.
        preprocess: how frames become its input.
        device: where it runs.
    """

    def __init__(
        self,
        module: Callable[[Any], Any],
        name: str,
        *,
        metric: str | None,
        length: int,
        preprocess: Preprocess,
        device: str,
    ) -> None:
        if metric is not None and metric not in PUBLISHED:
            raise InputError(f"metric={metric!r}", f"one of {', '.join(PUBLISHED)}, or None", "correct the name")
        self.module, self.name, self.metric, self.device = module, name, metric, device
        self.length, self.preprocess = length, preprocess

    @property
    def title(self) -> str:
        """What a Frechet distance on these features is called."""
        return self.metric or f"Frechet distance on {self.name} features (not FVD, FID or FID-VID)"

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
    """The requested device, else a GPU if available, else the CPU."""
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


def load_i3d(
    path: Path | str | None = None, *, fit: Fit = "squash", length: int = 16, device: str | None = None
) -> TorchFeatures:
    """I3D, the network of FVD: 400 logits a clip.

    Args:
        path: weights; default are those of `mimicmotion weights fetch i3d`.
        fit: see `Preprocess`.
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
    options = {"metric": "FVD", "length": length, "preprocess": Preprocess(fit=fit), "device": where}
    return TorchFeatures(load_strictly(module, file).to(where), "I3D Kinetics-400", **options)


def load_network(
    path: Path | str,
    name: str,
    *,
    metric: str | None = None,
    length: int = 16,
    preprocess: Preprocess = I3D_INPUT,
    device: str | None = None,
) -> TorchFeatures:
    """A network given by path: a TorchScript file, or a folder with a VideoMAE of transformers.

    Nobody can tell from a file that it is the network of a published metric, so a distance on it is a stand-in unless
    the caller says with `metric` which one it is.

    Args:
        path: TorchScript file that returns features (n, dim), or folder with config.json and safetensors.
        name: the network, for people.
        metric: one of `PUBLISHED` if this is that metric's own network.
        length: frames a clip; 1 for pictures (n, 3, size, size).
        preprocess: how frames become its input: FID_INPUT, FID_VID_INPUT, IMAGENET_INPUT or your own.
        device: default is a GPU where there is one.

    Raises:
        WeightsError: missing, or not such a file or folder.
        ConfigError: a VideoMAE, and the package transformers is not installed.
        InputError: an unknown metric.
    """
    path, where = Path(path), best_device(device)
    if not path.exists():
        what = "a TorchScript file or a folder with a VideoMAE"
        raise WeightsError(f"{path} is not there", what, "correct the path; no package index carries this network")
    module = (_video_mae(path) if path.is_dir() else _torchscript(path)).to(where)
    # of a VideoMAE tokens are averaged, as content-debiased FVD does (Ge et al. 2024)
    run = (lambda x: module(x.transpose(1, 2)).last_hidden_state.mean(1)) if path.is_dir() else module
    return TorchFeatures(run, name, metric=metric, length=length, preprocess=preprocess, device=where)


def _torchscript(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer torch calls TorchScript old
            return torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as e:
        reason = str(e).strip().splitlines()[0]
        raise WeightsError(f"{path}: {reason}", "a TorchScript file", "save the network with torch.jit.save") from e


def _video_mae(path: Path) -> Any:
    model = import_extra("transformers", "eval").VideoMAEModel
    try:
        return model.from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
    except Exception as e:
        reason = str(e).strip().splitlines()[0]
        fix = "save it with save_pretrained of transformers"
        raise WeightsError(f"{path}: {reason}", "a folder with a VideoMAE (config.json, model.safetensors)", fix) from e
