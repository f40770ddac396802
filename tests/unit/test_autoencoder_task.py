"""The autoencoder as a task of the trainer: samples, loss, weights and exported files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device

from fake_shards import FakeShards
from mimicmotion.backbones.svd.checkpoint import load_part
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings.training import AutoencoderConfig, TrainConfig, ValidationConfig
from mimicmotion.training.stages import autoencoder, common
from mimicmotion.training.stages.autoencoder import AutoencoderTask, Clips
from mimicmotion.weights.locate import read_model_file

Build = Callable[..., AutoencoderTask]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Build:
    shards = FakeShards(lengths=(5, 6, 7), size=(32, 16))

    def opens(_where: str, split: str, *, cache: Path) -> FakeShards:
        if split == "val":
            raise InputError("no split val", "a split", "choose another")
        return shards

    def task(**changes: Any) -> AutoencoderTask:
        options: dict[str, Any] = {"latent_channels": 4, "clip_frames": 3, **changes}
        c = AutoencoderConfig(**options)
        config = TrainConfig(stage="autoencoder", run=str(tmp_path), autoencoder=c, precision="no")
        return AutoencoderTask(dataclasses.replace(config, validation=ValidationConfig(clips=2)))

    monkeypatch.setattr(common, "open_shards", opens)
    monkeypatch.setattr(autoencoder, "patch_basis", _few_samples(autoencoder.patch_basis))
    return task


def _few_samples(plain: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: plain(*args, **{**kwargs, "samples": 30})


def test_a_sample_is_its_number_alone_and_shows_neighbouring_frames(build: Build) -> None:
    task, again = build(), build()
    batch = task.batch(0, list(range(20)))
    assert batch.frames.shape == (20, 3, 32, 16, 3)
    flipped = 0
    for i in range(20):
        alone = again.batch(7, [i])
        assert torch.equal(alone.frames[0], batch.frames[i])
        clip = batch.frames[i].numpy()
        record = next(r for r in task.shards.records if r.key == batch.keys[i])  # type: ignore[attr-defined]
        as_is, mirrored = (
            [int(np.abs(record.pictures.astype(int) - f[:, ::s].astype(int)).sum((1, 2, 3)).argmin()) for f in clip]
            for s in (1, -1)
        )
        found = as_is if np.array_equal(record.pictures[as_is[0]], clip[0]) else mirrored
        flipped += found is mirrored
        assert found[0] >= 1, "the still is no part of the time line"
        assert found == [found[0], found[0] + 1, found[0] + 2]
    assert 2 < flipped < 18


def test_loss_does_not_depend_on_how_samples_are_batched(build: Build) -> None:
    task = build()
    whole = task.loss(task.model, task.batch(0, [3, 4, 5, 6]), 0)
    parts = [task.loss(task.model, task.batch(0, [n]), 0).loss for n in (3, 4, 5, 6)]
    torch.testing.assert_close(whole.loss, torch.stack(parts).mean(), rtol=1e-5, atol=0)
    assert whole.samples == task.batch(0, [3, 4, 5, 6]).keys


def test_every_trained_weight_gets_a_gradient_and_no_other(build: Build) -> None:
    task = build()
    params = task.parameters()
    for name, p in task.model.named_parameters():
        p.requires_grad_(name in params)
    task.loss(task.model, task.batch(0, [0, 1]), 0).loss.backward()
    assert not any(name.startswith(("vae.encoder.", "vae.quant_conv.")) for name in params)
    for name, p in task.model.named_parameters():
        assert (p.grad is not None) == (name in params), name


def test_what_it_writes_is_the_averaged_autoencoder(build: Build, tmp_path: Path) -> None:
    task = build()
    before = {k: p.detach().clone() for k, p in task.parameters().items()}
    weights = {k: v + 0.01 for k, v in before.items()}
    folder = task.export(tmp_path / "model", weights)
    vae = load_part(folder, "vae")
    assert all(torch.equal(p, weights[f"vae.{n}"]) for n, p in vae.named_parameters() if f"vae.{n}" in weights)
    assert all(torch.equal(p, before[k]) for k, p in task.parameters().items())
    assert read_model_file(folder)["settings"]["height"] == 32
    frames = np.concatenate([r.pictures for r in task.shards.records])  # type: ignore[attr-defined]
    with torch.no_grad():
        latents = vae(autoencoder.to_unit_tensor(torch.from_numpy(frames)))
    assert 0.8 < float(latents.std()) * vae.config.scaling_factor < 1.25


def test_validation_leaves_the_weights_alone(build: Build) -> None:
    task = build()
    task.model.train()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    good = task.validate(0, {k: p.detach() for k, p in task.parameters().items()})
    bad = task.validate(0, {k: torch.zeros_like(p) for k, p in task.parameters().items()})
    assert good.higher_is_better
    assert good.scores[good.best] > bad.scores[bad.best]
    assert good.pictures["reconstructed"].dtype == np.uint8
    assert good.pictures["reconstructed"].shape[1] == 4 * 16
    assert task.model.training
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())


def test_clips_move_as_one() -> None:
    clips = Clips([1], ["a"], torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8))
    moved = send_to_device(clips, torch.device("meta"), non_blocking=True)
    assert isinstance(moved, Clips)
    assert moved.frames.device.type == "meta"
    assert (moved.numbers, moved.keys) == ([1], ["a"])


def test_clips_longer_than_the_data_are_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="4 frames"):
        build(clip_frames=5)
    monkeypatch.setattr(autoencoder, "PATCH", 5)
    with pytest.raises(ConfigError, match="multiples of 5"):
        build()
