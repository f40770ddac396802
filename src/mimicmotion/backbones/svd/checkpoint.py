"""Load and save models: SVD folders, published checkpoints, and model folders written by this package.

Loading is strict: missing or unexpected keys and wrong shapes raise an error that lists them. Networks are built on the
meta device, which takes no memory, and the tensors of the file become their parameters.
"""

from __future__ import annotations

import json
import logging
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mimicmotion.backbones.svd.config import Config
from mimicmotion.backbones.svd.image_encoder import ImageEncoder
from mimicmotion.backbones.svd.posenet import PoseNet, posenet_config
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.errors import ConfigError, OutputError, WeightsError
from mimicmotion.runtime.files import writing
from mimicmotion.runtime.run_folder import atomic_folder
from mimicmotion.weights import registry as weights
from mimicmotion.weights.checks import read_json
from mimicmotion.weights.locate import (
    FILE_NAMES,
    FORMAT,
    LISTED,
    OPTIONAL,
    PARTS,
    SETTINGS_FILE,
    find_base,
    find_checkpoint,
    read_model_file,
)
from mimicmotion.weights.tensors import Target, assign, check_keys, read_tensors

logger = logging.getLogger(__name__)

EDITIONS = {"1.0": 16, "1.1": 72}
"""Segment length in frames with which each edition of the published weights was trained."""
PUBLISHED_NAMES = {
    "MimicMotion.pth": "1.0",
    "MimicMotion_1-1.pth": "1.1",
    "MimicMotionMergedUnet_1-0-fp16.safetensors": "1.0",
    "MimicMotionMergedUnet_1-1-fp16.safetensors": "1.1",
}
LIBRARIES = {
    "UNetSpatioTemporalConditionModel": "diffusers",
    "AutoencoderKLTemporalDecoder": "diffusers",
    "CLIPVisionModelWithProjection": "transformers",
}
"""Classes of other libraries that can load the networks saved by this package."""
CLASSES = {
    "unet": "mimicmotion.backbones.svd.unet:build_unet",
    "vae": "mimicmotion.backbones.svd.vae:Autoencoder",
    "image_encoder": "mimicmotion.backbones.svd.image_encoder:ImageEncoder",
    "pose_net": "mimicmotion.backbones.svd.posenet:PoseNet",
    "detail": "mimicmotion.backbones.tiny.detail:DetailNet",
    "warp": "mimicmotion.backbones.tiny.warp:WarpNet",
}
"""Class or constructor of each network; only small models have the last two."""
DIFFUSERS_FILE = '''"""For DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)."""

try:
    from mimicmotion.pipeline.for_diffusers import MimicMotionPipeline
except ImportError as e:
    raise ImportError("this model needs MimicMotion: pip install 'mimicmotion[diffusers]'") from e
'''
"""Contents of pipeline.py in a saved model."""


@dataclass(frozen=True, slots=True)
class Components:
    """The networks of a model.

    Attributes:
        unet: SVD's U-Net with the pose input (`unet.build_unet`).
        vae: SVD's autoencoder, frozen.
        image_encoder: CLIP's picture encoder, frozen.
        pose_net: encoder of pose frames.
        settings: default settings of the model, as plain data (see `Backbone`).
        files: files that the networks were loaded from.
        detail: network that adds detail from the warped picture to decoded frames; only in small models.
        warp: network that warps the picture pixel by pixel; only in small models.
    """

    unet: Any
    vae: Autoencoder
    image_encoder: ImageEncoder
    pose_net: PoseNet
    settings: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    detail: Any = None
    warp: Any = None


