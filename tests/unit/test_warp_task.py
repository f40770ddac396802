"""The warp network as a task of the trainer: samples, learning, and exported files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from micro import one_step_pipeline
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.tiny.warp import PICTURES, Warped, WarpNet
from mimicmotion.cli import main
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings.samples import SampleConfig
from mimicmotion.settings.training import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    ValidationConfig,
    WarpConfig,
)
from mimicmotion.training.job import open_trainer
from mimicmotion.training.stages.warp import WarpTask, recoloured, warp_loss

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("scenes_are_made_once")]

SIZE = (128, 64)
SMALL: dict[str, Any] = {"widths": (8, 8, 8, 8)}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    options = ["--frames", "3", "--height", str(SIZE[0]), "--width", str(SIZE[1]), "--held-out", "1", "--truth"]
    assert main(["prepare", "synthetic", "2", "-o", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "micro"
    one_step_pipeline().save_pretrained(path)
    return path


def config(people: Path, model: Path, run: Path, **changes: Any) -> TrainConfig:
    c = TrainConfig(
        stage="warp",
        run=str(run),
        cpu=True,
        data=DataConfig(shards=str(people), workers=0, sample=SampleConfig(num_frames=3)),
        model=ModelConfig(checkpoint=str(model)),
        warp=WarpConfig(**SMALL, clips=8, recolour=0.0),
        optim=OptimConfig(steps=16, batch=1, lr=1e-2, warmup=0, ema=0.5),
        validation=ValidationConfig(every=0, clips=1),
        precision="no",
        save_every=100,
        trackers=(),
    )
    return dataclasses.replace(c, **changes)


def test_a_batch_is_its_numbers_alone_and_fits_the_truth(people: Path, model: Path, tmp_path: Path) -> None:
    t = WarpTask(config(people, model, tmp_path))
    batch = t.batch(0, [3, 4, 5])
    assert batch.true.shape == (6, 3, *SIZE)
    for i in range(3):
        alone = t.batch(7, [3 + i])
        assert torch.equal(alone.true, batch.true[2 * i : 2 * i + 2])
        assert torch.equal(alone.inputs.cells, batch.inputs.cells[2 * i : 2 * i + 2])
    # colours found at the true places are those of the true frame, where the reference shows them
    mirrored = set()
    for number in range(0, 12, 2):
        clip, reference = t.clip(t.shards, number, 0), t.shards[0].frames([0])[0]
        seen = clip.inputs.cells[0, PICTURES[1] : PICTURES[1] + 3]
        small = torch.nn.functional.avg_pool2d(to_unit(np.stack([reference, reference[:, ::-1]])), 4)
        plain, flipped = (seen - small).abs().mean((1, 2, 3))
        mirrored.add(turned := bool(flipped < plain))
        reference = torch.from_numpy((reference[:, ::-1] if turned else reference).copy()).float()
        at = clip.position.round().long()
        known = (clip.seen > 0) & (clip.mask[:, ::2, ::2] > 0.99)
        there = reference[at[:, 1].clamp(0, SIZE[0] - 1), at[:, 0].clamp(0, SIZE[1] - 1)]
        true = clip.true[:, :, ::2, ::2].movedim(1, -1) * 127.5 + 127.5
        still = reference[::2, ::2]  # light and noise differ, too
        assert (there - true).abs()[known].median() < 0.75 * (still - true).abs()[known].median()
    assert mirrored == {False, True}
    noisy = WarpTask(
        config(
            people,
            model,
            tmp_path,
            data=DataConfig(shards=str(people), workers=0, sample=SampleConfig(num_frames=3, detector_noise=3.0)),
            warp=WarpConfig(**SMALL, clips=8, exact_poses=0.5, recolour=0.0),
        )
    )
    exact = WarpTask(config(people, model, tmp_path))
    same = [torch.equal(noisy.batch(0, [n]).inputs.maps, exact.batch(0, [n]).inputs.maps) for n in range(12)]
    assert 0 < sum(same) < 12


def test_colours_change_in_all_pictures_alike(people: Path, model: Path, tmp_path: Path) -> None:
    t = WarpTask(config(people, model, tmp_path))
    plain = t.batch(0, [0])
    other = recoloured(plain, np.random.default_rng(1))
    assert not torch.equal(other.true, plain.true)
    for a, b in ((other.true, plain.true), (other.inputs.background, plain.inputs.background)):
        means = a.mean((0, 2, 3)), b.mean((0, 2, 3))
        assert not torch.allclose(*means, atol=0.01)
    small = torch.nn.functional.avg_pool2d(other.inputs.picture, 4)
    seen = other.inputs.cells[:, PICTURES[0] : PICTURES[0] + 3]
    assert (small - seen).abs().median() < 0.01  # but where a colour was cut off at white or black
    rest = [k for k in range(plain.inputs.cells.shape[1]) if not PICTURES[0] <= k < PICTURES[1] + 3]
    assert torch.equal(other.inputs.cells[:, rest], plain.inputs.cells[:, rest])


def test_the_loss_is_least_for_the_truth(people: Path, model: Path, tmp_path: Path) -> None:
    t = WarpTask(config(people, model, tmp_path))
    batch = t.batch(0, [0])
    logit = (batch.mask.clamp(1e-4, 1 - 1e-4)).logit()
    place = torch.nn.functional.interpolate(batch.position, scale_factor=2.0, mode="nearest")
    seen = torch.nn.functional.avg_pool2d(batch.seen[:, None], 2)[:, 0].clamp(1e-4, 1 - 1e-4).logit()
    right = Warped(batch.true, batch.true, logit, place, seen)
    best, log = warp_loss(right, batch)
    assert log["colours"] == 0
    assert log["pixels_away"] == pytest.approx(0.1, abs=1e-3)  # the square root's rounding
    wrong = (
        dataclasses.replace(right, frames=-batch.true),
        dataclasses.replace(right, outline=-logit),
        dataclasses.replace(right, place=place + 3),
        dataclasses.replace(right, visible=-seen),
    )
    for other in wrong:
        assert (warp_loss(other, batch)[0] > best).all()


def test_training_lowers_the_loss_resumes_exactly_and_exports_a_whole_model(
    people: Path, model: Path, tmp_path: Path
) -> None:
    straight = WarpTask(config(people, model, tmp_path / "a"))
    batch = straight.batch(0, [50, 51])

    def loss(net: Any) -> float:
        with torch.no_grad():
            return float(straight.loss(net, batch, 0).loss)

    before = loss(straight.net)
    out = open_trainer(straight.config, task=straight).fit() / "model"
    for stop in (9, None):
        again = WarpTask(config(people, model, tmp_path / "b"))
        resumed = open_trainer(again.config, task=again).fit(stop) / "model"
    nets = [MimicMotionPipeline.from_pretrained(m).backbone.warp for m in (out, resumed)]
    assert isinstance(nets[0], WarpNet)
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name]), name
    assert loss(nets[0]) < before - 0.02  # a dozen steps, and only the outline's margin is free
    # going on from a model that has a network starts with it, whatever size the settings name
    more = config(people, out, tmp_path / "c", warp=WarpConfig(widths=(16,) * 4))
    assert torch.equal(WarpTask(more).net.out.bias, nets[0].out.bias)
    new = dataclasses.replace(more, warp=WarpConfig(widths=(16,) * 4, new=True))
    assert WarpTask(new).net.config["widths"] == [16] * 4


def test_validation_measures_held_out_clips(people: Path, model: Path, tmp_path: Path) -> None:
    t = WarpTask(config(people, model, tmp_path))
    weights = {k: v.detach().clone() for k, v in t.parameters().items()}
    found = t.validate(0, weights)
    assert found.best == "psnr_moving"
    assert np.isfinite(list(found.scores.values())).all()
    assert found.pictures["warp"].shape == (2 * SIZE[0] + 4, 4 * SIZE[1], 3)
    weights["out.bias"][56:72] = -40.0  # no person at all
    assert t.validate(0, weights).scores["psnr_moving"] < found.scores["psnr_moving"] - 1
    assert not t.net.out.bias.any()  # the trained network was not touched


def test_lpips_can_be_part_of_the_loss(
    people: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mimicmotion.evaluation.networks.lpips import Lpips
    from mimicmotion.training.stages import common

    torch.manual_seed(0)
    network = Lpips("alex")
    for head in network.heads:
        torch.nn.init.uniform_(head)
    monkeypatch.setattr(common, "load_lpips", lambda *_, **__: network)
    plain = WarpTask(config(people, model, tmp_path))
    both = WarpTask(config(people, model, tmp_path, warp=WarpConfig(**SMALL, recolour=0.0, perceptual=3.0)))
    batch = plain.batch(0, [1])
    a, b = plain.loss(plain.net, batch, 0), both.loss(both.net, batch, 0)
    torch.testing.assert_close(b.loss - a.loss, torch.tensor(3 * b.log["lpips"]))
    assert network.convs[0].weight.grad is None


def test_shards_without_truth_and_wrong_settings_are_refused(model: Path, tmp_path: Path) -> None:
    options = ["--frames", "1", "--height", "64", "--width", "32"]
    assert main(["prepare", "synthetic", "1", "-o", str(tmp_path / "plain"), *options]) == 0
    with pytest.raises(InputError, match="without ground truth"):
        WarpTask(config(tmp_path / "plain", model, tmp_path / "run"))
    for wrong in ({"clips": 0}, {"recolour": 1.5}, {"exact_poses": -0.1}, {"perceptual": -1.0}):
        with pytest.raises(ConfigError):
            WarpConfig(**wrong)
