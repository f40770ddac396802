"""PSNR, SSIM and LPIPS of frames; PSNR of the moving region and of the hands.

Clips are uint8 (0..255) or floats in 0..1; results refer to the range 0..1. All but LPIPS is computed in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float64, Num, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.pose.hands import hand_boxes
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.extras import import_extra

if TYPE_CHECKING:
    from mimicmotion.evaluation.networks.lpips import Lpips

MOVED = 0.1
"""A pixel is in the moving region if a colour channel of target and reference differs by more than this (0..1)."""
FLOOR = 1e-10
"""Lower bound of the mean squared error, which limits PSNR to 100 dB."""
SSIM_SIGMA = 1.5
SSIM_WINDOW = 11  # scikit-image's window for this sigma; smaller frames cannot be compared

AnyFrames = UInt8[ndarray, "frames height width 3"] | Float[ndarray, "frames height width 3"]
Mask = Bool[ndarray, "frames height width"]


def unit_frames(frames: Num[ndarray, ...], name: str = "frames") -> Float64[ndarray, "frames height width 3"]:
    """Convert a clip to float64 in 0..1.

    Raises:
        InputError: wrong shape or type, no frames, NaN, or values out of range.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise InputError(f"{name} of shape {frames.shape}", "(frames, height, width, 3), not empty", "stack RGB frames")
    if frames.dtype == np.uint8:
        return frames.astype(np.float64) / 255
    if not np.issubdtype(frames.dtype, np.floating):
        raise InputError(f"{name} of {frames.dtype}", "uint8 in 0..255 or floats in 0..1", "convert the frames")
    if not np.isfinite(frames).all():
        bad = np.flatnonzero(~np.isfinite(frames).all((1, 2, 3)))
        raise InputError(f"NaN or infinity in {name}, frame {bad[0]}", "finite values", "check these frames")
    if frames.min() < 0 or frames.max() > 1:
        low, high = float(frames.min()), float(frames.max())
        raise InputError(f"{name} from {low:.3g} to {high:.3g}", "0..1", "scale the frames, or pass uint8")
    return frames.astype(np.float64)


def pair(output: AnyFrames, target: AnyFrames) -> tuple[Float64[ndarray, "f h w 3"], Float64[ndarray, "f h w 3"]]:
    """Check that two clips match, and convert both to float64 in 0..1.

    Raises:
        InputError: they differ in length or size, or one is malformed (see `unit_frames`).
    """
    a, b = unit_frames(output, "output"), unit_frames(target, "target")
    if len(a) != len(b):
        raise InputError(f"{len(a)} output and {len(b)} target frames", "equal lengths", "cut or resample one of them")
    if a.shape != b.shape:
        raise InputError(f"output {a.shape[1:3]}, target {b.shape[1:3]}", "one size", "resize one of them first")
    return a, b


