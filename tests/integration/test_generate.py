"""The whole main job on a model of the real classes with very few channels and planted poses, to be fast."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy import ndarray

from micro import micro_pipeline
from mimicmotion.backbones.svd.checkpoint import published_settings
from mimicmotion.errors import (
    ConfigError,
    InputError,
    MediaError,
    MimicMotionError,
    OutputError,
    PoseError,
    WeightsError,
)
from mimicmotion.evaluation.metrics.temporal import sidecar_fusion
from mimicmotion.generate import inputs
from mimicmotion.generate.demo import demo
from mimicmotion.generate.job import generate
from mimicmotion.generate.plan import plan
from mimicmotion.generate.poses import poses as find_poses
from mimicmotion.generate.replay import replay
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.estimators.track import PersonTracker
from mimicmotion.pose.files import load_poses, save_openpose, save_poses
from mimicmotion.pose.keypoints import FACE, NUM_POINTS, PoseSequence
from mimicmotion.runtime.progress import Progress, finish
from mimicmotion.settings import FusionConfig, GenerateConfig, PlanConfig, PosesConfig, person_choice
from mimicmotion.video.geometry import plan_fit, released_round_trip
from mimicmotion.video.picture import read_picture, write_picture
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer
from planted_job import (
    FRAMES,
    SIZE,
    dancing,
    frames_of,
    left_over,
    make_job,
    planted,
    random_frames,
    standing,
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, micro_folder: Path) -> ndarray:
    """Frames of the small job with one step and otherwise default settings."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plain")
        patch.setenv("MIMICMOTION_CACHE", str(folder / "cache"))
        patch.setattr(inputs, "find_estimator", planted(standing(1), dancing(FRAMES)))
        config = dataclasses.replace(make_job(folder, micro_folder), num_inference_steps=1)
        return frames_of(finish(generate(config)).path)


