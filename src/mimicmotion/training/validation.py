"""Measures a model on held-out synthetic people: does the figure move as told, and better than a still picture?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from mimicmotion.models.checkpoint import Components, save_components
from mimicmotion.models.posenet import PoseNet
from mimicmotion.models.tiny import build_tiny_image_encoder, build_tiny_unet
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.draw import draw_poses
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth import SynthClip, render_clip
from mimicmotion.training.autoencoder import load_autoencoder
from mimicmotion.training.denoiser import POSE_STROKE
from mimicmotion.training.loop import averaged
from mimicmotion.training.state import load_checkpoint

HELD_OUT_SEED = 10_000_000
"""Held-out clips come from this seed on; recipes stay below it."""
MOVED = 0.1
"""A pixel belongs to the moving region if a colour of target and reference differs by more (0..1)."""

BUNDLED: dict[str, Any] = {
    "height": 224,
    "width": 128,
    "sigmas": [80.0, 10.0, 0.0],
    "guidance_scale": 1.0,
    "fps": 7.0,
    "fusion": {"mode": "progressive", "segment_frames": 16, "overlap_frames": 6, "reference_slot": True},
    "pose_drawing": {"canvas_short_side": None, "stroke": POSE_STROKE},
}
"""What the bundled model is used with; chosen on held-out clips (see the model card)."""

Frames = UInt8[ndarray, "frames height width 3"]


def assemble(denoiser: Path, autoencoder: Path, settings: Mapping[str, Any]) -> MimicMotionPipeline:
    """A pipeline of the averaged weights of two checkpoints.

    Args:
        denoiser: checkpoint of stage denoiser.
        autoencoder: the checkpoint of stage autoencoder that it was trained with, or a later one of the same run
            (its encoder is frozen, its decoder may be better).
        settings: the model's defaults, see `MimicMotionPipeline`.

    Raises:
        WeightsError: a checkpoint is missing or damaged.
    """
    state = load_checkpoint(denoiser)
    model = state["model"]
    vae = load_autoencoder(autoencoder)
    vae.register_to_config(scaling_factor=model["scaling_factor"])
    unet = build_tiny_unet(
        widths=tuple(model["widths"]),
        attention=tuple(model["attention"]),
        layers=model["layers"],
        latent_channels=model["latent_channels"],
        token_dim=model["token_dim"],
        norm_groups=model["norm_groups"],
    )
    pose_net = PoseNet(model["widths"][0], (6 if model["reference_pose"] else 3, 16, 32, 64))
    encoder = build_tiny_image_encoder(model["token_dim"])
    for name, module in (("unet", unet), ("pose_net", pose_net), ("image_encoder", encoder)):
        module.load_state_dict(averaged(state, name))
        module.eval().requires_grad_(False)
    return MimicMotionPipeline(unet, vae, encoder, pose_net, settings)


def export(denoiser: Path, autoencoder: Path, settings: Mapping[str, Any], folder: Path) -> Path:
    """Write the model of two checkpoints in float16, as `MimicMotionPipeline.from_pretrained` reads it.

    Raises:
        WeightsError: a checkpoint is missing or damaged.
        OutputError: the folder cannot be written.
    """
    pipe = assemble(denoiser, autoencoder, settings)
    parts = Components(pipe.unet, pipe.vae, pipe.image_encoder, pipe.pose_net, pipe.settings)
    return save_components(parts, folder, dtype=torch.float16)


def drawn(poses: PoseSequence, size: tuple[int, int]) -> Frames:
    """Poses as the small model wants to see them."""
    return np.stack(list(draw_poses(poses, size, canvas_short_side=None, stroke=POSE_STROKE)))


def moving_region(target: Frames, reference: UInt8[ndarray, "height width 3"]) -> Bool[ndarray, "frames height width"]:
    """Where a target frame differs from the reference picture."""
    difference = np.abs(target.astype(np.float32) - reference.astype(np.float32)).max(-1)
    return difference > MOVED * 255


def psnr(output: Frames, target: Frames, mask: Bool[ndarray, "frames height width"] | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all pixels, or over those in the mask."""
    error = ((output.astype(np.float64) - target) / 255) ** 2
    mse = error.mean() if mask is None else error[mask].mean()
    return float(-10 * np.log10(max(mse, 1e-10)))


def ssim(output: Frames, target: Frames) -> float:
    """Mean structural similarity on grey (Gaussian window of 1.5 pixels), averaged over frames."""
    import cv2

    def smooth(x: Float[ndarray, "h w"]) -> Float[ndarray, "h w"]:
        return cv2.GaussianBlur(x, (11, 11), 1.5)

    values = []
    for a8, b8 in zip(output, target, strict=True):
        a, b = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY).astype(np.float64) for x in (a8, b8))
        ma, mb = smooth(a), smooth(b)
        va, vb, cov = smooth(a * a) - ma * ma, smooth(b * b) - mb * mb, smooth(a * b) - ma * mb
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
    return float(np.mean(values))


def held_out_clip(index: int, frames: int, size: tuple[int, int]) -> SynthClip:
    """Clip number `index` of the validation set."""
    return render_clip(HELD_OUT_SEED + index, frames, size)


def generate(pipe: MimicMotionPipeline, clip: SynthClip, **options: Any) -> Frames:
    """The clip's reference picture in the clip's poses."""
    size = (clip.reference_frame.shape[0], clip.reference_frame.shape[1])
    reference = drawn(clip.reference_pose, size)[0]
    return np.asarray(pipe(clip.reference_frame, drawn(clip.poses, size), reference, **options))


def score(output: Frames, clip: SynthClip) -> dict[str, float]:
    """PSNR and SSIM of a generated clip, and those of copying the reference."""
    copied = np.broadcast_to(clip.reference_frame, clip.frames.shape)
    mask = moving_region(clip.frames, clip.reference_frame)
    if not mask.any():
        mask[:] = True
    return {
        "psnr": psnr(output, clip.frames),
        "psnr_moving": psnr(output, clip.frames, mask),
        "ssim": ssim(output, clip.frames),
        "copy_psnr": psnr(copied, clip.frames),
        "copy_psnr_moving": psnr(copied, clip.frames, mask),
        "copy_ssim": ssim(copied, clip.frames),
    }


def reconstruct(pipe: MimicMotionPipeline, frames: Frames) -> Frames:
    """Frames through the autoencoder and back: the best that any U-Net could do."""
    from mimicmotion.models.pose_features import to_unit
    from mimicmotion.models.vae import encode_mode

    latents = encode_mode(pipe.vae, to_unit(frames)) * pipe.vae.config["scaling_factor"]
    return np.stack(list(pipe.decode(latents)))


def mean_scores(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each number over clips, and the gain over copying."""
    out = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
    out["gain_moving"] = out["psnr_moving"] - out["copy_psnr_moving"]
    return out


def sheet(rows: Iterable[Sequence[UInt8[ndarray, "height width 3"]]]) -> UInt8[ndarray, "height width 3"]:
    """Pictures of one size in rows, with a white line between rows."""
    lines = [np.concatenate(list(row), 1) for row in rows]
    gap = np.full((4, lines[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([x for line in lines for x in (line, gap)][:-1])
