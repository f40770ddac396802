"""Parts of the trainer: schedule, average, checkpoints, pool, detector noise, weights of the loss."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.config import parse
from mimicmotion.errors import ConfigError, OutputError, WeightsError
from mimicmotion.models.tiny import PatchAutoencoder, build_tiny_posenet, init_with_pca
from mimicmotion.pose.keypoints import FACE, LEFT_HAND, NUM_POINTS, PoseSequence
from mimicmotion.synth import SynthClip
from mimicmotion.training import run
from mimicmotion.training.denoiser import change_weights, loss_weights, phase_of
from mimicmotion.training.detector_noise import DetectorNoise, disturb
from mimicmotion.training.pool import open_pool, patch_basis
from mimicmotion.training.settings import (
    DenoiserConfig,
    OptimConfig,
    PhaseConfig,
    PoolConfig,
    TrainConfig,
    as_dict,
    load_config,
)
from mimicmotion.training.state import (
    Average,
    check_finite,
    checkpoints,
    load_checkpoint,
    lr_factor,
    save_checkpoint,
    seeded,
)

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def fake_clip(seed: int, frames: int, size: tuple[int, int]) -> SynthClip:
    rng = np.random.default_rng(seed)
    h, w = size
    coarse = rng.integers(0, 255, (frames + 1, h // 8, w // 8, 3), np.uint8)
    pictures = coarse.repeat(8, 1).repeat(8, 2)
    xy = (rng.random((frames + 1, NUM_POINTS, 2)) * [w, h]).astype(np.float32)
    poses = PoseSequence(xy, np.full(xy.shape[:2], 0.9, np.float32), size)
    return SynthClip(pictures[1:], poses[1:], pictures[0], poses[:1])


@given(steps=st.integers(1, 500), warmup=st.integers(0, 100), share=st.floats(0, 1), data=st.data())
def test_learning_rate_rises_stays_and_falls(steps: int, warmup: int, share: float, data: st.DataObject) -> None:
    cfg = OptimConfig(steps=steps, warmup=warmup, decay=int(steps * share))
    values = [lr_factor(s, cfg) for s in range(steps)]
    assert all(0 < v <= 1 for v in values)
    peak = int(np.argmax(values))
    assert all(a <= b for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b for a, b in pairwise(values[peak:]))
    assert lr_factor(steps, cfg) == 0 or cfg.decay == 0


def test_average_follows_its_formula() -> None:
    p = torch.zeros(3)
    average = Average({"p": p}, 0.9)
    want = 0.0
    for step in range(200):
        p.fill_(step + 1.0)
        average.update({"p": p}, step)
        d = min(0.9, (1 + step) / (10 + step))
        want = d * want + (1 - d) * (step + 1.0)
    torch.testing.assert_close(average.values["p"], torch.full((3,), want))


def test_random_numbers_of_a_step_are_its_own() -> None:
    draws = {(s, p): tuple(torch.randn(4, generator=seeded(0, s, p)).tolist()) for s in range(20) for p in range(3)}
    assert len(set(draws.values())) == len(draws)
    assert torch.equal(torch.randn(4, generator=seeded(0, 7)), torch.randn(4, generator=seeded(0, 7)))


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (1, 2, 30):
        save_checkpoint(tmp_path, step, {"x": torch.tensor(step)}, keep=2)
    assert [load_checkpoint(p)["step"] for p in checkpoints(tmp_path)] == [2, 30]
    assert not list(tmp_path.glob(".*"))


def test_failed_save_leaves_the_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {}, keep=1)

    def full(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space"):
        save_checkpoint(tmp_path, 2, {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"x": torch.zeros(100)}, keep=1)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match="step-00000001"):
        load_checkpoint(path)


def test_loss_that_is_no_number_stops_with_the_samples() -> None:
    with pytest.raises(ConfigError, match=r"step 12, samples \[3, 4\]"):
        check_finite(float("nan"), 12, [3, 4])
    check_finite(1.0, 12, [3, 4])


def test_recipes_can_be_read_and_written() -> None:
    assert RECIPES
    for path in RECIPES:
        config = load_config(path)
        assert parse(TrainConfig, json.loads(json.dumps(as_dict(config)))) == config


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"stage": "denoiser", "run": "x", "stepps": 3}, "stepps"),
        ({"stage": "denoiser", "run": "x", "optim": {"lr": 0}}, "lr=0"),
        ({"stage": "denoiser", "run": "x", "optim": {"steps": 5, "decay": 6}}, "decay"),
        ({"stage": "denoiser", "run": "x", "pool": {"height": 225}}, "225"),
        ({"stage": "denoiser", "run": "x", "denoiser": {"widths": [64]}}, "widths"),
        ({"stage": "denoiser", "run": "x", "denoiser": {"phases": []}}, "phases"),
        (
            {"stage": "denoiser", "run": "x", "denoiser": {"phases": [{"until": 1, "frames": 2, "batch": 1}]}},
            "2 frames",
        ),
        ({"stage": "else", "run": "x"}, "stage"),
    ],
)
def test_wrong_recipe_is_refused(data: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse(TrainConfig, data)


def test_phases_follow_one_another() -> None:
    config = DenoiserConfig(phases=tuple(PhaseConfig(until=u, frames=f, batch=1) for u, f in ((10, 2), (20, 3))))
    assert [phase_of(s, config).frames for s in (0, 9, 10, 19, 20, 99)] == [2, 2, 3, 3, 3, 3]


def test_killed_rendering_goes_on_where_it_was(tmp_path: Path) -> None:
    config = PoolConfig(path=str(tmp_path), clips=60, frames=2, height=32, width=16)
    seen: list[int] = []

    def dies(seed: int, frames: int, size: tuple[int, int]) -> SynthClip:
        seen.append(seed)
        if len(seen) == 55:
            raise KeyboardInterrupt
        return fake_clip(seed, frames, size)

    with pytest.raises(KeyboardInterrupt):
        open_pool(config, dies)
    seen.clear()
    pool = open_pool(config, dies)
    assert seen == list(range(50, 60))
    want = fake_clip(53, 2, (32, 16))
    np.testing.assert_array_equal(pool.frames[53], np.concatenate([want.reference_frame[None], want.frames]))
    np.testing.assert_array_equal(pool.xy[3, 1:], fake_clip(3, 2, (32, 16)).poses.xy)
    with pytest.raises(ConfigError, match="another folder"):
        open_pool(dataclasses.replace(config, frames=3), dies)


def test_autoencoder_starts_as_the_projection_of_patches(tmp_path: Path) -> None:
    pool = open_pool(PoolConfig(path=str(tmp_path), clips=8, frames=2, height=64, width=32), fake_clip)
    mean, basis = (torch.from_numpy(a).float() for a in patch_basis(pool, 8, 6, samples=40))
    vae = PatchAutoencoder(latent_channels=6).eval()
    init_with_pca(vae, mean, basis)
    x = torch.from_numpy(pool.frames[:, 0].copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        got = vae.encode(x).latent_dist.mode()
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8)
    want = torch.einsum("nchwij,kcij->nkhw", patches - mean[None, :, None, None], basis)
    assert got.shape == (8, 6, 8, 4)
    assert 0.7 < float(want.std()) < 1.3
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    with torch.no_grad():
        out = vae.decode(got, num_frames=8).sample
    filters = basis.flatten(1)
    back = torch.einsum("nkhw,kp->nphw", want, filters / filters.square().sum(1, keepdim=True))
    back = torch.nn.functional.pixel_shuffle(back + mean.flatten()[:, None, None], 8)
    assert float((out - back).abs().mean()) < 0.1 * float((back - x).abs().mean() + back.std())


def test_patch_autoencoder_survives_saving(tmp_path: Path) -> None:
    vae = PatchAutoencoder(
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latent_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
    )
    vae.eval().save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path).eval()
    x = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
        out = vae.decode(z, num_frames=3).sample
        assert z.shape == (3, 4, 4, 6)
        assert out.shape == x.shape
        torch.testing.assert_close(again.decode(again.encode(x).latent_dist.mode(), num_frames=3).sample, out)
        torch.testing.assert_close(again.decode(z, num_frames=3, return_dict=False)[0], out)


def test_detector_noise_moves_little_and_hides_hands_at_times() -> None:
    clip = fake_clip(0, 12, (224, 128))
    xy, confidence = clip.poses.xy, clip.poses.confidence
    before = xy.copy()
    lost = 0
    for seed in range(60):
        moved, scores = disturb(xy, confidence, np.random.default_rng(seed))
        assert np.abs(moved - xy).max() < 0.06 * 224
        assert np.abs(moved[:, FACE] - xy[:, FACE]).max() < 0.03 * 224
        assert scores.min() >= 0
        assert scores.max() <= 1
        lost += bool((scores[:, LEFT_HAND] == 0).all())
    np.testing.assert_array_equal(xy, before)
    assert 2 <= lost <= 20  # 15 % of 60
    none = DetectorNoise(jitter=0, drift=0, lost_hand=0, lost_face=0, dim=0)
    moved, scores = disturb(xy, confidence, np.random.default_rng(0), none)
    np.testing.assert_array_equal(moved, xy)
    np.testing.assert_allclose(scores, confidence, rtol=1e-6)


def test_unseen_points_stay_unseen() -> None:
    clip = fake_clip(1, 6, (224, 128))
    confidence = clip.poses.confidence.copy()
    confidence[:, ::3] = 0
    for seed in range(20):
        _, scores = disturb(clip.poses.xy, confidence, np.random.default_rng(seed))
        assert (scores[:, ::3] == 0).all()


def test_weights_grow_where_latents_leave_the_reference() -> None:
    latents = torch.zeros(1, 3, 4, 2, 2)
    latents[0, 1, :, 0, 0] = 5.0
    latents[0, 2, :, 1, 1] = 0.5
    weights = change_weights(latents, 3.0)
    assert weights.shape == (1, 3, 1, 2, 2)
    assert (weights[:, 0] == 1).all()
    assert weights[0, 1, 0, 0, 0] == 3
    assert weights[0, 2, 0, 1, 1] == 2
    assert weights.sum() == 12 + 2 + 1


def test_channel_weights_have_mean_one() -> None:
    latents = torch.zeros(1, 2, 4, 2, 2)
    weights = loss_weights(latents, DenoiserConfig(change_weight=1, channel_weights=(6, 2, 2, 2)))
    assert weights is not None
    assert weights.expand_as(latents)[0, 0, :, 0, 0].tolist() == [2, pytest.approx(2 / 3), *[pytest.approx(2 / 3)] * 2]
    assert loss_weights(latents, DenoiserConfig(change_weight=1)) is None
    with pytest.raises(ConfigError, match="3 channel_weights"):
        loss_weights(latents, DenoiserConfig(channel_weights=(1, 1, 1)))


def test_a_run_that_exists_is_not_overwritten_unasked(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stage: denoiser\nrun: {tmp_path}\n")
    save_checkpoint(tmp_path, 3, {}, keep=1)
    with pytest.raises(ConfigError, match="step-00000003"):
        run(recipe, resume=False)


def test_posenet_starts_with_a_signal() -> None:
    torch.manual_seed(0)
    net = build_tiny_posenet(64)
    poses = torch.full((1, 2, 6, 64, 32), -1.0)
    poses[0, 1, :, 20:40, 10:14] = 1.0
    with torch.no_grad():
        features = net(poses)
    assert float((features[0, 0] - features[0, 1]).abs().max()) > 0.05
    assert net.widths == (6, 16, 32, 64)
