"""What the network is told: picture, poses and micro-conditioning, each encoded exactly once per video."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.backbones.svd.execution.deep_features import BlockCache, Source, pass_key, sparse
from mimicmotion.backbones.svd.image_encoder import image_embedding
from mimicmotion.backbones.svd.pose_features import (
    KeptFeatures,
    PoseFeatures,
    SpooledRows,
    StackedFeatures,
    encode_poses,
    feature_budget,
    to_unit,
)
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import UNet
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.diffusion.denoiser import Latents, Sigma
from mimicmotion.diffusion.noise import added_time_ids, augment_picture
from mimicmotion.errors import InputError

WARPED_SHARE = 4
"""Latents of warped pictures are kept in memory while they need at most this part of the pose features' budget."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """Everything that the network sees of picture and poses.

    Attributes:
        image_embeddings: CLIP embedding of the picture (cross-attention).
        image_latents: VAE latent of the picture: mode of the distribution, not scaled; copied over time.
        pose_features: PoseNet's features of the frames of the video.
        reference_pose_features: the same of the picture's own pose, for the reference slot; None switches it off.
        added_time_ids: [fps - 1, motion bucket, noise augmentation].
        warped_latents: of models that are given the picture warped to each pose: its latents, picked by number as
            `pose_features` are, which take the place of the copies of `image_latents` in all but the reference slot;
            None for all others.
    """

    image_embeddings: Float[Tensor, "batch 1 dim"]
    image_latents: Float[Tensor, "batch 1 channels h w"]
    pose_features: PoseFeatures
    reference_pose_features: Float[Tensor, "batch 1 features h w"] | None
    added_time_ids: Float[Tensor, "batch 3"]
    warped_latents: PoseFeatures | None = None

    @property
    def batch_size(self) -> int:
        """Number of videos."""
        return self.image_latents.shape[0]

    @property
    def num_frames(self) -> int:
        """Frames of the video, without the reference slot."""
        return self.pose_features.num_frames

    def pose_rows(self, rows: Sequence[int], reference_slot: bool) -> Float[Tensor, "batch rows features h w"]:
        """Pose features of rows: row f is frame f, or with a reference slot row 0 is the picture, row f + 1 frame f."""
        if not reference_slot:
            return self.pose_features.rows(rows)
        reference = self.reference_pose_features
        if reference is None:
            raise InputError("no reference pose", "the picture's own pose for the reference slot", "encode it too")
        features = self.pose_features.rows([max(r - 1, 0) for r in rows])
        slots = torch.tensor([i for i, r in enumerate(rows) if r == 0], device=features.device, dtype=torch.long)
        return features.index_copy(1, slots, reference.repeat(1, len(slots), 1, 1, 1))

    def latent_rows(self, rows: Sequence[int], reference_slot: bool) -> Float[Tensor, "batch rows_or_1 channels h w"]:
        """Picture latents of rows (numbered as for `pose_rows`); one for all where they are the same."""
        if self.warped_latents is None:
            return self.image_latents
        latents = self.warped_latents.rows([max(r - reference_slot, 0) for r in rows])
        slots = [i for i, r in enumerate(rows) if reference_slot and r == 0]
        if slots:
            latents[:, slots] = self.image_latents.to(latents)
        return latents

    @staticmethod
    def stack(items: Sequence[Conditioning]) -> Conditioning:
        """Join videos of one length and size into a batch."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(Conditioning):
            values = [getattr(item, field.name) for item in items]
            if values[0] is None:
                fields[field.name] = None
            elif isinstance(values[0], Tensor):
                fields[field.name] = torch.cat(values)
            else:
                fields[field.name] = StackedFeatures(tuple(values))
        return Conditioning(**fields)


