"""Condition the network on the picture, the poses and micro-conditioning, which are encoded once per video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.arrays import PoseFrames
from mimicmotion.backbones.svd.execution.deep_features import BlockCache, pass_key, sparse
from mimicmotion.backbones.svd.pose_features import PoseFeatures, feature_budget, read_chunks, store_features, to_unit
from mimicmotion.backbones.svd.unet import UNet
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.diffusion.denoiser import Latents, Sigma
from mimicmotion.errors import InputError

WARPED_SHARE = 4
"""Latents of warped pictures are kept in memory if they need at most 1/4 of the budget for pose features."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """The encoded picture and poses.

    Attributes:
        image_embeddings: CLIP embedding of the picture (cross-attention).
        image_latents: VAE latent of the picture (mode of the distribution, unscaled), repeated over time.
        pose_features: PoseNet features of the video's frames.
        reference_pose_features: PoseNet features of the picture's pose, for the reference slot; None disables it.
        added_time_ids: [fps - 1, motion bucket, noise augmentation].
        warped_latents: latents of the picture warped to each pose, for models that need them; indexed like
            `pose_features`. They replace the copies of `image_latents` except in the reference slot. None otherwise.
    """

    image_embeddings: Float[Tensor, "batch 1 dim"]
    image_latents: Float[Tensor, "batch 1 channels h w"]
    pose_features: PoseFeatures
    reference_pose_features: Float[Tensor, "batch 1 features h w"] | None
    added_time_ids: Float[Tensor, "batch 3"]
    warped_latents: PoseFeatures | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames of the video, without the reference slot."""
        return len(self.pose_features)

    def pose_slots(self, slots: Sequence[int], reference_slot: bool) -> Float[Tensor, "batch slots features h w"]:
        """Return the pose features of slots.

        Slot f is frame f of the video; with a reference slot, slot 0 is the picture and slot f + 1 is frame f.
        """
        if not reference_slot:
            return self.pose_features.frames(slots)
        reference = self.reference_pose_features
        if reference is None:
            raise InputError("no reference pose", "the picture's pose for the reference slot", "encode it as well")
        features = self.pose_features.frames([max(slot - 1, 0) for slot in slots])
        zeros = torch.tensor([i for i, slot in enumerate(slots) if slot == 0], device=features.device, dtype=torch.long)
        return features.index_copy(1, zeros, reference.repeat(1, len(zeros), 1, 1, 1))

    def latent_slots(
        self, slots: Sequence[int], reference_slot: bool
    ) -> Float[Tensor, "batch slots_or_1 channels h w"]:
        """Return the picture latents of slots (numbered as in `pose_slots`), or only one if all are the same."""
        if self.warped_latents is None:
            return self.image_latents
        latents = self.warped_latents.frames([max(slot - reference_slot, 0) for slot in slots])
        for i, slot in enumerate(slots):
            if reference_slot and slot == 0:
                latents[:, i] = self.image_latents[:, 0].to(latents)
        return latents


@dataclass(frozen=True, slots=True, eq=False)
class ConditionedUNet:
    """The U-Net bound to its conditioning, as a `Network` and a `NetworkPair` of `diffusion.denoiser`.

    As in the published code, the unconditional pass has no picture (zero embedding, zero latent) and no pose features,
    but keeps the micro-conditioning.

    Attributes:
        unet: SVD's U-Net with the pose input.
        conditioning: conditioning of a video.
        reference_slot: whether slot 0 is the reference picture.
        one_batch: run both passes of guidance as one batch (faster on a GPU) or one after the other (less memory).
        cache: block cache of this run; None disables it. With a cache, each pass runs separately, so that `one_batch`
            does not change what is cached.
    """

    unet: UNet
    conditioning: Conditioning
    reference_slot: bool
    one_batch: bool = True
    cache: BlockCache | None = None

    def conditional(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        """Predict the conditional v."""
        return self._pass(x, c_noise, frames, conditional=True)

    def pair(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> tuple[Latents, Latents]:
        """Predict the unconditional and the conditional v, for classifier-free guidance."""
        if self.cache is not None or not self.one_batch:
            uncond = self._pass(x, c_noise, frames, conditional=False)
            return uncond, self._pass(x, c_noise, frames, conditional=True)
        latents, embeddings, pose = self._inputs(frames, conditional=True)
        both = self._run(
            torch.cat([x, x]),
            c_noise,
            torch.cat([torch.zeros_like(latents), latents]),
            torch.cat([torch.zeros_like(embeddings), embeddings]),
            torch.cat([torch.zeros_like(pose), pose]),  # zeros added after conv_in are exactly "no pose"
            self.conditioning.added_time_ids.repeat(2, 1),
        )
        uncond, cond = both.chunk(2)
        return uncond, cond

    def _inputs(self, frames: Sequence[int], *, conditional: bool) -> tuple[Tensor, Tensor, Any]:
        """Return the picture's latents and embedding, and pose features; for the unconditional pass, zeros and None."""
        c = self.conditioning
        latents = c.latent_slots(frames, self.reference_slot)
        if not conditional:
            return torch.zeros_like(latents), torch.zeros_like(c.image_embeddings), None
        return latents, c.image_embeddings, c.pose_slots(frames, self.reference_slot)

    def _run(
        self,
        x: Latents,
        c_noise: Sigma,
        latents: Tensor,
        embeddings: Tensor,
        pose: Tensor | None,
        ids: Tensor,
        deep: Callable[[Tensor, Callable[[], Tensor]], Tensor] | None = None,
    ) -> Latents:
        dtype = self.unet.dtype
        latents = latents.to(dtype).expand(-1, x.shape[1], -1, -1, -1)  # repeated over time
        sample = torch.cat([x.to(dtype), latents], dim=2)
        # The time stays float32, because half precision would round ln(sigma); the U-Net casts its sinusoids itself.
        time = c_noise.float().to(x.device)
        return self.unet(sample, time, embeddings.to(dtype), ids, pose, deep).to(x.dtype)

    def _pass(self, x: Latents, c_noise: Sigma, frames: Sequence[int], *, conditional: bool) -> Latents:
        """Run one pass, with the block cache if it is enabled."""
        latents, embeddings, pose = self._inputs(frames, conditional=conditional)
        ids, cache = self.conditioning.added_time_ids, self.cache
        if cache is None:
            return self._run(x, c_noise, latents, embeddings, pose, ids)

        key = pass_key(frames, conditional)

        def run(x: Latents, level: float) -> Latents:
            def deep(inside: Tensor, compute: Callable[[], Tensor]) -> Tensor:
                return cache.deep(key, x, level, sparse(inside), compute)

            return self._run(x, torch.tensor(level, dtype=c_noise.dtype), latents, embeddings, pose, ids, deep)

        lost = cache.lost(key)
        if lost is not None:  # after a resume: recompute the features
            run(lost.x.to(x.device), lost.c_noise)
        return run(x, float(c_noise))


def encode_warped(
    vae: Any, warped: PoseFrames, size: tuple[int, int], num_frames: int, device: torch.device
) -> PoseFeatures:
    """Encode the picture warped to each pose, for models that were trained with it.

    Args:
        vae: the autoencoder.
        warped: the picture warped to each pose.
        size: (height, width) of the video in pixels.
        num_frames: number of frames of the video.
        device: device that stores the latents.

    Raises:
        PoseError: `warped` has the wrong length, size or type.
    """
    chunks = read_chunks(warped, num_frames, size, "warped pictures")
    latents = (encode_mode(vae, to_unit(chunk).to(device)) for chunk in chunks)
    return store_features(latents, num_frames, device, feature_budget(device) // WARPED_SHARE)