def load_components(
    base: str | Path,
    checkpoint: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    new_pose_net: bool = False,
    edition: str | None = None,
) -> Components:
    """Load a model.

    Args:
        base: a folder in diffusers' layout (Stable Video Diffusion, or one written by `save_components`), a name from
            `mimicmotion weights list`, or a hub id.
        checkpoint: weights of U-Net and PoseNet that replace the base's: a .pth or .safetensors file with keys `unet.*`
            and `pose_net.*`, a folder or hub id that contains one, or a name from `mimicmotion weights list`.
        device: device of the networks ("meta" loads shapes only).
        dtype: data type of all networks.
        new_pose_net: add an untrained PoseNet (zero output) to a base without one, to train it.
        edition: edition of the published weights (`EDITIONS`), which have no settings; None detects it.

    Raises:
        WeightsError: files are missing or damaged, or do not match; the message lists the keys and a fix.
        ConfigError: `edition` is set for a model with settings of its own.
    """
    folder = find_base(base, full=checkpoint is None)
    source = None if checkpoint is None else find_checkpoint(checkpoint)
    settings = dict(read_model_file(folder).get("settings", {}))
    if settings and edition and source is None:
        got = f"edition={edition} for {folder}, which has settings of its own"
        raise ConfigError(got, "the published weights", "leave out 'edition'; 'segment_frames' sets the segment length")
    if edition or not settings:
        settings |= published_settings(edition or ("1.0" if source is None else find_edition(source)))
        settings |= {} if source is None else {"estimator": "dwpose"}  # used in their training
    loader = _Loader(folder, (torch.device(device), dtype))
    unet, vae, encoder = (loader.build(part) for part in ("unet", "vae", "image_encoder"))
    if source is None:
        loader.load("unet", unet)
        pose_net = loader.load_pose_net(unet.config.block_out_channels[0], new_pose_net)
    else:
        pose_net = _load_checkpoint(source, unet, loader.target)
        loader.files.append(source)
    loader.load("vae", vae)
    loader.load("image_encoder", encoder)
    more = {p: loader.load(p, loader.build(p)).eval() for p in OPTIONAL if (folder / p).is_dir()}
    return Components(unet, vae, encoder, pose_net, settings, tuple(loader.files), **more)


def save_components(parts: Components, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Save a model to a folder that `load_components` can read.

    Layout: model_index.json, pipeline.py (for diffusers), {unet, vae, image_encoder, pose_net}/ (and detail/ and warp/
    if present) with config.json and safetensors, and mimicmotion.json with the settings and the sha256 of each file.
    The folder is written atomically. An existing folder is only replaced if it is empty or contains a saved model.

    Args:
        parts: the model.
        folder: folder to write.
        dtype: data type in the files; None keeps that of the networks.

    Raises:
        OutputError: the folder is not writable, the disk is full, or `folder` contains something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / SETTINGS_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        fix = "choose another folder, or delete this one"
        raise OutputError(f"{folder} exists and is not a model of this project", "a new folder", fix)
    with atomic_folder(folder) as part, writing(folder):
        _write_model(parts, part, dtype)
    return folder


def _write_model(parts: Components, folder: Path, dtype: torch.dtype | None) -> None:
    from mimicmotion import __version__

    index: dict[str, Any] = {"_class_name": "MimicMotionPipeline", "_mimicmotion_version": __version__}
    for name in (*PARTS, *(p for p in OPTIONAL if getattr(parts, p) is not None)):
        module = getattr(parts, name)
        (folder / name).mkdir()
        config = config_of(module)
        _write_json(folder / name / "config.json", config)
        tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in module.state_dict().items()}
        save_file(tensors, folder / name / f"{FILE_NAMES[name]}.safetensors", metadata={"format": "pt"})
        class_name = config["architectures"][0] if "architectures" in config else config["_class_name"]
        index[name] = [LIBRARIES.get(class_name, "mimicmotion"), class_name]
    _write_json(folder / "model_index.json", index)
    (folder / "pipeline.py").write_text(DIFFUSERS_FILE, encoding="utf-8")
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    files = {
        p.relative_to(folder).as_posix(): {"sha256": weights.sha256_file(p), "size": p.stat().st_size} for p in paths
    }
    backbone = "tiny" if parts.settings.get("reference_warp", "none") != "none" else "svd"
    content = {"format": FORMAT, "backbone": backbone, "settings": parts.settings, "files": files}
    _write_json(folder / SETTINGS_FILE, content)


