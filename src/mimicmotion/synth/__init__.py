"""Procedural synthetic people with exact keypoints, for training, tests and demonstrations."""

from __future__ import annotations

from mimicmotion.synth.clip import SynthClip, render_clip
from mimicmotion.synth.noise import perturb_poses

__all__ = ["SynthClip", "perturb_poses", "render_clip"]
