"""Training from trained weights: a correct loop does not harm them, a wrong one does; released weights work, too."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_shards import FakeShards
from micro import micro_pipeline
from micro_task import SIZE, micro_config, micro_task, weights_of
from mimicmotion.data.synthetic import prepare_synthetic
from mimicmotion.generate.setup import recipe_for
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import GenerateConfig, parse
from mimicmotion.settings.synthetic import SyntheticConfig
from mimicmotion.settings.training import TrainConfig
from mimicmotion.training.job import run
from mimicmotion.training.objective import Encoded
from mimicmotion.training.processes import autocast
from mimicmotion.training.stages import denoiser
from mimicmotion.training.stages.denoiser import DenoiserTask
from mimicmotion.training.task import StepResult

STEPS = 20
# the bundled model's own: pixel error per latent error of its autoencoder
CHANNELS = [5.71, 1.73, 1.41, 1.35, 1.06, 0.73, 0.56, 0.53, 0.46, 0.41, 0.38, 0.36, 0.33, 0.33, 0.32, 0.32]

Objective = Callable[..., StepResult]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people") / "shards"
    finish(prepare_synthetic(SyntheticConfig(output=folder, count=8, frames=8, held_out=3)))
    return folder


def bundled_config(people: Path, tmp_path: Path) -> TrainConfig:
    """The objective that the bundled model was trained with."""
    return parse(
        TrainConfig,
        {
            "run": str(tmp_path / "run"),
            "data": {"shards": str(people), "workers": 0, "sample": {"num_frames": 4}},
            "model": {"base": "tiny"},
            "precision": "bf16",
            "objective": {
                "sigma_mean": 1.5,
                "sigma_std": 1.5,
                "hand_scale": 1.0,
                "change_weight": 3.0,
                "channel_weights": CHANNELS,
            },
            "validation": {"clips": 3, "generate": False},
        },
    )


def rise(config: TrainConfig, rate: float, objective: Objective | None = None) -> float:
    """Relative change of the held-out loss, always with the right objective, after a few training steps."""
    task = DenoiserTask(config)
    before = task.validate(0, weights_of(task)).scores["loss"]
    optimiser = torch.optim.AdamW(task.parameters().values(), lr=rate, betas=(0.9, 0.99))
    with pytest.MonkeyPatch.context() as patch:
        if objective is not None:
            patch.setattr(denoiser, "denoising_loss", objective)
        for step in range(STEPS):
            batch = task.batch(step, [2 * step, 2 * step + 1])
            with autocast(config, torch.device("cpu")):
                result = task.loss(task.model, batch, step)
            optimiser.zero_grad()
            result.loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters().values(), 1.0)
            optimiser.step()
    return task.validate(STEPS, weights_of(task)).scores["loss"] / before - 1


def scaled_condition(network: Any, config: Any, batch: Encoded, *rest: Any, **options: Any) -> StepResult:
    """The mistake of scaling the condition latent as well."""
    scaled = {"picture_latents": 0.18215 * batch.picture_latents}
    if batch.warped_latents is not None:
        scaled["warped_latents"] = 0.18215 * batch.warped_latents
    wrong = dataclasses.replace(batch, **scaled)
    return RIGHT(network, config, wrong, *rest, **options)


RIGHT = denoiser.denoising_loss


@pytest.mark.slow
def test_a_correct_loop_does_not_harm_the_bundled_model_and_a_wrong_one_does(people: Path, tmp_path: Path) -> None:
    """At a rate for fine-tuning nothing changes (measured: +0.2%). At ten times that the noise of batches of two shows
    (+6%), but a wrong objective does twenty times the harm (+136%).
    """
    config = bundled_config(people, tmp_path)
    assert rise(config, 1e-5) < 0.01
    right, wrong = rise(config, 1e-4), rise(config, 1e-4, scaled_condition)
    assert right < 0.12
    assert wrong > max(0.3, 4 * right)


@pytest.mark.slow
def test_one_clip_is_memorised(tmp_path: Path) -> None:
    config = micro_config(
        tmp_path,
        overfit_one_clip=True,
        cpu=True,
        trackers=[],
        data={"sample": {"num_frames": 2}},
        optim={"steps": 40, "lr": 4e-3, "warmup": 5, "ema": 0.0},
        objective={"sigma_mean": 2.0, "sigma_std": 0.5, "condition_dropout": 0.0},
        validation={"every": 0, "generate": False},
        log_every=40,
        save_every=40,
    )
    task = DenoiserTask(config, shards=FakeShards(size=SIZE))  # type: ignore[arg-type]
    before = task.validate(0, weights_of(task)).scores["loss"]
    run(config, task=task)
    after = task.validate(40, weights_of(task)).scores["loss"]
    assert after < 0.6 * before


def test_training_continues_from_released_weights_end_to_end(tmp_path: Path) -> None:
    """From a .pth with unet.* and pose_net.* on a base without PoseNet, through training, to inference."""
    pipe = micro_pipeline()
    pipe.save_pretrained(tmp_path / "whole")
    ignored = shutil.ignore_patterns("pose_net", "mimicmotion.json")
    shutil.copytree(tmp_path / "whole", tmp_path / "svd", ignore=ignored)
    state = {f"unet.{k}": v for k, v in pipe.backbone.unet.state_dict().items()}
    state |= {f"pose_net.{k}": v for k, v in pipe.backbone.pose_net.state_dict().items()}
    torch.save(state, tmp_path / "MimicMotion.pth")
    config = micro_config(
        tmp_path,
        model={"base": str(tmp_path / "svd"), "checkpoint": str(tmp_path / "MimicMotion.pth")},
        cpu=True,
        trackers=[],
        optim={"steps": 3, "lr": 1e-4, "warmup": 0, "ema": 0.5},
        validation={"every": 3, "clips": 1, "generate": False},
        save_every=2,
    )
    task = DenoiserTask(config, shards=FakeShards(size=SIZE))  # type: ignore[arg-type]
    start = weights_of(task)
    assert all(torch.equal(v, state[k]) for k, v in start.items())
    last = run(config, task=task)
    trained = MimicMotionPipeline.from_pretrained(last / "model")
    now = {f"unet.{k}": v for k, v in trained.backbone.unet.state_dict().items()}
    moved = [float((v - now[k]).abs().max()) for k, v in start.items() if k in now]
    assert 0 < max(moved) < 0.01
    sample = task.maker(0)
    assert sample.frames is not None
    video = trained(sample.reference, sample.poses[1:], sample.reference_pose, num_inference_steps=2).frames
    assert video.shape == sample.frames[1:].shape
    again = DenoiserTask(
        dataclasses.replace(config, model=dataclasses.replace(config.model, base=str(last / "model"), checkpoint="")),
        shards=FakeShards(size=SIZE),  # type: ignore[arg-type]
    )
    for name, value in weights_of(again).items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0.01)


def test_training_settings_of_the_start_are_carried_into_the_result(tmp_path: Path) -> None:
    task = micro_task(tmp_path)
    out = task.export(tmp_path / "out", weights_of(task))
    want = micro_pipeline().backbone.settings
    got = MimicMotionPipeline.from_pretrained(out).backbone.settings
    assert got["guidance_scale"] == want["guidance_scale"]
    assert np.isclose(got["fps"], 7)


@pytest.mark.parametrize(
    ("changes", "segments", "trained"),
    [
        ({}, (4, 2), 4),  # not the 72 of the weights that it started from
        ({"phases": [{"until": 9, "frames": 3, "batch": 1}, {"until": 99, "frames": 6, "batch": 1}]}, (6, 3), 6),
        pytest.param(
            {"model": {"settings": {"fusion": {"segment_frames": 16, "overlap_frames": 6}}}},
            (16, 6),
            4,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_result_makes_segments_of_the_length_it_was_trained_on(
    changes: dict[str, Any], segments: tuple[int, int], trained: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = micro_pipeline()
    start.backbone.settings["fusion"] = {"segment_frames": 72, "overlap_frames": 6}
    start.save_pretrained(tmp_path / "micro")
    task = micro_task(tmp_path, **changes)
    pipe = MimicMotionPipeline.from_pretrained(task.export(tmp_path / "out", weights_of(task)))
    got = pipe.backbone.settings
    assert (got["fusion"]["segment_frames"], got["fusion"]["overlap_frames"]) == segments
    assert got["trained_frames"] == trained
    assert ("has segments of 16" in caplog.text) == (segments == (16, 6))
    caplog.clear()
    files = {"picture": Path("p.png"), "video": Path("d.mp4"), "output": Path("o.mp4")}
    recipe_for(GenerateConfig(**files), pipe, 9)
    assert "trained on" not in caplog.text
    recipe = recipe_for(GenerateConfig(**files, segment_frames=8, overlap_frames=2), pipe, 9)
    assert recipe.fusion.segment_frames == 8
    assert f"segments of 8 frames, but the model was trained on clips of {trained}" in caplog.text
