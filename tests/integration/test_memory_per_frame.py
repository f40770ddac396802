"""A job holds only latents and aligned poses for each frame: a small version of `benchmarks/memory.py`."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
import torch

from micro import micro_pipeline
from mimicmotion.backbones.svd import pose_features
from mimicmotion.generate import inputs
from mimicmotion.generate.job import generate
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.files import save_poses
from mimicmotion.pose.keypoints import NUM_POINTS
from mimicmotion.settings import GenerateConfig
from planted_job import SIZE, dancing, make_job, planted, standing

POSES = (2 * 8 + 4) * NUM_POINTS  # positions in float64, confidence in float32
LATENTS = 4 * 4 * SIZE[0] * SIZE[1] // 8**2
OVERHEAD = 800
"""Allowance for row numbers, weights of segments, and positions in temporary files."""


def held(job: GenerateConfig, pipeline: MimicMotionPipeline, frames: int) -> int:
    """Bytes in arrays, objects and tensors after the first step."""
    poses = job.picture.with_name(f"{frames}.npz")
    save_poses(dancing(frames), poses)
    gc.collect()
    tracemalloc.start()
    try:
        with closing(generate(dataclasses.replace(job, video=poses), pipeline)) as run:
            assert any(report.stage == "denoise" and report.done == 1 for report in run)
            gc.collect()
            return tracemalloc.get_traced_memory()[0] + tensors()
    finally:
        tracemalloc.stop()


def tensors() -> int:
    # Of exactly these types: tensors without memory, which predictions leave behind, have no address.
    found = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}.values())


def test_a_frame_costs_its_latents_and_poses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "find_estimator", planted(standing(1), standing(1)))
    monkeypatch.setattr(pose_features, "HOST_BUDGET", 0)  # as in a video whose features would not fit
    job = dataclasses.replace(make_job(tmp_path, tmp_path), height=SIZE[0], width=SIZE[1], save_every=0)
    pipeline = micro_pipeline()
    held(job, pipeline, 9)  # what is loaded once
    growth = (held(job, pipeline, 29) - held(job, pipeline, 9)) / 20
    # Noise becomes latents in place; drawn by numpy, they are counted there and as a tensor.
    assert POSES + 2 * LATENTS < growth < POSES + 2 * LATENTS + OVERHEAD
