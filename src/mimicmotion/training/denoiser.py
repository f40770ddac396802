"""Stage 2: U-Net, PoseNet and picture encoder together, on cached latents."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.diffusion.loss import (
    LogNormal,
    c_noise,
    draw_dropped,
    drop_conditions,
    network_input,
    v_target,
    weighted_mse,
)
from mimicmotion.errors import ConfigError
from mimicmotion.models.image_encoder import clip_pixels
from mimicmotion.models.tiny import PatchAutoencoder, build_tiny_image_encoder, build_tiny_posenet, build_tiny_unet
from mimicmotion.models.unet import unused_parameter_names, use_constant_cross_attention, with_pose
from mimicmotion.pose.draw import PoseDrawer
from mimicmotion.training.autoencoder import load_autoencoder, to_tensor
from mimicmotion.training.detector_noise import disturb
from mimicmotion.training.loop import Trainer
from mimicmotion.training.pool import Pool, open_pool
from mimicmotion.training.settings import DenoiserConfig, PhaseConfig, TrainConfig
from mimicmotion.training.state import seeded, trained_parameters

logger = logging.getLogger(__name__)

POSE_STROKE = 4.0
"""Width of drawn limbs: the released look would be half a pixel wide at these sizes."""
BANDS = (0.5, 2.0, 8.0)
"""Noise levels between the bands of the log."""


def build_networks(config: DenoiserConfig, latent_channels: int) -> dict[str, nn.Module]:
    """U-Net, PoseNet and picture encoder with random weights."""
    unet = build_tiny_unet(
        widths=config.widths,
        attention=config.attention,
        layers=config.layers,
        latent_channels=latent_channels,
        token_dim=config.token_dim,
        norm_groups=config.norm_groups,
    )
    use_constant_cross_attention(unet)
    return {
        "unet": unet.train(),
        "pose_net": build_tiny_posenet(config.widths[0], config.reference_pose).train(),
        "image_encoder": build_tiny_image_encoder(config.token_dim).train(),
    }


class LatentCache:
    """Latents of a pool's frames (posterior mode, not scaled), computed at first use and kept on disk.

    Args:
        pool: the frames.
        vae: with a frozen encoder.
        path: .npy file; another encoder needs another file.
    """

    def __init__(self, pool: Pool, vae: PatchAutoencoder, path: Path) -> None:
        self.pool, self.vae = pool, vae
        clips, slots = pool.frames.shape[:2]
        down = vae.patch_size * 2 ** (len(vae.config["block_out_channels"]) - 1)
        shape = (clips, slots, vae.config["latent_channels"], pool.size[0] // down, pool.size[1] // down)
        done = path.with_suffix(".done.npy")
        mode = "r+" if path.exists() and done.exists() else "w+"
        fresh = mode == "w+"
        self.values = np.lib.format.open_memmap(path, mode, "float16", shape if fresh else None)
        self.done = np.lib.format.open_memmap(done, mode, "bool", (clips,) if fresh else None)

    @torch.no_grad()
    def __getitem__(self, clip: int) -> Float[Tensor, "slots channels h w"]:
        if not self.done[clip]:
            mode = self.vae.encode(to_tensor(self.pool.frames[clip])).latent_dist.mode()
            self.values[clip] = mode.numpy().astype(np.float16)
            self.done[clip] = True
        return torch.from_numpy(self.values[clip].astype(np.float32))

    def scaling_factor(self, clips: int = 64) -> float:
        """1 / standard deviation of the latents of the first clips."""
        values = torch.cat([self[i].flatten() for i in range(min(clips, len(self.pool)))])
        return float(1 / values.std())


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A batch of clips; slot 0 of each is the reference."""

    latents: Float[Tensor, "batch slots channels h w"]
    poses: Float[Tensor, "batch slots pose_channels height width"]
    reference: Float[Tensor, "batch 3 height width"]
    clips: list[int]


class Sampler:
    """Draws training samples from a pool.

    Args:
        pool: the clips.
        cache: their latents.
        config: of the sample.
    """

    def __init__(self, pool: Pool, cache: LatentCache, config: DenoiserConfig) -> None:
        self.pool, self.cache, self.config = pool, cache, config
        self.drawer = PoseDrawer(pool.size, canvas_short_side=None, stroke=POSE_STROKE)

    def choose(self, phase: PhaseConfig, rng: np.random.Generator) -> tuple[int, list[int]]:
        """A clip and its slots, the reference first."""
        clip, slots = int(rng.integers(len(self.pool))), self.pool.frames.shape[1]
        count = min(phase.frames, slots) - 1
        if phase.spacing == "near":
            start = int(rng.integers(1, slots - count + 1))
            chosen = list(range(start, start + count))
        else:
            chosen = sorted((1 + rng.permutation(slots - 1)[:count]).tolist())
        if rng.random() < 0.5 and phase.spacing == "near":
            chosen.reverse()  # a motion played backwards is a motion
        reference = int(rng.integers(slots)) if rng.random() < self.config.any_reference else 0
        return clip, [reference, *chosen]

    def poses(self, clip: int, slots: list[int], rng: np.random.Generator) -> np.ndarray:
        """Drawn poses, (slots, height, width, 3) uint8."""
        xy, confidence = self.pool.xy[clip, slots], self.pool.confidence[clip, slots]
        if self.config.pose_noise:
            xy, confidence = disturb(xy, confidence, rng)
        return np.stack([self.drawer.draw(p, s) for p, s in zip(xy, confidence, strict=True)])

    def __call__(self, phase: PhaseConfig, rng: np.random.Generator) -> Sample:
        """One batch; the same generator state gives the same batch."""
        chosen = [self.choose(phase, rng) for _ in range(phase.batch)]
        latents = torch.stack([self.cache[clip][slots] for clip, slots in chosen])
        drawn = np.stack([self.poses(clip, slots, rng) for clip, slots in chosen])
        if self.config.reference_pose:
            drawn = np.concatenate([drawn, np.broadcast_to(drawn[:, :1], drawn.shape)], axis=-1)
        reference = to_tensor(np.stack([self.pool.frames[clip, slots[0]] for clip, slots in chosen]))
        return Sample(latents, to_tensor(drawn), reference, [clip for clip, _ in chosen])


