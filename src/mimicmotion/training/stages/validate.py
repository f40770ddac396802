"""Validation of the video model: loss per noise band, and comparison of generated clips with true ones.

Clips, noise levels and noise are fixed, so scores of different steps differ only because of the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor

from mimicmotion.arrays import Frames
from mimicmotion.backbones import backbone_of
from mimicmotion.backbones.base import Request
from mimicmotion.backbones.svd.checkpoint import Components
from mimicmotion.data.prepare.scenes import shrink
from mimicmotion.data.samples.batch import Sample, collate
from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.pixels import moving_region, psnr, ssim
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import WarpedPoses
from mimicmotion.pose.keypoints import BODY, PoseSequence
from mimicmotion.settings.training import TrainConfig
from mimicmotion.training.bundled import contact_sheet
from mimicmotion.training.networks import DenoiserModel
from mimicmotion.training.objective import BANDS, Draws, Encoded, denoising_loss, sigma_distribution
from mimicmotion.training.processes import autocast
from mimicmotion.training.task import Validation

SEED = 20_240_628
"""Seed of clips and noise; the same in all runs to make them comparable."""
HIGHER_IS_BETTER = ("psnr", "ssim", "gain", "pck")
SURE = 0.5
"""Minimum confidence of ground-truth points in the pose scores; higher than `pose.keypoints.VISIBLE` to be reliable."""
DRAWS = 2
"""Noise levels per clip and band."""
COLUMNS = 5
"""Frames per clip in the validation picture."""
LARGEST = 192
"""Maximum short side of a frame in the validation picture, in pixels."""

LARGE = 1 << 18
"""Pixels per frame above which fewer frames are decoded at once; 4 frames of 576x1024 need 4.5 GiB."""


def band_levels(levels: NormalDist, bands: Sequence[float], draws: int) -> tuple[Float32[Tensor, "b d"], list[float]]:
    """Return fixed noise levels of each band, at equally spaced quantiles, and each band's probability in training.

    Args:
        levels: distribution of ln(sigma) in training.
        bands: levels that separate the bands, in ascending order.
        draws: number of levels per band.
    """
    # far in the tails, probabilities round to 0 or 1, which have no finite quantile
    edges = [1e-6, *(min(max(levels.cdf(float(np.log(b))), 1e-6), 1 - 1e-6) for b in bands), 1 - 1e-6]
    rows, shares = [], []
    for low, high in pairwise(edges):
        shares.append(high - low)
        rows.append([levels.inv_cdf(low + (high - low) * (i + 0.5) / draws) for i in range(draws)])
    total = sum(shares)
    return torch.tensor(rows).exp(), [s / total for s in shares]


class Validator:
    """Evaluates weights of the video model on fixed clips, without modifying the model in training.

    Args:
        config: settings of the run.
        samples: the clips, as training samples.
        encode: encodes a batch with the frozen networks (`DenoiserTask.encode`).
    """

    def __init__(self, config: TrainConfig, samples: Sequence[Sample], encode: Callable[..., Encoded]) -> None:
        self.config, self.samples, self.encode = config, samples, encode
        self.slot = int(config.data.sample.reference_slot)
        self._true_poses: dict[int, PoseSequence] = {}

    def __call__(self, parts: Components) -> Validation:
        """Compute scores and pictures.

        Scores are `loss` and `v_0`, `v_1`, ... (see `band_losses`). With `generate`, there are also `psnr`,
        `psnr_moving`, `ssim`, `gain_moving` (dB over copying the reference), and a picture per clip; with `poses`, also
        `pck_body` and `pose_error` (torso lengths) of the body points detected in the true clips, if any.
        """
        v = self.config.validation
        scores = self.band_losses(parts)
        outputs = [self.generate(parts, s, seed=i) for i, s in enumerate(self.samples if v.generate else ())]
        shown = list(zip(self.samples, outputs, strict=False))
        if shown:
            rows = [clip_scores(output, _frames(s)[self.slot :], s.reference) for s, output in shown]
            scores |= {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
        if shown and v.poses:
            scores |= self.pose_scores(outputs)
        pictures = {f"clip-{i}": picture(s, output, self.slot) for i, (s, output) in enumerate(shown)}
        return Validation(scores, pictures, v.best, v.best.startswith(HIGHER_IS_BETTER))

    @torch.no_grad()
    def band_losses(self, parts: Components) -> dict[str, float]:
        """Compute the loss per noise band without conditioning dropout, and their mean weighted as in training."""
        o = self.config.objective
        levels, shares = band_levels(sigma_distribution(o), BANDS, DRAWS)
        model = DenoiserModel(parts.unet, parts.pose_net, None).eval()
        device = next(parts.unet.parameters()).device
        scores: dict[str, list[float]] = {f"v_{b}": [] for b in range(len(levels))}
        weighted = []
        for clip, sample in enumerate(self.samples):
            none = Draws(torch.ones(1), torch.zeros(0), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1), None)
            encoded = self.encode(collate([sample]).to(device), none, image_encoder=parts.image_encoder)
            for band, row in enumerate(levels):
                for i, sigma in enumerate(row):
                    rng = np.random.default_rng([SEED, clip, band, i])
                    eps = torch.from_numpy(rng.standard_normal(encoded.latents.shape, np.float32))
                    draws = dataclasses.replace(none, sigma=sigma[None], eps=eps)
                    scale = float(parts.vae.config.scaling_factor)
                    with autocast(self.config, device):
                        loss = denoising_loss(model, o, encoded, draws, scale, reference_slot=bool(self.slot))
                    scores[f"v_{band}"].append(loss.log["v"])
                    weighted.append(shares[band] * float(loss.loss))
        mean = sum(weighted) / (len(self.samples) * DRAWS)
        return {"loss": mean, **{k: float(np.mean(x)) for k, x in scores.items()}}

    @torch.no_grad()
    def generate(self, parts: Components, sample: Sample, seed: int) -> Frames:
        """Animate the sample's reference with its driving poses as in inference."""
        pipe, reference, slot = MimicMotionPipeline(backbone_of(parts)), sample.reference, self.slot
        poses = sample.poses[slot:] if sample.warped is None else WarpedPoses(sample.poses[slot:], sample.warped[slot:])
        with autocast(self.config, pipe.device):
            latents = pipe(reference, poses, sample.reference_pose, seed=seed, output_type="latent").frames
        chunk = 4 if reference.shape[0] * reference.shape[1] > LARGE else 8
        request = Request(reference, poses, sample.reference_pose, len(poses))
        return np.stack(list(pipe.decode(latents[0], decode_chunk_size=chunk, request=request)))

    def pose_scores(self, outputs: Sequence[Frames]) -> dict[str, float]:
        """Compute the pose fidelity of generated clips, relative to the poses estimated in the true clips."""
        from mimicmotion.evaluation.metrics.poses import pooled, pose_fidelity, redetect
        from mimicmotion.pose.estimators.open import open_estimator

        estimator, clips = open_estimator(threads=1, device="cpu"), []
        for number, (sample, output) in enumerate(zip(self.samples, outputs, strict=True)):
            if number not in self._true_poses:
                self._true_poses[number] = redetect(_frames(sample)[self.slot :], estimator)
            true = self._true_poses[number]
            if (true.confidence[:, BODY] > SURE).any():
                clips.append(pose_fidelity(redetect(output, estimator), true, visible=SURE))
        body = pooled(clips)["body"] if clips else None
        if body is None or not body.points:
            return {}
        # without detections, there is no error, but all points count as missing
        return {"pck_body": body.pck} | ({"pose_error": body.error} if np.isfinite(body.error) else {})


