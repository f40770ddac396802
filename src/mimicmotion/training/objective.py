"""The training objective of a batch: random draws, network input, and loss.

All random numbers come from (seed, sample number) and are drawn on the CPU in float32, so they do not depend on the
batch, process or device of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from mimicmotion.diffusion.loss import (
    SIGMA_PRESETS,
    c_noise,
    choose_dropped,
    hand_weights,
    network_input,
    v_target,
    weighted_mse,
)
from mimicmotion.diffusion.noise import added_time_ids
from mimicmotion.errors import ConfigError
from mimicmotion.settings.training import ObjectiveConfig
from mimicmotion.training.task import StepResult

BANDS = (0.5, 2.0, 8.0)
"""Noise levels that separate the bands of the logged loss."""
NOISE_AUG = NormalDist(-3.0, 0.5)
"""Distribution of the logarithm of the noise on the reference picture (pixels in -1..1), as in SVD's training."""
MOTION_BUCKET = 127.0
"""Motion bucket that conditions the U-Net, as in the released model."""
_STREAM = 1  # a different stream from that of the sample's frames, which is (seed, number) = (seed, number, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Random numbers of a batch, float32 on the CPU.

    Attributes:
        sigma: noise level of each sample.
        eps: unit noise of the latents.
        dropped: whether each sample drops the picture embedding, the picture latent, and the pose (columns).
        noise_aug: strength of the noise on the reference picture; 0 without augmentation.
        picture_noise: unit noise for the reference picture; None without augmentation.
    """

    sigma: Float32[Tensor, " batch"]
    eps: Float32[Tensor, "batch slots channels h w"]
    dropped: Bool[Tensor, "batch 3"]
    noise_aug: Float32[Tensor, " batch"]
    picture_noise: Float32[Tensor, "batch 3 height width"] | None


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A batch encoded by the frozen networks, on the training device.

    Attributes:
        latents: latents of all slots (mode of the posterior, not scaled).
        picture_latents: latents of the reference picture, with augmentation noise (mode, not scaled).
        token: embedding of the reference picture; None if the image encoder is trained, which then gets `pixels`.
        pixels: the reference picture as input of the image encoder.
        poses: drawn poses in [-1, 1].
        reference_pose: drawn pose of the reference picture.
        hand_mask: fraction of each latent cell that lies in reliable hand boxes.
        fps: frames per second of each sample.
        warped_latents: latents of the reference picture warped to the pose of each slot (mode, not scaled); None if the
            model does not use it.
        residual: whether the model denoises the difference between the latents and the warped ones.
    """

    latents: Float[Tensor, "batch slots channels h w"]
    picture_latents: Float[Tensor, "batch channels h w"]
    token: Float[Tensor, "batch 1 dim"] | None
    pixels: Float[Tensor, "batch 3 size size"] | None
    poses: Float[Tensor, "batch slots 3 height width"]
    reference_pose: Float[Tensor, "batch 3 height width"]
    hand_mask: Float[Tensor, "batch slots h w"]
    fps: Float[Tensor, " batch"]
    warped_latents: Float[Tensor, "batch slots channels h w"] | None = None
    residual: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInput:
    """The single argument of the trained networks.

    It is deliberately not a tensor or tuple: multi-GPU wrappers cast tensor arguments to half precision, which would
    round ln(sigma).

    Attributes:
        x: noisy latents times c_in, float32.
        c_noise: ln(sigma) / 4, float32.
        picture_latents: latents of the reference picture, not scaled: one for all slots, or warped to each slot.
        token, pixels, poses, reference_pose: see `Encoded`.
        dropped: see `Draws`.
        time_ids: [fps - 1, motion bucket, noise augmentation], float32.
    """

    x: Float32[Tensor, "batch slots channels h w"]
    c_noise: Float32[Tensor, " batch"]
    picture_latents: Float[Tensor, "batch slots_or_1 channels h w"]
    token: Float[Tensor, "batch 1 dim"] | None
    pixels: Float[Tensor, "batch 3 size size"] | None
    poses: Float[Tensor, "batch slots 3 height width"]
    reference_pose: Float[Tensor, "batch 3 height width"]
    dropped: Bool[Tensor, "batch 3"]
    time_ids: Float32[Tensor, "batch 3"]


Network = Callable[[NetworkInput], Tensor]


def sigma_distribution(config: ObjectiveConfig) -> NormalDist:
    """Return the distribution of ln(sigma) in training."""
    preset = SIGMA_PRESETS[config.sigma_preset]
    mean = preset.mean if config.sigma_mean is None else config.sigma_mean
    return NormalDist(mean, preset.stdev if config.sigma_std is None else config.sigma_std)


