"""The bundled small model: its default settings, and held-out synthetic people for testing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor

from mimicmotion.arrays import Frames
from mimicmotion.settings.synthetic import HELD_OUT_SEED
from mimicmotion.synth import SynthClip, render_clip

if TYPE_CHECKING:
    from mimicmotion.pipeline import MimicMotionPipeline

POSE_STROKE = 4.0
"""Width of drawn limbs relative to the released model's, which would be half a pixel at this size."""

BUNDLED: dict[str, Any] = {
    "height": 224,
    "width": 128,
    "sigmas": [80.0, 10.0, 0.0],
    "guidance_scale": 1.0,
    "fps": 7.0,
    "fusion": {"mode": "progressive", "segment_frames": 16, "overlap_frames": 6, "reference_slot": True},
    "pose_drawing": {"canvas_short_side": None, "stroke": POSE_STROKE},
}
"""Default settings of the bundled model, chosen on held-out clips (see the model card)."""


def bundled_settings(size: tuple[int, int]) -> dict[str, Any]:
    """Return the default settings of a small model for frames of `size` (height, width)."""
    return {**BUNDLED, "height": size[0], "width": size[1]}


def held_out_clip(index: int, frames: int, size: tuple[int, int]) -> SynthClip:
    """Render clip number `index` of the held-out synthetic people."""
    return render_clip(HELD_OUT_SEED + index, frames, size)


def generate(pipe: MimicMotionPipeline, clip: SynthClip, **options: Any) -> Frames:
    """Animate the clip's reference picture with the clip's poses; `options` are passed to the pipeline."""
    poses, reference = pipe.guide(clip.reference_frame, clip.reference_pose, clip.poses)
    return np.asarray(pipe(clip.reference_frame, poses, reference, **options).frames)


def to_unit_tensor(frames: UInt8[Tensor, "*lead height width 3"]) -> Float32[Tensor, "*lead 3 height width"]:
    """Convert RGB bytes, channels last, to [-1, 1], channels first."""
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1)


def contact_sheet(rows: Iterable[Sequence[UInt8[ndarray, "height width 3"]]]) -> UInt8[ndarray, "height width 3"]:
    """Arrange pictures of one size in rows, with a white line between rows."""
    lines = [np.concatenate(list(row), 1) for row in rows]
    gap = np.full((4, lines[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([x for line in lines for x in (line, gap)][:-1])
