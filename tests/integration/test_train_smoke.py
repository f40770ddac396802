"""Both stages of training at micro size: the loss falls, a killed run goes on exactly, two processes equal one."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimicmotion.errors import ConfigError
from mimicmotion.pose.keypoints import NUM_POINTS
from mimicmotion.training.autoencoder import load_autoencoder, train_autoencoder
from mimicmotion.training.denoiser import LatentCache, Sampler, build_networks, denoising_loss, train_denoiser
from mimicmotion.training.loop import Trainer, average_gradients
from mimicmotion.training.pool import Pool
from mimicmotion.training.settings import (
    AutoencoderConfig,
    DenoiserConfig,
    OptimConfig,
    PhaseConfig,
    PoolConfig,
    TrainConfig,
)
from mimicmotion.training.state import checkpoints, load_checkpoint, seeded

SIZE = (32, 32)


@pytest.fixture(scope="module")
def pool() -> Pool:
    """A bright square that stands where the nose is, on a dark ground of another shade in each clip."""
    rng = np.random.default_rng(0)
    frames = np.empty((6, 5, *SIZE, 3), np.uint8)
    xy = np.zeros((6, 5, NUM_POINTS, 2), np.float32)
    for clip in range(6):
        frames[clip] = rng.integers(0, 80, 3)
        for slot in range(5):
            x, y = rng.integers(4, 28, 2)
            frames[clip, slot, y - 4 : y + 4, x - 4 : x + 4] = 200
            xy[clip, slot] = (x, y)
    return Pool(frames, xy, np.full((6, 5, NUM_POINTS), 0.9, np.float32))


def recipe(run: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        stage="autoencoder",
        run=str(run),
        pool=PoolConfig(height=SIZE[0], width=SIZE[1], clips=6, frames=4),
        optim=OptimConfig(steps=12, lr=1e-3, warmup=3, decay=5, ema=0.9, bf16=False),
        autoencoder=AutoencoderConfig(latent_channels=8, batch=2, clip_frames=3),
        denoiser=DenoiserConfig(
            widths=(32, 32),
            attention=(False, True),
            token_dim=16,
            phases=(PhaseConfig(until=6, frames=3, batch=2), PhaseConfig(until=99, frames=4, batch=1, spacing="near")),
        ),
        log_every=1,
        save_every=4,
        keep=9,
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def autoencoder(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_autoencoder(recipe(tmp_path_factory.mktemp("vae")), pool)


def losses(run: Path, key: str = "loss") -> list[float]:
    return [json.loads(line)[key] for line in (run / "log.jsonl").read_text().splitlines()]


def test_autoencoder_learns_and_its_encoder_stays(pool: Pool, autoencoder: Path) -> None:
    values = losses(autoencoder.parent)
    assert len(values) == 12
    assert np.mean(values[-4:]) < np.mean(values[:4])
    first, last = (load_checkpoint(p)["modules"]["vae"] for p in (checkpoints(autoencoder.parent)[0], autoencoder))
    assert all(torch.equal(first[k], last[k]) for k in first if k.startswith("encoder."))
    assert any(not torch.equal(first[k], last[k]) for k in first if k.startswith("decoder."))
    vae = load_autoencoder(autoencoder)
    assert not any(p.requires_grad for p in vae.parameters())


def test_denoiser_learns(pool: Pool, autoencoder: Path, tmp_path: Path) -> None:
    config = recipe(
        tmp_path,
        stage="denoiser",
        autoencoder_checkpoint=str(autoencoder),
        optim=OptimConfig(steps=20, lr=3e-3, warmup=1, decay=5, bf16=False),
        save_every=1,
        keep=20,
    )
    # at high noise the answer is -x0, of which a network soon learns the background
    config = dataclasses.replace(config, denoiser=dataclasses.replace(config.denoiser, sigma_mean=3, sigma_std=0.3))
    before = _loss_of(train_denoiser(config, pool, stop_at=1), config, pool, autoencoder)
    after = _loss_of(train_denoiser(config, pool), config, pool, autoencoder)
    assert after < 0.9 * before


def _loss_of(checkpoint: Path, config: TrainConfig, pool: Pool, autoencoder: Path) -> float:
    """Loss of the weights of a checkpoint on one fixed batch."""
    networks = build_networks(config.denoiser, 8)
    for name, module in networks.items():
        module.load_state_dict(load_checkpoint(checkpoint)["modules"][name])
    cache = LatentCache(pool, load_autoencoder(autoencoder), checkpoint.with_name("check.npy"))
    phase = PhaseConfig(until=1, frames=4, batch=6)
    sample = Sampler(pool, cache, config.denoiser)(phase, np.random.default_rng(0))
    with torch.no_grad():
        loss, bands = denoising_loss(
            networks, sample, config.denoiser, cache.scaling_factor(), seeded(0, 0), bf16=False
        )
    assert set(bands) <= {f"v_{i}" for i in range(4)}
    return float(loss)


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_killed_run_goes_on_exactly(stage: Any, pool: Pool, autoencoder: Path, tmp_path: Path) -> None:
    train = train_autoencoder if stage == "autoencoder" else train_denoiser
    whole = recipe(tmp_path / "whole", stage=stage, autoencoder_checkpoint=str(autoencoder))
    killed = dataclasses.replace(whole, run=str(tmp_path / "killed"))
    want = load_checkpoint(train(whole, pool))

    class Killed(BaseException):
        pass

    with pytest.MonkeyPatch.context() as patch:
        plain = torch.optim.AdamW.step
        count = iter(range(100))

        def dies(self: Any, *args: Any) -> Any:
            if next(count) == 6:  # step 4 is saved, 5 and 6 are lost
                raise Killed
            return plain(self, *args)

        patch.setattr(torch.optim.AdamW, "step", dies)
        with pytest.raises(Killed):
            train(killed, pool)
    assert [p.name for p in checkpoints(tmp_path / "killed")] == ["step-00000004.pt"]
    got = load_checkpoint(train(killed, pool))
    assert got["step"] == want["step"] == 12
    for name in want["modules"]:
        for key, value in want["modules"][name].items():
            assert torch.equal(value, got["modules"][name][key]), key
    assert all(torch.equal(v, got["average"][k]) for k, v in want["average"].items())
    assert losses(tmp_path / "killed")[-8:] == losses(tmp_path / "whole")[-8:]


def test_run_folder_of_another_model_is_refused(pool: Pool, autoencoder: Path, tmp_path: Path) -> None:
    config = recipe(tmp_path, stage="denoiser", autoencoder_checkpoint=str(autoencoder))
    train_denoiser(config, pool, stop_at=1)
    other = dataclasses.replace(config, denoiser=dataclasses.replace(config.denoiser, token_dim=24))
    with pytest.raises(ConfigError, match="another model"):
        train_denoiser(other, pool, stop_at=2)


def test_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 1)
    params = {f"net.{k}": p for k, p in net.named_parameters()}
    trainer = Trainer(recipe(tmp_path), {"net": net}, params, {})

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float], object]:
        value = net(torch.ones(2)).sum()
        return (value * float("nan") if step == 8 else value), {}, ["clip-5"]

    with pytest.raises(ConfigError, match="clip-5"):
        trainer.fit(loss)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000004.pt", "step-00000008.pt"]


def test_gradients_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [torch.nn.Parameter(torch.zeros(s)) for s in ((3,), (2, 2), (1,))]
    params[0].grad, params[1].grad = torch.full((3,), 1.0), torch.eye(2)
    other = torch.cat([torch.full((3,), 2.0), torch.full((4,), 5.0)])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.add_(other))
    average_gradients(params, 2)
    assert torch.equal(params[0].grad, torch.full((3,), 1.5))
    assert torch.equal(params[1].grad, torch.tensor([[3.0, 2.5], [2.5, 3.0]]))
    assert params[2].grad is None


def _train_one_of_two(rank: int, port: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)
    config = recipe(Path(folder))
    trainer = Trainer(config, {"net": net}, {f"net.{k}": p for k, p in net.named_parameters()}, {})
    data = torch.arange(12.0).view(4, 3)[2 * rank : 2 * rank + 2]
    trainer.fit(lambda step: (net(data).square().mean(), {}, []))
    torch.save(net.state_dict(), Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_train_one_of_two, (port, str(tmp_path / "two")), nprocs=2)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)
    trainer = Trainer(recipe(tmp_path / "one"), {"net": net}, {f"net.{k}": p for k, p in net.named_parameters()}, {})
    trainer.fit(lambda step: (net(torch.arange(12.0).view(4, 3)).square().mean(), {}, []))
    for rank in range(2):
        got = torch.load(tmp_path / "two" / f"rank-{rank}.pt")
        for key, value in net.state_dict().items():
            torch.testing.assert_close(got[key], value, rtol=1e-6, atol=1e-6)