def draw(
    config: ObjectiveConfig,
    seed: int,
    numbers: Sequence[int],
    latent: tuple[int, int, int, int],
    picture: tuple[int, int],
) -> Draws:
    """Draw all random numbers of the given samples.

    Args:
        config: settings of the objective.
        seed: seed of the run.
        numbers: sample numbers.
        latent: (slots, channels, h, w).
        picture: (height, width) in pixels.
    """
    z, uniform, eps, noise = [], [], [], []
    for number in numbers:
        rng = np.random.default_rng([seed, number, _STREAM])
        # always draw everything, so that one option does not change the draws of another
        z.append(rng.standard_normal(2, dtype=np.float32))
        uniform.append(rng.random(5))
        eps.append(rng.standard_normal(latent, dtype=np.float32))
        if config.noise_aug:
            noise.append(rng.standard_normal((3, *picture), dtype=np.float32))
    (level, strength), shares = torch.from_numpy(np.stack(z, 1)), np.stack(uniform)
    levels, each = sigma_distribution(config), (config.drop_image, config.drop_latent, config.drop_pose)
    noisy = torch.from_numpy(shares[:, 4] < config.noise_aug)
    return Draws(
        sigma=(levels.mean + levels.stdev * level).exp(),
        eps=torch.from_numpy(np.stack(eps)),
        dropped=choose_dropped(shares[:, :4], config.condition_dropout, each),
        noise_aug=torch.where(noisy, (NOISE_AUG.mean + NOISE_AUG.stdev * strength).exp(), 0.0),
        picture_noise=torch.from_numpy(np.stack(noise)) if noise else None,
    )


def time_ids(config: ObjectiveConfig, draws: Draws, fps: Float[Tensor, " batch"]) -> Float32[Tensor, "batch 3"]:
    """Return [fps - 1, motion bucket, strength of noise augmentation] for each sample."""
    rates = fps.tolist() if config.fps is None else [config.fps] * len(fps)
    strengths = draws.noise_aug.tolist()
    return torch.cat([added_time_ids(f, MOTION_BUCKET, s) for f, s in zip(rates, strengths, strict=True)])


def network_arguments(
    config: ObjectiveConfig, batch: Encoded, draws: Draws, scaling_factor: float
) -> tuple[NetworkInput, Float32[Tensor, "batch slots channels h w"]]:
    """Build the network input and the target v.

    Args:
        config: settings of the objective.
        batch: the encoded batch.
        draws: random draws of the same samples.
        scaling_factor: scales the denoised latents to unit standard deviation (0.18215 in SVD). The picture latents are
            not scaled.
    """
    device = batch.latents.device
    x0, eps, sigma = batch.latents.float() * scaling_factor, draws.eps.to(device), draws.sigma.to(device)
    if batch.residual and batch.warped_latents is not None:
        x0 = x0 - batch.warped_latents.float() * scaling_factor
    inputs = NetworkInput(
        x=network_input(x0, eps, sigma),
        c_noise=c_noise(sigma),
        picture_latents=batch.picture_latents[:, None] if batch.warped_latents is None else batch.warped_latents,
        token=batch.token,
        pixels=batch.pixels,
        poses=batch.poses,
        reference_pose=batch.reference_pose,
        dropped=draws.dropped.to(device),
        time_ids=time_ids(config, draws, batch.fps).to(device),
    )
    return inputs, v_target(x0, eps, sigma)


def loss_weights(
    config: ObjectiveConfig, batch: Encoded, scaling_factor: float, *, reference_slot: bool
) -> Float32[Tensor, "batch slots channels_or_1 h w"] | None:
    """Compute the weight of each latent in the loss; None if all weights are 1.

    Hand weights are from the paper. Two others are not, and off by default: higher weights where a latent differs from
    the reference latent at the same position, and weights per latent channel.

    Raises:
        ConfigError: the number of channel weights does not match the number of latent channels.
    """
    weights: Tensor | None = None
    if config.hand_scale != 1:
        weights = hand_weights(batch.hand_mask, config.hand_scale, reference_slot=reference_slot)
    if config.change_weight != 1:
        distance = (batch.latents - batch.picture_latents[:, None]).abs().mean(2, keepdim=True) * scaling_factor
        change = 1 + (config.change_weight - 1) * distance.float().clamp(0, 1)
        weights = change if weights is None else weights * change
    if config.channel_weights:
        channels = batch.latents.shape[2]
        if len(config.channel_weights) != channels:
            got = f"{len(config.channel_weights)} channel_weights"
            raise ConfigError(got, f"{channels}, one per latent channel", "correct objective.channel_weights")
        each = torch.tensor(config.channel_weights, dtype=torch.float32, device=batch.latents.device)
        each = (each / each.mean()).view(-1, 1, 1)
        weights = each.expand_as(batch.latents) if weights is None else weights * each
    return weights


def denoising_loss(
    network: Network,
    config: ObjectiveConfig,
    batch: Encoded,
    draws: Draws,
    scaling_factor: float,
    *,
    reference_slot: bool,
) -> StepResult:
    """Compute the weighted MSE of the network's output; the log has the unweighted MSE, in total and per noise band.

    Raises:
        InputError: the output has the wrong shape.
        ConfigError: see `loss_weights`.
    """
    weights = loss_weights(config, batch, scaling_factor, reference_slot=reference_slot)
    inputs, target = network_arguments(config, batch, draws, scaling_factor)
    output = network(inputs)
    each = weighted_mse(output, target, weights)
    plain = weighted_mse(output.detach(), target).cpu()
    return StepResult(each.mean(), {"v": float(plain.mean()), **band_log(draws.sigma, plain)}, each=each.detach())


def band_log(sigma: Float[Tensor, " batch"], errors: Float[Tensor, " batch"]) -> dict[str, float]:
    """Average the errors of each noise band that occurs; `v_0` is the band below the first level of `BANDS`."""
    index = torch.bucketize(sigma, torch.tensor(BANDS))
    return {f"v_{b}": float(errors[index == b].mean()) for b in sorted(set(index.tolist()))}
