"""A limb warp of LATENTS, without learning: the simplest way to show a latent model where the limbs go.

Cells of the picture's latent inside capsules and hulls around the keypoints are moved to each pose by the same affine
maps as in `pose.guidance.limb_warp`, and decoded. The area that the person left is filled from the cells around it. Its
outline is no finer than a cell, so it is a much weaker baseline than the warp of pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray

from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import moves
from mimicmotion.pose.guidance.limbs import (
    BACK_TO_FRONT,
    UNSEEN,
    body_unit,
    has_face,
    mean_confidence,
    part_region,
    source_of,
)
from mimicmotion.pose.keypoints import PoseSequence

Cells = Float32[ndarray, "channels h w"]


def warp_latents(
    pipe: MimicMotionPipeline,
    reference: UInt8[ndarray, "height width 3"],
    reference_pose: PoseSequence,
    poses: PoseSequence,
) -> UInt8[ndarray, "frames height width 3"]:
    """Decode the picture's latent after moving its cells limb by limb to each pose.

    Args:
        pipe: pipeline whose autoencoder encodes and decodes.
        reference: RGB, at a size that the autoencoder supports.
        reference_pose: pose of the picture, one frame, in its pixels.
        poses: driving poses in pixels of the same picture.
    """
    assert isinstance(pipe.backbone, SVDBackbone)
    scale = pipe.backbone.vae.config["scaling_factor"]
    latent: Cells = (encode_mode(pipe.backbone.vae, to_unit(reference[None]))[0] * scale).float().cpu().numpy()
    height, width = latent.shape[1:]
    small = reference_pose.scaled((height, width))
    xy, confidence = small.xy[0].astype(np.float64), small.confidence[0].astype(np.float64)
    unit, face = body_unit(xy), has_face(confidence)
    seen = [part for part in BACK_TO_FRONT if mean_confidence(confidence, part) >= UNSEEN]
    regions = {part: part_region(xy, part, unit, (height, width), face=face) for part in seen}
    background = filled(latent, np.any(list(regions.values()), 0)) if seen else latent
    sources = {part: source_of(part, confidence) for part in BACK_TO_FRONT}
    sources = {part: source for part, source in sources.items() if source in regions}
    frames = []
    driving = poses.scaled((height, width))
    for target, sure in zip(driving.xy, driving.confidence, strict=True):
        cells = background.copy()
        for part, matrix in moves(xy, confidence, sources, unit, target, sure, (height, width)):
            region = regions[sources[part]]
            layer = np.concatenate([latent * region, region[None]]).astype(np.float32)
            moved = np.stack([cv2.warpAffine(x, matrix, (width, height)) for x in layer])
            cells = cells * (1 - moved[-1]) + moved[:-1]
        frames.append(cells)
    return np.stack(list(pipe.decode(torch.from_numpy(np.stack(frames)).float())))


def filled(latent: Cells, person: Bool[ndarray, "h w"], sigma: float = 2.0) -> Cells:
    """The latent with the person's cells filled smoothly from the nearest other cells."""
    free = (~person).astype(np.float32)
    weight = cv2.GaussianBlur(free, (0, 0), sigma) + 1e-6
    smooth = np.stack([cv2.GaussianBlur(x * free, (0, 0), sigma) / weight for x in latent])
    return np.where(person, smooth, latent).astype(np.float32)