def psnr(output: AnyFrames, target: AnyFrames, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB, from the mean squared error of the whole clip; at most 100.

    Args:
        output: generated frames.
        target: true frames.
        mask: only these pixels count.

    Returns:
        dB; NaN if the mask is empty.

    Raises:
        InputError: as for `pair`, or the mask has another shape.
    """
    a, b = pair(output, target)
    errors = (a - b) ** 2
    if mask is not None and (mask.shape != errors.shape[:3] or mask.dtype != bool):
        got = f"mask {mask.shape} of {mask.dtype}"
        raise InputError(got, f"{errors.shape[:3]} of bool", "make it from these frames")
    chosen = errors if mask is None else errors[mask]
    return decibel(float(chosen.mean())) if chosen.size else float("nan")


def frame_psnr(output: AnyFrames, target: AnyFrames) -> Float64[ndarray, " frames"]:
    """`psnr` of each frame; its mean over frames is what most papers call PSNR."""
    a, b = pair(output, target)
    return np.array([decibel(float(error.mean())) for error in (a - b) ** 2])


def frame_ssim(output: AnyFrames, target: AnyFrames) -> Float64[ndarray, " frames"]:
    """Structural similarity of each frame by scikit-image, as defined by Wang et al. 2004.

    Computed on greyscale (Rec. 601) with Gaussian weights of sigma 1.5 pixels, population variances and range 1,
    excluding a border of half a window.

    Raises:
        InputError: as for `pair`; the frames are smaller than the window; or scikit-image is missing.
    """
    a, b = pair(output, target)
    if min(a.shape[1:3]) < SSIM_WINDOW:
        raise InputError(f"frames of {a.shape[1:3]}", f"at least {SSIM_WINDOW} pixels a side", "compare larger frames")
    structural_similarity = import_extra("skimage.metrics", "eval").structural_similarity
    options = {"data_range": 1.0, "gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False}
    greys = zip(grey(a), grey(b), strict=True)
    return np.array([float(structural_similarity(x, y, **options)) for x, y in greys])


def ssim(output: AnyFrames, target: AnyFrames) -> float:
    """Mean of `frame_ssim` over the frames."""
    return float(frame_ssim(output, target).mean())


def lpips(output: AnyFrames, target: AnyFrames, *, network: Lpips, batch_size: int = 8) -> Float64[ndarray, " frames"]:
    """LPIPS of each frame, without resizing; 0 for equal frames.

    Args:
        output: generated frames, uint8 or float in 0..1 (scaled to [-1, 1] here).
        target: true frames.
        network: network returned by `networks.features.load_lpips`.
        batch_size: frames per forward pass.

    Raises:
        InputError: lengths or sizes differ, or frames are malformed or too small for the network.
    """
    import torch

    from mimicmotion.evaluation.networks.lpips import MIN_SIZE

    a, b = pair(output, target)
    least = MIN_SIZE[network.net]
    if min(a.shape[1:3]) < least:
        expected = f"at least {least} pixels a side for {network.net}"
        raise InputError(f"frames of {a.shape[1:3]}", expected, "use larger frames")
    device = next(network.parameters()).device
    out = []
    with torch.inference_mode():
        for i in range(0, len(a), batch_size):
            x, y = (
                torch.from_numpy(np.ascontiguousarray(z[i : i + batch_size].transpose(0, 3, 1, 2), np.float32) * 2 - 1)
                for z in (a, b)
            )
            out.append(network(x.to(device), y.to(device)).double().cpu().numpy())
    return np.concatenate(out)


def grey(frames: Float[ndarray, "*n 3"]) -> Float64[ndarray, "*n"]:
    """Luma by Rec. 601, with the weights of OpenCV's RGB2GRAY."""
    return frames @ np.array([0.299, 0.587, 0.114])


def moving_region(target: AnyFrames, reference: Num[ndarray, "height width 3"], threshold: float = MOVED) -> Mask:
    """Mask of pixels where the target differs from the reference picture by more than `threshold` in any channel.

    Raises:
        InputError: the sizes differ, or a clip is malformed.
    """
    wanted, still = unit_frames(target, "target"), unit_frames(np.asarray(reference)[None], "reference")
    if wanted.shape[1:] != still.shape[1:]:
        raise InputError(f"reference {still.shape[1:3]}, target {wanted.shape[1:3]}", "one size", "resize one of them")
    return np.abs(wanted - still).max(-1) > threshold


def hand_region(poses: PoseSequence) -> Mask:
    """Pixels whose centre lies in the bounding box of a hand with only reliable points, at the size of the poses."""
    boxes, reliable = hand_boxes(poses.xy, poses.confidence)
    x, y = np.arange(poses.size[1]) + 0.5, np.arange(poses.size[0]) + 0.5
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)[..., None]
    columns, rows = (left <= x) & (x <= right) & reliable[..., None], (top <= y) & (y <= bottom)
    return (rows[..., :, None] & columns[..., None, :]).any(1)


def hand_psnr(output: AnyFrames, target: AnyFrames, poses: PoseSequence) -> float:
    """PSNR within `hand_region`; NaN if no hand of the clip is reliable. Raises the errors of `psnr`."""
    return psnr(output, target, hand_region(poses))


def decibel(mse: float) -> float:
    """PSNR in dB of a mean squared error (range 0..1), at most 100; NaN stays NaN."""
    return float(-10 * np.log10(max(mse, FLOOR))) if np.isfinite(mse) else mse
