"""The trainer's parts and its errors: what it does if the disk, the data or the settings are bad."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from blob_task import BlobTask, train_alone, train_apart
from mimicmotion import cli
from mimicmotion.errors import ConfigError, MediaError, OutputError, TrainingError, WeightsError
from mimicmotion.settings import parse
from mimicmotion.settings.training import (
    DataConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
    ValidationConfig,
    as_dict,
    load_config,
)
from mimicmotion.training import job
from mimicmotion.training.loop import Trainer, bad_samples
from mimicmotion.training.processes import Strategy, build_optimizer
from mimicmotion.training.state import (
    Average,
    check_identity,
    checkpoints,
    first_number,
    global_batches,
    identity,
    lr_factor,
    mixed_seed,
    read_state,
    sample_numbers,
    save_checkpoint,
)
from mimicmotion.training.task import StepResult, Validation
from mimicmotion.training.tracking import Log, Means, check_trackers

pytestmark = pytest.mark.whole

Recipe = Callable[..., TrainConfig]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    def make(name: str = "run", **changes: Any) -> TrainConfig:
        optim = {"steps": 8, "lr": 1e-2, "warmup": 2, "batch": 2, "ema": 0.9} | changes.pop("optim", {})
        plain: dict[str, Any] = {
            "data": DataConfig(workers=0),
            "precision": "no",
            "threads": 1,
            "cpu": True,
            "trackers": (),
            "log_every": 1,
            "save_every": 3,
            "validation": ValidationConfig(every=0),
        }
        return TrainConfig(run=str(tmp_path / name), optim=OptimConfig(**optim), **(plain | changes))

    return make


def names(run: str | Path) -> list[str]:
    return [p.name for p in checkpoints(Path(run))]


# order of samples


@given(
    step=st.integers(0, 9),
    world=st.integers(1, 4),
    batch=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    parts=st.integers(1, 3),
)
def test_a_step_sees_the_same_samples_however_it_is_divided(
    step: int, world: int, batch: int, accumulation: int, parts: int
) -> None:
    def all_of(world: int, batch: int, accumulation: int) -> list[int]:
        config = TrainConfig(run="x", optim=OptimConfig(batch=batch, accumulation=accumulation))
        passes = range(step * accumulation, (step + 1) * accumulation)
        return sorted(n for r in range(world) for i in passes for n in sample_numbers(config, i, r, world))

    total = world * batch * accumulation
    assert all_of(world, batch, accumulation) == list(range(step * total, (step + 1) * total))
    assert all_of(world, batch * parts, accumulation) == all_of(world * parts, batch, accumulation)
    assert all_of(world, batch * parts, accumulation) == all_of(world, batch, accumulation * parts)


@given(ends=st.lists(st.integers(1, 20), min_size=1, max_size=3, unique=True), world=st.integers(1, 3))
def test_phases_leave_no_sample_out(ends: list[int], world: int) -> None:
    phases = tuple(PhaseConfig(until=u, frames=1, batch=i + 1) for i, u in enumerate(sorted(ends)))
    config = TrainConfig(run="x", phases=phases, optim=OptimConfig(accumulation=2))
    firsts = [first_number(config, step, world) for step in range(25)]
    assert firsts[0] == 0
    assert [b - a for a, b in pairwise(firsts)] == [config.batch(step) * 2 * world for step in range(24)]
    assert [size for _, size in global_batches(config, world)] == [p.batch * 2 * world for p in phases]


def test_phases_follow_one_another() -> None:
    config = TrainConfig(run="x", phases=tuple(PhaseConfig(until=u, frames=f, batch=1) for u, f in ((10, 2), (20, 3))))
    frames = [phase.frames for s in (0, 9, 10, 19, 20, 99) if (phase := config.phase(s))]
    assert frames == [2, 2, 3, 3, 3, 3]
    assert TrainConfig(run="x").phase(3) is None


# rate, average, random numbers


@given(steps=st.integers(1, 500), warmup=st.integers(0, 100), share=st.floats(0, 1))
def test_learning_rate_rises_stays_and_falls(steps: int, warmup: int, share: float) -> None:
    config = OptimConfig(steps=steps, warmup=warmup, decay=int(steps * share))
    values = [lr_factor(s, config) for s in range(steps)]
    assert all(0 < v <= 1 for v in values)
    peak = int(np.argmax(values))
    assert all(a <= b for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b for a, b in pairwise(values[peak:]))
    assert lr_factor(steps, config) == 0 or config.decay == 0


@pytest.mark.parametrize("on_cpu", [False, True])
def test_average_follows_its_formula(on_cpu: bool) -> None:
    p = torch.zeros(3, dtype=torch.bfloat16)
    average = Average({"p": p}, 0.9, on_cpu=on_cpu)
    want = 0.0
    for step in range(200):
        p.fill_(step + 1.0)
        average.update({"p": p}, step)
        d = min(0.9, (1 + step) / (10 + step))
        want = d * want + (1 - d) * float(p[0])
    assert average.values["p"].dtype == torch.float32
    torch.testing.assert_close(average.values["p"], torch.full((3,), want))


def test_no_average_is_the_weights_themselves() -> None:
    p = nn.Parameter(torch.zeros(3))
    average = Average({"p": p}, 0.0)
    with torch.no_grad():
        p.fill_(2.0)
    average.update({"p": p}, 0)
    assert average.values["p"].tolist() == [2, 2, 2]


def test_random_numbers_of_a_sample_are_its_own() -> None:
    def draw(*numbers: int) -> tuple[float, ...]:
        return tuple(torch.randn(4, generator=torch.Generator().manual_seed(mixed_seed(*numbers))).tolist())

    draws = {(s, n): draw(s, n) for s in range(5) for n in range(20)}
    assert len(set(draws.values())) == len(draws)
    assert draw(0, 7) == draws[0, 7]


# a whole run


def test_it_learns_and_writes_what_it_says(recipe: Recipe, tmp_path: Path) -> None:
    config = recipe(
        optim={"steps": 60},
        trackers=("tensorboard",),
        save_every=20,
        keep=2,
        validation=ValidationConfig(every=20),
    )
    task = BlobTask()
    frozen = task.model[4].weight.clone()
    last = Trainer(config, task).fit()
    run = tmp_path / "run"
    assert last == run / "checkpoints" / "step-00000060"
    assert names(run) == ["step-00000040", "step-00000060"]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert torch.equal(task.model[4].weight, frozen)
    exported = torch.load(last / "model" / "weights.pt")
    state = read_state(last)
    assert exported.keys() == state["average"].keys() == task.parameters().keys()
    assert all(torch.equal(v, state["average"][k]) for k, v in exported.items())
    assert any(not torch.equal(v, state["params"][k]) for k, v in exported.items())
    assert load_config(run / "config.yaml") == config
    assert sorted(p.name for p in (run / "validation").iterdir()) == [f"step-000000{s}.png" for s in (20, 40, 60)]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == list(range(1, 61))
    assert [e.step for e in events.Images("grid")] == [20, 40, 60]


def test_the_best_weights_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0, float("nan"), 0.5])

    class Scored(BlobTask):
        def validate(self, step: int, weights: Any) -> Validation:
            return Validation({"psnr": next(scores)}, best="psnr", higher_is_better=higher)

    best = tmp_path / "run" / "best"
    higher = False
    trainer = Trainer(recipe(validation=ValidationConfig(every=2)), Scored())
    for report in trainer.steps():
        if report.done == 4:
            at_four = trainer.strategy.gather(trainer.average.values)
        if report.done == 6:
            assert json.loads((best / "score.json").read_text())["step"] == 4
    kept = torch.load(best / "model" / "weights.pt")
    assert all(torch.equal(v, kept[k]) for k, v in at_four.items())
    higher = True
    Trainer(recipe(optim={"steps": 9}, validation=ValidationConfig(every=9)), Scored()).fit()
    assert json.loads((best / "score.json").read_text())["score"] == 1.0
    assert not list((tmp_path / "run").glob(".best*"))


def test_mixed_precision_keeps_float32_weights(recipe: Recipe) -> None:
    task = BlobTask()
    seen: list[torch.dtype] = []
    task.model.half()
    task.model[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    state = read_state(Trainer(recipe(precision="bf16"), task).fit())
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in task.parameters().values()} == {torch.float32}
    assert {v.dtype for g in ("params", "average") for v in state[g].values()} == {torch.float32}


def test_compiled_it_trains_the_same_names(recipe: Recipe) -> None:
    class Compiled(BlobTask):
        def compile(self) -> None:
            self.model.compile(backend="eager")

    state = read_state(Trainer(recipe(compile=True), Compiled()).fit())
    assert state["params"].keys() == BlobTask().parameters().keys()


def test_fewer_steps_end_a_running_training(recipe: Recipe) -> None:
    trainer = Trainer(recipe(optim={"steps": 100}), BlobTask())
    trainer.fit(stop_at=4)
    assert train_alone(recipe(optim={"steps": 5})).name == "step-00000005"
    again = train_alone(recipe(optim={"steps": 5}))
    assert again.name == "step-00000005"


def test_dry_run_touches_nothing(recipe: Recipe, tmp_path: Path) -> None:
    task = BlobTask()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    plan = Trainer(recipe(optim={"accumulation": 3}), task).dry_run()
    assert plan["trained_parameters"] == sum(p.numel() for p in task.parameters().values())
    assert plan["all_parameters"] == plan["trained_parameters"] + 2
    assert plan["samples_per_step"] == 6
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
    assert not (tmp_path / "run").exists()


# bad data, full disks


def test_a_nan_loss_stops_before_the_weights_change(recipe: Recipe) -> None:
    task = BlobTask(nan_at=9)
    trainer = Trainer(recipe(), task)
    with pytest.raises(TrainingError, match=r"loss nan at step 4, samples blob-9; .*step-00000004"):
        trainer.fit()
    assert names(trainer.run) == ["step-00000003", "step-00000004"]
    good = read_state(checkpoints(trainer.run)[-1])["params"]
    assert all(torch.equal(good[k], p) for k, p in task.parameters().items())
    # with the sample repaired it goes on from there
    assert train_alone(recipe()).name == "step-00000008"


def test_a_nan_gradient_stops_and_names_all_samples(recipe: Recipe) -> None:
    class Steep(BlobTask):
        def loss(self, model: nn.Module, batch: Any, step: int) -> StepResult:
            result = super().loss(model, batch, step)
            root = (self.model[0].weight.sum() * 0).sqrt() if step == 2 else 0.0  # 0 with an infinite slope
            return dataclasses.replace(result, loss=result.loss + root)

    trainer = Trainer(recipe(), Steep())
    with pytest.raises(TrainingError, match=r"gradient norm nan at step 2, samples blob-4, blob-5"):
        trainer.fit()
    assert all(torch.isfinite(p).all() for p in trainer.params.values())


def test_only_the_bad_sample_is_blamed() -> None:
    each = torch.tensor([1.0, float("inf"), 2.0])
    assert bad_samples(StepResult(each.mean(), samples=["a", "b", "c"], each=each)) == ["b"]
    assert bad_samples(StepResult(each.mean(), samples=["a", "b", "c"])) == ["a", "b", "c"]
    assert bad_samples(StepResult(torch.tensor(1.0), samples=["a"])) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_sample_that_cannot_be_read_keeps_its_error(workers: int, recipe: Recipe) -> None:
    class Damaged(BlobTask):
        def batch(self, step: int, numbers: Any) -> Any:
            if 7 in numbers:
                raise MediaError("clip-7 is damaged", "a readable clip", "prepare it again")
            return super().batch(step, numbers)

    with pytest.raises(MediaError, match="clip-7"):
        Trainer(recipe(data=DataConfig(workers=workers)), Damaged()).fit()


@pytest.mark.parametrize("where", ["export", "torch.save", "best"])
def test_full_disk_leaves_the_older_checkpoints(
    where: str, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(validation=ValidationConfig(every=2 if where == "best" else 0))
    task = BlobTask()
    trainer = Trainer(config, task)
    steps = trainer.steps()
    for report in steps:
        if report.done == 3:
            break

    def full(*arguments: Any) -> None:
        next(Path(a) for a in arguments if isinstance(a, Path)).parent.joinpath("half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "torch.save":
        monkeypatch.setattr(torch, "save", full)
    else:
        monkeypatch.setattr(task, "export", full)
    with pytest.raises(OutputError, match="No space left"):
        list(steps)
    assert names(tmp_path / "run") == ["step-00000003"]
    assert [p.name for p in (tmp_path / "run").rglob(".*")] == [".lock"]
    monkeypatch.undo()
    assert train_alone(config).name == "step-00000008"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534", OutputError),  # torch, full disk
        ("Error while serializing: I/O error: No space left on device (os error 28)", OutputError),  # safetensors
        ("size mismatch", RuntimeError),
    ],
)
def test_writers_that_hide_a_full_disk(message: str, error: type[Exception], tmp_path: Path) -> None:
    def write(part: Path) -> None:
        (part / "half").write_bytes(b"half")
        raise RuntimeError(message)

    with pytest.raises(error, match="os error 28|672|size"):
        save_checkpoint(tmp_path, 1, write, keep=1)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_damaged_checkpoint_is_named(recipe: Recipe) -> None:
    path = train_alone(recipe()) / "state" / "trainer.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match=r"step-00000008.*\n.*\n.*delete .*step-00000008 and resume"):
        train_alone(recipe())


def test_checkpoint_of_another_version_is_refused_with_what_to_do(recipe: Recipe) -> None:
    state = train_alone(recipe()) / "state"
    known = json.loads((state / "identity.json").read_text())
    other_stage = {"autoencoder.kl": 1e-5, "detail.clips": 3}
    (state / "identity.json").write_text(json.dumps(known | {"settings": known["settings"] | other_stage}))
    assert Trainer(recipe(), BlobTask()).step == 8
    gone = known | {"settings": known["settings"] | {"optim.nesterov": True}}
    (state / "identity.json").write_text(json.dumps(gone))
    with pytest.raises(ConfigError, match=r"optim.nesterov was True, is missing\n.*\n.*allow the changes"):
        train_alone(recipe())
    assert Trainer(recipe(), BlobTask(), allow_changes=True).step == 8
    del known["batches"]
    (state / "identity.json").write_text(json.dumps(known))
    with pytest.raises(WeightsError, match=r"'batches'(.*\n)+.*use the version of this package that wrote it"):
        train_alone(recipe())
    (state / "identity.json").write_text(json.dumps(gone))
    kept = torch.load(state / "trainer.pt")
    torch.save({k: v for k, v in kept.items() if k != "means"}, state / "trainer.pt")
    with pytest.raises(WeightsError, match=r"'means'(.*\n)+.*use the version of this package that wrote it"):
        Trainer(recipe(), BlobTask(), allow_changes=True)


def test_replaced_checkpoint_is_whole(tmp_path: Path) -> None:
    def write(text: str) -> Callable[[Path], object]:
        return lambda part: (part / "x").write_text(text)

    for step, text in ((1, "a"), (2, "b"), (2, "c"), (30, "d")):
        save_checkpoint(tmp_path, step, write(text), keep=2)
    assert [(p.name, (p / "x").read_text()) for p in checkpoints(tmp_path)] == [
        ("step-00000002", "c"),
        ("step-00000030", "d"),
    ]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


# settings


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ({"optim": {"lr": 0}}, "lr=0"),
        ({"optim": {"lr": float("nan")}}, "lr=nan"),
        ({"stepps": 3}, "stepps"),
        ({"optim": {"steps": 5, "decay": 6}}, "decay"),
        ({"optim": {"batch": 0}}, "batch=0"),
        ({"optim": {"ema": 1}}, "ema=1"),
        ({"optim": {"clip": -1}}, "clip"),
        ({"phases": [{"until": 3, "frames": 2, "batch": 1}, {"until": 2, "frames": 2, "batch": 1}]}, "order"),
        ({"phases": [{"until": 3, "frames": 0, "batch": 1}]}, "frames=0"),
        ({"model": {"base": "svd", "new": {}}}, "model: new together"),
        ({"model": {"new": {"widths": [64]}}}, "widths"),
        ({"objective": {"condition_dropout": 2}}, "condition_dropout"),
        ({"objective": {"hand_scale": -1}}, "hand_scale"),
        ({"trained": {"what": "lora", "rank": 0}}, "rank"),
        ({"keep": 0}, "keep"),
        ({"data": {"workers": -1}}, "workers"),
        ({"stage": "else"}, "stage"),
    ],
)
def test_wrong_recipe_is_refused(data: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse(TrainConfig, {"run": "x"} | data)


def test_settings_of_the_command_line_win(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("run: a\noptim: {steps: 3}\n")
    config = load_config(path, ["run=b", "optim.lr=1e-4", "model.new.widths=[32, 32]", "model.new.attention=[no, yes]"])
    assert (config.run, config.optim.steps, config.optim.lr) == ("b", 3, 1e-4)
    assert config.model.new is not None
    assert config.model.new.attention == (False, True)
    assert parse(TrainConfig, json.loads(json.dumps(as_dict(config)))) == config
    for wrong in ("optim.lr", "=3", "run.x=3", "optim.lr=[", "optim.rate=1"):
        with pytest.raises(ConfigError):
            load_config(path, [wrong])


def test_changed_settings_are_named(recipe: Recipe) -> None:
    train_alone(recipe())
    harmless = recipe(optim={"steps": 9}, log_every=2, save_every=2, keep=1, validation=ValidationConfig(every=3))
    assert train_alone(harmless).name == "step-00000009"
    changed = recipe(optim={"steps": 12, "lr": 2e-2}, seed=1)
    with pytest.raises(ConfigError, match=r"optim.lr was 0.01, is 0.02, seed was 0, is 1"):
        train_alone(changed)
    trainer = Trainer(changed, BlobTask(), allow_changes=True)
    assert trainer.step == 9
    assert trainer.fit().name == "step-00000012"


def test_another_model_is_refused_even_so(recipe: Recipe) -> None:
    train_alone(recipe())
    task = BlobTask()
    task.identity = {"network": "other", "sizes": [1, 8]}
    with pytest.raises(ConfigError, match=r"another model .*network was 'micro', is 'other'"):
        Trainer(recipe(), task, allow_changes=True)


def test_batch_may_be_divided_otherwise_but_not_changed(tmp_path: Path) -> None:
    def who(world: int, batch: int, accumulation: int) -> dict[str, Any]:
        return identity(TrainConfig(run="x", optim=OptimConfig(batch=batch, accumulation=accumulation)), {}, world)

    for same in (who(1, 4, 2), who(4, 2, 1), who(1, 8, 1)):
        check_identity(tmp_path, who(2, 2, 2), same, allow_changes=False)
    with pytest.raises(ConfigError, match=r"6 \(3 processes.*made with 8 \(2 processes"):
        check_identity(tmp_path, who(2, 2, 2), who(3, 2, 1), allow_changes=False)


def test_an_existing_run_is_not_overwritten_by_default(recipe: Recipe) -> None:
    train_alone(recipe())
    with pytest.raises(ConfigError, match="step-00000008 exists"):
        Trainer(recipe(), BlobTask(), resume=False)


def test_impossible_settings_of_a_machine(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="fp16 on a CPU"):
        train_alone(recipe(precision="fp16"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="adamw-8bit without a GPU"):
        train_alone(recipe(optim={"optimizer": "adamw-8bit"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        build_optimizer(OptimConfig(optimizer="adamw-8bit"), [nn.Parameter(torch.zeros(1))])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_training_runs_do_not_share_a_folder(recipe: Recipe, tmp_path: Path) -> None:
    steps = Trainer(recipe(), BlobTask()).steps()
    next(steps)
    assert train_apart(recipe()) == [3]
    assert (tmp_path / "run" / "error-0").read_text().startswith("mimicmotion.errors.ConfigError")
    assert "in use by another" in (tmp_path / "run" / "error-0").read_text()
    assert len(list(steps)) == 7


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP"])
def test_strategies_that_do_not_work_are_refused(kind: str) -> None:
    accelerator: Any = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), is_fsdp2=False)
    with pytest.raises(ConfigError, match=r"FSDP2 \(fsdp_version: 2\)"):
        Strategy(accelerator, nn.Linear(1, 1), torch.optim.SGD([nn.Parameter(torch.zeros(1))]), {})


def test_without_accelerate_the_extra_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"\[train\]"):
        job.open_trainer(recipe(), task=BlobTask())


def test_two_frames_in_bfloat16_on_a_cpu(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match="2 frames"):
        train_alone(recipe(precision="bf16", phases=(PhaseConfig(until=3, frames=2, batch=1),)))
    train_alone(recipe(precision="bf16", phases=(PhaseConfig(until=3, frames=1, batch=1),)))


def test_run_folder_that_is_a_file(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(OutputError):
        Trainer(recipe(), BlobTask())


def test_fused_optimiser_is_the_same(recipe: Recipe) -> None:
    plain, fused = (read_state(train_alone(recipe(k, optim={"optimizer": k}))) for k in ("adamw", "adamw-fused"))
    for key, value in plain["params"].items():
        torch.testing.assert_close(value, fused["params"][key], rtol=1e-5, atol=1e-6)


def test_nothing_to_train_is_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlobTask, "parameters", lambda self: {})
    with pytest.raises(ConfigError, match="no parameter"):
        train_alone(recipe())
    monkeypatch.setattr(BlobTask, "parameters", lambda self: {"x": nn.Parameter(torch.zeros(1))})
    with pytest.raises(ConfigError, match="x is not part"):
        train_alone(recipe())


# log and trackers


def test_log_goes_back_to_the_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1 / step})
    with log.path.open("a") as f:
        f.write('{"step": 4, "lo')  # killed while writing
    again = Log(tmp_path, 2)
    again.write(3, {"loss": 0.5})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 0.5)]


def test_means_of_processes_count_samples() -> None:
    a, b = Means(), Means()
    for value in (1.0, 2.0, 3.0):
        a.add({"x": value})
    b.add({"x": 10.0, "y": 5.0})
    assert Means.average([a.sums, b.sums]) == {"x": 4.0, "y": 5.0}
    assert Means.average([Means.total([a.sums, b.sums])]) == Means.average([a.sums, b.sums])


def test_missing_trackers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import importlib.util

    with pytest.raises(ConfigError, match="tensorbord"):
        check_trackers(["tensorbord"])
    assert check_trackers(["tensorboard"]) == ["tensorboard"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        check_trackers(["wandb"])
    with caplog.at_level(logging.WARNING):
        assert check_trackers(["tensorboard"]) == []
    assert "log.jsonl only" in caplog.text


# command line


@pytest.fixture
def recipe_file(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import yaml

    monkeypatch.setattr(job, "open_task", lambda config: BlobTask(config.seed))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(as_dict(recipe())))))
    return path


def test_command_trains_and_says_where(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = "validation.every=4"
    assert cli.main(["train", str(recipe_file), "--dry-run"]) == 0
    assert "trained_parameters: 153" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert cli.main(["train", str(recipe_file), "--set", "optim.steps=4", "--set", every]) == 0
    text = capsys.readouterr()
    assert f"model: {tmp_path}/run/checkpoints/step-00000004/model" in text.out
    assert f"best: {tmp_path}/run/best/model (step 4, loss -" in text.out
    assert "loss 0." in text.err
    assert cli.main(["train", str(recipe_file), "--set", "optim.steps=4", "--set", every]) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert cli.main(["train", str(recipe_file), "--no-resume"]) == 2
    assert cli.main(["train", str(recipe_file), "--set", "optim.lr=0"]) == 2
    assert cli.main(["train", str(recipe_file), "--overfit-one-clip"]) == 0
    assert names(tmp_path / "run-overfit-one-clip") == ["step-00000003", "step-00000006", "step-00000008"]


def test_module_for_launchers(recipe_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from mimicmotion.training.__main__ import main

    with caplog.at_level(logging.INFO):
        assert main([]) == 2
        assert main([str(recipe_file), "optim.lr=0"]) == 2
        assert main([str(recipe_file), "optim.steps=4"]) == 0
    assert "usage: python -m mimicmotion.training" in caplog.text
    assert "lr=0" in caplog.text
    assert "step 4 of 4: loss 0." in caplog.text
    assert names(tmp_path / "run")[-1] == "step-00000004"


def test_ctrl_c_ends_with_the_command_to_resume(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    class Interrupted(BlobTask):
        def loss(self, model: nn.Module, batch: Any, step: int) -> StepResult:
            if step == 4:
                signal.raise_signal(signal.SIGINT)
            return super().loss(model, batch, step)

    monkeypatch.setattr(job, "open_task", lambda config: Interrupted(config.seed))
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["train", str(recipe_file)]) == 130
    text = capsys.readouterr().err
    assert "stopped after step 5, which is saved" in text.replace("\n", " ")
    assert f"mimicmotion train {tmp_path}/run/config.yaml" in text
    assert names(tmp_path / "run")[-1] == "step-00000005"
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(job, "open_task", lambda config: BlobTask(config.seed))
    assert cli.main(["train", f"{tmp_path}/run/config.yaml"]) == 0
    assert names(tmp_path / "run")[-1] == "step-00000008"
