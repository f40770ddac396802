"""Networks that turn clips into features, for FVD (Unterthiner et al. 2018) and other Frechet distances; and LPIPS.

FVD is defined on I3D, FID on InceptionV3, FID-VID on a 3D ResNet-50. Reports never call a distance on other features by
these names.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError, WeightsError
from mimicmotion.evaluation.metrics.pixels import unit_frames
from mimicmotion.runtime.extras import import_extra
from mimicmotion.weights.registry import require

if TYPE_CHECKING:
    from torch import nn

    from mimicmotion.evaluation.networks.lpips import Lpips

T = TypeVar("T", bound="nn.Module")
Fit = Literal["squash", "crop"]
Mode = Literal["stride1", "disjoint"]
Net = Literal["alex", "vgg"]
AnyFrame = UInt8[ndarray, "height width 3"] | Float[ndarray, "height width 3"]
I3D_MIN_FRAMES = 9
"""Minimum number of frames of a clip, due to the last pooling of I3D."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Conversion of frames to the input of a network.

    Attributes:
        size: side of the square input in pixels.
        fit: "squash": stretch to the square, bicubic with antialiasing (DisCo's protocol). "crop": scale the shorter
            side to `size`, bilinear without antialiasing, and take the central square (the usual protocol of FVD).
        mean: subtracted from values in 0..255.
        std: divides the result.
    """

    size: int = 224
    fit: Fit = "squash"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __call__(self, frame: AnyFrame) -> Float32[ndarray, "3 size size"]:
        """Convert one frame, uint8 or float in 0..1, to the network's input.

        Raises:
            InputError: wrong shape or type, NaN, or values out of range.
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


@dataclass(frozen=True, slots=True)
class FeatureNetwork:
    """A torch network that turns clips into features.

    Attributes:
        module: takes (n, 3, frames, size, size), or (n, 3, size, size) if `length` is 1.
        name: name of the network, for error messages.
        length: frames per clip.
        preprocess: conversion of frames to its input.
        device: device of the module.
    """

    module: Callable[[Any], Any]
    name: str
    length: int
    preprocess: Preprocess
    device: str

    def __call__(self, clips: Float32[ndarray, "n frames 3 size size"]) -> Float32[ndarray, "n dim"]:
        """Compute the features of preprocessed clips.

        Raises:
            WeightsError: the network does not return one vector per clip.
        """
        import torch

        x = torch.from_numpy(clips).to(self.device).transpose(1, 2)  # channels before time
        with torch.inference_mode():
            out = self.module(x.squeeze(2) if self.length == 1 else x)
        if not isinstance(out, torch.Tensor) or out.ndim < 2 or len(out) != len(clips):
            got = f"{self.name} returns {tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__}"
            raise WeightsError(got, "features (clips, dimension)", "export the network without its classifier")
        return out.flatten(1).float().cpu().numpy()


def best_device(device: str | None) -> str:
    """The requested device; if None, a GPU if there is one, else the CPU."""
    if device is not None:
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def weights_path(name: str, path: Path | str | None) -> Path:
    """Path of the given weights, or else of the downloaded ones.

    Raises:
        WeightsError: the file is missing; the message contains the command that fetches it.
    """
    if path is not None:
        if not Path(path).is_file():
            raise WeightsError(f"{path} does not exist", f"a .safetensors file of {name}", "correct the path")
        return Path(path)
    return require(name)


def load_strictly(make: Callable[[], T], path: Path) -> T:
    """Make a network and load its parameters from a file, which must contain all of them and nothing else.

    Raises:
        WeightsError: the file is damaged or belongs to another network.
    """
    import torch
    from safetensors.torch import load_file

    with torch.device("meta"):
        module = make()
    try:
        module.load_state_dict({k: v.float() for k, v in load_file(path).items()}, assign=True)
    except Exception as e:
        reason = " ".join(str(e).split())[:300]
        fix = "fetch it again, or use the file written by `mimicmotion weights fetch`"
        raise WeightsError(f"{path} does not fit: {reason}", f"weights of {type(module).__name__}", fix) from e
    return module.eval().requires_grad_(requires_grad=False)


def load_lpips(net: Net = "alex", path: Path | str | None = None, *, device: str | None = None) -> Lpips:
    """Load LPIPS: the backbone and its linear layers.

    Args:
        net: "alex" (the usual choice in papers) or "vgg".
        path: file with the weights; by default those of `mimicmotion weights fetch lpips-alex` (or lpips-vgg).
        device: device of the network; by default a GPU if there is one.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    file = weights_path(f"lpips-{net}", path)
    from mimicmotion.evaluation.networks.lpips import Lpips

    return load_strictly(partial(Lpips, net), file).to(best_device(device))


def load_i3d(
    path: Path | str | None = None, *, fit: Fit = "squash", length: int = 16, device: str | None = None
) -> FeatureNetwork:
    """Load I3D, the network of FVD, which gives 400 logits per clip.

    Args:
        path: file of the weights; by default those of `mimicmotion weights fetch i3d`.
        fit: see `Preprocess`.
        length: frames per clip.
        device: device of the network; by default a GPU if there is one.

    Raises:
        WeightsError: the weights are missing or do not fit.
        InputError: `length` is less than 9.
    """
    if length < I3D_MIN_FRAMES:
        raise InputError(f"clips of {length} frames", f"at least {I3D_MIN_FRAMES} for I3D", "use 16")
    file, where = weights_path("i3d", path), best_device(device)
    from mimicmotion.evaluation.networks.i3d import I3D

    module = load_strictly(I3D, file).to(where)
    return FeatureNetwork(module, "I3D", length=length, preprocess=Preprocess(fit=fit), device=where)


def load_network(
    path: Path | str, name: str, *, length: int = 16, preprocess: Preprocess = I3D_INPUT, device: str | None = None
) -> FeatureNetwork:
    """Load a network from a TorchScript file, or from a folder with a transformers VideoMAE.

    Args:
        path: TorchScript file that returns features (n, dim), or folder with config.json and safetensors.
        name: name of the network, for error messages.
        length: frames per clip; 1 for pictures (n, 3, size, size).
        preprocess: conversion of frames to its input: FID_INPUT, FID_VID_INPUT, IMAGENET_INPUT or another.
        device: device of the network; by default a GPU if there is one.

    Raises:
        WeightsError: the file or folder is missing or invalid.
        ConfigError: the folder holds a VideoMAE, but transformers is not installed.
    """
    import torch

    path, where = Path(path), best_device(device)
    video_mae = import_extra("transformers", "eval").VideoMAEModel if path.is_dir() else None
    try:
        if video_mae is not None:
            module = video_mae.from_pretrained(path, local_files_only=True, use_safetensors=True)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer torch deprecates TorchScript
                module = torch.jit.load(str(path), map_location="cpu")
    except Exception as e:
        expected, fix = "a TorchScript file", "save the network with torch.jit.save"
        if video_mae is not None:
            expected = "a folder with a VideoMAE (config.json, model.safetensors)"
            fix = "save it with transformers' save_pretrained"
        raise WeightsError(f"{path}: {str(e).strip().splitlines()[0]}", expected, fix) from e
    module = module.eval().to(where)
    # a VideoMAE's tokens are averaged, as in content-debiased FVD (Ge et al. 2024)
    run = (lambda x: module(x.transpose(1, 2)).last_hidden_state.mean(1)) if video_mae is not None else module
    return FeatureNetwork(run, name, length=length, preprocess=preprocess, device=where)


def features(
    frames: Iterable[AnyFrame], network: FeatureNetwork, *, mode: Mode = "stride1", batch_size: int = 4
) -> Float32[ndarray, "clips dim"]:
    """Compute the features of all clips of one sequence in order, one row per clip.

    Frames are streamed, and at most `batch_size` clips are held in memory.

    Args:
        frames: RGB frames, uint8 or float in 0..1, all of one size.
        network: feature network, such as `load_i3d()`; its `length` is the number of frames per clip.
        mode: "stride1": a clip starts at every frame (DisCo's protocol). "disjoint": clips do not overlap, and frames
            left over at the end are dropped.
        batch_size: clips per forward pass.

    Raises:
        InputError: fewer frames than a clip needs, frames of different sizes, NaN, or values out of range; the
            message names the frame.
    """
    step = 1 if mode == "stride1" else network.length
    clips = _clips(_prepared(frames, network.preprocess), network.length, step)
    batches = iter(lambda: list(islice(clips, batch_size)), [])
    return np.concatenate([network(np.stack(batch)) for batch in batches])


def _clips(frames: Iterator[ndarray], length: int, step: int) -> Iterator[ndarray]:
    held: deque[ndarray] = deque(maxlen=length)
    count = 0
    for frame in frames:
        held.append(frame)
        count += 1
        if count >= length and (count - length) % step == 0:
            yield np.stack(held)
    if count < length:
        fix = "leave out this sequence, or use shorter clips"
        raise InputError(f"a sequence of {count} frames", f"at least {length} for one clip", fix)


def _prepared(frames: Iterable[AnyFrame], preprocess: Preprocess) -> Iterator[ndarray]:
    shape = None
    for i, frame in enumerate(frames):
        if shape is not None and np.shape(frame) != shape:
            raise InputError(
                f"frame {i} of shape {np.shape(frame)}", f"{shape}, like the first", "resize the frames first"
            )
        shape = np.shape(frame)
        try:
            yield preprocess(frame)
        except InputError as e:
            raise InputError(f"frame {i}: {e.got}", e.expected, e.fix) from e
