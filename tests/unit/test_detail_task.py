"""The detail network as a task of the trainer: samples, learning, and exported files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_shards import FakeShards
from micro import micro_pipeline, one_step_pipeline
from mimicmotion.backbones.svd.checkpoint import save_components
from mimicmotion.backbones.tiny.backbone import TinyBackbone
from mimicmotion.backbones.tiny.detail import DetailNet
from mimicmotion.backbones.tiny.warp import WarpNet
from mimicmotion.errors import ConfigError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import WarpedPoses
from mimicmotion.settings.samples import SampleConfig
from mimicmotion.settings.training import (
    DataConfig,
    DetailConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    ValidationConfig,
)
from mimicmotion.training.job import open_trainer
from mimicmotion.training.stages.detail import DetailTask, FrameBatch, detail_loss, recoloured

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("scenes_are_made_once")]

SIZE = (32, 16)
SMALL: dict[str, Any] = {"widths": (8, 8, 8, 8), "blocks": (1, 0, 0, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "micro"
    one_step_pipeline().save_pretrained(path)
    return path


def config(folder: Path, run: Path, **changes: Any) -> TrainConfig:
    c = TrainConfig(
        stage="detail",
        run=str(run),
        cpu=True,
        data=DataConfig(workers=0, sample=SampleConfig(num_frames=3), cache=str(folder.parent / "cache")),
        model=ModelConfig(checkpoint=str(folder)),
        detail=DetailConfig(clips=2, **SMALL, sharp_lean=0.0, blurred_lean=0.0),
        optim=OptimConfig(steps=20, batch=4, lr=1e-2, warmup=0, ema=0.5),
        validation=ValidationConfig(every=0, clips=1),
        precision="no",
        save_every=100,
        trackers=(),
    )
    return dataclasses.replace(c, **changes)


def task(c: TrainConfig) -> DetailTask:
    return DetailTask(c, shards=FakeShards(size=SIZE))  # type: ignore[arg-type]


def mean_loss(net: Any, batch: FrameBatch, shown: DetailTask) -> float:
    with torch.no_grad():
        return float(shown.loss(net, batch, 0).loss)


def test_the_loss_is_zero_decibels_apart_for_each_frame_alike() -> None:
    target = torch.zeros(2, 3, 4, 4)
    output = torch.zeros(2, 3, 4, 4)
    output[0] += 0.1
    output[1] += 0.5
    moving = torch.zeros(2, 4, 4, dtype=torch.bool)
    got = detail_loss(output, target, moving, 5.0)
    torch.testing.assert_close(got.exp(), torch.tensor([0.01, 0.25]) + 2e-4)
    output[0, :, 0] += 0.1  # an error in the moving region counts more
    moving[0, 0] = True
    want = (5 * 0.04 * 4 + 0.01 * 12) / (5 * 4 + 12) + 2e-4
    assert float(detail_loss(output, target, moving, 5.0)[0].exp()) == pytest.approx(want, rel=1e-5)


def test_a_sample_is_its_number_alone_and_shows_one_frame_in_all_ways(folder: Path, tmp_path: Path) -> None:
    plain = config(folder, tmp_path, detail=DetailConfig(clips=2, **SMALL, recolour=0.0))
    one, two = task(plain), task(plain)
    one.place(torch.device("cpu"))
    two.place(torch.device("cpu"))  # finds the frames of the first on disk
    batch = one.batch(0, list(range(8)))
    assert batch.pictures.shape == (8, 6, *SIZE, 3)
    for i in range(8):
        assert torch.equal(two.batch(5, [i]).pictures[0], batch.pictures[i])
        clip, frame = map(int, batch.keys[i].split("/"))
        shown, pictures = one.train_clips[clip], batch.pictures[i].numpy()
        assert len(shown.true) == 2  # the reference slot is no frame to learn from
        still = (shown.reference, shown.poses[frame], shown.reference_pose)
        want = np.stack([shown.decoded[frame], shown.warped[frame], *still, shown.true[frame]])
        np.testing.assert_array_equal(want, pictures)
    recolour = task(config(folder, tmp_path, detail=DetailConfig(clips=2, **SMALL, recolour=1.0)))
    recolour.place(torch.device("cpu"))
    for i, other in enumerate(recolour.batch(0, list(range(8))).pictures):
        same = [torch.equal(a, b) for a, b in zip(other, batch.pictures[i], strict=True)]
        assert same == [False, False, False, True, True, False]  # drawn poses keep their colours


def test_some_clips_have_exact_poses_and_some_a_detectors(folder: Path, tmp_path: Path) -> None:
    sample = SampleConfig(num_frames=3, detector_noise=3.0)

    def drawn_poses(share: float, noise: float) -> list[Any]:
        data = DataConfig(workers=0, sample=dataclasses.replace(sample, detector_noise=noise), cache=str(tmp_path))
        t = task(config(folder, tmp_path, data=data, detail=DetailConfig(clips=2, **SMALL, exact_poses=share)))
        return [t.train_clips.make(n).poses for n in range(8)]

    exact, noisy = drawn_poses(0.5, 0.0), drawn_poses(0.0, 3.0)
    mixed = drawn_poses(0.5, 3.0)
    as_exact = [np.array_equal(a, b) for a, b in zip(mixed, exact, strict=True)]
    as_noisy = [np.array_equal(a, b) for a, b in zip(mixed, noisy, strict=True)]
    assert [not x for x in as_exact] == as_noisy
    assert 0 < sum(as_exact) < 8


def test_colours_change_in_all_pictures_alike() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    both = recoloured(np.concatenate([picture, picture]), np.random.default_rng(1))
    np.testing.assert_array_equal(both[0], both[1])
    ranks = [np.argsort(picture[0, ..., c].ravel(), kind="stable") for c in range(3)]
    for c in range(3):  # each is one of the colours, its order kept
        values = both[0, ..., c].ravel().astype(int)
        assert sum(bool((np.diff(values[r]) >= 0).all()) for r in ranks) == 1
    assert (both[0] != picture[0]).mean() > 0.5


def test_the_picture_is_moved_by_the_warp_network_if_the_model_has_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicmotion.backbones.tiny.warp.VISIBLE", -1.0)  # parts that are not found would stay
    net = WarpNet((8, 8, 8, 8))
    with torch.no_grad():
        net.out.bias[-19:-3] = -40.0  # its outline has no margin
    parts = MimicMotionPipeline.from_pretrained(folder).backbone.parts
    save_components(dataclasses.replace(parts, warp=net), tmp_path / "model", dtype=torch.float32)
    shards: Any = FakeShards(size=(64, 32))
    limbs, moved = (DetailTask(config(f, tmp_path), shards).train_clips.make(0) for f in (folder, tmp_path / "model"))
    np.testing.assert_array_equal(limbs.warped[0], moved.warped[0])
    assert (limbs.warped[1:] != moved.warped[1:]).any((1, 2, 3)).all()


def test_decoded_frames_are_those_of_the_model_without_detail(folder: Path, tmp_path: Path) -> None:
    t = task(config(folder, tmp_path))
    sample = t.train_clips.make(0)
    shown = t.predict(sample)
    pipe = MimicMotionPipeline.from_pretrained(folder)
    want = pipe(
        sample.reference, WarpedPoses(sample.poses[1:], sample.warped[1:]), sample.reference_pose, seed=0
    ).frames
    assert np.abs(want.astype(int) - shown.decoded).max() <= 1
    np.testing.assert_array_equal(shown.warped, sample.warped[1:])
    np.testing.assert_array_equal(shown.poses, sample.poses[1:])
    np.testing.assert_array_equal(shown.reference_pose, sample.reference_pose)


def test_training_lowers_the_loss_resumes_exactly_and_exports_a_whole_model(folder: Path, tmp_path: Path) -> None:
    straight = task(config(folder, tmp_path / "a"))
    trainer = open_trainer(straight.config, task=straight)
    batch = straight.batch(0, list(range(100, 116)))
    before = mean_loss(straight.net, batch, straight)
    model = trainer.fit() / "model"
    for stop in (11, None):
        again = task(config(folder, tmp_path / "b"))
        resumed = open_trainer(again.config, task=again).fit(stop) / "model"
    pipes = [MimicMotionPipeline.from_pretrained(m) for m in (model, resumed)]
    assert isinstance(pipes[0].backbone.detail, DetailNet)
    for name, value in pipes[0].backbone.detail.state_dict().items():
        assert torch.equal(value, pipes[1].backbone.detail.state_dict()[name]), name
    assert mean_loss(pipes[0].backbone.detail, batch, straight) < before - 0.1
    # going on from a model that has a network starts with it, whatever size the settings name
    more = config(
        model, tmp_path / "c", detail=DetailConfig(clips=2, widths=(16,) * 4), model=ModelConfig(checkpoint=str(model))
    )
    assert task(more).net.config["widths"] == [8] * 4
    # one without the last convolutions gets them, and is at first what it was
    old = MimicMotionPipeline.from_pretrained(model)
    assert isinstance(old.backbone.detail, DetailNet)
    bare = DetailNet(**(old.backbone.detail.config | {"fine": 0}))
    bare.load_state_dict({k: v for k, v in old.backbone.detail.state_dict().items() if not k.startswith("fine")})
    TinyBackbone(dataclasses.replace(old.backbone.parts, detail=bare)).save(tmp_path / "old")
    gone_on = task(
        config(
            folder,
            tmp_path / "e",
            detail=DetailConfig(clips=2, start=str(tmp_path / "old"), sharp_lean=0.0, blurred_lean=0.0),
        )
    ).net
    assert gone_on.config["fine"] == 16
    assert torch.equal(gone_on.out.bias, bare.out.bias)
    shown = [torch.rand(1, 3, *SIZE) for _ in range(5)]
    assert torch.equal(gone_on.eval()(*shown), bare.eval()(*shown))
    other = task(config(folder, tmp_path / "d", detail=DetailConfig(clips=2, widths=(16,) * 4, start=str(model)))).net
    assert torch.equal(other.out.bias, pipes[0].backbone.detail.out.bias)
    assert (
        task(dataclasses.replace(more, detail=DetailConfig(clips=2, widths=(16,) * 4, new=True))).net.config["widths"]
        == [16] * 4
    )


def test_lpips_can_be_part_of_the_loss(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mimicmotion.evaluation.networks.lpips import Lpips
    from mimicmotion.training.stages import common

    torch.manual_seed(0)
    network = Lpips("vgg")  # AlexNet wants larger pictures
    for head in network.heads:
        torch.nn.init.uniform_(head)
    monkeypatch.setattr(common, "load_lpips", lambda *_, **__: network)
    options = DetailConfig(clips=2, **SMALL, sharp_lean=0.0, blurred_lean=0.0)
    plain = task(config(folder, tmp_path / "a", detail=options))
    both = task(config(folder, tmp_path / "b", detail=dataclasses.replace(options, perceptual=3.0)))
    for t in (plain, both):
        t.place(torch.device("cpu"))
        t.net.eval()
    batch = plain.batch(0, [1, 2, 3])
    a, b = plain.loss(plain.net, batch, 0), both.loss(both.net, batch, 0)
    with torch.no_grad():
        *given, target = (batch.pictures[:, k].movedim(-1, 1).float() / 127.5 - 1 for k in range(6))
        want = network(plain.net(*given), target)
    assert float(want.min()) > 0
    torch.testing.assert_close(b.loss - a.loss, 3 * want.mean())
    assert b.log["lpips"] == pytest.approx(float(want.mean()), rel=1e-5)
    b.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in both.net.parameters() if p.grad is not None)
    assert both.net.out.weight.grad is not None
    assert network.convs[0].weight.grad is None
    assert "lpips" not in a.log
    assert set(both.parameters()) == set(plain.parameters())


def test_validation_reports_the_gain_over_decoded_frames(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from mimicmotion.training.stages import common

    shards = FakeShards(size=SIZE, seed=1)
    monkeypatch.setattr(common, "open_shards", lambda *_, **__: shards)
    t = task(config(folder, tmp_path))
    weights = {k: v.detach().clone() for k, v in t.parameters().items()}
    with torch.no_grad():
        weights["out.bias"][:4] = 40.0  # the decoded frame
    found = t.validate(0, weights)
    assert found.scores["gain_over_decoded"] == pytest.approx(0, abs=1e-6)
    weights["out.bias"][12:16] = 80.0  # the warped picture
    found = t.validate(0, weights)
    assert found.scores["gain_over_warp"] == pytest.approx(0, abs=1e-6)
    assert found.pictures["detail"].shape[2] == 3
    assert float(t.net.out.bias.detach().max()) == 3.0  # the trained network was not touched


def test_models_without_a_warped_picture_and_wrong_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    micro_pipeline().save_pretrained(plain)
    with pytest.raises(ConfigError, match="without a warped picture"):
        task(config(plain, tmp_path / "run"))
    for wrong in (
        {"clips": 0},
        {"recolour": 1.5},
        {"exact_poses": -0.1},
        {"moving_weight": -1.0},
        {"perceptual": -1.0},
    ):
        with pytest.raises(ConfigError):
            DetailConfig(**wrong)
    with pytest.raises(ConfigError, match="widths"):
        task(config(folder, tmp_path / "run", detail=DetailConfig(widths=(12,) * 4)))
