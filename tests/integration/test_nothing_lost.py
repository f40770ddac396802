"""Whenever a generate job is killed, --resume produces the same bytes as an uninterrupted run."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicmotion.errors import ConfigError, InputError, OutputError
from mimicmotion.generate import inputs, outputs
from mimicmotion.generate import job as job_module
from mimicmotion.generate import run_state as resume
from mimicmotion.generate.job import generate
from mimicmotion.generate.outputs import side_by_side_path, sidecar_path
from mimicmotion.generate.provenance import FREE_SETTINGS
from mimicmotion.generate.replay import replay
from mimicmotion.generate.run_state import STATE_FILE, state_path
from mimicmotion.pipeline import MimicMotionPipeline, pipeline
from mimicmotion.runtime.files import sha256_file
from mimicmotion.runtime.interrupt import Stopped
from mimicmotion.runtime.progress import Progress, finish
from mimicmotion.settings import GenerateConfig
from planted_job import FRAMES, dancing, left_over, loaded_once, make_job, planted, save_micro_model, standing

TESTS = Path(__file__).parents[1]
STEPS = 5
FEW = 3
ALL_MEMORY = {"sampler": "dpmpp-2m", "guidance_every": 2}  # settings whose state is more than the latents


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_micro_model(tmp_path_factory.mktemp("model") / "micro")


@pytest.fixture(scope="module", autouse=True)
def planted_and_loaded_once(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Poses are planted, and the model is loaded once."""
    with pytest.MonkeyPatch.context() as patch, loaded_once(model):
        patch.setenv("MIMICMOTION_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(inputs, "find_estimator", planted(standing(1), dancing(FRAMES)))
        yield


def small_job(folder: Path, model: Path) -> GenerateConfig:
    config = make_job(folder, model)
    config = dataclasses.replace(config, height=32, width=32, num_inference_steps=STEPS, save_every=2, **ALL_MEMORY)
    return dataclasses.replace(config, decode_chunk_size=2)


@pytest.fixture
def job(tmp_path: Path, model: Path) -> GenerateConfig:
    return small_job(tmp_path, model)


@pytest.fixture(scope="module")
def whole_job(model: Path, tmp_path_factory: pytest.TempPathFactory) -> GenerateConfig:
    """A job that was never interrupted."""
    config = small_job(tmp_path_factory.mktemp("whole"), model)
    finish(generate(config))
    return config


@pytest.fixture
def whole(whole_job: GenerateConfig) -> bytes:
    """Its result."""
    return whole_job.output.read_bytes()


@pytest.fixture
def finished(job: GenerateConfig, whole_job: GenerateConfig) -> GenerateConfig:
    """The job with result and sidecar, as if it had run here."""
    shutil.copy(whole_job.output, job.output)
    sidecar = sidecar_path(whole_job.output).read_text()
    moved = sidecar.replace(str(whole_job.output.parents[1]), str(job.output.parents[1]))
    sidecar_path(job.output).write_text(moved)
    return job


@pytest.fixture(scope="module")
def stopped(model: Path, tmp_path_factory: pytest.TempPathFactory) -> GenerateConfig:
    """A job that was stopped after two steps."""
    config = small_job(tmp_path_factory.mktemp("stopped"), model)
    stop_after(config, "denoise", 2)
    return config


@pytest.fixture(scope="module")
def three_steps(model: Path, tmp_path_factory: pytest.TempPathFactory) -> GenerateConfig:
    """Another that was stopped after three."""
    config = small_job(tmp_path_factory.mktemp("three-steps"), model)
    stop_after(config, "denoise", 3)
    return config


@pytest.fixture
def begun(job: GenerateConfig, three_steps: GenerateConfig) -> GenerateConfig:
    """The job with what is kept after three steps."""
    shutil.copytree(state_path(three_steps.output), state_path(job.output))
    return job


def again(config: GenerateConfig, **changes: Any) -> GenerateConfig:
    return dataclasses.replace(config, resume=True, **changes)


def stop_after(config: GenerateConfig, stage: str, done: int) -> None:
    """Begin the job and close it after a report."""
    run = generate(config)
    for report in run:
        if (report.stage, report.done) == (stage, done):
            break
    else:
        raise AssertionError(f"no report {stage} {done}")
    run.close()


# --- one process ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "done", "begins_at"),
    [
        ("encode", 1, 0),
        ("denoise", 4, 4),
        ("write", 1, STEPS),
    ],
)
def test_closed_job_resumes_to_the_same_bytes(
    stage: str, done: int, begins_at: int, job: GenerateConfig, whole: bytes
) -> None:
    stop_after(job, stage, done)
    assert left_over(job) == ["result.mp4.state"]
    reports: list[Progress] = []
    result = finish(generate(again(job)), reports.append)
    assert job.output.read_bytes() == whole
    assert left_over(job) == ["result.mp4", "result.mp4.json"]
    steps = [r.done for r in reports if r.stage == "denoise"]
    assert steps == (list(range(begins_at + 1, STEPS + 1)) or [STEPS])
    assert ("encode" in {r.stage for r in reports}) == (begins_at < STEPS)
    assert "picture" not in {r.stage for r in reports}
    assert result.resumed_at == [begins_at]
    assert f"resumed after step {begins_at}" in result.summary()


