"""The bundled model: small enough to ship, and it moves held-out people better than a still picture does."""

from __future__ import annotations

import numpy as np

from mimicmotion.evaluation.metrics.pixels import moving_region, psnr
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.training.bundled import generate, held_out_clip
from mimicmotion.training.stages.validate import clip_scores
from mimicmotion.weights.registry import find_asset


def test_it_is_small() -> None:
    files = [p for p in find_asset("tiny").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 28e6


def test_it_beats_a_still_picture_where_things_move() -> None:
    pipe = MimicMotionPipeline.from_pretrained()
    clips = [held_out_clip(2000 + i, 4, (320, 192)) for i in range(2)]
    scores = [clip_scores(generate(pipe, c), c.frames, c.reference_frame) for c in clips]
    assert np.mean([s["gain_moving"] for s in scores]) > 2
    copied = [psnr(np.broadcast_to(c.reference_frame, c.frames.shape), c.frames) for c in clips]
    assert np.mean([s["psnr"] for s in scores]) > np.mean(copied)


def test_it_follows_the_poses_it_is_given() -> None:
    """With the poses of other frames it must fit those frames better than its own: it does not just blur."""
    pipe = MimicMotionPipeline.from_pretrained()
    clip = held_out_clip(2001, 4, (320, 192))
    output = generate(pipe, clip)
    mask = moving_region(clip.frames, clip.frames[0]) | moving_region(clip.frames[::-1], clip.frames[0])
    assert psnr(output, clip.frames, mask) > psnr(output[::-1], clip.frames, mask) + 0.5