@dataclass(frozen=True, slots=True, eq=False)
class ConditionedUNet:
    """The U-Net with its conditioning, as the networks that `diffusion.denoiser` works with.

    The unconditional pass has no picture (zero embedding, zero latent) and no pose features at all; the
    micro-conditioning stays (that is how the published weights are used).

    Attributes:
        unet: SVD's U-Net with the pose input.
        conditioning: of a batch of videos.
        reference_slot: whether row 0 is the reference picture.
        one_batch: both passes of guidance as one batch of two (faster on a GPU) or one after the other (less memory).
        cache: features that are used again, of this run alone; with it each pass is made by itself (`one_batch` and
            the number of videos do not change what is cached). None computes all.
    """

    unet: UNet
    conditioning: Conditioning
    reference_slot: bool
    one_batch: bool = True
    cache: BlockCache | None = None

    def conditional(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> Latents:
        """V with picture and pose."""
        if self.cache is not None:
            return self._cached(self.cache, x, c_noise, frames, conditional=True)
        c = self.conditioning
        pose, latents = c.pose_rows(frames, self.reference_slot), c.latent_rows(frames, self.reference_slot)
        return self._run(x, c_noise, latents=latents, embeddings=c.image_embeddings, pose=pose)

    def pair(self, x: Latents, c_noise: Sigma, frames: Sequence[int]) -> tuple[Latents, Latents]:
        """(unconditional v, conditional v); the `NetworkPair` of guidance."""
        if self.cache is not None:
            uncond = self._cached(self.cache, x, c_noise, frames, conditional=False)
            return uncond, self._cached(self.cache, x, c_noise, frames, conditional=True)
        c = self.conditioning
        latents = c.latent_rows(frames, self.reference_slot)
        no_latents, no_embeddings = torch.zeros_like(latents), torch.zeros_like(c.image_embeddings)
        if not self.one_batch:
            uncond = self._run(x, c_noise, latents=no_latents, embeddings=no_embeddings, pose=None)
            return uncond, self.conditional(x, c_noise, frames)
        pose = c.pose_rows(frames, self.reference_slot)
        both = self._run(
            torch.cat([x, x]),
            c_noise,
            latents=torch.cat([no_latents, latents]),
            embeddings=torch.cat([no_embeddings, c.image_embeddings]),
            pose=torch.cat([torch.zeros_like(pose), pose]),  # zeros added after conv_in are exactly "no pose"
        )
        uncond, cond = both.chunk(2)
        return uncond, cond

    def _run(self, x: Latents, c_noise: Sigma, *, latents: Tensor, embeddings: Tensor, pose: Tensor | None) -> Latents:
        ids = self.conditioning.added_time_ids
        ids = ids.repeat(x.shape[0] // ids.shape[0], 1)
        sample, time, embeddings = self._inputs(x, c_noise, latents, embeddings)
        return self.unet(sample, time, embeddings, ids, pose).to(x.dtype)

    def _inputs(self, x: Latents, c_noise: Sigma, latents: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.unet.dtype
        latents = latents.to(dtype).expand(-1, x.shape[1], -1, -1, -1)  # copied over time
        sample = torch.cat([x.to(dtype), latents], dim=2)
        # The time stays float32: the U-Net casts its sinusoids itself, half precision would round ln(sigma).
        return sample, c_noise.float().to(x.device), embeddings.to(dtype)

    def _cached(
        self, cache: BlockCache, x: Latents, c_noise: Sigma, frames: Sequence[int], *, conditional: bool
    ) -> Latents:
        """One pass for each video, since each decides by itself what it uses again."""
        c = self.conditioning
        latents, embeddings = c.latent_rows(frames, self.reference_slot), c.image_embeddings
        pose = c.pose_rows(frames, self.reference_slot) if conditional else None
        if not conditional:
            latents, embeddings = torch.zeros_like(latents), torch.zeros_like(embeddings)

        def one(video: int, source: Source) -> Latents:
            mine = slice(video, video + 1)
            own_pose = None if pose is None else pose[mine if len(pose) > 1 else slice(None)]
            level = torch.tensor(source.c_noise, dtype=c_noise.dtype)
            sample, time, token = self._inputs(source.x.to(x.device), level, latents[mine], embeddings[mine])
            ids = c.added_time_ids[mine]
            key = pass_key(frames, conditional, video)

            def deep(inside: Tensor, compute: Callable[[], Tensor]) -> Tensor:
                return cache.deep(key, source, sparse(inside), compute)

            return self.unet(sample, time, token, ids, own_pose, deep)

        def step(video: int) -> Latents:
            lost = cache.lost(pass_key(frames, conditional, video))
            if lost is not None:  # after a resume: the features as they were
                one(video, lost)
            return one(video, Source(x[video : video + 1], float(c_noise)))

        return torch.cat([step(video) for video in range(len(x))]).to(x.dtype)


@torch.inference_mode()
def encode_conditioning(
    *,
    vae: Any,
    image_encoder: Any,
    pose_net: PoseNet,
    image: Frame,
    poses: PoseFrames,
    reference_pose: Frame | None = None,
    num_frames: int | None = None,
    fps: float = 7,
    motion_bucket: float = 127,
    noise_aug: float = 0.0,
    image_noise: Float[Tensor, "1 3 height width"] | None = None,
    device: torch.device | str = "cpu",
    pose_chunk_size: int = 16,
    warped: PoseFrames | None = None,
    use: Callable[[str], object] | None = None,
    budget: int | None = None,
) -> Conditioning:
    """Encode picture and poses.

    Args:
        vae: SVD's autoencoder.
        image_encoder: CLIP's picture encoder.
        pose_net: encoder of pose frames.
        image: the picture at the size of the video, 0..255.
        poses: drawn pose frames at the same size; only slices of `pose_chunk_size` frames are taken at a time.
        reference_pose: the picture's own pose, drawn; needed for a reference slot.
        num_frames: use the first so many frames; None uses all.
        fps: frames per second that the network is told (it was trained with 7).
        motion_bucket: SVD's measure of motion, 127 as trained.
        noise_aug: standard deviation of the noise on the picture (pixels of -1..1) before the VAE sees it.
        image_noise: unit noise for that, needed where the strength is not 0.
        device: where the result lies.
        pose_chunk_size: frames per call of PoseNet, and of the VAE for `warped`.
        warped: the picture warped to each pose (`pose.guidance.limb_warp`), for models that were trained with it.
        use: called with the name of a network before it is needed ("image_encoder", "vae"), to bring its weights.
        budget: bytes of pose features that are kept on the device, see `encode_poses`.

    Raises:
        PoseError: see `encode_poses`.
        InputError: augmentation is asked for without noise, or `warped` has another length or size.
    """
    if noise_aug and image_noise is None:
        raise InputError("no image_noise", f"noise for noise_aug_strength={noise_aug}", "pass unit noise")
    use = use or (lambda _: None)
    picture = to_unit(image[None])
    use("image_encoder")
    embedding = image_embedding(image_encoder, picture)
    noisy = picture if image_noise is None else augment_picture(picture, noise_aug, image_noise.float().cpu())
    use("vae")
    latents = encode_mode(vae, noisy.to(device))
    features, reference = encode_poses(
        pose_net,
        poses,
        reference_pose,
        (image.shape[0], image.shape[1]),
        num_frames=num_frames,
        device=device,
        chunk=pose_chunk_size,
        budget=budget,
    )
    ids = added_time_ids(fps, motion_bucket, noise_aug).to(device)
    moved = (
        None if warped is None else _encode_warped(vae, warped, picture, features.num_frames, device, pose_chunk_size)
    )
    return Conditioning(embedding.to(device), latents[:, None], features, reference, ids, moved)


def _encode_warped(
    vae: Any, warped: PoseFrames, picture: Tensor, num_frames: int, device: torch.device | str, chunk: int
) -> PoseFeatures:
    kept: Tensor | None = None
    spooled = SpooledRows(device)
    for start in range(0, num_frames, chunk):
        frames = to_unit(warped[start : min(start + chunk, num_frames)])
        if frames.shape[1:] != picture.shape[1:] or len(frames) != min(chunk, num_frames - start):
            raise InputError(
                f"warped frames of shape {tuple(frames.shape)} from frame {start} on",
                f"one of {tuple(picture.shape[1:])} for each of {num_frames} poses",
                "warp the picture to the same poses",
            )
        latents = encode_mode(vae, frames.to(device))
        if start == 0 and num_frames * latents[0].nbytes <= feature_budget(device) // WARPED_SHARE:
            kept = latents.new_empty(1, num_frames, *latents.shape[1:])
        if kept is None:
            spooled.add(latents)
        else:
            kept[0, start : start + len(latents)] = latents
    return spooled if kept is None else KeptFeatures(kept)
