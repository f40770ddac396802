"""A base model of another package, registered by an entry point, runs in the same pipeline, fusion and CLI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimicmotion import cli
from mimicmotion.backbones import BUILT_IN, find_backbone, load_backbone
from mimicmotion.backbones.base import Backbone
from mimicmotion.backbones.tiny.backbone import TinyBackbone
from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.generate import inputs
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import FusionConfig, SamplingSettings
from mimicmotion.weights.registry import find_asset
from planted_job import FRAMES, SIZE, dancing, frames_of, make_job, planted, random_frames, standing
from toy_backbone import ToyBackbone, blocks

SETTINGS = {"height": SIZE[0], "width": SIZE[1], "fusion": {"segment_frames": 4, "overlap_frames": 2}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of the toy backbone, which an installed package registers."""
    package = tmp_path / "site" / "toy-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[mimicmotion.backbones]\ntoy = toy_backbone:ToyBackbone\n")
    monkeypatch.syspath_prepend(package.parent)
    ToyBackbone(SETTINGS).save(tmp_path / "model")
    return tmp_path / "model"


def test_it_makes_a_video_of_several_segments(folder: Path) -> None:
    pipe = MimicMotionPipeline.from_pretrained(folder)
    assert type(pipe.backbone).__name__ == "ToyBackbone"
    picture, (poses, own) = random_frames(1, SIZE)[0], [random_frames(n, SIZE) for n in (FRAMES, 1)]
    fusion = FusionConfig(segment_frames=4, overlap_frames=2)
    frames = pipe(picture, poses, own[0], fusion=fusion, num_inference_steps=2, guidance_scale=1.0).frames
    want = blocks(poses).repeat_interleave(8, -1).repeat_interleave(8, -2)
    got = frames.astype(np.float32) / 127.5 - 1
    assert frames.shape == (FRAMES, *SIZE, 3)
    assert np.abs(got - want.movedim(1, -1).numpy()).max() < 0.01  # half a step of uint8


def test_it_goes_through_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inputs, "find_estimator", planted(standing(1), dancing(FRAMES)))
    job = make_job(tmp_path, folder)
    argv = ["generate", str(job.picture), str(job.video), "-o", str(tmp_path / "toy"), "--model", str(folder)]
    assert cli.main([*argv, "--fps", "15"]) == 0
    frames = frames_of(tmp_path / "toy")
    assert frames.shape == (FRAMES, *SIZE, 3)
    assert len({frame.tobytes() for frame in frames}) > 1  # the drawn person moves


def test_folders_name_their_backbone(folder: Path, tmp_path: Path) -> None:
    assert isinstance(load_backbone(find_asset("tiny")), TinyBackbone)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mimicmotion.json").write_text('{"backbone": "unheard"}')
    with pytest.raises(WeightsError, match="unheard"):
        load_backbone(tmp_path / "other")
    assert all(issubclass(find_backbone(name), Backbone) for name in (*BUILT_IN, "toy"))


def test_settings_are_given_once_and_known(folder: Path) -> None:
    pipe = MimicMotionPipeline.from_pretrained(folder)
    picture, poses = random_frames(1, SIZE)[0], random_frames(2, SIZE)
    with pytest.raises(ConfigError, match="did you mean num_inference_steps"):
        pipe(picture, poses, num_inference_step=2)
    with pytest.raises(ConfigError, match="one of the two"):
        pipe(picture, poses, sampling=SamplingSettings(seed=1), seed=2)
    with pytest.raises(ConfigError, match="seed"):
        pipe(picture, poses, seed=-1)
    one = pipe(picture, poses, sampling=SamplingSettings(num_inference_steps=2), seed=7).frames
    assert np.array_equal(one, pipe(picture, poses, num_inference_steps=2, seed=7, height=None).frames)
