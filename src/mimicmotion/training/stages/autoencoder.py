"""Training of the small model's autoencoder: a fixed PCA encoder and a trained decoder (stage `autoencoder`)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from numpy import ndarray
from safetensors.torch import save_file
from torch import Tensor, nn

from mimicmotion.backbones.svd.checkpoint import FORMAT, config_of
from mimicmotion.backbones.svd.decode import to_uint8
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.backbones.tiny.build import autoencoder_config, init_with_pca
from mimicmotion.data.shards.shards import Shards
from mimicmotion.errors import ConfigError
from mimicmotion.evaluation.metrics.pixels import decibel
from mimicmotion.runtime.files import write_json
from mimicmotion.settings.training import TrainConfig
from mimicmotion.training.bundled import bundled_settings, contact_sheet, to_unit_tensor
from mimicmotion.training.stages.common import held_out_shards, training_shards
from mimicmotion.training.task import StepResult, Task, Validation
from mimicmotion.weights.locate import FILE_NAMES, SETTINGS_FILE

PATCH = 8
"""Side of the pixel square that is encoded to one latent."""
_STREAM = 2  # random stream of the loss, (seed, number, 2); the stream (seed, number) chooses the clip
_SCALE_RECORDS, _SCALE_FRAMES = 64, 4  # records, and frames per record, for the scaling factor
_SHOWN_FRAMES = 8  # per clip in a validation


def patch_basis(
    shards: Shards, patch: int, components: int, *, samples: int = 4000, seed: int = 0
) -> tuple[Float64[ndarray, "3 patch patch"], Float64[ndarray, "components 3 patch patch"]]:
    """Compute the mean and first principal components of square patches of the shards' frames in [-1, 1].

    The latent of each component is divided by the fourth root of its variance, and all are jointly scaled to unit
    variance. Without this normalisation, noise would mask weak components; with equal variances, strong ones.

    Args:
        shards: the data.
        patch: side of a patch in pixels.
        components: number of components.
        samples: number of frames, with 16 patches each.
        seed: random seed for the choice of patches.
    """
    rng = np.random.default_rng([seed, 7])
    (h, w), lengths = shards.size, np.asarray(shards.num_frames)
    records = np.sort(rng.integers(len(shards), size=samples))
    rows = []
    for i, count in zip(*np.unique(records, return_counts=True), strict=True):
        chosen = np.sort(rng.integers(lengths[i], size=count))
        for frame in shards[int(i)].frames(chosen.tolist()):
            picture = frame.astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
            corners = rng.integers((h // patch, w // patch), size=(16, 2)) * patch
            rows += [picture[:, y : y + patch, x : x + patch].ravel() for y, x in corners]
    data = np.stack(rows)
    mean = data.mean(0)
    values, vectors = np.linalg.eigh(np.cov((data - mean).T))
    top = vectors[:, ::-1][:, :components].T
    # fix the arbitrary signs of the eigenvectors, so that a run can be resumed on any machine
    top = top * np.sign(top[np.arange(len(top)), np.abs(top).argmax(1)])[:, None]
    spread = np.maximum(values[::-1][:components], 1e-6)
    scaled = top / spread[:, None] ** 0.25
    scaled /= np.sqrt(np.mean(np.sqrt(spread)))
    return mean.reshape(3, patch, patch), scaled.reshape(components, 3, patch, patch)


def reconstruction_loss(output: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float32[Tensor, ""]:
    """Compute MAE + 2 * MSE + 0.5 * MAE of differences between neighbouring pixels, in float32."""
    difference = output.float() - target
    loss = difference.abs().mean() + 2.0 * difference.square().mean()
    return loss + 0.5 * (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean())


class Clips(NamedTuple):
    """A batch of clips of consecutive frames.

    Attributes:
        numbers: sample numbers.
        keys: keys of their records.
        frames: RGB frames.
    """

    numbers: list[int]
    keys: list[str]
    frames: UInt8[Tensor, "batch frames height width 3"]


class AutoencoderModel(nn.Module):
    """Encodes with the frozen encoder, adds posterior noise, and decodes."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, frames: Float[Tensor, "batch frames 3 height width"], noise: Float[Tensor, "batch frames c h w"]
    ) -> Float[Tensor, "batch frames 3 height width"]:
        """Reconstruct the frames."""
        x = frames.flatten(0, 1)
        # in float32, because the video model is trained on these latents
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            mean, logvar = self.vae.encode(x)
        z = mean + (logvar / 2).exp() * noise.flatten(0, 1)
        return self.vae.decode(z, frames.shape[1]).unflatten(0, frames.shape[:2])


