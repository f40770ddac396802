"""The folder of a study: copying, encoding, blinding, and refused inputs."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from mimicmotion.errors import ConfigError, InputError, MediaError, OutputError
from mimicmotion.runtime.progress import finish
from mimicmotion.settings.study import StudyConfig, parse_method
from mimicmotion.study.build import build_study
from mimicmotion.study.folder import load_key, load_study
from mimicmotion.video.picture import write_picture
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer
from study_clips import BASELINES, OURS, build, clip, result_folders


def test_every_pair_is_ours_against_a_baseline_and_nothing_says_which(tmp_path: Path) -> None:
    config = result_folders(tmp_path)
    study, key = build(config)
    assert load_study(config.output) == study
    assert load_key(config.output, study) == key
    assert {(p.sequence, p.baseline) for p in key.pairs.values()} == {
        (s, b) for s in ("walk", "turn") for b in BASELINES
    }
    for pair in study.pairs:
        methods = {key.videos[v].method for v in (pair.a, pair.b)}
        assert methods == {OURS, key.pairs[pair.id].baseline}
        assert {key.videos[v].sequence for v in (pair.a, pair.b)} == {key.pairs[pair.id].sequence}
    for file in (config.output / "study.json", *(config.output / "videos").iterdir()):
        assert not re.search(rb"Firstmethod|Secondmethod|Thirdmethod|walk", file.read_bytes(), re.I)


def test_ours_stands_first_as_often_as_second(tmp_path: Path) -> None:
    config = result_folders(tmp_path, tuple(f"s{i}" for i in range(8)))
    orders = []
    for seed in range(2):
        study, key = build(dataclasses.replace(config, seed=seed, output=tmp_path / f"study{seed}"))
        orders.append([key.videos[p.a].method == OURS for p in study.pairs])
        assert sum(orders[-1]) == 8
    assert orders[0] != orders[1]


def test_playable_videos_are_copied_byte_for_byte(tmp_path: Path) -> None:
    config = result_folders(tmp_path)
    study, key = build(config)
    for name, video in key.videos.items():
        copied = config.output / "videos" / study.videos[name].file
        assert copied.read_bytes() == (tmp_path / video.method / video.source).read_bytes()
        assert not video.encoded_again


def test_what_browsers_cannot_play_becomes_h264_with_the_same_frames(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    ours = tmp_path / OURS / "walk.mp4"
    frames = list(open_video(ours).frames())
    ours.unlink()
    with av.open(str(tmp_path / OURS / "walk.avi"), "w") as container:  # what cv2.VideoWriter makes
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / BASELINES[0] / "walk.mp4").unlink()
    for i, frame in enumerate(frames):
        write_picture(tmp_path / BASELINES[0] / "walk" / f"{i}.png", frame)
    (tmp_path / BASELINES[1] / "walk.mp4").unlink()
    clip(tmp_path / BASELINES[1] / "walk.gif", 80)
    study, key = build(dataclasses.replace(config, folder_fps=8))
    for name, video in key.videos.items():
        assert video.encoded_again
        made = open_video(config.output / "videos" / study.videos[name].file)
        assert made.info.codec == "h264"
        assert (made.info.width, made.info.height) == (48, 64)
        assert made.info.duration == pytest.approx(1, abs=0.11)
        if video.source == "walk":
            got = np.stack(list(made.frames())).astype(float)
            assert np.abs(got - np.stack(frames)).mean() < 3


def test_reference_and_driving_stand_beside_the_pairs(tmp_path: Path) -> None:
    config = result_folders(tmp_path)
    for name in ("walk", "turn", "unused"):
        write_picture(tmp_path / "ref" / f"{name}.png", np.full((16, 12, 3), 90, np.uint8))
        clip(tmp_path / "drive" / f"{name}.mp4", 10)
    study, _ = build(dataclasses.replace(config, reference=tmp_path / "ref", driving=tmp_path / "drive"))
    for pair in study.pairs:
        assert (config.output / "videos" / pair.reference).is_file()
        assert (config.output / "videos" / study.videos[pair.driving].file).is_file()
    assert len(list((config.output / "videos").iterdir())) == 6 + 2 + 2


def test_practice_and_catch_pairs_show_a_result_and_a_coarse_copy_of_it(tmp_path: Path) -> None:
    config = dataclasses.replace(result_folders(tmp_path), practice=1, catch=2)
    for path in tmp_path.glob("*method/*.mp4"):
        frame = np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)
        with open_writer(path, (64, 48), 8.0) as writer:
            for _ in range(8):
                writer.write(frame)
    result = finish(build_study(config))
    study, key = result.study, result.key
    assert [p.kind for p in study.pairs] == ["vote"] * 4 + ["practice", "catch", "catch"]
    assert "4 pairs: Firstmethod against Secondmethod, Thirdmethod in 2 sequences; 3 practice and catch pairs" in (
        result.summary()
    )
    assert len({p.better for p in key.pairs.values()} - {""}) == 3  # of different results
    for pair in study.pairs[4:]:
        better = key.pairs[pair.id].better
        (coarse,) = {pair.a, pair.b} - {better}
        files = [config.output / "videos" / study.videos[name].file for name in (better, coarse)]
        good, bad = (np.stack(list(open_video(file).frames())).astype(float) for file in files)
        assert good.shape == bad.shape
        blocks = bad.reshape(len(bad), 16, 4, 12, 4, 3)  # 48 x 64 pixels in blocks of 4
        assert blocks.std((2, 4)).mean() < 5
        assert np.abs(good - bad).mean() > 30


def test_texts_come_from_files(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    (tmp_path / "consent.txt").write_text("Do you agree?")
    finish(build_study(dataclasses.replace(config, consent=tmp_path / "consent.txt")))
    assert load_study(config.output).consent == "Do you agree?"
    with pytest.raises(InputError, match="no-file"):
        build(dataclasses.replace(config, instructions=tmp_path / "no-file", output=tmp_path / "other"))


def test_missing_sequences_are_named_and_left_out_only_when_told(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk", "turn", "jump"))
    (tmp_path / BASELINES[1] / "turn.mp4").unlink()
    with pytest.raises(InputError, match="Thirdmethod has no turn"):
        build(config)
    assert not config.output.exists()
    result = finish(build_study(dataclasses.replace(config, skip_missing=True)))
    assert {p.sequence for p in result.key.pairs.values()} == {"walk", "jump"}
    assert "left out: Thirdmethod has no turn" in result.summary()


def test_folders_without_a_common_sequence_are_refused_even_when_told_to_skip(tmp_path: Path) -> None:
    config = dataclasses.replace(result_folders(tmp_path, ("walk",)), skip_missing=True)
    (tmp_path / OURS / "walk.mp4").rename(tmp_path / OURS / "other.mp4")
    with pytest.raises(InputError, match="Firstmethod has no walk"):
        build(config)


def test_an_unreadable_video_is_named_before_anything_is_written(tmp_path: Path) -> None:
    config = result_folders(tmp_path)
    broken = tmp_path / BASELINES[0] / "turn.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(MediaError, match=re.escape(str(broken))):
        build(config)
    assert not config.output.exists()


def test_two_files_of_one_sequence_are_refused(tmp_path: Path) -> None:
    config = result_folders(tmp_path)
    shutil.copy(tmp_path / OURS / "walk.mp4", tmp_path / OURS / "walk.mov")
    with pytest.raises(InputError, match="are both sequence"):
        build(config)


@pytest.mark.parametrize(
    "bad", [{"baselines": []}, {"questions": []}, {"baselines": [(OURS, Path("x"))]}, {"repeat_share": 0.6}]
)
def test_bad_settings(tmp_path: Path, bad: dict) -> None:
    good = {"ours": (OURS, tmp_path), "baselines": [("b", tmp_path)], "output": tmp_path / "study"}
    with pytest.raises(ConfigError):
        StudyConfig(**good | bad)


@pytest.mark.parametrize("text", ["ours", "=dir", "ours="])
def test_methods_are_given_as_name_and_folder(text: str) -> None:
    with pytest.raises(InputError, match="NAME=DIR"):
        parse_method(text)
    assert parse_method("a=b=c") == ("a", Path("b=c"))


def test_a_study_is_never_overwritten(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    build(config)
    before = (config.output / "key.json").read_text()
    with pytest.raises(OutputError, match="already contains"):
        build(config)
    assert (config.output / "key.json").read_text() == before


def test_ids_are_fresh_each_time_unless_seeded(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    made = [
        build(dataclasses.replace(config, seed=s, output=tmp_path / f"o{i}"))[0] for i, s in enumerate([3, 3, None])
    ]
    assert made[0].secret != made[1].secret
    assert dataclasses.replace(made[0], secret="") == dataclasses.replace(made[1], secret="")
    assert not set(made[0].videos) & set(made[2].videos)


def test_unequal_lengths_are_reported(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    clip(tmp_path / BASELINES[0] / "walk.mp4", 10, frames=4)
    assert "stops on its last frame" in finish(build_study(config)).summary()


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "other"}', '{"format": "mimicmotion-study", "version": 1}'])
def test_damaged_studies_are_refused(tmp_path: Path, damage: str) -> None:
    config = result_folders(tmp_path, ("walk",))
    build(config)
    (config.output / "study.json").write_text(damage)
    with pytest.raises(InputError, match=r"study\.json"):
        load_study(config.output)


def test_a_key_of_another_study_is_refused(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    build(config)
    other, _ = build(dataclasses.replace(config, seed=4, output=tmp_path / "other"))
    with pytest.raises(InputError, match="another study"):
        load_key(config.output, other)


def test_interrupted_building_leaves_nothing(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    job = build_study(config)
    next(job)
    job.close()
    assert not [p for p in tmp_path.iterdir() if "study" in p.name]


def test_webm_stays_webm(tmp_path: Path) -> None:
    config = result_folders(tmp_path, ("walk",))
    with open_writer(tmp_path / OURS / "walk.webm", (64, 48), 8.0) as writer:
        for i in range(8):
            writer.write(np.full((64, 48, 3), 20 * i, np.uint8))
    (tmp_path / OURS / "walk.mp4").unlink()
    study, key = build(config)
    assert sorted(study.videos[i].file[-5:] for i, v in key.videos.items() if v.method == OURS) == [".webm"]