def test_failed_denoising_keeps_the_step_before(
    job: GenerateConfig, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_denoiser", failing(2 * STEPS))  # two segments a step: the very last
        with pytest.raises(InputError):
            finish(generate(job))
    assert left_over(job) == ["result.mp4.state"]
    assert finish(generate(again(job))).resumed_at == [4]
    assert job.output.read_bytes() == whole


def failing(call: int) -> Callable[..., Any]:
    """Replaces the pipeline's denoiser by one that fails in this call."""
    unet, calls = pipeline._denoiser, []

    def build(*args: Any) -> Any:
        inner = unet(*args)

        def denoise(*a: Any) -> Any:
            calls.append(1)
            if len(calls) == call:
                raise InputError("planted", "nothing", "nothing")
            return inner(*a)

        return denoise

    return build


def test_signal_while_frames_are_decoded_stops_at_once(
    job: GenerateConfig, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = MimicMotionPipeline.decode_step

    def signalled(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for frame in decode(*args, **kwargs):
            yield frame
            os.kill(os.getpid(), signal.SIGTERM)

    reports: list[Progress] = []
    with monkeypatch.context() as patch:
        patch.setattr(MimicMotionPipeline, "decode_step", signalled)
        with pytest.raises(Stopped, match="5 of 5 steps are saved in .*--resume"):
            finish(generate(job), reports.append)
    assert [r.done for r in reports if r.stage == "write"] == [1]  # no further frame was made
    assert left_over(job) == ["result.mp4.state"]
    assert finish(generate(again(job))).resumed_at == [STEPS]
    assert job.output.read_bytes() == whole


@pytest.mark.parametrize("changes", [{"block_cache": 0.5}, pytest.param({}, marks=pytest.mark.slow)])
def test_other_samplers_resume_too(changes: dict[str, Any], job: GenerateConfig) -> None:
    plain = dataclasses.replace(job, sampler=None, guidance_every=None, **changes)
    finish(generate(plain))
    want = job.output.read_bytes()
    stop_after(plain, "denoise", 3)
    finish(generate(again(plain)))
    assert job.output.read_bytes() == want


def test_sidecar_of_a_resumed_run_adds_up(job: GenerateConfig) -> None:
    stop_after(job, "denoise", 2)
    state = json.loads((state_path(job.output) / STATE_FILE).read_text())
    stop_after(again(job), "denoise", 4)
    result = finish(generate(again(job)))
    facts = json.loads(result.sidecar.read_text())
    assert facts["resumed_at"] == [2, 4]
    assert facts["seconds"]["load"] > state["facts"]["seconds"]["load"]
    assert facts["seconds"]["picture"] == state["facts"]["seconds"]["picture"]


def test_nothing_to_resume_is_a_start(job: GenerateConfig) -> None:
    result = finish(generate(again(job)))
    assert any("nothing to resume" in w for w in result.warnings)
    assert result.resumed_at == []


def test_an_old_state_is_never_replaced(begun: GenerateConfig) -> None:
    state = state_path(begun.output)
    old = sorted(p.read_bytes() for p in state.iterdir())
    for other in (dataclasses.replace(begun, seed=1), dataclasses.replace(begun, save_every=0)):
        with pytest.raises(ConfigError, match="add --resume"):
            finish(generate(other))
    assert sorted(p.read_bytes() for p in state.iterdir()) == old
    finish(generate(again(begun, save_every=0)))
    assert left_over(begun) == ["result.mp4", "result.mp4.json"]


CHANGED: dict[str, tuple[str, Callable[[GenerateConfig, Path], dict[str, Any]]]] = {
    "seed": ("setting seed was 42, is 7", lambda c, d: {"seed": 7}),
    "steps": ("setting num_inference_steps was 5, is 6", lambda c, d: {"num_inference_steps": 6}),
    "guidance": ("setting guidance_scale was missing, is 3.0", lambda c, d: {"guidance_scale": 3.0}),
    "sampler": ("setting sampler was 'dpmpp-2m', is 'euler'", lambda c, d: {"sampler": "euler"}),
    "chunk": ("setting decode_chunk_size was 2, is 4", lambda c, d: {"decode_chunk_size": 4}),
    "fps": ("setting fps was 15.0, is 10.0", lambda c, d: {"fps": 10.0}),
    "picture": ("content of picture was sha256", lambda c, d: {"picture": changed_copy(c.picture, d)}),
    "video": ("content of video was sha256", lambda c, d: {"video": changed_copy(c.video, d)}),
    "number format": ("dtype was 'float32', is 'bfloat16'", lambda c, d: {"dtype": "bfloat16"}),
}


def changed_copy(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    copy.write_bytes(path.read_bytes() + b"\0")
    return copy


@pytest.mark.parametrize("name", CHANGED)
def test_changed_settings_and_inputs_are_refused(
    name: str, stopped: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in state_path(stopped.output).iterdir()}
    says, change = CHANGED[name]
    monkeypatch.setattr(MimicMotionPipeline, "denoise", None)  # nothing long may begin
    with pytest.raises(ConfigError, match="is from another run") as caught:
        finish(generate(again(stopped, **change(stopped, tmp_path))))
    assert says in str(caught.value)
    assert {p.name: p.read_bytes() for p in state_path(stopped.output).iterdir()} == before


def test_all_differences_are_listed(stopped: GenerateConfig, tmp_path: Path) -> None:
    picture = changed_copy(stopped.picture, tmp_path)
    with pytest.raises(ConfigError) as caught:
        finish(generate(again(stopped, seed=1, tempo=0.5, picture=picture)))
    assert all(f" {name} was " in str(caught.value) for name in ("seed", "tempo", "picture"))


def test_other_weights_are_refused(job: GenerateConfig, tmp_path: Path) -> None:
    stop_after(job, "denoise", 2)
    copy = tmp_path / "copy" / "micro"
    shutil.copytree(str(job.model), copy)
    same = again(job, model=str(copy))
    stop_after(same, "denoise", 3)  # the same weights in another place are the same
    file = next((copy / "pose_net").glob("*.safetensors"))
    before = sha256_file(file)
    flip(file, 0)
    (copy / "mimicmotion.json").write_text((copy / "mimicmotion.json").read_text().replace(before, sha256_file(file)))
    with pytest.raises(ConfigError, match="weights pose_net/"):
        finish(generate(same))


def test_what_does_not_change_the_result_may_differ(begun: GenerateConfig, tmp_path: Path, whole: bytes) -> None:
    moved = tmp_path / "moved.png"
    shutil.move(begun.picture, moved)
    config = again(begun, picture=moved, side_by_side=True, preview=True, save_every=1, memory=3.0)
    finish(generate(config))
    assert begun.output.read_bytes() == whole
    assert side_by_side_path(begun.output).is_file()


def test_a_resumed_run_keeps_its_plan(job: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The free memory may change between the two; chunks, and so the last bits, do not."""
    copy = tmp_path / "copy"
    shutil.copytree(str(job.model), copy)  # a model of its own: one that is loaded already keeps its plan
    own = dataclasses.replace(job, model=str(copy))
    original = job_module.plan_run

    def in_chunks(*args: Any, **options: Any) -> Any:
        plan = original(*args, **options)
        return dataclasses.replace(plan, unet=dataclasses.replace(plan.unet, frame_chunk=2))

    monkeypatch.setattr(job_module, "plan_run", in_chunks)
    stop_after(own, "denoise", 2)
    monkeypatch.setattr(job_module, "plan_run", original)
    result = finish(generate(again(own)))
    assert json.loads(result.sidecar.read_text())["execution"]["unet"]["frame_chunk"] == 2
    stop_after(own, "denoise", 2)
    result = finish(generate(again(own, memory=4.0)))  # asked for otherwise: planned anew
    assert json.loads(result.sidecar.read_text())["execution"]["unet"]["frame_chunk"] is None


def test_free_settings_exist() -> None:
    """A renamed setting must not stay in the list under its old name."""
    assert {f.name for f in dataclasses.fields(GenerateConfig)} >= FREE_SETTINGS


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path: Path, _: float) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("part", "harm", "share"),
    [
        (STATE_FILE, cut, 0.6),
        ("inputs-*.npz", cut, 0.6),
        ("step-*.safetensors", flip, 0),
    ],
)
def test_damaged_state_is_not_used(
    part: str, harm: Callable[[Path, float], None], share: float, begun: GenerateConfig, whole: bytes
) -> None:
    harm(next(state_path(begun.output).glob(part)), share)
    result = finish(generate(again(begun)))
    assert any("damaged" in w for w in result.warnings)
    assert result.resumed_at == ([0] if part.startswith("step") else [])
    assert begun.output.read_bytes() == whole
    assert left_over(begun) == ["result.mp4", "result.mp4.json"]


@pytest.mark.parametrize("version", [1, 99])
def test_state_of_another_version_is_refused(begun: GenerateConfig, version: int) -> None:
    file = state_path(begun.output) / STATE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": version}))
    with pytest.raises(ConfigError, match="the version of mimicmotion that wrote it"):
        finish(generate(again(begun)))


def test_full_disk_while_saving_is_only_warned_of(
    job: GenerateConfig, whole: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, calls = resume.dump_step, []

    def full(step: Any, path: Path) -> None:
        calls.append(step.index + 1)
        if step.index == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(step, path)

    monkeypatch.setattr(resume, "dump_step", full)
    run = generate(job)
    for report in run:
        if (report.stage, report.done) == ("denoise", STEPS):
            names = sorted(p.name.split("-")[0] for p in state_path(job.output).iterdir())
            assert names == ["inputs", "lock", STATE_FILE, "step"]  # of step 2: no half file
            assert next(state_path(job.output).glob("step-00002-*"))
            break
    result = finish(run)
    assert calls == [2, 4, 5]
    assert any("after step 4 could not be saved" in w for w in result.warnings)
    assert "No space left" in caplog.text
    assert job.output.read_bytes() == whole


def test_full_disk_from_the_start(job: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(resume, "dump_inputs", full)
    result = finish(generate(job))
    assert any("could not be saved" in w for w in result.warnings)
    assert left_over(job) == ["result.mp4", "result.mp4.json"]


def test_failed_writing_says_what_is_kept(
    job: GenerateConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> Iterator[None]:
        raise OutputError("the disk is full", "room", "make some")

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "write_video", full)
        with pytest.raises(OutputError):
            finish(generate(job))
    assert "5 of 5 steps are saved" in caplog.text
    assert "--resume" in caplog.text
    assert finish(generate(again(job))).resumed_at == [STEPS]


def test_one_process_at_a_time(job: GenerateConfig) -> None:
    run = generate(job)
    next(r for r in run if r.stage == "denoise")
    for config in (job, again(job)):
        with pytest.raises(ConfigError, match="in use by another process"):
            finish(generate(config))
    finish(run)


def test_states_are_one_file_each_and_small(job: GenerateConfig) -> None:
    names = []
    for report in generate(job):
        if report.stage == "denoise":
            names.append(sorted(p.name.split("-")[0] for p in state_path(job.output).iterdir()))
    assert names[:3] == [["inputs", "lock", STATE_FILE]] * 2 + [["inputs", "lock", STATE_FILE, "step"]]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_during_a_step_finishes_and_keeps_it(
    number: int, job: GenerateConfig, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, calls = pipeline._denoiser, []

    def signalled(*args: Any) -> Any:
        inner = unet(*args)

        def denoise(*a: Any) -> Any:
            calls.append(1)
            if len(calls) == 5:  # two segments a step: in the middle of the third step
                os.kill(os.getpid(), number)
            return inner(*a)

        return denoise

    monkeypatch.setattr(pipeline, "_denoiser", signalled)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="3 of 5 steps are saved in .*--resume"):
        finish(generate(job))
    assert signal.getsignal(number) == before
    assert len(calls) == 6
    result = finish(generate(again(job)))
    assert result.resumed_at == [3]
    assert job.output.read_bytes() == whole


def test_second_signal_interrupts_at_once(job: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    unet, calls = pipeline._denoiser, []

    def signalled(*args: Any) -> Any:
        inner = unet(*args)

        def denoise(*a: Any) -> Any:
            calls.append(1)
            if len(calls) >= 7:  # in the fourth step: what is kept is the second one
                os.kill(os.getpid(), signal.SIGINT)
            return inner(*a)

        return denoise

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_denoiser", signalled)
        with pytest.raises(Stopped, match="2 of 5 steps"):
            finish(generate(job))
    assert len(calls) == 8
    assert finish(generate(again(job))).resumed_at == [2]


# --- replay -----------------------------------------------------------------------------------------------------


def test_replay_gives_the_same_bytes(finished: GenerateConfig) -> None:
    result = finish(replay(sidecar_path(finished.output)))
    assert result.made.path.name == "result-replay.mp4"
    assert result.identical
    assert result.original_state == "unchanged"
    assert result.made.path.read_bytes() == finished.output.read_bytes()
    assert "replay: byte-identical to" in result.summary()
    # a replay's own sidecar serves as well, also where the original is gone
    finished.output.unlink()
    second = finish(replay(sidecar_path(finished.output), finished.output.with_name("b.mp4")))
    assert (second.identical, second.original_state) == (True, "missing")


def test_replay_of_a_resumed_run_and_of_an_interrupted_replay(begun: GenerateConfig) -> None:
    finish(generate(again(begun)))
    run = replay(sidecar_path(begun.output))
    next(r for r in run if (r.stage, r.done) == ("denoise", 3))
    run.close()
    result = finish(replay(sidecar_path(begun.output), resume=True))
    assert result.made.resumed_at == [3]
    assert result.identical


def test_replay_refuses_other_inputs_and_finds_moved_ones(finished: GenerateConfig, tmp_path: Path) -> None:
    sidecar = sidecar_path(finished.output)
    finished.picture.rename(finished.output.parent / finished.picture.name)  # beside the sidecar
    finished.video.rename(tmp_path / "moved.mp4")
    assert finish(replay(sidecar, video=tmp_path / "moved.mp4")).identical
    other = changed_copy(tmp_path / "moved.mp4", finished.output.parent)
    with pytest.raises(ConfigError, match="content of video was sha256"):
        finish(replay(sidecar, video=other))


def test_replay_notes_other_versions(finished: GenerateConfig) -> None:
    sidecar = sidecar_path(finished.output)
    facts = json.loads(sidecar.read_text())
    facts["origin"]["versions"]["torch"] = "1.0"
    sidecar.write_text(json.dumps(facts))
    finished.output.write_bytes(b"other")
    result = finish(replay(sidecar))
    assert any("version of torch was '1.0'" in w for w in result.made.warnings)
    assert result.original_state == "changed"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not the sidecar|Expecting value"),
        ("{}", "not the sidecar"),
        (json.dumps({"settings": {}, "versions": {"mimicmotion": "0.1"}}), "not the sidecar"),
        (json.dumps({"format": outputs.FORMAT, "version": 99, "settings": {}}), "version 99"),
        (json.dumps({"format": outputs.FORMAT, "version": 1, "settings": {}}), "lacks origin, output_sha256"),
    ],
)
def test_files_that_are_not_sidecars(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "result.mp4.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        finish(replay(path))


@pytest.mark.parametrize(
    ("part", "value"),
    [("settings", {"video": "b.mp4"}), ("settings", [1]), ("settings", {"picture": 5}), ("origin", {})],
)
def test_a_changed_sidecar_is_named(part: str, value: Any, finished: GenerateConfig) -> None:
    path = sidecar_path(finished.output)
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: value}))
    with pytest.raises(ConfigError, match="use the original"):
        finish(replay(path))


def test_replay_never_replaces_the_result(finished: GenerateConfig) -> None:
    with pytest.raises(ConfigError, match="choose another output"):
        finish(replay(sidecar_path(finished.output), finished.output))


# --- processes that are killed ----------------------------------------------------------------------------------


class Runner:
    """`kill_task.py`, fed with requests."""

    def __init__(self, folder: Path) -> None:
        env = os.environ | {"MIMICMOTION_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, str(TESTS / "kill_task.py")]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def __call__(self, config: GenerateConfig, **how: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        request = {"config": dataclasses.asdict(config), **how}
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("runner"))
    yield runner
    runner.close()


@dataclasses.dataclass(frozen=True)
class Complete:
    """A run of a whole process that nobody killed."""

    config: GenerateConfig
    seconds: float
    operations: int


@pytest.fixture(scope="module")
def complete(runner: Runner, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Complete:
    config = fresh(small_job(tmp_path_factory.mktemp("complete"), model), "whole")
    said = runner(config)
    assert (said["code"], said["error"]) == (0, "")
    return Complete(config, said["seconds"], said["seen"])


def fresh(job: GenerateConfig, name: object) -> GenerateConfig:
    """The job with its own output, every kind of file, and the fewest steps with a state in between."""
    output = job.output.parents[1] / f"out-{name}" / "result.mp4"
    return dataclasses.replace(job, output=output, side_by_side=True, num_inference_steps=FEW)


def assert_complete(config: GenerateConfig, whole: GenerateConfig) -> None:
    for path in (config.output, side_by_side_path(config.output)):
        assert path.read_bytes() == (whole.output.parent / path.name).read_bytes()
    assert left_over(config) == ["result-side-by-side.mp4", "result.mp4", "result.mp4.json"]


@pytest.mark.slow
def test_killed_before_any_operation_on_files(runner: Runner, job: GenerateConfig, complete: Complete) -> None:
    count = complete.operations
    random.seed(3)
    for n in range(count):
        config = fresh(job, n)
        assert runner(config, at=n)["code"] == -signal.SIGKILL
        second = runner(again(config), at=random.randrange(count))  # and killed again on the way
        assert second["code"] in (0, -signal.SIGKILL), second
        last = runner(again(config))
        assert (last["code"], last["error"]) == (0, ""), n
        assert_complete(config, complete.config)


Run = Callable[[GenerateConfig, float | None], int]
"""A job that is killed after some seconds: its exit code."""


def kill_at_random(run: Run, job: GenerateConfig, whole: GenerateConfig, length: float, kills: int) -> None:
    """Kill runs within `length` seconds until this many were killed; each is restarted until it is complete."""
    rng = np.random.default_rng(7)
    killed = number = 0
    while killed < kills:
        config, number, code = fresh(job, number), number + 1, -signal.SIGKILL
        for _ in range(4):
            code = run(again(config), float(rng.uniform(0, length)))
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert code == 0 or run(again(config), None) == 0
        assert_complete(config, whole)


def in_forks(runner: Runner) -> Run:
    """From the loading of the model on."""

    def run(config: GenerateConfig, seconds: float | None) -> int:
        said = runner(config, **({} if seconds is None else {"after": seconds}))
        assert not said.get("error"), said
        return said["code"]

    return run


def test_killed_while_frames_are_written(runner: Runner, job: GenerateConfig, complete: Complete) -> None:
    config = fresh(job, "killed")
    assert runner(config, report=["write", 2])["code"] == -signal.SIGKILL
    facts = json.loads((state_path(config.output) / STATE_FILE).read_text())
    assert facts["files"]["step"]["name"].startswith(f"step-{FEW:05d}")
    assert runner(again(config))["code"] == 0
    assert_complete(config, complete.config)


@pytest.mark.slow
def test_killed_at_many_random_moments(runner: Runner, job: GenerateConfig, complete: Complete) -> None:
    kill_at_random(in_forks(runner), job, complete.config, complete.seconds, 24)


@pytest.mark.slow
def test_killed_at_random_moments_of_a_whole_process(job: GenerateConfig, tmp_path: Path) -> None:
    """From the start of Python on, the import of the libraries included."""
    env = os.environ | {"MIMICMOTION_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(config: GenerateConfig, seconds: float | None) -> int:
        code = "import sys, kill_task as k; k.plant(); sys.exit(k.run_alone(sys.argv[1]))"
        argv = [sys.executable, "-c", code, json.dumps(dataclasses.asdict(config), default=str)]
        process = subprocess.Popen(argv, env=env)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait()

    whole, start = fresh(job, "whole"), time.perf_counter()
    assert run(whole, None) == 0
    kill_at_random(run, job, whole, time.perf_counter() - start, 6)