class AutoencoderTask(Task):
    """Trains the decoder of the small model's autoencoder.

    Args:
        config: settings of a run with stage `autoencoder`.

    Raises:
        ConfigError: clips are longer than the records, or the frame size is not a multiple of the patch size.
        InputError: shards are missing or empty.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.settings = config, config.autoencoder
        self.shards = shards = training_shards(config)
        c = self.settings
        shortest = min(n - s for n, s in zip(shards.num_frames, shards.stills, strict=True))
        if shortest < c.clip_frames:
            fix = "lower autoencoder.clip_frames, or prepare longer scenes"
            raise ConfigError(f"a record of {shortest} frames", f"at least {c.clip_frames} (clip_frames)", fix)
        if shards.size[0] % PATCH or shards.size[1] % PATCH:
            raise ConfigError(f"frames of {shards.size}", f"multiples of {PATCH}", "prepare another size")
        self.held_out = held_out_shards(config, self.shards)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            vae = Autoencoder(autoencoder_config(PATCH, self.settings.latent_channels))
        mean, basis = patch_basis(self.shards, PATCH, self.settings.latent_channels, seed=config.seed)
        init_with_pca(vae, torch.from_numpy(mean).float(), torch.from_numpy(basis).float())
        self.vae = vae
        self.model: nn.Module = AutoencoderModel(vae)
        self.identity = {
            "stage": "autoencoder",
            "data": self.shards.digest,
            "autoencoder": dataclasses.asdict(self.settings),
        }
        self._scaling: float | None = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the decoder's parameters."""
        left_out = ["vae.encoder.", "vae.quant_conv."]
        if self.vae.config.layers_per_block == 1:
            left_out.append("vae.decoder.mid_block.attentions.")  # only used with a second block
        return {k: p for k, p in self.model.named_parameters() if not k.startswith(tuple(left_out))}

    def batch(self, step: int, numbers: Sequence[int]) -> Clips:  # noqa: ARG002
        """Return the clips of these sample numbers."""
        keys, clips = zip(*(self._clip(n) for n in numbers), strict=True)
        return Clips(list(numbers), list(keys), torch.from_numpy(np.stack(clips)))

    def _clip(self, number: int) -> tuple[str, UInt8[ndarray, "frames height width 3"]]:
        rng = np.random.default_rng([self.config.seed, number])
        index = int(rng.integers(len(self.shards)))
        index = 0 if self.config.overfit_one_clip else index
        record, length = self.shards[index], self.settings.clip_frames
        start = int(rng.integers(self.shards.stills[index], len(record) - length + 1))
        frames = record.frames(range(start, start + length))
        return record.key, np.ascontiguousarray(frames[:, :, ::-1] if rng.random() < 0.5 else frames)

    def loss(self, model: nn.Module, batch: Clips, step: int) -> StepResult:  # noqa: ARG002
        """Compute the reconstruction loss of a batch, with posterior noise seeded per sample."""
        c, frames = self.settings, to_unit_tensor(batch.frames)
        shape = (c.clip_frames, c.latent_channels, *(s // PATCH for s in frames.shape[-2:]))
        rngs = [np.random.default_rng([self.config.seed, n, _STREAM]) for n in batch.numbers]
        noise = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])
        out = model(frames, torch.from_numpy(noise).to(frames.device))
        out, target = out.flatten(0, 1).float(), frames.flatten(0, 1)
        loss = reconstruction_loss(out, target)
        return StepResult(loss, {"psnr": psnr(out.detach(), target)}, batch.keys)

    def _with(self, weights: Mapping[str, Tensor]) -> Autoencoder:
        """Return a frozen copy of the autoencoder with these weights."""
        vae = copy.deepcopy(self.vae).eval().requires_grad_(False)
        vae.load_state_dict({k.removeprefix("vae."): v for k, v in weights.items()}, strict=False)
        return vae

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> Path:
        """Write vae/, and settings for models that will be trained with it.

        The scaling factor in its config scales latents to unit standard deviation, like SVD's 0.18215.
        """
        vae = self._with(weights)
        if self._scaling is None:
            self._scaling = self._scaling_factor(vae)
        vae.config["scaling_factor"] = self._scaling
        (folder / "vae").mkdir(parents=True)
        tensors = {k: v.detach().cpu().contiguous() for k, v in vae.state_dict().items()}
        save_file(tensors, folder / "vae" / f"{FILE_NAMES['vae']}.safetensors", metadata={"format": "pt"})
        write_json(folder / "vae" / "config.json", config_of(vae))
        write_json(folder / SETTINGS_FILE, {"format": FORMAT, "settings": bundled_settings(self.shards.size)})
        return folder

    def _scaling_factor(self, vae: Autoencoder) -> float:
        device, values = next(vae.parameters()).device, []
        for i in range(min(_SCALE_RECORDS, len(self.shards))):
            record = self.shards[i]
            chosen = np.linspace(0, len(record) - 1, _SCALE_FRAMES).astype(int).tolist()
            values.append(vae(to_unit(record.frames(chosen)).to(device)).flatten())
        return float(1 / torch.cat(values).std())

    def validate(self, step: int, weights: Mapping[str, Tensor]) -> Validation:  # noqa: ARG002
        """Compute the PSNR of fixed held-out clips, and a picture of the clips and their reconstructions."""
        rows: list[list[ndarray]] = []
        scores: list[float] = []
        vae = self._with(weights)
        for i in range(min(self.config.validation.clips, len(self.held_out))):
            record, first = self.held_out[i], self.held_out.stills[i]
            frames = record.frames(range(first, min(first + _SHOWN_FRAMES, len(record))))
            x = to_unit(frames).to(next(vae.parameters()).device)
            out = vae.decode(vae(x), len(x))
            scores.append(psnr(out, x))
            chosen = np.linspace(0, len(frames) - 1, 4).astype(int)
            rows += [list(frames[chosen]), list(to_uint8(out)[chosen])]
        score = {"psnr": float(np.mean(scores))}
        return Validation(score, {"reconstructed": contact_sheet(rows)}, best="psnr", higher_is_better=True)


def psnr(output: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> float:
    """Compute the peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return decibel((output.float().clamp(-1, 1) - target).square().mean().item() / 4)