def clip_scores(output: Frames, target: Frames, reference: UInt8[ndarray, "height width 3"]) -> dict[str, float]:
    """Compute PSNR (all pixels, moving region), gain over copying the reference, and SSIM (from 11x11 pixels)."""
    mask = moving_region(target, reference)
    if not mask.any():
        mask = np.ones_like(mask)
    copied = np.broadcast_to(reference, target.shape)
    moving = psnr(output, target, mask)
    scores = {"psnr": psnr(output, target), "psnr_moving": moving, "gain_moving": moving - psnr(copied, target, mask)}
    if min(target.shape[1:3]) >= 11:
        scores["ssim"] = ssim(output, target)
    return scores


def picture(sample: Sample, output: Frames, slot: int) -> UInt8[ndarray, "height width 3"]:
    """Arrange driving poses, true frames and generated frames in three rows, with the reference in the first column."""
    target, poses = _frames(sample)[slot:], sample.poses[slot:]
    chosen = np.unique(np.linspace(0, len(target) - 1, min(COLUMNS, len(target))).round().astype(int))
    blank = np.full_like(sample.reference, 255)
    rows = [[sample.reference_pose, *poses[chosen]], [sample.reference, *target[chosen]], [blank, *output[chosen]]]
    return contact_sheet([[shrink(p, LARGEST) for p in row] for row in rows])


def _frames(sample: Sample) -> Frames:
    if sample.frames is None:
        raise InputError(f"no frames in sample {sample.number}", "frames", "make the sample without latents")
    return sample.frames