@pytest.fixture
def no_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if sampling begins."""

    def started(*_: object, **__: object) -> Iterator[None]:
        raise AssertionError("sampling began before the input was refused")

    monkeypatch.setattr(MimicMotionPipeline, "denoise", started)


def test_kept_background_is_the_picture(job: GenerateConfig) -> None:
    keep = dataclasses.replace(job, background="keep", output=job.output.with_name("kept"), decode_chunk_size=2)
    result = finish(generate(keep))
    frames, plain = frames_of(result.path), frames_of(finish(generate(job)).path)
    assert json.loads(result.sidecar.read_text())["settings"]["background"] == "keep"
    picture = inputs.prepare(job, finish(inputs.find_poses(job)), SIZE).picture
    edge = np.ones(SIZE, bool)  # neither the picture's person nor the moving one comes near
    edge[6:, 8:-8] = False
    assert all(np.array_equal(frame[edge], picture[edge]) for frame in frames)
    assert not np.array_equal(plain[0][edge], picture[edge])
    assert frames.shape == plain.shape
    assert finish(replay(result.sidecar, job.output.with_name("again"))).identical


def test_whole_job(job: GenerateConfig) -> None:
    reports: list[Progress] = []
    result = finish(generate(dataclasses.replace(job, side_by_side=True, preview=True)), reports.append)
    video = frames_of(result.path)
    assert video.shape == (FRAMES, *SIZE, 3)
    assert result.num_frames == FRAMES
    assert [r.stage for r in reports if r.done == r.total] == [
        "picture",
        "poses",
        "poses",
        "load",
        "encode",
        "denoise",
        "write",
    ]
    assert result.side_by_side is not None
    beside = frames_of(result.side_by_side)
    assert beside.shape[0] == FRAMES
    wide = beside.shape[1] * SIZE[1] // SIZE[0]  # picture, driving frame, pose and result are equally wide here
    assert beside.shape[2] == 4 * wide + 3 * 4
    driving, after = frames_of(job.video), beside[:, :, wide + 4 : 2 * wide + 4]
    shown = [cv2.resize(f, SIZE[::-1], interpolation=cv2.INTER_AREA) for f in after]
    assert np.corrcoef(np.stack(shown)[:, 8:-8, 8:-8].ravel(), driving[:, 8:-8, 8:-8].ravel())[0, 1] > 0.6
    facts = json.loads(result.sidecar.read_text())
    assert facts["settings"]["seed"] == 42
    assert facts["versions"]["torch"]
    assert set(facts["fusion"]) == {"mode", "segment_frames", "overlap_frames", "reference_slot"}
    assert sidecar_fusion(result.path) == FusionConfig(**facts["fusion"])  # as evaluation reads it
    assert len(facts["inputs_sha256"]) == 2
    assert any("unet" in name for name in facts["weights_sha256"])
    assert left_over(job) == ["result-side-by-side.mp4", "result.mp4", "result.mp4.json"]
    assert str(result.path) in result.summary()


def test_same_seed_same_bytes_other_seed_other_video(job: GenerateConfig) -> None:
    finish(generate(job))
    first = job.output.read_bytes()
    finish(generate(job))
    assert job.output.read_bytes() == first
    finish(generate(dataclasses.replace(job, seed=1)))
    assert job.output.read_bytes() != first


def test_pose_file_in_place_of_the_video(job: GenerateConfig, tmp_path: Path) -> None:
    finish(generate(job))
    first = frames_of(job.output)
    save_poses(dancing(FRAMES), tmp_path / "in" / "poses.npz")
    finish(generate(dataclasses.replace(job, video=tmp_path / "in" / "poses.npz")))
    assert np.array_equal(frames_of(job.output), first)  # the files are labelled as results of different inputs


@pytest.mark.parametrize(("frames", "fusion"), [(1, "progressive"), (2, "released"), (5, "average"), (1, "none")])
def test_short_videos(job: GenerateConfig, tmp_path: Path, frames: int, fusion: Any) -> None:
    """All of these pairs: `test_any_number_of_frames` in tests/unit/test_pipeline.py."""
    save_poses(standing(frames), tmp_path / "in" / "poses.npz")
    config = dataclasses.replace(job, video=tmp_path / "in" / "poses.npz", fusion=fusion, num_inference_steps=1)
    result = finish(generate(config))
    assert frames_of(result.path).shape == (frames, *SIZE, 3)


SETTINGS: list[dict[str, Any]] = [
    {"guidance_scale": 1.5, "max_guidance_scale": 3.0},
    {"noise_aug_strength": 0.1},
    {"confidence_aware": False},
    {"align": "released"},
    {"fit": "letterbox"},
    {"segment_frames": 4, "overlap_frames": 0},
    {"reference_slot": False},
    {"height": 48, "width": 32},
    {"tempo": 2.0},
    {"sampling": "released"},
    {"dtype": "bfloat16"},
    {"decode_chunk_size": 1},
]
OTHER_VALUES: list[dict[str, Any]] = [
    {"guidance_scale": 1.0},
    {"align": "none"},
    {"fit": "released"},
    {"segment_frames": 5},
    {"fps": 5.0},
    {"start": 0.2, "duration": 0.2},
]


@pytest.mark.parametrize("changes", [*SETTINGS, *(pytest.param(c, marks=pytest.mark.slow) for c in OTHER_VALUES)])
def test_settings_do_something(job: GenerateConfig, plain: ndarray, changes: dict[str, object]) -> None:
    finish(generate(dataclasses.replace(job, num_inference_steps=1, **changes)))  # type: ignore[arg-type]
    changed = frames_of(job.output)
    assert changed.shape != plain.shape or not np.array_equal(changed, plain)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ""])
def test_other_kinds_of_output(job: GenerateConfig, suffix: str) -> None:
    result = finish(generate(dataclasses.replace(job, output=job.output.with_suffix(suffix))))
    assert len(frames_of(result.path)) == FRAMES


def test_sound_is_copied_on_request(job: GenerateConfig) -> None:
    # the driving video has none, which is reported but not an error
    result = finish(generate(dataclasses.replace(job, audio=True)))
    assert not open_video(job.output).info.has_audio
    assert "dance.mp4 has no sound, so the result has none" in result.warnings


def test_pose_files_have_no_sound(job: GenerateConfig, tmp_path: Path) -> None:
    save_poses(dancing(3), tmp_path / "in" / "poses.npz")
    config = dataclasses.replace(job, video=tmp_path / "in" / "poses.npz")
    assert frames_of(finish(generate(config)).path).shape[0] == 3
    with pytest.raises(ConfigError, match="audio=True with a pose file, where it has no effect"):
        finish(generate(dataclasses.replace(config, audio=True)))


def test_sidecar_names_the_weights_that_were_used(job: GenerateConfig, micro_folder: Path) -> None:
    loaded = MimicMotionPipeline.from_pretrained(micro_folder)
    result = finish(generate(dataclasses.replace(job, model=None), loaded))
    named = json.loads(result.sidecar.read_text())["weights_sha256"]
    assert len(named) == 4
    assert all(name.startswith(str(micro_folder)) for name in named)


def test_plan_reports_what_would_be_done(job: GenerateConfig, no_long_work: None) -> None:
    result = finish(plan(dataclasses.replace(job, output=job.output.with_suffix(".png"))))
    said = result.summary()
    assert f"{FRAMES} frames of {SIZE[1]}x{SIZE[0]}" in said
    assert "1 in the picture, 1 in the video" in said
    assert len(result.recipe.plan.segments) == 2  # 5 own frames a segment, 2 of them shared: 0-4, 3-7
    assert result.recipe.network_passes == 2 * 2 * 1  # segments, guidance, steps
    assert result.execution.peaks["denoise"] > 0
    assert left_over(job) == ["result.png"]


def test_plan_says_and_shows_what_is_cut_off(job: GenerateConfig, no_long_work: None) -> None:
    write_picture(job.picture, np.full((100, 200, 3), 255, np.uint8))
    overlay = job.output.with_suffix(".png")

    def planned(**changes: Any) -> str:
        return finish(plan(dataclasses.replace(job, output=overlay, **changes))).summary()

    said = planned(height=64, width=48)
    assert "cut off   31% at the left, 31% at the right of the picture; --fit letterbox keeps all" in said
    assert "cuts off the" not in said  # the person is whole
    shown = read_picture(overlay)
    whole = shown[:, : 2 * shown.shape[0]]  # the picture before the panes: what is cut off is dark
    assert (whole[10, [5, -5]] == 63).all()
    assert (whole[10, shown.shape[0]] == 255).all()
    said = planned(height=48, width=128, fit="crop")
    assert "the crop cuts off the feet of the person in the picture; --fit letterbox keeps the whole picture" in said
    said = planned(height=48, width=128)
    assert "a crop to 128x48 would lose part of the person, so bars are added; --fit crop fills the frame" in said
    assert "cut off" not in said


def test_plan_compares_ways_of_alignment(job: GenerateConfig, no_long_work: None) -> None:
    settings = {f.name: getattr(job, f.name) for f in dataclasses.fields(job)}
    pictures = {}
    for compare in (False, True):
        config = PlanConfig(
            **settings | {"output": job.output.with_name(f"{compare}.png"), "compare_alignments": compare}
        )
        pictures[compare] = read_picture(finish(plan(config)).overlay)
    height, width = pictures[False].shape[:2]
    assert pictures[True].shape[:2] == (3 * height, width)


@pytest.mark.parametrize(
    ("picture", "wanted", "published"),
    [
        ((192, 108), (1024, 576), (1024, 576)),
        ((150, 120), (832, 704), (1024, 576)),
        ((120, 120), (768, 768), (576, 1024)),
        ((108, 205), (576, 1024), (576, 1024)),
    ],
)
def test_models_without_settings_take_the_published_area_or_rule(
    picture: tuple[int, int], wanted: tuple[int, int], published: tuple[int, int]
) -> None:
    pipe, pose = micro_pipeline(), standing(1, picture)
    assert pipe.video_size(pose) == wanted
    assert pipe.video_size(pose, fit="released") == published
    assert pipe.video_size(pose, 64, 48) == (64, 48)
    newer, older = published_settings("1.1"), published_settings("1.0")
    assert (newer["fusion"]["segment_frames"], older["fusion"]["segment_frames"]) == (72, 16)
    assert (newer["num_inference_steps"], newer["guidance_scale"]) == (25, 2.0)


def test_released_fit_truncates_as_published(job: GenerateConfig) -> None:
    config = dataclasses.replace(job, fit="released")
    given = inputs.prepare(config, finish(inputs.find_poses(config)), SIZE).picture
    plain = plan_fit((150, 120), SIZE, "released").apply(random_frames(1, (150, 120))[0])
    assert np.array_equal(given, released_round_trip(plain))
    assert not np.array_equal(given, plain)


def test_poses_job_and_its_cache(job: GenerateConfig, tmp_path: Path) -> None:
    config = PosesConfig(video=job.video, output=tmp_path / "out" / "poses.npz", draw=tmp_path / "out" / "drawn.mp4")
    result = finish(find_poses(config))
    assert len(load_poses(config.output)) == FRAMES
    assert frames_of(tmp_path / "out" / "drawn.mp4").max() > 50
    assert f"a person in {FRAMES} of {FRAMES} frames" in result.summary()
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1
    reports: list[Progress] = []
    finish(find_poses(config), reports.append)
    assert [r.done for r in reports if r.stage == "poses"] == [FRAMES]


def test_poses_by_the_published_stride_are_shown_at_15(job: GenerateConfig, tmp_path: Path) -> None:
    output = tmp_path / "out" / "poses.npz"
    finish(find_poses(PosesConfig(video=job.video, output=output, sampling="released")))
    found = load_poses(output)
    assert (len(found), found.fps) == ((FRAMES + 1) // 2, 15.0)
    again = finish(find_poses(PosesConfig(video=output, output=tmp_path / "out" / "b.npz", sampling="released"))).poses
    assert (len(again), again.fps) == ((len(found) + 1) // 2, 15.0)


def test_openpose_folder_out_and_in(job: GenerateConfig, tmp_path: Path) -> None:
    finish(find_poses(PosesConfig(video=job.video, output=tmp_path / "out" / "json")))
    assert len(list((tmp_path / "out" / "json").glob("*.json"))) == FRAMES
    result = finish(generate(dataclasses.replace(job, video=tmp_path / "out" / "json")))
    assert result.num_frames == FRAMES


# --- bad input: each a typed error before anything slow, and nothing left behind ---------------------------------


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def poses_with(path: Path, **changes: ndarray) -> Path:
    good = standing(3)
    arrays = {"xy": good.xy, "confidence": good.confidence} | changes
    with np.load(save_and_return(good, path)) as data:
        np.savez(path, **{k: arrays.get(k, data[k]) for k in data.files})
    return path


def save_and_return(poses: PoseSequence, path: Path) -> Path:
    save_poses(poses, path)
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


BAD: dict[str, tuple[type[MimicMotionError], Callable[[GenerateConfig, Path], dict[str, object]]]] = {
    "missing picture": (MediaError, lambda c, d: {"picture": d / "none.png"}),
    "empty picture": (MediaError, lambda c, d: {"picture": write_bytes(d / "a.png", b"")}),
    "not a picture": (MediaError, lambda c, d: {"picture": write_bytes(d / "a.png", b"hello")}),
    "truncated picture": (MediaError, lambda c, d: {"picture": write_bytes(d / "a.png", c.picture.read_bytes()[:900])}),
    "4x4 picture": (MediaError, lambda c, d: {"picture": write_picture(d / "a.png", random_frames(1, (4, 4))[0])}),
    "pipe as picture": (MediaError, lambda c, d: {"picture": pipe(d / "pipe")}),
    "pipe as video": (MediaError, lambda c, d: {"video": pipe(d / "pipe")}),
    "address on the web": (MediaError, lambda c, d: {"picture": Path("https://example.com/a.png")}),
    "name of 300 letters": (InputError, lambda c, d: {"video": d / ("n" * 300)}),
    "output of 300 letters": (InputError, lambda c, d: {"output": d / ("n" * 300)}),
    "missing video": (MediaError, lambda c, d: {"video": d / "none.mp4"}),
    "empty video": (MediaError, lambda c, d: {"video": write_bytes(d / "a.mp4", b"")}),
    "not a video": (MediaError, lambda c, d: {"video": write_bytes(d / "a.mp4", b"hello" * 99)}),
    "video without index": (MediaError, lambda c, d: {"video": write_bytes(d / "a.mp4", c.video.read_bytes()[:60])}),
    "start behind the end": (MediaError, lambda c, d: {"start": 99.0}),
    "folder without frames": (MediaError, lambda c, d: {"video": d}),
    "unknown suffix": (ConfigError, lambda c, d: {"output": d / "a.xyz"}),
    "output under a file": (OutputError, lambda c, d: {"output": c.picture / "a.mp4"}),
    "size not a multiple": (ConfigError, lambda c, d: {"height": 100, "width": 64}),
    "pose file with NaN": (
        PoseError,
        lambda c, d: {"video": poses_with(d / "p.npz", xy=np.full((3, NUM_POINTS, 2), np.nan, np.float32))},
    ),
    "pose file out of range": (
        PoseError,
        lambda c, d: {"video": poses_with(d / "p.npz", confidence=np.full((3, NUM_POINTS), 1.5, np.float32))},
    ),
    "foreign npz": (PoseError, lambda c, d: {"video": d / "foreign.npz"}),
    "missing model": (WeightsError, lambda c, d: {"model": str(d / "no-model")}),
    "wrong checkpoint": (WeightsError, lambda c, d: {"checkpoint": str(d / "wrong.safetensors")}),
    "unknown device": (ConfigError, lambda c, d: {"device": "abacus"}),
    "device not here": (ConfigError, lambda c, d: {"device": "cuda:77"}),
}


OVERWRITES: dict[str, Callable[[GenerateConfig], dict[str, object]]] = {
    "the video": lambda c: {"output": c.video},
    "the sidecar": lambda c: {"video": save_and_return(standing(3), c.output.with_name("result.mp4.json"))},
    "the preview": lambda c: {"picture": c.output.with_name("result.mp4.preview.png"), "preview": True},
    "side by side": lambda c: {"video": c.output.with_name("result-side-by-side.mp4"), "side_by_side": True},
    "a folder": lambda c: {"picture": c.output.with_name("frames") / "frame_000000.png", "output": Path("frames")},
}


@pytest.mark.parametrize("name", OVERWRITES)
def test_inputs_are_never_replaced(name: str, job: GenerateConfig, tmp_path: Path, no_long_work: None) -> None:
    config = dataclasses.replace(job, **OVERWRITES[name](job))  # type: ignore[arg-type]
    if config.output == Path("frames"):
        config = dataclasses.replace(config, output=job.output.with_name("frames"))
    for old, new in ((job.picture, config.picture), (job.video, config.video)):
        if not new.exists():
            new.parent.mkdir(exist_ok=True)
            new.write_bytes(old.read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="the input"):
        finish(generate(config))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def openpose(folder: Path, frames: int, **keys: object) -> Path:
    """OpenPose JSON as other programs write it: without a rate."""
    save_openpose(dancing(frames), folder)
    for path in folder.iterdir():
        path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | keys).items() if v is not None}))
    return folder


def test_what_a_pose_file_lacks_can_be_given(job: GenerateConfig, tmp_path: Path) -> None:
    folder = openpose(tmp_path / "json", 12, fps=None)
    config = PosesConfig(video=folder, output=tmp_path / "a.npz", fps=15.0)
    assert len(finish(find_poses(config)).poses) == 12
    assert len(finish(find_poses(dataclasses.replace(config, video_fps=60.0))).poses) == 3
    bare = openpose(tmp_path / "bare", 2, canvas_height=None, canvas_width=None)
    config = dataclasses.replace(config, video=bare)
    with pytest.raises(PoseError, match="--video-size"):
        finish(find_poses(config))
    assert finish(find_poses(dataclasses.replace(config, video_size="64x96"))).poses.size == (96, 64)
    for name, value in (("video_fps", 30.0), ("video_size", "64x96")):
        with pytest.raises(ConfigError, match=f"{name}=.*does not say this itself|{name}="):
            inputs.open_driving(dataclasses.replace(config, video=job.video, **{name: value}))  # type: ignore[arg-type]


def test_pose_files_are_known_by_their_content(job: GenerateConfig, tmp_path: Path) -> None:
    save_poses(dancing(3), tmp_path / "a.npz")
    frames = json.dumps([json.loads(p.read_text()) for p in sorted(openpose(tmp_path / "json", 3).iterdir())])
    (tmp_path / "poses.mp4").write_bytes((tmp_path / "a.npz").read_bytes())
    (tmp_path / "poses.txt").write_text("\ufeff \n" + frames, encoding="utf-8")
    (tmp_path / "wide.json").write_text(frames, encoding="utf-16")  # as PowerShell writes it
    for name in ("poses.mp4", "poses.txt", "wide.json"):
        found = inputs.open_driving(dataclasses.replace(job, video=tmp_path / name))
        assert isinstance(found, PoseSequence)
        np.testing.assert_allclose(found.xy, dancing(3).xy, atol=0.01)  # JSON holds two digits
    with pytest.raises(MediaError, match="swap PICTURE and VIDEO"):
        inputs.check_inputs(dataclasses.replace(job, picture=tmp_path / "poses.txt", video=job.picture))


def test_the_rate_is_kept_in_openpose_json(tmp_path: Path) -> None:
    poses = dataclasses.replace(dancing(6), fps=60.0)
    source = save_and_return(poses, tmp_path / "a.npz")
    finish(find_poses(PosesConfig(video=source, output=tmp_path / "json")))
    assert len(finish(find_poses(PosesConfig(video=tmp_path / "json", output=tmp_path / "b.npz", fps=30.0))).poses) == 3


def test_what_the_source_cannot_give_is_reported(job: GenerateConfig, tmp_path: Path) -> None:
    folder = openpose(tmp_path / "json", 3, fps=None)
    config = dataclasses.replace(job, video=folder, fps=15.0)
    (note,) = inputs.source_notes(config, inputs.open_driving(config))
    assert "not store its frame rate, so 15 is assumed; set it with --video-fps" in note
    assert note in finish(plan(dataclasses.replace(config, output=tmp_path / "plan.png"))).summary()
    config = dataclasses.replace(config, video_fps=8.0)
    (note,) = inputs.source_notes(config, inputs.open_driving(config))
    assert "the source has 8 frames per second, the result 15" in note
    config = dataclasses.replace(config, video_fps=15.0)
    assert inputs.source_notes(config, inputs.open_driving(config)) == []


TIMES_THREE = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
"""Four frames of 5 per second at 15: the nearest in time."""


@pytest.fixture
def slow(job: GenerateConfig, tmp_path: Path) -> GenerateConfig:
    """The job driven by four frames of 5 per second."""
    with open_writer(tmp_path / "slow.mp4", SIZE, 5.0) as writer:
        for frame in random_frames(4, SIZE):
            writer.write(frame)
    return dataclasses.replace(job, video=tmp_path / "slow.mp4", num_inference_steps=1, save_every=0)


def test_a_repeated_frame_is_analysed_once(slow: GenerateConfig, tmp_path: Path) -> None:
    config = PosesConfig(video=slow.video, output=tmp_path / "poses.npz", fps=15.0)
    reports: list[Progress] = []
    found = finish(find_poses(config), reports.append).poses  # the planted poses change with each frame looked at
    np.testing.assert_array_equal(found.xy, dancing(4).xy[TIMES_THREE])
    assert [r.done for r in reports if r.stage == "poses"] == [0, 1, 3, 6, 9, 12]


def test_frames_can_be_repeated_only_when_written(slow: GenerateConfig, tmp_path: Path) -> None:
    summary = finish(plan(dataclasses.replace(slow, output=tmp_path / "plan.png"))).summary()
    assert "--fps 5 gives the same movement with less work, --output-fps 15 then repeats frames when" in summary
    slow = dataclasses.replace(slow, fps=5.0, side_by_side=True, label="visible")
    once = finish(generate(dataclasses.replace(slow, output=tmp_path / "once")))
    reports: list[Progress] = []
    config = dataclasses.replace(slow, output=tmp_path / "repeated", output_fps=15.0)
    result = finish(generate(config), reports.append)
    assert {r.total for r in reports if r.stage == "write"} == {4}
    assert (result.num_frames, result.fps) == (12, 15.0)
    np.testing.assert_array_equal(frames_of(result.path), frames_of(once.path)[TIMES_THREE])
    assert result.side_by_side
    assert once.side_by_side
    np.testing.assert_array_equal(frames_of(result.side_by_side), frames_of(once.side_by_side)[TIMES_THREE])
    assert sidecar_fusion(once.path)
    assert sidecar_fusion(result.path) is None  # its segments begin at other frames of the file
    with pytest.raises(ConfigError, match="output_fps=4 below fps=5"):
        dataclasses.replace(slow, output_fps=4.0)


def test_start_and_duration_hold_for_pose_files_by_stride(tmp_path: Path) -> None:
    poses = dataclasses.replace(dancing(30), fps=30.0)
    released = PosesConfig(video=tmp_path, output=tmp_path, sampling="released", stride=1, start=0.5, duration=0.25)
    part = inputs.resample_poses(poses, released)
    np.testing.assert_array_equal(part.xy, poses.xy[15:23])
    with pytest.raises(ConfigError, match="tempo=2"):
        dataclasses.replace(released, tempo=2.0)
    with pytest.raises(ConfigError, match="stride=1 with sampling=time"):
        dataclasses.replace(released, sampling="time")


@pytest.mark.parametrize(
    "asked",
    [{"fps": 15.0}, {"fps": 9.0, "start": 0.35, "duration": 1.1}, {"tempo": 1.6}, {"sampling": "released"}],
)
def test_a_pose_file_gives_the_frames_of_its_video(asked: dict[str, Any], tmp_path: Path) -> None:
    """At 29.97 frames per second every second frame starts a little after k / 15 s, where the one before is wrong."""
    count, fps = 60, 30000 / 1001
    with open_writer(tmp_path / "numbers.mkv", (32, 32), fps) as writer:
        for k in range(count):
            writer.write(np.full((32, 32, 3), 4 * k, np.uint8))
    poses = dancing(count)
    poses = dataclasses.replace(poses, xy=np.broadcast_to(np.arange(count)[:, None, None], poses.xy.shape), fps=fps)
    config = PosesConfig(video=tmp_path / "numbers.mkv", output=tmp_path / "unused.npz", **asked)
    taken = [round(float(f.mean()) / 4) for f in inputs.sampled_frames(config, open_video(config.video))]
    assert inputs.resample_poses(poses, config).xy[:, 0, 0].astype(int).tolist() == taken


LATE = ("truncated picture", "4x4 picture", "start behind the end", "not a video", "pose file with NaN")


@pytest.mark.parametrize("name", LATE)
def test_inputs_are_checked_before_a_model_is_loaded(
    name: str, job: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded before the input was refused")

    monkeypatch.setattr(MimicMotionPipeline, "from_pretrained", loaded)
    error, change = BAD[name]
    config = dataclasses.replace(job, **change(job, tmp_path))  # type: ignore[arg-type]
    with pytest.raises(error):
        finish(generate(config))


def test_plan_and_poses_spare_their_inputs(job: GenerateConfig, tmp_path: Path, no_long_work: None) -> None:
    with pytest.raises(ConfigError, match="the input"):
        finish(plan(dataclasses.replace(job, output=job.picture)))
    poses = save_and_return(standing(3), tmp_path / "poses.npz")
    with pytest.raises(ConfigError, match="the input"):
        finish(find_poses(PosesConfig(video=poses, output=poses)))
    with pytest.raises(ConfigError, match="the input"):
        finish(find_poses(PosesConfig(video=job.video, output=tmp_path / "new.npz", draw=job.video)))


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, job: GenerateConfig, tmp_path: Path, no_long_work: None) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "bad"
    folder.mkdir()
    np.savez(folder / "foreign.npz", a=np.zeros(3))
    save_file({"pose_net.scale": torch.ones(1)}, folder / "wrong.safetensors")
    error, change = BAD[name]
    config = dataclasses.replace(job, **change(job, folder))  # type: ignore[arg-type]
    with pytest.raises(error, match="(?s)expected: .*fix: "):
        finish(generate(config))
    assert left_over(job) == []
    assert not [p for p in tmp_path.rglob("*") if ".part" in p.name]


def test_no_network_is_explained(job: GenerateConfig, monkeypatch: pytest.MonkeyPatch, no_long_work: None) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(WeightsError, match="fix: "):
        finish(generate(dataclasses.replace(job, model="stabilityai/stable-video-diffusion-img2vid-xt-1-1")))


def test_truncated_weights(job: GenerateConfig, tmp_path: Path, micro_folder: Path, no_long_work: None) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(micro_folder, copy)
    file = next((copy / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"unet.*\n.*expected"):
        finish(generate(dataclasses.replace(job, model=str(copy))))


def not_loaded(*_: object, **__: object) -> None:
    raise AssertionError("a model was loaded before the inputs were looked at")


EARLY: dict[str, tuple[Callable[[GenerateConfig], dict[str, Any]], str]] = {
    "arguments swapped": (
        lambda j: {"picture": j.video, "video": j.picture},
        "(?s)is a video or a pose file.*fix: swap PICTURE and VIDEO",
    ),
    "a video twice": (lambda j: {"picture": j.video}, "(?s)is a video or a pose file.*fix: pass a picture"),
    "no picture": (lambda j: {"picture": j.video.with_name("no.png")}, "does not exist"),
    "a start behind the end": (lambda j: {"start": 1000}, "has no frame after"),
    "a person who is not there": (lambda j: {"person": "5"}, "person 5 was never seen; no frame shows more than 1"),
    "a point beside everybody": (lambda j: {"person": "1,1"}, "was never seen"),
    "a pose file with sound": (lambda j: {"video": pose_file(j), "audio": True}, "audio=True with a pose file"),
    "one of one person": (lambda j: {"video": pose_file(j), "person": "1"}, "person=1 with a pose file of one person"),
    "poses in place of the picture": (lambda j: {"picture": pose_file(j)}, "is a video or a pose file"),
}


def pose_file(job: GenerateConfig) -> Path:
    path = job.video.with_name("poses.npz")
    save_poses(standing(FRAMES), path)
    return path


class OnePerson:
    """Sees one person in every frame, and follows the one that was asked for."""

    source, people = "one person", 1

    def __init__(self, person: Any) -> None:
        self.person = person

    def estimate_stream(self, frames: Iterable[ndarray]) -> Iterator[tuple[ndarray, ndarray]]:
        tracker, poses = PersonTracker(self.person), standing(1)
        for _ in frames:
            found = tracker.choose(poses.xy, poses.confidence)
            yield poses.xy[0], poses.confidence[0] * (found is not None)
        tracker.check_found()

    def estimate(self, frames: Sequence[ndarray]) -> PoseSequence:
        return standing(1, frames[0].shape[:2])


@pytest.mark.parametrize("name", EARLY)
def test_found_before_a_model_is_loaded(name: str, job: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(options: Any) -> Callable[..., Any]:
        return lambda static=False: OnePerson("largest" if static else person_choice(options.person))

    monkeypatch.setattr(inputs, "find_estimator", find)
    monkeypatch.setattr(MimicMotionPipeline, "from_pretrained", not_loaded)
    change, says = EARLY[name]
    config = dataclasses.replace(job, pose_cache=False, **change(job))
    with pytest.raises(InputError, match=says):
        finish(generate(config))
    with pytest.raises(InputError, match=says):
        finish(plan(dataclasses.replace(config, output=job.output.with_suffix(".png"))))
    assert left_over(job) == []


@pytest.mark.parametrize(("who", "says"), [("picture", "found in the picture .*png"), ("video", "found in .*mp4")])
def test_no_person_found(
    who: str, says: str, job: GenerateConfig, monkeypatch: pytest.MonkeyPatch, no_long_work: None
) -> None:
    there = standing(FRAMES)
    nobody = dataclasses.replace(there, confidence=np.zeros_like(there.confidence))
    found = (nobody, there) if who == "picture" else (there, nobody)
    monkeypatch.setattr(inputs, "find_estimator", planted(*found))
    with pytest.raises(PoseError, match=f"no person {says}"):
        finish(generate(job))
    assert left_over(job) == []


def test_only_the_wanted_points_of_the_face_are_drawn(job: GenerateConfig) -> None:
    poses = standing(2)
    poses.confidence[:] = 0.9

    def face(part: str) -> tuple[ndarray, ndarray]:
        config = dataclasses.replace(job, face=part)
        made = inputs.fit_inputs(config, random_frames(1, SIZE)[0], poses[:1], poses, SIZE)
        outside = [made.aligned.confidence[:, : FACE.start], made.aligned.confidence[:, FACE.stop :]]
        assert (np.concatenate(outside, 1) > 0).all()
        return made.reference.confidence[0, FACE] > 0, made.aligned.confidence[1, FACE] > 0

    eyes_and_mouth = np.arange(68) >= 36  # iBUG's points 37 to 68
    for part, wanted in (("all", np.ones(68, bool)), ("eyes-mouth", eyes_and_mouth), ("none", np.zeros(68, bool))):
        for drawn in face(part):
            np.testing.assert_array_equal(drawn, wanted)


def right_and_wrong_poses() -> dict[str, tuple[PoseSequence, str]]:
    """A standing person, and an impossible one."""

    def changed(**moved: Any) -> PoseSequence:
        pose = standing(1, (640, 480))
        pose.confidence[:, FACE] = 0.9
        pose.xy[0, FACE] = pose.xy[0, 0] + np.random.default_rng(0).uniform(-20, 20, (68, 2))
        for name, place in moved.items():
            pose.xy[0, getattr(kp, name)] = place(pose.xy[0])
        return pose

    return {
        "right": (changed(), ""),
        "foreshortened": (changed(R_ELBOW=lambda xy: xy[2] + 5, R_WRIST=lambda xy: xy[2] + 9), ""),
        "lying": (dataclasses.replace(changed(), xy=changed().xy[..., ::-1] * (1, -1) + (0, 480), size=(480, 640)), ""),
        "limb": (changed(L_WRIST=lambda _: (470, 630)), "a forearm is .* times as long"),
        "chest": (changed(FACE=lambda xy: xy[FACE] + (0, 130)), "the face is not on the head"),
        "head": (changed(NOSE=lambda xy: xy[1] + (0, 60)), "the head is below the shoulders"),
        "sides": (
            changed(R_SHOULDER=lambda _: (288, 173), L_SHOULDER=lambda _: (192, 173)),
            "left and right are swapped between shoulders and hips",
        ),
    }


@pytest.mark.parametrize("name", right_and_wrong_poses())
def test_an_impossible_pose_is_reported(name: str, job: GenerateConfig, caplog: pytest.LogCaptureFixture) -> None:
    pose, says = right_and_wrong_poses()[name]
    made = inputs.fit_inputs(job, np.zeros((*pose.size, 3), np.uint8), pose, pose, SIZE)
    notes = [note for note in made.warnings if "looks wrong" in note]
    assert len(notes) == bool(says)
    if says:
        assert re.search(says, notes[0])
        assert notes[0] in caplog.messages  # before anything slow, too


def test_several_people_in_the_picture_are_reported(job: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = dataclasses.replace(standing(1), people=np.array([2]))
    monkeypatch.setattr(inputs, "find_estimator", planted(crowd, dancing(FRAMES)))
    config = dataclasses.replace(job, output=job.output.with_suffix(".png"))
    said = finish(plan(config)).summary()
    assert "people    2 in the picture, 1 in the video" in said
    assert "the picture shows 2 people; the largest is used, choose another with --picture-person" in said
    assert "the largest is used" not in finish(plan(dataclasses.replace(config, picture_person="0"))).summary()


def test_person_missing_in_some_frames_is_reported(job: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    poses = standing(FRAMES)
    confidence = poses.confidence.copy()
    confidence[3:5] = 0
    gap = dataclasses.replace(poses, confidence=confidence)
    monkeypatch.setattr(inputs, "find_estimator", planted(poses, gap))
    result = finish(generate(job))
    assert any(f"2 of {FRAMES} frames" in w for w in result.warnings)
    assert result.num_frames == FRAMES


def test_truncated_video_gives_what_is_there(job: GenerateConfig, tmp_path: Path) -> None:
    data = job.video.read_bytes()
    cut = write_bytes(tmp_path / "cut.mp4", data[: len(data) * 2 // 3])
    assert 1 <= finish(generate(dataclasses.replace(job, video=cut))).num_frames < FRAMES


def test_large_picture(job: GenerateConfig, tmp_path: Path) -> None:
    large = write_picture(tmp_path / "large.jpg", np.full((2160, 3840, 3), 90, np.uint8))
    assert finish(generate(dataclasses.replace(job, picture=large, num_inference_steps=1))).num_frames == FRAMES


@pytest.mark.parametrize("stage", ["poses", "denoise", "write"])
def test_stopping_leaves_the_state_alone(stage: str, job: GenerateConfig, tmp_path: Path) -> None:
    run = generate(dataclasses.replace(job, side_by_side=True, preview=True))
    for report in run:
        if report.stage == stage and report.done:
            break
    run.close()
    kept = [] if stage == "poses" else ["result.mp4.state"]
    assert [n for n in left_over(job) if not n.endswith(".preview.png")] == kept


def test_without_states_stopping_leaves_nothing(job: GenerateConfig) -> None:
    run = generate(dataclasses.replace(job, save_every=0))
    next(r for r in run if r.stage == "denoise")
    run.close()
    assert left_over(job) == []


def test_full_disk(job: GenerateConfig, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk; the old result stays."""
    job.output.write_bytes(b"old")
    run = generate(dataclasses.replace(job, output=job.output.with_suffix(".gif")))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OutputError, match="fix: "):  # noqa: PT012
            for report in run:
                if report.stage == "denoise":
                    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert left_over(job) == ["result.gif.state", "result.mp4"]  # decoding can be repeated alone


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 2.0, 5.0, 7.0, 9.0])
def test_ctrl_c_at_any_time(delay: float, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mimicmotion.cli", "demo", "-o", str(tmp_path / "out")]
    env = os.environ | {"MIMICMOTION_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".mp4", ".part")]


@pytest.mark.slow
def test_the_demo_shows_a_rendered_person_and_a_photograph(tmp_path: Path) -> None:
    person, photograph = finish(demo(tmp_path))
    assert (person.path.name, person.size, len(frames_of(person.path))) == ("demo.mp4", (320, 192), 62)
    assert (photograph.path.name, photograph.size, len(frames_of(photograph.path))) == (
        "photograph.mp4",
        (256, 256),
        40,
    )
    assert all(r.side_by_side and r.side_by_side.is_file() for r in (person, photograph))


def test_memory_holds_one_frame_at_a_time(job: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are written as they are decoded: the decoder is never more than a frame ahead of the writer."""
    written: list[int] = []
    decode = MimicMotionPipeline.decode

    def counted(self: MimicMotionPipeline, *args: object, **options: object) -> Iterator[ndarray]:
        for i, frame in enumerate(decode(self, *args, **options)):  # type: ignore[arg-type]
            assert len(written) == i
            yield frame

    monkeypatch.setattr(MimicMotionPipeline, "decode", counted)
    for report in generate(job):
        if report.stage == "write":
            written.append(report.done)
    assert len(written) == FRAMES
