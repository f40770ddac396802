"""Validation during training: fixed clips, noise and levels; scores; pictures."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from micro_task import micro_task, weights_of
from mimicmotion.synth import render_clip
from mimicmotion.training.stages.validate import Validator, band_levels, clip_scores, picture

pytestmark = pytest.mark.whole


def test_levels_of_a_band_lie_in_it_and_shares_are_those_of_training() -> None:
    levels, shares = band_levels(NormalDist(0.5, 1.4), (0.5, 2.0, 8.0), 3)
    edges = [0.0, 0.5, 2.0, 8.0, float("inf")]
    for row, low, high in zip(levels, edges, edges[1:], strict=False):
        assert ((row > low) & (row < high)).all()
    drawn = (0.5 + 1.4 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))).exp()
    seen = [float(((drawn > low) & (drawn <= high)).float().mean()) for low, high in pairwise(edges)]
    assert shares == pytest.approx(seen, abs=0.015)
    assert sum(shares) == pytest.approx(1)


def test_a_band_that_training_never_meets_does_not_break() -> None:
    levels, shares = band_levels(NormalDist(6.0, 0.1), (0.5, 2.0), 2)
    assert levels.isfinite().all()
    assert shares[:2] == pytest.approx([0, 0], abs=1e-5)


def test_numbers_depend_on_the_weights_alone(tmp_path: Path) -> None:
    task = micro_task(tmp_path, validation={"generate": False, "clips": 2})
    weights = weights_of(task)
    first = task.validate(1, weights)
    torch.manual_seed(1)
    again = micro_task(tmp_path, seed=5, validation={"generate": False, "clips": 2}).validate(9, weights)
    assert first.scores == again.scores
    assert set(first.scores) == {"loss", "v_0", "v_1", "v_2", "v_3"}
    other = task.validate(1, {k: v + 0.05 for k, v in weights.items()})
    assert other.scores["loss"] != first.scores["loss"]
    assert (first.best, first.higher_is_better) == ("loss", False)


def test_the_training_model_is_not_touched(tmp_path: Path) -> None:
    task = micro_task(tmp_path, validation={"generate": False, "clips": 1})
    task.model.train()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    task.validate(0, {k: v + 1 for k, v in weights_of(task).items()})
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
    assert task.model.training
    assert {k for k, p in task.model.named_parameters() if p.requires_grad} == set(task.parameters())


def test_generated_clips_are_scored_and_shown(tmp_path: Path) -> None:
    task = micro_task(tmp_path, validation={"clips": 1, "best": "psnr_moving"})
    weights = weights_of(task)
    result = task.validate(0, weights)
    assert set(result.scores) >= {"loss", "psnr", "psnr_moving", "gain_moving", "ssim"}
    assert result.higher_is_better
    sheet = result.pictures["clip-0"]
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3 * 48 + 2 * 4, 4 * 32, 3), "poses, targets, results: the reference and three frames each"
    assert np.array_equal(sheet, task.validate(1, weights).pictures["clip-0"])


def test_scores_of_the_truth_and_of_a_copy() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    truth = clip_scores(target, target, target[0])
    assert truth["psnr_moving"] == 100
    assert truth["ssim"] == pytest.approx(1)
    copied = np.broadcast_to(target[0], target.shape)
    assert clip_scores(copied, target, target[0])["gain_moving"] == 0
    still = clip_scores(copied, copied, target[0])
    assert still["psnr_moving"] == 100, "without movement the whole frame counts"


def test_large_frames_are_shown_smaller(tmp_path: Path) -> None:
    task = micro_task(tmp_path)
    sample = task.validator.samples[0]
    assert sample.frames is not None
    big = {f: np.repeat(np.repeat(getattr(sample, f), 8, -3), 8, -2) for f in ("frames", "poses")}
    big |= {f: np.repeat(np.repeat(getattr(sample, f), 8, 0), 8, 1) for f in ("reference", "reference_pose")}
    large = dataclasses.replace(sample, **big)
    assert picture(large, big["frames"][1:], 1).shape == (3 * 288 + 8, 4 * 192, 3)


def test_poses_found_in_generated_clips_are_compared_with_those_of_the_true_ones() -> None:
    clip = render_clip(10_000_003, 3, (224, 128), motion="dance", framing="full")
    empty = np.full_like(clip.frames, 200)
    slot = SimpleNamespace(reference_slot=False)
    config: Any = SimpleNamespace(data=SimpleNamespace(sample=slot))
    sample: Any = SimpleNamespace(frames=clip.frames, number=0)
    validator = Validator(config, [sample], encode=NotImplemented)
    right = validator.pose_scores([clip.frames])
    assert right == {"pck_body": 1.0, "pose_error": 0.0}
    other = np.repeat(clip.reference_frame[None], 3, 0)
    wrong = validator.pose_scores([other])
    assert wrong["pck_body"] < 0.8
    assert wrong["pose_error"] > 0.05
    assert validator.pose_scores([empty]) == {"pck_body": 0.0}, "nobody there: every point counts as missed"
    blank: Any = SimpleNamespace(frames=empty, number=0)
    assert Validator(config, [blank], encode=NotImplemented).pose_scores([empty]) == {}, "nobody to follow"
