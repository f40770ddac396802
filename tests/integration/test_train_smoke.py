"""The whole workflow at micro size with the public commands: people, autoencoder, video model, resuming, generating."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dying import terminated_when
from mimicmotion.backbones.svd.checkpoint import load_part
from mimicmotion.cli import main
from mimicmotion.data.shards.shards import open_shards
from mimicmotion.pose.files import save_poses
from mimicmotion.settings import recipes
from mimicmotion.settings.training import load_config
from mimicmotion.training.bundled import BUNDLED
from mimicmotion.video.reader import open_video
from mimicmotion.weights.registry import find_asset

PEOPLE, RUN = Path("runs/smoke/people"), Path("runs/smoke/denoiser")
STEPS = load_config("smoke-denoiser").optim.steps
FEW = ["--set", "validation.clips=1"]
EVERY = STEPS // 2
SELDOM = [*FEW, "--set", f"validation.every={EVERY}", "--set", "save_every=10"]


def log(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands of the recipes smoke-autoencoder and smoke-denoiser ran to completion."""
    folder = tmp_path_factory.mktemp("smoke")
    size = ["--height", "64", "--width", "64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prepare", "synthetic", "4", "-o", str(PEOPLE), "--held-out", "1", "--frames", "6", *size]) == 0
        assert main(["train", "smoke-autoencoder", *FEW]) == 0
        first = folder / RUN / "checkpoints" / "step-00000010"
        with terminated_when(first.exists):
            assert main(["train", "smoke-denoiser", *SELDOM]) == 130
        assert main(["train", "smoke-denoiser", *SELDOM]) == 0
    return folder


def test_autoencoder_starts_good_and_keeps_its_encoder(trained: Path) -> None:
    run = trained / "runs/smoke/autoencoder"
    assert log(run, "validation/psnr")[-1] > 20
    assert len(log(run, "loss")) == 12
    first, last = (load_part(p / "model", "vae").state_dict() for p in sorted((run / "checkpoints").iterdir()))
    assert all(np.array_equal(first[k], last[k]) for k in first if k.startswith(("encoder.", "quant_conv.")))
    assert any(not np.array_equal(first[k], last[k]) for k in first if k.startswith("decoder."))


def test_stopped_training_resumed_and_learned(trained: Path) -> None:
    run = trained / RUN
    steps = log(run, "step")
    assert max(steps) == STEPS
    assert sorted(p.name for p in (run / "checkpoints").iterdir())[-1] == f"step-{STEPS:08d}"
    values = log(run, "validation/loss")
    assert len(values) == STEPS // EVERY
    assert values[-1] < 0.9 * values[0]
    assert list((run / "validation").glob("*.png"))


def test_result_makes_a_video(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record = open_shards(trained / PEOPLE, "val")[0]
    save_poses(record.poses[1:], tmp_path / "dance.npz")
    model = trained / RUN / "checkpoints" / f"step-{STEPS:08d}" / "model"
    settings = json.loads((model / "mimicmotion.json").read_text())["settings"]
    assert settings["sigmas"] == BUNDLED["sigmas"]
    assert (settings["height"], settings["width"]) == (64, 64)
    picture = str(find_asset("demo/person.png"))
    assert main(["generate", picture, "dance.npz", "--model", str(model), "-o", "out.mp4"]) == 0
    frames = np.stack(list(open_video(tmp_path / "out.mp4")))
    assert frames.shape[1:] == (80, 48, 3)  # that area in the shape of the picture
    assert frames.std() > 5


def test_a_finished_run_is_not_started_again_by_default(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    assert main(["train", "smoke-denoiser", *SELDOM, "--no-resume"]) == 2


def test_data_too_short_for_a_later_phase_is_found_at_the_start(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    changes = [
        "--set",
        "run=runs/smoke/long",
        "--set",
        "phases=[{until: 5, frames: 3, batch: 1}, {until: 9, frames: 9, batch: 1}]",
    ]
    assert main(["train", "smoke-denoiser", *changes]) == 2
    assert "too short" in capsys.readouterr().err
    assert not Path("runs/smoke/long/checkpoints").exists()


def test_recipes_can_be_read() -> None:
    known = [name for name, path in recipes().items() if "stage" in path.read_text()]
    assert len(known) >= 4
    for name in known:
        config = load_config(name)
        assert config.run.startswith("runs/")
        if config.model.new is not None:
            made = [c for c in map(load_config, known) if c.stage == "autoencoder"]
            assert config.model.new.autoencoder in {"tiny", *(c.run for c in made)}
