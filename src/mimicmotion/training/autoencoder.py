"""Stage 1: the autoencoder, from a PCA of patches on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.models.tiny import PatchAutoencoder, init_with_pca
from mimicmotion.training.loop import Trainer, averaged
from mimicmotion.training.pool import Pool, open_pool, patch_basis
from mimicmotion.training.settings import AutoencoderConfig, TrainConfig
from mimicmotion.training.state import checkpoints, load_checkpoint, seeded, trained_parameters

logger = logging.getLogger(__name__)


def to_tensor(frames: np.ndarray) -> Float[Tensor, "... 3 height width"]:
    """uint8 RGB frames (channels last) to float32 in [-1, 1] (channels first)."""
    return torch.from_numpy(np.array(frames)).movedim(-1, -3).float().div_(127.5).sub_(1)


def model_config(config: AutoencoderConfig) -> dict[str, Any]:
    """Arguments of the `PatchAutoencoder` of these settings."""
    folded = 3 * config.patch_size**2
    return {
        "patch_size": config.patch_size,
        "in_channels": folded,
        "out_channels": folded,
        "latent_channels": config.latent_channels,
    }


def reconstruction_loss(
    output: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"], mse: float, edges: float
) -> Float[Tensor, ""]:
    """L1 + mse * L2 + edges * L1 of neighbouring differences, in float32."""
    difference = output.float() - target
    loss = difference.abs().mean() + mse * difference.square().mean()
    if edges:
        loss = loss + edges * (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean())
    return loss


def train_autoencoder(config: TrainConfig, pool: Pool | None = None, stop_at: int | None = None) -> Path:
    """Train, or go on training, an autoencoder; returns the last checkpoint.

    From step `freeze_encoder_at` on the encoder holds its averaged weights and learns no more.
    """
    c, pool = config.autoencoder, pool if pool is not None else open_pool(config.pool)
    torch.manual_seed(config.seed)
    vae = PatchAutoencoder(**model_config(c))
    trainer_params = trained_parameters({"vae": vae})
    run = Path(config.run)
    if not (run.exists() and checkpoints(run)):
        mean, basis = patch_basis(pool, c.patch_size, c.latent_channels, seed=config.seed)
        init_with_pca(vae, torch.from_numpy(mean).float(), torch.from_numpy(basis).float())
    trainer = Trainer(config, {"vae": vae}, trainer_params, model_config(c))
    head = ("vae.encoder.", "vae.quant_conv.")
    encoder = {k: p for k, p in trainer_params.items() if k.startswith(head)}
    slots = pool.frames.shape[1]
    length = min(c.clip_frames, slots - 1)

    def step_loss(step: int) -> tuple[Tensor, dict[str, float], object]:
        frozen = step >= c.freeze_encoder_at
        if frozen and next(iter(encoder.values())).requires_grad:
            freeze(encoder, trainer.average.values)
        g = seeded(config.seed, step, trainer.rank)
        clips = torch.randint(len(pool), (c.batch,), generator=g).tolist()
        starts = torch.randint(1, slots - length + 1, (c.batch,), generator=g).tolist()
        x = to_tensor(np.stack([pool.frames[i, s : s + length] for i, s in zip(clips, starts, strict=True)]))
        flip = torch.rand(c.batch, generator=g) < 0.5
        x = torch.where(flip.view(-1, 1, 1, 1, 1), x.flip(-1), x).flatten(0, 1)
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=g)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.optim.bf16):
            out = vae.decode(z, num_frames=length).sample
        loss = reconstruction_loss(out, x, c.mse, c.edges)
        kl = posterior.kl().mean() / x[0, 0].numel()
        error = (out.detach().float().clamp(-1, 1) - x).square().mean().item() / 4
        return loss + c.kl * kl, {"psnr": -10 * float(np.log10(error)), "kl": float(kl.detach())}, clips

    return trainer.fit(step_loss, stop_at)


@torch.no_grad()
def freeze(params: Mapping[str, torch.nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Set parameters to their averaged values and stop their training."""
    for key, p in params.items():
        p.copy_(values[key])
        p.requires_grad_(False)
        p.grad = None


def load_autoencoder(checkpoint: Path) -> PatchAutoencoder:
    """The averaged autoencoder of a checkpoint, in evaluation mode.

    Raises:
        WeightsError: the checkpoint is missing or damaged.
    """
    state = load_checkpoint(checkpoint)
    vae = PatchAutoencoder(**state["model"])
    vae.load_state_dict(averaged(state, "vae"))
    return vae.eval().requires_grad_(False)