def config_of(module: Any) -> dict[str, Any]:
    """Return the config of a network as plain data, with its class name."""
    own = {} if isinstance(module.config, Config) else {"_class_name": type(module).__name__}
    return {**own, **module.config}


def load_part(folder: str | Path, part: str) -> Any:
    """Load one network of a model folder on the CPU, in float32, for inference; `part` is the name of its folder.

    Raises:
        WeightsError: files are missing or damaged.
    """
    loader = _Loader(Path(folder), (torch.device("cpu"), torch.float32))
    return loader.load(part, loader.build(part)).eval()


def build_part(module: Any) -> Any:
    """Build a network of the same class and config as `module` on the meta device."""
    kind, config = type(module), module.config
    return _on_meta(kind.__name__, lambda: kind(config) if isinstance(config, Config) else kind(**config))


# --- reading --------------------------------------------------------------------------------------------------------


def published_settings(edition: str) -> dict[str, Any]:
    """Return the published code's settings for an edition of its weights, which have no settings of their own."""
    fusion = {"segment_frames": EDITIONS[edition], "overlap_frames": 6}
    return {"num_inference_steps": 25, "guidance_scale": 2.0, "fps": 7.0, "fusion": fusion}


def find_edition(checkpoint: Path) -> str:
    """Determine the edition of a checkpoint from its checksum, or else guess it from its file name, with a warning."""
    if known := weights.identify(checkpoint):
        return known.name.removeprefix("mimicmotion-")
    edition = PUBLISHED_NAMES.get(checkpoint.name, "1.0")
    logger.warning(
        "%s is not a known file: assuming edition %s %s, %d frames per segment; set edition (--edition) to change this",
        checkpoint,
        edition,
        "by its name" if checkpoint.name in PUBLISHED_NAMES else "by default",
        EDITIONS[edition],
    )
    return edition


@dataclass(frozen=True, slots=True)
class _Loader:
    """Loads the networks of a folder to a device in a dtype, and records the files."""

    folder: Path
    target: Target
    files: list[Path] = field(default_factory=list)

    def build(self, part: str) -> Any:
        """Build a network on the meta device from its config.json."""
        path = self.folder / part / "config.json"
        config = read_json(path)
        weights.check_file(path)
        if part in ("pose_net", *OPTIONAL):  # these classes take keyword arguments, the others the config
            config = {k: v for k, v in config.items() if not k.startswith("_")}
            return _on_meta(part, lambda: pkgutil.resolve_name(CLASSES[part])(**config))
        return _on_meta(part, lambda: pkgutil.resolve_name(CLASSES[part])(config))

    def load(self, part: str, module: Any) -> Any:
        path = _weights_file(self.folder, part)
        assign(module, read_tensors(path), self.target, str(path))
        self.files.append(path)
        return module

    def load_pose_net(self, out_channels: int, fresh: bool) -> PoseNet:
        if not (self.folder / "pose_net").is_dir():
            if fresh:
                return PoseNet(out_channels).to(*self.target).eval()
            raise WeightsError(
                f"{self.folder} has no pose_net/: it is a base model, without pose input",
                "MimicMotion's weights on top of it",
                "pass a checkpoint as well, such as mimicmotion-1.1; to train on this base, request a new PoseNet",
            )
        pose_net = self.build("pose_net")
        _check_width(pose_net, out_channels, str(self.folder))
        return self.load("pose_net", pose_net)


