"""A killed training resumes exactly; processes, batches and accumulated passes are interchangeable."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blob_task import start, train_alone, train_apart, wait
from mimicmotion.settings.training import DataConfig, OptimConfig, PhaseConfig, TrainConfig, ValidationConfig
from mimicmotion.training.state import checkpoints, read_state
from mimicmotion.training.tracking import TIMES

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later


def recipe(run: Path, **changes: Any) -> TrainConfig:
    optim = {"steps": 20, "lr": 1e-2, "warmup": 3, "decay": 5, "batch": 2, "ema": 0.9} | changes.pop("optim", {})
    settings: dict[str, Any] = {
        "data": DataConfig(workers=0),
        "precision": "no",
        "threads": 1,
        "cpu": True,
        "trackers": (),
        "log_every": 3,
        "save_every": 4,
        "keep": 2,
        "validation": ValidationConfig(every=0),
    }
    return TrainConfig(run=str(run), optim=OptimConfig(**optim), **(settings | changes))


def lines(run: Path) -> list[dict[str, float]]:
    text = (run / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text]


def assert_same(a: Path, b: Path, tolerance: float = 0.0) -> None:
    """Weights, averages and optimiser state of two checkpoints."""
    left, right = read_state(a), read_state(b)
    assert left["step"] == right["step"]
    for group in ("params", "average"):
        assert left[group].keys() == right[group].keys()
        for key, value in left[group].items():
            torch.testing.assert_close(value, right[group][key], rtol=tolerance, atol=tolerance)
    for key, state in left["optimizer"].items():
        for name, value in state.items():
            torch.testing.assert_close(value, right["optimizer"][key][name], rtol=tolerance, atol=tolerance)
    exported = [torch.load(p / "model" / "weights.pt") for p in (a, b)]
    for key, value in exported[0].items():
        torch.testing.assert_close(value, exported[1][key], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_random_steps_it_resumes_bitwise(workers: int, tmp_path: Path) -> None:
    whole = recipe(tmp_path / "whole", data=DataConfig(workers=workers))
    want = train_alone(whole, dropout=0.1)
    killed = dataclasses.replace(whole, run=str(tmp_path / "killed"))
    steps = sorted(np.random.default_rng(5 + workers).integers(1, 20, 3).tolist())
    for step in steps:
        assert train_apart(killed, dropout=0.1, kill_at=step) == [-signal.SIGKILL]
        done = [int(p.name[5:]) for p in checkpoints(Path(killed.run))]
        assert max(done, default=0) == step // 4 * 4
    got = train_alone(killed, dropout=0.1)
    assert_same(got, want)
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_resumes_bitwise(tmp_path: Path) -> None:
    whole = recipe(tmp_path / "whole")
    begun = time.perf_counter()
    assert train_apart(whole, dropout=0.1) == [0]
    length = time.perf_counter() - begun
    (want,) = checkpoints(Path(whole.run))[-1:]
    rng, killed, number = np.random.default_rng(6), 0, 0
    while killed < 20:
        number += 1
        config = dataclasses.replace(whole, run=str(tmp_path / str(number)))
        for _ in range(4):
            (process,) = start(config, dropout=0.1)
            process.join(rng.uniform(0, length))
            process.kill()
            (code,) = wait([process])
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert_same(train_alone(config, dropout=0.1), want)
        assert lines(Path(config.run)) == lines(Path(whole.run))


def test_killed_while_saving_the_half_checkpoint_does_not_count(tmp_path: Path) -> None:
    config = recipe(tmp_path / "run", optim={"steps": 8})
    train_alone(dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=6, decay=5)))
    half = tmp_path / "run" / "checkpoints" / ".step-00000008.part"
    (half / "state").mkdir(parents=True)
    (half / "state" / "trainer.pt").write_bytes(b"half")
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-00000004", "step-00000006"]
    assert train_alone(config).name == "step-00000008"
    assert sorted(p.name for p in half.parent.iterdir()) == ["step-00000006", "step-00000008"]


def test_batch_and_accumulation_are_the_same_training(tmp_path: Path) -> None:
    want = train_alone(recipe(tmp_path / "batch", optim={"batch": 4}, log_every=1))
    got = train_alone(recipe(tmp_path / "passes", optim={"batch": 2, "accumulation": 2}, log_every=1))
    assert_same(got, want, 1e-6)
    for a, b in zip(lines(tmp_path / "batch"), lines(tmp_path / "passes"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
        assert a["norm"] == pytest.approx(b["norm"], abs=1e-5)


def test_two_processes_are_the_same_training(tmp_path: Path) -> None:
    phases = (PhaseConfig(until=7, frames=1, batch=4), PhaseConfig(until=99, frames=1, batch=2))
    halves = tuple(dataclasses.replace(p, batch=p.batch // 2) for p in phases)
    want = train_alone(recipe(tmp_path / "one", phases=phases, log_every=1, optim={"accumulation": 2}))
    two = recipe(tmp_path / "two", phases=halves, log_every=1, optim={"accumulation": 2})
    # killed midway, like one machine of many; the other one notices the broken connection
    killed = train_apart(two, 2, kill_at=11)
    assert -signal.SIGKILL in killed
    assert 0 not in killed
    assert checkpoints(tmp_path / "two")[-1].name == "step-00000008"
    assert train_apart(two, 2) == [0, 0]
    assert_same(checkpoints(tmp_path / "two")[-1], want, 1e-6)
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)


def test_started_by_one_process_finished_by_two(tmp_path: Path) -> None:
    one = recipe(tmp_path / "one", optim={"batch": 4})
    want = train_alone(one)
    both = recipe(tmp_path / "both", optim={"batch": 4})
    train_apart(both, kill_at=9)
    assert train_apart(dataclasses.replace(both, optim=dataclasses.replace(both.optim, batch=2)), 2) == [0, 0]
    assert_same(checkpoints(tmp_path / "both")[-1], want, 1e-6)


@pytest.mark.parametrize(("before", "after"), [(1, 2), *(pytest.param(2, n, marks=pytest.mark.slow) for n in (1, 2))])
def test_sharded_weights_are_the_same_training(before: int, after: int, tmp_path: Path) -> None:
    want = train_alone(recipe(tmp_path / "one", optim={"batch": 4}))
    config = {n: recipe(tmp_path / "sharded", optim={"batch": 4 // n}) for n in (1, 2)}
    assert -signal.SIGKILL in train_apart(config[before], before, shard=before > 1, kill_at=10)
    assert checkpoints(tmp_path / "sharded")[-1].name == "step-00000008"
    assert train_apart(config[after], after, shard=after > 1) == [0] * after
    assert_same(checkpoints(tmp_path / "sharded")[-1], want, 1e-6)


def test_wrong_number_of_processes_says_both_numbers(tmp_path: Path) -> None:
    config = recipe(tmp_path / "run")
    train_apart(config, kill_at=9)
    assert train_apart(config, 2) == [3, 3]
    message = (tmp_path / "run" / "error-1").read_text()
    assert message.startswith("mimicmotion.errors.ConfigError")
    assert "samples per step: 4 (2 processes x batch 2 x accumulation 1)" in message
    assert "2 (1 processes x batch 2 x accumulation 1)" in message


def test_machines_without_a_common_disk_do_not_average_different_weights(tmp_path: Path) -> None:
    config = recipe(tmp_path / "run", optim={"steps": 8})
    assert train_apart(config, 2, apart=True) == [0, 0]  # nothing to resume, so they start alike
    longer = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=20))
    assert train_apart(longer, 2, apart=True) == [3, 3]
    for rank in range(2):
        message = (tmp_path / "run" / f"error-{rank}").read_text()
        assert "step-00000008, seen by 1 of 2 processes" in message
        assert "put 'run' on a disk shared by all machines" in message
    assert checkpoints(tmp_path / "run")[-1].name == "step-00000008"


def test_processes_that_drift_apart_do_not_save(tmp_path: Path) -> None:
    config = recipe(tmp_path / "run")
    assert train_apart(config, 2, drift_at=5) == [3, 3]
    for rank in range(2):
        message = (tmp_path / "run" / f"error-{rank}").read_text()
        assert "weights of processes 1 differ from those of process 0, at step 8" in message
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-00000004"]


def test_nan_in_one_process_stops_all_and_names_the_sample(tmp_path: Path) -> None:
    # sample 22 belongs to the second process in step 5
    config = recipe(tmp_path / "run")
    assert train_apart(config, 2, nan_at=22) == [3, 3]
    messages = [(tmp_path / "run" / f"error-{rank}").read_text() for rank in range(2)]
    assert all(m.startswith("mimicmotion.errors.TrainingError: loss nan at step 5, samples blob-22;") for m in messages)
    last = checkpoints(tmp_path / "run")[-1]
    assert last.name == "step-00000005"
    assert all(torch.isfinite(p).all() for p in read_state(last)["params"].values())


@pytest.mark.parametrize("world", [1, 2])
def test_asked_to_stop_it_saves_and_tells_how_to_resume(world: int, tmp_path: Path) -> None:
    config = recipe(tmp_path / "run", optim={"steps": 100_000}, save_every=100_000)
    processes = start(config, world)
    log = tmp_path / "run" / "log.jsonl"
    for _ in range(3000):
        if log.exists() and log.stat().st_size:
            break
        time.sleep(0.02)
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGTERM)  # one is enough: they agree
    wait(processes)
    message = (tmp_path / "run" / "error-0").read_text()
    done = checkpoints(tmp_path / "run")[-1]
    assert f"Stopped: stopped after step {int(done.name[5:])}, which is saved" in message
    command = "mimicmotion train" if world == 1 else "torchrun --nproc-per-node 2 -m mimicmotion.training"
    assert f"{command} {config.run}/config.yaml" in message


PROGRAM = """
import sys
from pathlib import Path
from blob_task import BlobTask
from mimicmotion.training.job import run
print(run(sys.argv[1], task=BlobTask()))
"""


@pytest.mark.slow
def test_torchrun_and_accelerate_start_it(tmp_path: Path) -> None:
    import yaml

    from mimicmotion.settings.training import as_dict

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    want = train_alone(recipe(tmp_path / "one", optim={"batch": 4}))
    launchers = {
        "torchrun": (2, ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
        # on CPUs it starts several processes by MPI alone
        "accelerate": (4, ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]),
    }
    for name, (batch, launcher) in launchers.items():
        config = recipe(tmp_path / name, optim={"batch": batch})
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(as_dict(config)))))
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", *launcher, str(program), str(path)], check=True, env=env, timeout=300)
        assert_same(checkpoints(tmp_path / name)[-1], want, 1e-6)
