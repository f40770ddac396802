"""Whole evaluations of small folders: inputs, report, and errors."""

from __future__ import annotations

import csv
import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from evaluation_clips import folders, frames, run, value, video
from face_networks import quarters_network
from mimicmotion import cli
from mimicmotion.errors import ConfigError, InputError, WeightsError
from mimicmotion.evaluation import selection
from mimicmotion.evaluation.job import evaluate
from mimicmotion.evaluation.metrics import pixels
from mimicmotion.evaluation.reports import summary
from mimicmotion.evaluation.reports.report import save_report
from mimicmotion.pose.files import save_poses
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.progress import finish
from mimicmotion.settings.evaluation import EvaluateConfig, parse_methods
from mimicmotion.video.picture import write_picture
from mimicmotion.video.reader import VideoReader


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "user-cache"))  # no weights of the user's


def test_the_command_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    argv = ["evaluate", "--real", str(tmp_path / "real"), "--generated", f"ours={tmp_path / 'ours'}"]
    argv += [f"theirs={tmp_path / 'theirs'}", "-o", str(tmp_path / "report")]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    assert "mimicmotion weights fetch i3d" in text
    assert "fid, fid-vid, cd-fvd not computed" in text
    files = {p.name: p.read_text() for p in (tmp_path / "report").iterdir()}
    assert set(files) == {"report.md", "report.html", "metrics.csv", "summary.json"}
    data = json.loads(files["summary.json"])
    want = np.mean([pixels.psnr(frames(s, 4.0), frames(s)) for s in (0, 1)])
    cell = data["methods"]["ours"]["psnr"]
    assert cell["mean"] == pytest.approx(want)
    assert cell["n"] == 2
    assert cell["low"] < cell["mean"] < cell["high"]
    assert set(data["methods"]["theirs"]) >= {"psnr", "ssim", "l1", "flicker", "warping_distance"}
    assert all(p["baseline"] == "ours" and p["n"] == 2 for p in data["paired"])
    assert data["protocol"]["name"] == "plain"
    assert data["environment"]["numpy"] == np.__version__
    rows = list(csv.DictReader(files["metrics.csv"].splitlines()))
    assert len(rows) == 2 * 2 * 8
    assert "too few sequences" in files["report.md"]
    assert files["report.html"].count("src=") == files["report.html"].count('src="data:image/png;base64,') == 1
    assert "http" not in files["report.html"]
    assert cli.main([*argv, "--no-cache"]) == 0  # the same numbers, and the same bytes, without what was kept
    assert {p.name: p.read_text() for p in (tmp_path / "report").iterdir()} == files


def test_only_what_is_new_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = folders(tmp_path)
    first = run(**settings)
    assert first.reused[0] > 0  # theirs reuses the results of the real videos
    again = run(**settings)
    assert again.reused[1] == 0
    assert [r.values for r in again.rows] == [r.values for r in first.rows]
    shutil.copytree(tmp_path / "ours", tmp_path / "renamed")  # content counts, not names
    assert run(**settings | {"generated": {"copy": tmp_path / "renamed"}}).reused[1] == 0
    more = run(**settings | {"metrics": ["psnr", "l1", "flicker"]})
    assert more.reused[1] == 4  # flicker of four pairs
    video(tmp_path / "ours" / "turn.mp4", frames(5))
    shutil.rmtree(tmp_path / "ours" / "turn")
    changed = run(**settings)
    assert 0 < changed.reused[1] < first.reused[1]
    for file in (tmp_path / "user-cache").rglob("*.json"):
        file.write_text("{")  # damaged entries are recomputed
    assert [r.values for r in run(**settings).rows] == [r.values for r in changed.rows]


def test_a_stopped_run_resumes(tmp_path: Path) -> None:
    settings = folders(tmp_path) | {"metrics": ["psnr"]}
    steps = evaluate(EvaluateConfig(**settings))
    for step in steps:
        if step.stage == "measure" and step.done >= 16:
            break
    steps.close()
    assert not (tmp_path / "report").exists()
    made = finish(evaluate(EvaluateConfig(**settings))).reused[1]
    assert made == 3  # stopped within the second of four pairs