class _WithoutRandomNumbers(TorchFunctionMode):
    """Skips weight initialisation, which on the meta device would import PyTorch's compiler and take a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func in _INITIALISERS else func(*args, **kwargs)


_INITIALISERS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


def _on_meta(part: str, build: Callable[[], Any]) -> Any:
    """Build a network on the meta device. Raise WeightsError if its class rejects the config."""
    try:
        with torch.device("meta"), _WithoutRandomNumbers():
            return build()
    except ConfigError as e:
        raise WeightsError(f"config of {part}: {e.got}", e.expected, e.fix) from e
    except Exception as e:  # a value of the wrong type may fail anywhere
        fix = "correct its config.json, or download the model again"
        raise WeightsError(f"config of {part}: {type(e).__name__}: {e}", "a config that its class accepts", fix) from e


def _weights_file(folder: Path, part: str) -> Path:
    """Return the weights file of a network, or else its float16 variant."""
    stem = FILE_NAMES[part]
    names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
    for name in names:
        if (folder / part / name).is_file():
            return folder / part / name
    content = sorted(p.name for p in (folder / part).glob("*")) or ["nothing"]
    fix = "download the model again; models with only .bin files must be converted to safetensors"
    raise WeightsError(f"{folder / part} contains {', '.join(content[:LISTED])}", " or ".join(names), fix)


def _load_checkpoint(path: Path, unet: Any, target: Target) -> PoseNet:
    """Load a checkpoint with keys unet.* and pose_net.* into a U-Net on the meta device, and return its PoseNet."""
    tensors = _plain_names(read_tensors(path))
    prefixes = ("unet.", "pose_net.")
    groups = {p: {k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in prefixes}
    unet_shapes = {f"unet.{k}": v.shape for k, v in unet.state_dict().items()}
    try:
        config = posenet_config({k: v.shape for k, v in groups["pose_net."].items()})
        with torch.device("meta"):
            pose_net = PoseNet(**config)
    except (KeyError, ValueError, IndexError):
        with torch.device("meta"):  # unknown layout: report the difference from the published PoseNet
            pose_net = PoseNet(unet.config.block_out_channels[0])
    want = {**unet_shapes, **{f"pose_net.{k}": v.shape for k, v in pose_net.state_dict().items()}}
    check_keys(want, {k: v.shape for k, v in tensors.items()}, str(path), _guess(tensors))
    _check_width(pose_net, unet.config.block_out_channels[0], str(path))
    assign(unet, groups["unet."], target, f"{path}, unet")
    assign(pose_net, groups["pose_net."], target, f"{path}, pose_net")
    return pose_net


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename keys to unet.* and pose_net.*: strip the prefix of distributed training, and add a missing unet prefix."""
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    own = ("unet.", "pose_net.")
    if any(k.startswith("pose_net.") for k in tensors) and any(k.startswith("down_blocks.") for k in tensors):
        tensors = {k if k.startswith(own) else f"unet.{k}": v for k, v in tensors.items()}
    return tensors


def _check_width(pose_net: PoseNet, channels: int, name: str) -> None:
    if pose_net.out_channels != channels:
        raise WeightsError(
            f"{name}: PoseNet with {pose_net.out_channels} output channels",
            f"{channels}, the width of the U-Net's first level",
            "use the U-Net and the PoseNet of one model",
        )


def _guess(tensors: Mapping[str, Tensor]) -> str:
    """Guess what an incompatible checkpoint contains, and return a fix for the error message."""
    if any(k.startswith("conv_layers.") for k in tensors):
        return "this looks like a PoseNet alone: use a full checkpoint (MimicMotion_1-1.pth)"
    if any(k.startswith("model.diffusion_model.") for k in tensors):
        return "this is a Stable Diffusion checkpoint in the original layout, not MimicMotion: use MimicMotion_1-1.pth"
    if any(k.startswith("down_blocks.") for k in tensors):
        return "this looks like a U-Net alone: put it into the base folder, or use MimicMotion_1-1.pth"
    if any(k.startswith("pose_net.") for k in tensors) and any(k.startswith("unet.") for k in tensors):
        return "the checkpoint belongs to a U-Net of another size or kind: use the base it was trained on (SVD xt 1.1)"
    return "use a MimicMotion checkpoint such as MimicMotion_1-1.pth (keys unet.* and pose_net.*)"


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
