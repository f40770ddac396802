"""The ablation: arms that differ in nothing else, intervals with their stated coverage, complete tables."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings.ablation import AblationConfig
from mimicmotion.settings.training import as_dict
from mimicmotion.training.ablation import (
    ARMS,
    MEASURES,
    cube,
    effect,
    interval,
    load_ablation,
    runs,
    tables,
    train_config,
    write_report,
)

pytestmark = pytest.mark.whole

TRAIN = {"data": {"shards": "people", "sample": {"num_frames": 4}}, "optim": {"steps": 5, "warmup": 0}}


def settings(**kwargs):
    return AblationConfig(run="runs/x", train=TRAIN, **kwargs)


def flat(data, before=""):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def test_arms_differ_only_in_hand_loss_and_guidance() -> None:
    config = settings(seeds=(0, 1))
    each = {name: dict(flat(as_dict(train_config(config, name, 0)))) for name, seed in runs(config) if seed == 0}
    base = each.pop("none")
    assert set(each) == {"hand", "confidence", "both"}
    for name, other in each.items():
        changed = {k for k in base if base[k] != other[k]}
        wanted = {"run"}
        wanted |= {"objective.hand_scale"} if ARMS[name].hand_loss else set()
        wanted |= {"data.sample.guidance"} if ARMS[name].confidence else set()
        assert changed == wanted
    assert base["objective.hand_scale"] == 1
    assert base["data.sample.guidance"] == "threshold"
    assert each["both"]["objective.hand_scale"] == 10


def test_seeds_start_from_models_of_their_own() -> None:
    config = settings()
    starts = {cell: train_config(config, *cell).model.base for cell in runs(config)}
    assert len(starts) == 12
    assert len(set(starts.values())) == 3
    assert {s for (_, seed), s in starts.items() if seed == 1} == {starts["none", 1]}


@pytest.mark.parametrize(
    "train",
    [
        {"seed": 3},
        {"run": "x"},
        {"model": {}},
        {"objective": {"hand_scale": 2}},
        {"data": {"sample": {"guidance": "x"}}},
    ],
)
def test_shared_settings_must_not_decide_what_the_arms_decide(train) -> None:
    def build():
        return train_config(AblationConfig(run="x", train=train), "both", 0)

    with pytest.raises(ConfigError):
        build()


def test_a_file_is_checked_before_any_training(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("run: r\ntrain: {optim: {steps: 0}}\n")
    with pytest.raises(ConfigError, match="steps"):
        load_ablation(path)


def planted(hand=0.5, confidence=0.3, both=0.0, noise=0.05, seeds=3, clips=12):
    rng, rows = np.random.default_rng(0), []
    for name, arm in ARMS.items():
        for seed in range(seeds):
            for clip in range(clips):
                value = 15 + clip + hand * arm.hand_loss + confidence * arm.confidence
                value += both * (arm.hand_loss and arm.confidence)
                numbers = {m: value + noise * rng.normal() for m in MEASURES}
                rows.append({"arm": name, "seed": seed, "clip": clip, "condition": "detector", **numbers})
    return rows


def test_effects_are_found_though_clips_differ_by_much_more() -> None:
    rows = planted(both=0.2)
    found = {e: effect(rows, e, "detector", "psnr") for e in ("hand loss", "confidence", "interaction")}
    for name, truth in (("hand loss", 0.6), ("confidence", 0.4), ("interaction", 0.2)):
        assert abs(found[name].value - truth) < 0.05
        assert found[name].low < found[name].value < found[name].high
        assert found[name].high - found[name].low < 0.2


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for i in range(100):
        values = 3 + rng.normal(size=(8, 1)) * 0.5 + rng.normal(size=(1, 20)) + rng.normal(size=(8, 20)) * 0.3
        found = interval(values, seed=i, draws=500)
        hits += found.low <= 3 <= found.high
    assert 85 <= hits <= 100  # eight seeds: a little below 95 is what a bootstrap gives


def test_clips_without_hands_do_not_count() -> None:
    values = np.array([[1.0, np.nan, 3.0], [1.0, np.nan, 3.0]])
    assert interval(values).value == 2
    assert np.isnan(interval(values[:, 1:2]).value)


def test_a_missing_run_is_named() -> None:
    rows = planted()[:-1]
    with pytest.raises(InputError, match="both"):
        cube(rows, "both", "detector", "psnr")


def test_report_files(tmp_path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps(planted()))
    table = write_report(tmp_path, [scores])
    text = table.read_text()
    assert "| both |" in text
    assert "Table 2" in text
    assert "**0.5" in tables(planted())  # an effect that leaves out zero is set in bold
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 4 * 3 * 12
    assert (tmp_path / "effects.png").stat().st_size > 10_000
    with pytest.raises(InputError):
        write_report(tmp_path, [])


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().run = "y"  # type: ignore[misc]
