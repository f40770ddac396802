"""Many jobs from one file: like single jobs, despite failures, run again, and after an interruption."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dying
import mimicmotion
from mimicmotion import cli
from mimicmotion.errors import ConfigError
from mimicmotion.generate import batch as module
from mimicmotion.generate.batch import batch, is_done, read_jobs
from mimicmotion.generate.outputs import state_path
from mimicmotion.runtime.progress import Progress, finish
from mimicmotion.settings import BatchConfig
from mimicmotion.weights.registry import find_asset
from planted_job import save_micro_model

pytestmark = pytest.mark.whole

PICTURE, VIDEO = str(find_asset("demo/person.png")), str(find_asset("demo/driving.mp4"))


@pytest.fixture
def shared_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    save_micro_model(tmp_path / "micro")
    return {"picture": PICTURE, "video": VIDEO, "model": "micro", "duration": 0.2, "device": "cpu"}


def write_jobs(path: Path, defaults: dict[str, Any], *jobs: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"defaults": defaults, "jobs": jobs}))  # JSON is YAML
    return path


def test_a_batch_is_its_jobs_one_by_one(
    shared_settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = mimicmotion.animate(output="first.mp4", **shared_settings).path.stat().st_mtime_ns
    alone = mimicmotion.animate(output="alone.mp4", seed=2, **shared_settings).path.read_bytes()

    def stop(report: Progress) -> None:
        if (report.stage, report.done) == ("denoise", 1):
            raise mimicmotion.Stopped

    with pytest.raises(mimicmotion.Stopped):
        mimicmotion.animate(output="third.mp4", seed=2, on_progress=stop, **shared_settings)
    jobs = (
        {"output": "first.mp4"},
        {"output": "second.mp4", "picture": "missing.png"},
        {"output": "third.mp4", "seed": 2},
    )
    path = write_jobs(tmp_path / "jobs.yaml", shared_settings, *jobs)
    assert cli.main(["batch", str(path)]) == 1
    out = capsys.readouterr().out
    assert "missing.png" in out
    assert "1 done, 1 skipped, 1 failed" in out
    assert Path("third.mp4").read_bytes() == alone
    assert json.loads(Path("third.mp4.json").read_text())["resumed_at"] == [1]

    Path("third.mp4").write_bytes(b"changed")
    Path("missing.png").write_bytes(Path(PICTURE).read_bytes())
    monkeypatch.setattr(module, "_run_locally", lambda _, jobs: ((i, *module._run_job(job)) for i, job in jobs.items()))
    result = finish(batch(BatchConfig(jobs=path)))  # in this process, for speed
    assert [o.state for o in result.outcomes] == ["skipped", "done", "done"]
    assert Path("first.mp4").stat().st_mtime_ns == first
    assert Path("third.mp4").read_bytes() == alone

    job = read_jobs(path)[0]
    assert is_done(job)
    assert not is_done(dataclasses.replace(job, seed=3))
    assert not is_done(dataclasses.replace(job, video=Path(PICTURE)))
    assert not is_done(dataclasses.replace(job, model=None))
    assert not is_done(dataclasses.replace(job, output=Path("other.mp4")))


def test_a_process_that_dies_fails_its_job_alone(
    shared_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jobs(tmp_path / "jobs.yaml", shared_settings, {"output": "a.mp4"}, {"output": "b.mp4"})
    monkeypatch.setattr(module, "_work", dying.die)
    result = finish(batch(BatchConfig(jobs=path, devices=["cpu"])))
    assert [o.state for o in result.outcomes] == ["failed", "failed"]
    assert "exit code -9" in result.summary()


def test_a_terminated_batch_keeps_its_jobs_states(shared_settings: dict[str, Any], tmp_path: Path) -> None:
    settings = shared_settings | {"num_inference_steps": 1000, "save_every": 1}
    path = write_jobs(tmp_path / "jobs.yaml", settings, {"output": "long.mp4"})
    state = state_path(Path("long.mp4"))
    with dying.terminated_when(lambda: any(state.glob("step-*"))):
        assert cli.main(["batch", str(path)]) == 130
    assert any(state.glob("step-*"))


@pytest.mark.parametrize("form", ["list", "defaults", "csv"])
def test_forms_of_the_file(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("jobs.csv" if form == "csv" else "jobs.yaml")
    path.write_text(
        {
            "list": "- {picture: p.png, video: v.mp4, output: a.mp4, seed: 7, audio: true}",
            "defaults": "defaults: {picture: p.png, seed: 3, audio: on}\njobs: [{video: v.mp4,output: a.mp4,seed: 7}]",
            "csv": "picture,video,output,seed,audio,duration\np.png,v.mp4,a.mp4,7,true,\n",
        }[form]
    )
    (job,) = read_jobs(path)
    assert (job.picture, job.output, job.seed, job.audio, job.duration) == (Path("p.png"), Path("a.mp4"), 7, True, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a list of jobs"),
        ("[]", "not a list of jobs"),
        ("[1]", "not a list of jobs"),
        ("{jobs: [], other: 1}", "not a list of jobs"),
        ("- {picture: p.png, video: v.mp4, output: a.mp4}\n- {picture: p.png, vidoe: v.mp4, output: b.mp4}", "job 2"),
        ("- {picture: p.png, video: v.mp4, output: a.mp4, sede: 1}", "did you mean seed"),
        ("[", "YAML"),
    ],
)
def test_malformed_files_are_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        finish(batch(BatchConfig(jobs=tmp_path / "jobs.yaml")))


def test_contradicting_jobs_are_refused_before_any_work(shared_settings: dict[str, Any], tmp_path: Path) -> None:
    for other in ("a.mp4", "./a.mp4", "a-side-by-side.mp4", "jobs.yaml"):
        jobs = ({"output": "a.mp4", "side_by_side": True}, {"output": other})
        path = write_jobs(tmp_path / "jobs.yaml", shared_settings, *jobs)
        with pytest.raises(ConfigError, match="two outputs|is the input"):
            finish(batch(BatchConfig(jobs=path)))
    assert not list(tmp_path.glob("*.mp4"))
    with pytest.raises(ConfigError, match="address"):
        BatchConfig(jobs=path, address="auto")


def test_a_batch_on_ray(shared_settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the ray extra is not installed")
    start = "import ray; ray.init(include_dashboard=False); ray.shutdown()"
    try:
        subprocess.run([sys.executable, "-c", start], check=True, timeout=60, capture_output=True)
    except subprocess.SubprocessError:
        pytest.skip("ray does not start within 60 s here")
    alone = mimicmotion.animate(output="alone.mp4", **shared_settings).path.read_bytes()
    settings = shared_settings | {"model": str(tmp_path / "micro")}
    jobs = ({"output": "a.mp4"}, {"output": "b.mp4", "picture": "missing.png"})
    path = write_jobs(tmp_path / "jobs.yaml", settings, *jobs)
    result = finish(batch(BatchConfig(jobs=path, engine="ray")))
    assert [o.state for o in result.outcomes] == ["done", "failed"]
    assert Path("a.mp4").read_bytes() == alone
    assert [o.state for o in finish(batch(BatchConfig(jobs=path, engine="ray"))).outcomes] == ["skipped", "failed"]
