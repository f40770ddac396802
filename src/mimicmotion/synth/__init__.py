"""Procedural synthetic people with exact keypoints, for training, tests and demonstrations."""

from __future__ import annotations

from mimicmotion.synth.clip import SynthClip, render_clip, render_still

__all__ = ["SynthClip", "render_clip", "render_still"]