def change_weights(latents: Float[Tensor, "b f c h w"], strength: float) -> Float[Tensor, "b f 1 h w"]:
    """Loss weight 1..strength that grows with the distance of a latent from the reference's (slot 0) at its place.

    A choice of this project: most of a frame is background that is copied; the learning is to go where things move.
    """
    distance = (latents - latents[:, :1]).abs().mean(2, keepdim=True)
    return 1 + (strength - 1) * distance.clamp(0, 1)


def loss_weights(latents: Float[Tensor, "b f c h w"], config: DenoiserConfig) -> Tensor | None:
    """Weight of each latent in the loss, broadcast to its shape; None if all are alike.

    Raises:
        ConfigError: the number of channel weights is not that of the latents' channels.
    """
    weights = change_weights(latents, config.change_weight) if config.change_weight != 1 else None
    if not config.channel_weights:
        return weights
    if len(config.channel_weights) != latents.shape[2]:
        raise ConfigError(
            f"{len(config.channel_weights)} channel_weights",
            f"{latents.shape[2]}, one per latent channel",
            "match them",
        )
    each = torch.tensor(config.channel_weights, dtype=torch.float32)
    each = (each / each.mean()).view(-1, 1, 1)
    return each if weights is None else weights * each


def phase_of(step: int, config: DenoiserConfig) -> PhaseConfig:
    """The phase that step `step` belongs to."""
    return next((p for p in config.phases if step < p.until), config.phases[-1])


def denoising_loss(
    networks: dict[str, Any],
    sample: Sample,
    config: DenoiserConfig,
    scaling_factor: float,
    generator: torch.Generator,
    bf16: bool,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Loss of one batch (mean of M * (F - v)^2) and the plain error per band of noise levels.

    Args:
        networks: unet, pose_net, image_encoder.
        sample: latents not scaled.
        config: of noise, dropout and weights.
        scaling_factor: brings latents to unit deviation; the condition latent stays unscaled, as in SVD.
        generator: of noise levels, noise and dropout.
        bf16: autocast.
    """
    x0, batch = sample.latents * scaling_factor, len(sample.latents)
    sigma = LogNormal(config.sigma_mean, config.sigma_std).sample(batch, generator)
    eps = torch.randn(x0.shape, generator=generator)
    dropped = draw_dropped(batch, config.condition_dropout, generator)
    picture = sample.latents[:, :1]
    ids = torch.tensor([[config.fps - 1, config.motion_bucket, 0.0]]).expand(batch, -1)
    size = networks["image_encoder"].config.image_size
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        token = networks["image_encoder"](clip_pixels(sample.reference, size)).image_embeds.unsqueeze(1)
        features = networks["pose_net"](sample.poses)
        token, picture, features = drop_conditions(dropped, token, picture, features)
        x = torch.cat([network_input(x0, eps, sigma), picture.expand_as(x0)], dim=2)
        out = networks["unet"](with_pose(x, features), c_noise(sigma), token, ids, return_dict=False)[0]
    target = v_target(x0, eps, sigma)
    weights = loss_weights(x0, config)
    loss = weighted_mse(out, target, weights)
    plain = (out.detach().float() - target).square().flatten(1).mean(1)
    band = torch.bucketize(sigma, torch.tensor(BANDS))
    return loss, {f"v_{int(b)}": float(e) for b, e in zip(band, plain, strict=True)}


def train_denoiser(config: TrainConfig, pool: Pool | None = None, stop_at: int | None = None) -> Path:
    """Train, or go on training, U-Net, PoseNet and picture encoder; returns the last checkpoint.

    Raises:
        WeightsError: there is no autoencoder checkpoint.
    """
    c, pool = config.denoiser, pool if pool is not None else open_pool(config.pool)
    vae_path = Path(config.autoencoder_checkpoint)
    vae = load_autoencoder(vae_path)
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    cache = LatentCache(pool, vae, run / "latents.npy")
    scaling = cache.scaling_factor()
    torch.manual_seed(config.seed)
    networks = build_networks(c, vae.config["latent_channels"])
    unused = [f"unet.{n}" for n in unused_parameter_names(networks["unet"])]
    params = trained_parameters(networks, skip=unused)
    model = {
        "widths": list(c.widths),
        "attention": list(c.attention),
        "layers": c.layers,
        "token_dim": c.token_dim,
        "norm_groups": c.norm_groups,
        "reference_pose": c.reference_pose,
        "latent_channels": vae.config["latent_channels"],
        "scaling_factor": scaling,
    }
    trainer = Trainer(config, networks, params, model)
    sampler = Sampler(pool, cache, c)
    called: dict[str, Any] = dict(networks)
    if config.compile:
        called["unet"] = torch.compile(networks["unet"], dynamic=False)

    def step_loss(step: int) -> tuple[Tensor, dict[str, float], object]:
        rng = np.random.default_rng((config.seed, step, trainer.rank))
        sample = sampler(phase_of(step, c), rng)
        g = seeded(config.seed, step, trainer.rank)
        loss, numbers = denoising_loss(called, sample, c, scaling, g, config.optim.bf16)
        return loss, numbers, sample.clips

    return trainer.fit(step_loss, stop_at)
