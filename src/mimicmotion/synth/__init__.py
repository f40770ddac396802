"""Procedural synthetic people with exact keypoints, for training, tests and demonstrations."""

from __future__ import annotations

from mimicmotion.synth.clip import SynthClip, render_clip
from mimicmotion.synth.noise import perturb_poses
from mimicmotion.synth.recordings import Mocap, load_bvh

__all__ = ["Mocap", "SynthClip", "load_bvh", "perturb_poses", "render_clip"]