def test_the_same_frames_under_another_rate_are_compared_frame_by_frame(tmp_path: Path) -> None:
    clip = frames(2, count=12)
    video(tmp_path / "real" / "a.mp4", clip, fps=15.0)
    video(tmp_path / "same" / "a.mp4", frames(2, 2.0, count=12), fps=15.0)
    video(tmp_path / "other" / "a.mp4", frames(2, 2.0, count=12), fps=8.0)
    settings = {"real": tmp_path / "real", "output": tmp_path / "o"}
    done = run(**settings | {"generated": {n: tmp_path / n for n in ("same", "other")}})
    # encoders treat rates differently; by time, 6 frames would be compared with others
    assert value(done, "other", "a", "psnr") == pytest.approx(value(done, "same", "a", "psnr"), abs=1)
    (row,) = [r for r in done.rows if r.method == "other"]
    assert row.notes == ("real at 15, generated at 8 frames per second, 12 frames each: compared frame by frame",)
    text = (save_report(tmp_path / "o", done) / "report.md").read_text()
    assert text.index("different frame rates") < text.index("| metric |")


def test_a_damaged_file_is_named_and_the_rest_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path, suffix=".mp4")
    file = tmp_path / "ours" / "turn.mp4"
    data = bytearray(file.read_bytes())
    middle = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 2
    for k in range(middle, middle + len(data) // 4):
        data[k] = (data[k] * 7 + 13) % 256
    file.write_bytes(data)
    (tmp_path / "theirs" / "walk.mp4").write_bytes(b"nothing")
    argv = ["evaluate", "--real", str(tmp_path / "real"), "--generated", f"ours={tmp_path / 'ours'}"]
    argv += [f"theirs={tmp_path / 'theirs'}", "-o", str(tmp_path / "report"), "--metrics", "psnr"]
    assert cli.main(argv) == 1
    text = capsys.readouterr().out
    assert "FAILED: ours, turn:" in text
    assert "FAILED: theirs, walk:" in text
    report = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert {(f["method"], f["sequence"]) for f in report["failures"]} == {("ours", "turn"), ("theirs", "walk")}
    assert report["methods"]["ours"]["psnr"]["n"] == 1
    assert any("unequal sets of sequences" in n for n in report["notes"])
    assert "## Failed" in (tmp_path / "report" / "report.md").read_text()
    assert cli.main([*argv, "--strict"]) == 2


def test_a_damaged_picture_in_a_folder_of_frames(tmp_path: Path) -> None:
    settings = folders(tmp_path)
    (tmp_path / "ours" / "turn" / "0003.png").write_bytes(b"\x89PNG")
    done = run(**settings)
    assert [(f.method, f.sequence) for f in done.failures] == [("ours", "turn")]
    assert "0003.png" in done.failures[0].reason
    assert len(done.rows) == 3


def test_lengths_rates_and_sizes(tmp_path: Path) -> None:
    clip = frames(0, count=12)
    video(tmp_path / "real" / "a.mp4", clip, fps=12.0)
    video(tmp_path / "half" / "a.mp4", clip[::2], fps=6.0)
    video(tmp_path / "short" / "a.mp4", clip[:9], fps=12.0)
    video(tmp_path / "frames" / "a", clip)
    video(tmp_path / "large" / "a.mp4", clip.repeat(2, 1).repeat(2, 2), fps=12.0)
    names = ("half", "short", "frames", "large")
    settings = {"real": tmp_path / "real", "output": tmp_path / "o", "generated": {n: tmp_path / n for n in names}}
    done = run(**settings)
    rows = {r.method: r for r in done.rows}
    assert {m: r.frames for m, r in rows.items()} == {"half": 12, "short": 9, "frames": 12, "large": 12}
    assert "6 frames per second" in rows["half"].notes[0]
    assert "first 9 are compared" in rows["short"].notes[0]
    assert "64 x 96 compared at 32 x 48" in rows["large"].notes[0]
    assert rows["frames"].notes == ()
    assert rows["short"].values["psnr"] > 35
    assert rows["half"].values["psnr"] < rows["short"].values["psnr"]
    with pytest.raises(InputError, match="12 real and 9 generated"):
        run(**settings | {"strict": True, "generated": {"short": tmp_path / "short"}})


def test_missing_sequences(tmp_path: Path) -> None:
    settings = folders(tmp_path)
    shutil.rmtree(tmp_path / "theirs" / "walk")
    done = run(**settings)
    assert "theirs: no sequence walk" in done.notes
    assert done.summary.methods["theirs"]["psnr"].n == 1
    assert done.summary.paired[0].interval.n == 1
    assert done.failures == []
    with pytest.raises(InputError, match="theirs: no sequence walk"):
        run(**settings | {"strict": True})
    video(tmp_path / "elsewhere" / "run", frames(0))
    with pytest.raises(InputError, match=r"no common sequence \(real: turn, walk; generated: run\)"):
        run(**settings | {"generated": {"x": tmp_path / "elsewhere"}})


def test_the_tiktok_protocol_on_its_layout(tmp_path: Path) -> None:
    size = (54, 30)
    for n in (334, *range(335, 341)):
        for i, frame in enumerate(frames(n, count=3, size=size)):
            write_picture(tmp_path / "TikTok_dataset" / f"{n:05d}" / "images" / f"{i + 1:04d}.png", frame)
        video(tmp_path / "whole" / f"{n}", frames(n, count=3, size=size))
        video(tmp_path / "square" / f"{n}", np.ascontiguousarray(frames(n, count=3, size=size)[:, 12:42]))
    methods = {n: tmp_path / n for n in ("whole", "square")}
    settings = {"real": tmp_path / "TikTok_dataset", "generated": methods, "output": tmp_path / "o"}
    done = run(**settings, protocol="tiktok")
    assert {r.sequence for r in done.rows} == {str(n) for n in range(335, 341)}
    assert all(r.values["psnr"] == 100 for r in done.rows)  # both show exactly the real square
    assert len(done.rows) == 12
    shutil.rmtree(tmp_path / "TikTok_dataset" / "00337")
    assert any("this is not a result of protocol tiktok" in n for n in run(**settings, protocol="tiktok").notes)


def test_the_tiktok_protocol_on_frames_of_a_real_video(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    """The public layout, made from a real video; one method shows the square, another a different crop."""
    reader = VideoReader(shared("samples/clear/pose2sim_single_cam01.mp4"))
    small = [cv2.resize(f, (108, 192), interpolation=cv2.INTER_AREA) for f in reader.frames(max_frames=18)]
    for i, n in enumerate(range(335, 341)):
        clip = np.stack(small[3 * i : 3 * i + 3])
        for t, frame in enumerate(clip):
            write_picture(tmp_path / "TikTok_dataset" / f"{n:05d}" / "images" / f"{t + 1:04d}.png", frame)
            write_picture(tmp_path / "TikTok_dataset" / f"{n:05d}" / "masks" / f"{t + 1:04d}.png", 0 * frame)
        square = np.stack([cv2.resize(f[42:150], (216, 216), interpolation=cv2.INTER_CUBIC) for f in clip])
        video(tmp_path / "square" / f"{n}.mp4", square, fps=30)
        video(tmp_path / "lower" / f"{n}", np.ascontiguousarray(clip[:, 48:]))
        video(tmp_path / "shifted" / f"{n}", np.ascontiguousarray(clip[:, 46:154]))  # a square four pixels too low
    file = tmp_path / "mine.yaml"
    file.write_text("base: tiktok\nmethods:\n  lower: {shows: [0, 48, 108, 144]}\n")
    methods = {n: tmp_path / n for n in ("square", "lower", "shifted")}
    settings = {"real": tmp_path / "TikTok_dataset", "generated": methods, "output": tmp_path / "o"}
    done = run(**settings, protocol=str(file))
    assert len(done.rows) == 18
    assert not done.failures
    rows = {m: [r for r in done.rows if r.method == m] for m in methods}
    assert all(r.values["psnr"] == 100 for r in rows["lower"])  # its own crop, cut to what it shows of the square
    assert all("only 108 x 102 at (0, 48) of 108 x 108 at (0, 42) is compared" in r.notes[0] for r in rows["lower"])
    for placed, shifted in zip(rows["square"], rows["shifted"], strict=True):  # resized and compressed, yet in place
        assert placed.values["psnr"] > max(28, shifted.values["psnr"] + 3)


def test_conventional_metrics_have_their_own_names(tmp_path: Path) -> None:
    settings = folders(tmp_path) | {"metrics": ["psnr", "ssim", "l1"], "convention": "field"}
    done = run(**settings)
    assert set(done.rows[0].values) == {"psnr_field", "psnr_overflow", "ssim_field", "l1_field"}
    want = pixels.frame_psnr(frames(0, 4.0), frames(0)).mean()
    assert value(done, "ours", "turn", "psnr_field") == pytest.approx(want)
    finish(evaluate(EvaluateConfig(**settings)))
    assert "do not follow the metrics" in (tmp_path / "report" / "report.md").read_text()


class Means(torch.nn.Module):
    """Mean colours of a clip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).mean(2)


def network(path: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):  # newer torch calls TorchScript old
        torch.jit.trace(Means(), torch.zeros(1, 3, 4, 8, 8)).save(str(path))
    return path


def test_frechet_distance_on_a_network_given_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = folders(tmp_path, ("a", "b", "c")) | {
        "features": network(tmp_path / "colours.pt"),
        "metrics": ["features"],
    }
    monkeypatch.setattr(selection, "CLIP_FRAMES", 4)
    monkeypatch.setattr(summary, "RESAMPLES", 20)
    video(tmp_path / "real" / "short", frames(9, count=3))
    video(tmp_path / "ours" / "short", frames(9, count=3))
    done = finish(evaluate(EvaluateConfig(**settings)))
    cell = done.summary.methods["theirs"]["features"]
    assert (cell.n, cell.low <= cell.value <= cell.high) == (3, True)
    assert any("3 frames are too few for a clip of 4" in n for n in done.notes)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Frechet distance on colours features (not FVD, FID or FID-VID)" in text
    assert "| FVD" not in text
    assert done.networks["features"].digest in text
    assert run(**settings).reused[1] == 0
    same = run(**settings | {"generated": {"real videos": tmp_path / "real"}})
    assert same.summary.methods["real videos"]["features"].value == pytest.approx(0, abs=1e-6)


def test_missing_networks(tmp_path: Path) -> None:
    settings = folders(tmp_path)
    for asked, fix in (("fvd", "mimicmotion weights fetch i3d"), ("lpips", "mimicmotion weights fetch lpips-alex")):
        with pytest.raises(WeightsError, match=fix):
            run(**settings | {"metrics": [asked]})
    with pytest.raises(ConfigError, match="--fid PATH"):
        run(**settings | {"metrics": ["fid"]})
    for given in (
        {"metrics": ["fid-vid"], "fid_vid": tmp_path / "no.pt"},
        {"metrics": ["fvd"], "i3d": tmp_path / "no"},
    ):
        with pytest.raises(WeightsError, match=r"no(\.pt)? does not exist"):
            run(**settings | given)


def test_poses_of_people_that_nobody_sees_are_undefined_not_zero(tmp_path: Path) -> None:
    settings = folders(tmp_path, ("a",))
    done = run(**settings | {"metrics": ["psnr", "poses"]})
    assert any("no pose fidelity: no torso in the true poses" in n for n in done.notes)
    assert "pck_body" not in done.summary.methods["ours"]
    xy = np.random.default_rng(0).uniform(4, 28, (8, NUM_POINTS, 2)).astype(np.float32)
    save_poses(PoseSequence(xy, np.ones((8, NUM_POINTS), np.float32), (48, 32), 10.0), tmp_path / "poses" / "a.npz")
    driven = run(**settings | {"metrics": None, "driving": tmp_path / "poses"})
    assert value(driven, "ours", "a", "missing_body") == 1
    assert math.isnan(value(driven, "ours", "a", "pose_error_body"))
    assert any("pose_error_body is undefined for a" in n for n in driven.notes)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"metrics": ["psnr2"]}, "psnr2"),
        ({"metrics": []}, "metrics"),
        ({"generated": {}}, "no generated"),
        ({"generated": {"a|b": Path("x")}}, "a|b"),
        ({"folder_fps": 0.0}, "folder_fps"),
    ],
)
def test_wrong_settings(settings: dict, why: str) -> None:
    with pytest.raises(ConfigError, match=why.replace("|", "\\|")):
        EvaluateConfig(**{"real": Path("r"), "generated": {"a": Path("x")}, "output": Path("o")} | settings)


def test_methods_of_the_command_line() -> None:
    assert parse_methods(["a=x/", "b=y=z"]) == {"a": Path("x/"), "b": Path("y=z")}
    for wrong in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(ConfigError):
            parse_methods(wrong)


def test_seams_by_settings_and_by_what_generate_wrote(tmp_path: Path) -> None:
    cut = frames(0, count=12).astype(int)
    cut[6:] += 25  # the second segment is brighter
    for name, clip in (("smooth", frames(0, count=12)), ("cut", np.clip(cut, 0, 255).astype(np.uint8))):
        video(tmp_path / name / "a", clip)
    video(tmp_path / "real" / "a", frames(0, count=12))
    methods = {n: tmp_path / n for n in ("cut", "smooth")}
    settings = {"real": tmp_path / "real", "generated": methods, "output": tmp_path / "o"}
    settings["metrics"] = ["seams"]
    given = run(**settings, borders=[6])
    assert value(given, "cut", "a", "seam") > 1.2 * value(given, "smooth", "a", "seam")
    elsewhere = run(**settings, borders=[3])
    assert value(elsewhere, "cut", "a", "seam") < value(given, "cut", "a", "seam")  # and nothing stale from the cache
    facts = {"fusion": {"mode": "none", "segment_frames": 6, "overlap_frames": 0, "reference_slot": False}}
    (tmp_path / "cut" / "a.json").write_text(json.dumps(facts))
    read = run(**settings)
    assert read.rows[0].values == given.rows[0].values
    assert "seam" not in read.rows[1].values
    assert any(n.startswith("smooth, a: no seam score: segment borders are unknown") for n in read.notes)
    whole = run(**settings | {"metrics": None})
    assert whole.rows[0].values["seam"] == given.rows[0].values["seam"]  # by default, where a result has a sidecar
    (tmp_path / "cut" / "a.json").unlink()
    assert any("seams not computed: give --borders" in n for n in run(**settings | {"metrics": None}).notes)


def test_frechet_distance_at_infinitely_many_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = folders(tmp_path, ("a", "b", "c")) | {"features": network(tmp_path / "colours.pt")}
    settings |= {"metrics": ["features"], "fd_infinity": True}
    monkeypatch.setattr(selection, "CLIP_FRAMES", 2)
    done = finish(evaluate(EvaluateConfig(**settings)))
    plain, cell = (done.summary.methods["theirs"][m] for m in ("features", "features_infinity"))
    assert (cell.n, cell.clips, math.isnan(cell.low)) == (3, 21, True)  # three sequences of seven clips
    assert cell.value != plain.value
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Frechet distance on colours features, infinite set (not FVD, FID or FID-VID)" in text
    few = run(**settings | {"clips": "disjoint"})
    assert "features_infinity" not in few.summary.methods["theirs"]
    assert any("features_infinity is undefined: sets of shape (12, 3)" in n for n in few.notes)


def test_identity_by_a_network_given_by_path(tmp_path: Path) -> None:
    person = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    clip = np.stack([np.roll(person, 3 * i, 1) for i in range(3)])
    blurred = np.stack([cv2.GaussianBlur(f, (0, 0), 1.0) for f in clip])
    hidden = clip.copy()
    hidden[1] = 128  # nobody in one frame
    for name, made in (("real", clip), ("ours", blurred), ("theirs", hidden)):
        video(tmp_path / name / "a", made)
    settings = {"real": tmp_path / "real", "output": tmp_path / "report"}
    settings |= {"generated": {n: tmp_path / n for n in ("ours", "theirs", "real again")}, "metrics": ["identity"]}
    shutil.copytree(tmp_path / "real", tmp_path / "real again")
    settings |= {"identity": quarters_network(tmp_path / "face.onnx")}
    done = run(**settings)
    got = {r.method: r.values for r in done.rows}
    assert got["real again"]["identity"] == pytest.approx(1, abs=1e-5)
    assert got["ours"]["identity"] < 0.99999
    assert [got[m]["identity_missing"] for m in ("ours", "theirs")] == [0, pytest.approx(1 / 3)]
    assert got["theirs"]["identity"] == pytest.approx(1, abs=0.01)  # over the frames that show a face
    assert run(**settings).reused[1] == 0
    nobody = run(**folders(tmp_path / "x", ("a",)) | {k: settings[k] for k in ("metrics", "identity")})
    assert any("no reliable face in the real frames" in n for n in nobody.notes)
    assert math.isnan(nobody.rows[0].values["identity"])


def test_a_face_network_that_is_missing_or_none(tmp_path: Path) -> None:
    settings = folders(tmp_path, ("a",))
    assert any("identity not computed: `mimicmotion weights" in n for n in run(**settings | {"metrics": None}).notes)
    gone = settings | {"identity": tmp_path / "none.onnx"}
    assert any("none.onnx does not exist" in n for n in run(**gone | {"metrics": None}).notes)
    with pytest.raises(WeightsError, match="does not exist"):
        run(**gone | {"metrics": ["identity"]})
    with pytest.raises(WeightsError, match="fetch faces"):
        run(**settings | {"metrics": ["identity"]})
    wrong = settings | {"identity": quarters_network(tmp_path / "face.onnx", 16), "metrics": ["psnr", "identity"]}
    steps = evaluate(EvaluateConfig(**wrong))
    with pytest.raises(WeightsError, match="takes faces of 16 pixels"):
        next(steps)  # before anything is measured
