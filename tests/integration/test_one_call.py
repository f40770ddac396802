"""Videos from one call: `mimicmotion.animate`, the pipeline with a picture and a video, and diffusers' API."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mimicmotion
from mimicmotion.errors import ConfigError, InputError, PoseError
from mimicmotion.generate.inputs import find_poses, prepare
from mimicmotion.generate.job import generate
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.estimators.open import open_estimator
from mimicmotion.runtime.progress import Progress, finish
from mimicmotion.settings import GenerateConfig
from mimicmotion.video.picture import read_picture
from mimicmotion.video.reader import open_video
from mimicmotion.weights.registry import find_asset

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("small_bundled")]

PICTURE, VIDEO = find_asset("demo/person.png"), find_asset("demo/driving.mp4")
FRAMES = 3
Made = tuple[Any, list[Progress]]
SHORT = {"duration": FRAMES / 15, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipe() -> MimicMotionPipeline:
    return MimicMotionPipeline.from_pretrained()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pipe: MimicMotionPipeline) -> Made:
    seen: list[Progress] = []
    folder = tmp_path_factory.mktemp("made")
    return mimicmotion.animate(
        PICTURE, VIDEO, folder / "out.mp4", pipeline=pipe, on_progress=seen.append, **SHORT
    ), seen


def test_animate_is_the_job_generate(made: Made, tmp_path: Path, pipe: MimicMotionPipeline) -> None:
    result, seen = made
    config = GenerateConfig(picture=PICTURE, video=VIDEO, output=tmp_path / "job.mp4", **SHORT)
    assert result.path.read_bytes() == finish(generate(config, pipe)).path.read_bytes()
    assert (result.num_frames, result.fps, result.size) == (FRAMES, 15.0, (112, 64))
    assert result.sidecar.is_file()
    assert [(p.stage, p.done, p.total) for p in seen][-1] == ("write", FRAMES, FRAMES)


def test_frames_are_read_back_from_the_file(made: Made) -> None:
    result, _ = made
    frames = list(result.frames)
    assert len(frames) == len(list(result.frames)) == FRAMES
    assert (frames[0].shape, frames[0].dtype) == ((112, 64, 3), np.uint8)
    assert np.array_equal(next(result.frames), next(open_video(result.path).frames()))


def test_unknown_settings_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean num_inference_steps"):
        mimicmotion.animate(PICTURE, VIDEO, tmp_path / "out.mp4", num_inference_step=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("thread", [False, True])
def test_a_cancelled_call_resumes_to_the_same_bytes(
    made: Made, tmp_path: Path, pipe: MimicMotionPipeline, thread: bool
) -> None:
    def stop(report: Progress) -> None:
        if (report.stage, report.done) == ("denoise", 1):
            raise mimicmotion.Stopped

    def run(**settings: Any) -> Any:
        return mimicmotion.animate(PICTURE, VIDEO, tmp_path / "out.mp4", pipeline=pipe, **SHORT, **settings)

    with ThreadPoolExecutor(1) as pool, pytest.raises(mimicmotion.Stopped, match="1 of 2 steps are saved"):
        pool.submit(run, on_progress=stop).result() if thread else run(on_progress=stop)
    result = run(resume=True)
    assert result.resumed_at == [1]
    assert result.path.read_bytes() == made[0].path.read_bytes()


def test_exceptions_of_the_callback_propagate(tmp_path: Path, pipe: MimicMotionPipeline) -> None:
    def fail(report: Progress) -> None:
        raise ZeroDivisionError(report.stage)

    with pytest.raises(ZeroDivisionError, match="picture"):
        mimicmotion.animate(PICTURE, VIDEO, tmp_path / "out.mp4", pipeline=pipe, on_progress=fail, **SHORT)
    assert not list(tmp_path.iterdir())


def test_the_pipeline_prepares_as_generate_does(pipe: MimicMotionPipeline, tmp_path: Path) -> None:
    config = GenerateConfig(picture=PICTURE, video=VIDEO, output=tmp_path / "out", pose_cache=False, **SHORT)
    want = prepare(config, finish(find_poses(config)), (112, 64))
    poses, own = pipe.guide(want.picture, want.reference, want.aligned)
    picture, drawn, reference = pipe.prepare(str(PICTURE), VIDEO, num_frames=FRAMES)
    assert np.array_equal(picture, want.picture)
    assert np.array_equal(drawn[0:FRAMES], poses[0:FRAMES])
    assert np.array_equal(reference, own)


def test_the_pipeline_takes_paths_pictures_frames_and_poses(pipe: MimicMotionPipeline) -> None:
    picture = read_picture(PICTURE)
    frames = list(open_video(VIDEO).frames(fps=15, max_frames=FRAMES))
    want = pipe(image=PICTURE, video=VIDEO, num_frames=FRAMES, num_inference_steps=1).frames
    assert (want.shape, want.dtype) == ((FRAMES, 112, 64, 3), np.uint8)
    for image, video in (
        (picture, frames),
        (Image.open(PICTURE), map(Image.fromarray, frames)),
        (str(PICTURE), open_estimator().estimate(frames, fps=15)),
    ):
        assert np.array_equal(pipe(image=image, video=video, num_inference_steps=1).frames, want)


def test_malformed_calls_are_refused(pipe: MimicMotionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pipe), "denoise", None)  # before any network runs
    grey = np.full((96, 96, 3), 128, np.uint8)
    with pytest.raises(ConfigError, match="one of the two"):
        pipe(image=PICTURE)
    with pytest.raises(PoseError, match="no person found in 'video'"):
        pipe(image=PICTURE, video=[grey] * 2)
    with pytest.raises(PoseError, match="no person found in 'image'"):
        pipe(image=grey, video=VIDEO, num_frames=1)
    with pytest.raises(InputError, match="multiple of 16"):
        pipe(image=PICTURE, video=VIDEO, num_frames=1, height=100, width=100)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of diffusers
def test_diffusers_opens_a_saved_model(
    pipe: MimicMotionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    pipe.save_pretrained(tmp_path / "model")
    model, settings = str(tmp_path / "model"), {"num_frames": 2, "num_inference_steps": 1}
    theirs = diffusers.DiffusionPipeline.from_pretrained(model, custom_pipeline=model, trust_remote_code=True)
    assert theirs.to("cpu", torch.float32).to(torch.float32).device.type == "cpu"
    out = theirs(image=str(PICTURE), video=str(VIDEO), **settings)
    assert (len(out.frames), len(out.frames[0]), out.frames[0][0].size) == (1, 2, (64, 112))
    ours = pipe(image=PICTURE, video=VIDEO, **settings).frames
    made = np.stack([np.asarray(frame) for frame in out.frames[0]]).astype(int)
    # with another plan float32 numbers are added in another order, which can change how a value is rounded
    assert np.abs(made - ours).max() <= 1
    again = theirs(str(PICTURE), str(VIDEO), output_type="np", **settings).frames
    assert again.shape == (1, 2, 112, 64, 3)
    assert 0.5 < again.max() <= 1
