"""Reading damaged files in forks with limits: `python tests/fuzz/fuzzing.py --share 0.05 [--only KIND]`.

Prints one JSON line for each case that ended in anything but a result or one of our errors, and a last line with the
counts. A case is defined by its kind and number, so each can be reproduced (`--only KIND --number N`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import wave
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from damage import crafted_png, damaged, many_frames_gif
from PIL import Image

from fake_shards import write_records
from micro import micro_pipeline
from mimicmotion.data.prepare.analysis import _load as load_analysis
from mimicmotion.data.shards.shards import open_shards
from mimicmotion.data.shards.writing import RecordData, ShardSettings
from mimicmotion.diffusion.sampling import Step
from mimicmotion.errors import MimicMotionError
from mimicmotion.evaluation.metrics.temporal import sidecar_fusion
from mimicmotion.evaluation.protocols import load_protocol
from mimicmotion.evaluation.reports.compare import load_results
from mimicmotion.generate import inputs
from mimicmotion.generate.outputs import read_sidecar
from mimicmotion.generate.poses import poses as find_poses
from mimicmotion.generate.replay import NEEDED, replay_config
from mimicmotion.generate.run_state import RunState
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.estimators.session import open_session
from mimicmotion.pose.files import PoseCache, save_openpose, save_poses
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import GenerateConfig, PosesConfig, find_recipe, load_yaml, parse, recipes
from mimicmotion.settings.training import load_config
from mimicmotion.study.folder import load_key, load_study
from mimicmotion.study.votes import VoteStore, load_votes
from mimicmotion.training.ablation import load_ablation
from mimicmotion.training.state import read_identity, read_state
from mimicmotion.video.picture import check_picture_size, read_picture
from mimicmotion.video.writer import open_writer
from mimicmotion.weights.registry import find_asset, verify
from planted_job import dancing, planted, standing
from study_clips import build, result_folders, vote

CPU_SECONDS, WALL_SECONDS, EXTRA_BYTES = 60, 600, 2 * 2**30
"""Limits for one input; memory is counted above that of a process that reads nothing."""
ADDRESSES = 12 * 2**30
"""Keeps a case from crashing the machine; libraries reserve some gigabytes that they never use."""
FRAMES, SIZE = 12, (128, 72)

Reader = Callable[[Path, Path], object]


@dataclass(frozen=True)
class Kind:
    """Intact files, and how they are read. `files`: those to damage, by suffix; `count`: its part of 2,000 inputs."""

    make: Callable[[Path], object]
    read: Reader
    count: int
    files: tuple[str, ...] = ("*",)


# --- sound files --------------------------------------------------------------------------------------------------


def frames() -> list[np.ndarray]:
    with av.open(str(find_asset("demo/driving.mp4"))) as video:
        found = [f.to_ndarray(format="rgb24", width=SIZE[1], height=SIZE[0]) for f in video.decode(video=0)]
    return found[:: len(found) // FRAMES][:FRAMES]


def encode(path: Path, codec: str, *, pixels: str = "yuv420p", sound: str = "", **options: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.options = SIZE[1], SIZE[0], pixels, options
        stream.codec_context.thread_count = 1
        audio = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for frame in frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        if audio is not None:
            encode_sound(container, audio)


def encode_sound(container: Any, stream: Any) -> None:
    kind = stream.codec_context.format.name
    dtype, loud = {"s16": (np.int16, 9000), "s32": (np.int32, 9000 << 16), "flt": (np.float32, 0.3)}[kind[:3]]
    for i in range(48):
        tone = np.sin(np.arange(1024) / 9 + i) * loud
        frame = av.AudioFrame.from_ndarray(tone.astype(dtype)[None], format=kind, layout="mono")
        frame.sample_rate, frame.pts = 48000, 1024 * i
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def make_videos(folder: Path) -> None:
    fast = {"preset": "ultrafast"}
    encode(folder / "a.mp4", "libx264", sound="aac", **fast)
    encode(folder / "b.mp4", "libx265", **fast, **{"x265-params": "log-level=none:pools=none:frame-threads=1"})
    encode(folder / "c.avi", "mpeg4")
    encode(folder / "d.webm", "libvpx-vp9", deadline="realtime", sound="libopus")
    encode(folder / "e.mkv", "libx264", **fast)
    encode(folder / "f.ts", "libx264", **fast)
    encode(folder / "g.mov", "mjpeg", pixels="yuvj420p")
    encode(folder / "h.flv", "libx264", **fast)
    pictures = [Image.fromarray(f) for f in frames()]
    for name in ("i.gif", "j.webp", "k.png"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=83, loop=0)


def make_sounds(folder: Path) -> None:
    for name, codec in (
        ("a.mp3", "libmp3lame"),
        ("b.m4a", "aac"),
        ("c.ogg", "libopus"),
        ("d.flac", "flac"),
        ("e.mkv", "ac3"),
    ):
        with av.open(str(folder / name), "w") as container:
            encode_sound(container, container.add_stream(codec, rate=48000, layout="mono"))
    with wave.open(str(folder / "f.wav"), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", ""))
        file.writeframes((9000 * np.sin(np.arange(48000) / 9)).astype("<i2").tobytes())


def make_pictures(folder: Path) -> None:
    person = Image.open(find_asset("demo/person.png")).convert("RGB").resize((96, 128))
    for name in ("a.png", "b.jpg", "c.webp", "d.tif", "e.bmp", "f.gif", "g.jp2", "h.avif", "i.ppm"):
        person.save(folder / name)
    person.convert("CMYK").save(folder / "j.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    Image.fromarray(np.arange(128 * 96, dtype=np.uint16).reshape(128, 96)).save(folder / "k.png")
    heic = Path(__file__).parents[1] / "data" / "picture.heic"
    shutil.copy(heic, folder / "l.heic")


def make_crafted(folder: Path) -> None:
    """Intact files that declare something extreme."""
    for side, depth, colour in ((12_000, 16, 0), (12_000, 8, 2), (12_000, 8, 6), (12_000, 16, 6), (12_000, 1, 0)):
        (folder / f"bomb{depth}-{colour}.png").write_bytes(crafted_png(side, depth, colour))
    for side, rows in ((60_000, 1), (2**31 - 1, 0), (12_000, 3)):
        (folder / f"states{side}.png").write_bytes(crafted_png(side, 8, 2, rows=rows))
    for side, count, delay in ((4000, 200, 10), (12_000, 60, 10), (500, 20_000, 10), (64, 5, 0), (64, 5, 65_535)):
        (folder / f"gif{side}.gif").write_bytes(many_frames_gif(side, count, delay))
    for size in ((16_000, 1), (1, 16_000), (1, 1), (16_000, 64), (63, 64), (64, 64)):
        Image.new("RGB", size, (9, 99, 9)).save(folder / f"shape{size[0]}x{size[1]}.png")
    encode(folder / "base.mkv", "libx264", preset="ultrafast")
    changes: dict[str, Callable[[int], int]] = {
        "negative": lambda k: 83 * k - 5000, "same": lambda k: 100, "back": lambda k: 83 * (12 - k),
        "zigzag": lambda k: 83 * (k ^ 3), "fast": lambda k: k, "gap1h": lambda k: 83 * k + 3_600_000 * (k > 5),
        "gap500h": lambda k: 83 * k + 1_800_000_000 * (k > 5), "slow": lambda k: 60_000 * k,
    }  # fmt: skip
    for suffix in ("mkv", "avi", "mp4", "ts", "nut"):
        for name, change in changes.items():
            retimed(folder / "base.mkv", folder / f"{name}.{suffix}", change)
    texts = {
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
        "concat.mp4": "ffconcat version 1.0\nfile base.mkv\n",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "sub.mp4": "1\n00:00:00,000 --> 00:00:02,000\nhi\n",
        "svg.png": '<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>',
        "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "eps.png": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\n(x) show\n",
        "nul.mp4": "\0" * 5000,
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def retimed(source: Path, target: Path, change: Callable[[int], int]) -> None:
    """The packets of a video with other time stamps, in milliseconds; containers that refuse them stay incomplete."""
    with contextlib.suppress(av.error.FFmpegError), av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for k, packet in enumerate(p for p in old.demux(video=0) if p.pts is not None):
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = change(k)
            with contextlib.suppress(av.error.FFmpegError):
                new.mux(packet)


def make_frames(folder: Path) -> None:
    for i, frame in enumerate(frames()):
        Image.fromarray(frame).save(folder / f"{i}.{('png', 'jpg')[i % 2]}")


def make_openpose(folder: Path) -> None:
    save_openpose(standing(3), folder)


def make_comfy(folder: Path) -> None:
    make_openpose(folder)
    frames = [json.loads(p.read_text()) for p in sorted(folder.iterdir())]
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "poses.json").write_text(json.dumps(frames))


SETTINGS = (
    "picture: a.png\nvideo: b.mp4\noutput: c.mp4\nfps: 12.5\nguidance_interval: [0.4, 60]\nresume: false\nseed: 3\n"
    "speed: fast\nsegment_frames: 16\nperson: 3,4\nheight: 64\nwidth: 48\n"
)


def make_settings(folder: Path) -> None:
    (folder / "generate.yaml").write_text(SETTINGS)
    for name in recipes():
        shutil.copy(find_recipe(name), folder / f"{name}.yaml")
    (folder / "protocol.yaml").write_text("size: 512\nsequences: [a, b]\n")


def make_model(folder: Path) -> None:
    micro_pipeline().save_pretrained(folder / "model")


def make_checkpoints(folder: Path) -> None:
    """A base that stays intact, and checkpoints of several kinds to load on top of it."""
    make_model(folder)
    backbone = micro_pipeline().backbone
    weights = {f"unet.{k}": v for k, v in backbone.unet.state_dict().items()}
    weights |= {f"pose_net.{k}": v for k, v in backbone.pose_net.state_dict().items()}
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "a.safetensors")
    torch.save(weights, folder / "b.pth")
    torch.save({"state_dict": weights}, folder / "c.pth", _use_new_zipfile_serialization=False)


def make_shards(folder: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 48, 3), np.uint8)
    few = dataclasses.replace(standing(4), fps=15.0)
    for store in ("png", "video"):
        extra: dict[str, Any] = {
            "truth": {"masks": np.zeros((4, 8), np.uint8)},
        }
        records = [RecordData(key=f"v-{i:03d}", video="v", frames=pictures, poses=few, **extra) for i in range(2)]
        write_records(folder / store, ShardSettings(size=(64, 48), store=store), records)


def make_states(folder: Path) -> None:
    """What an interrupted generate job keeps, its sidecar, and a pose in the cache."""
    still = np.zeros((64, 48, 3), np.uint8)
    from mimicmotion.video.geometry import plan_fit

    found = inputs.Inputs(still, plan_fit((64, 48), (64, 48)), standing(1), standing(4), standing(4), ["a note"])
    with RunState(folder / "r.mp4") as state:
        state.origin = {"settings": {"seed": 1}}
        state.save_inputs(found, {"seconds": {"picture": 1.0}, "resumed_at": []})
        state.save_step(Step(0, 2, 0.5, torch.zeros(1, 4, 2, 2), None), {"seconds": {}})
    settings = {"picture": "p.png", "video": "v.mp4", "output": str(folder / "r.mp4"), "segment_frames": 16, "seed": 42}
    facts = {
        "format": "mimicmotion.result", "version": 1, "settings": settings, "output_sha256": "0" * 64,
        "origin": {"machine": {"device": "cpu", "dtype": "float32"}, "inputs": {}, "weights": {}, "versions": {}},
        "fusion": {"mode": "progressive", "segment_frames": 16, "overlap_frames": 6, "reference_slot": True},
    }  # fmt: skip
    (folder / "r.mp4.json").write_text(json.dumps(facts))
    save_poses(standing(4), folder / "cached.npz")
    arrays = {"json": np.frombuffer(b'{"size": [64, 48]}', np.uint8), "a": np.zeros((3, 4), np.float32)}
    np.savez(folder / "analysis.npz", **arrays)


def make_study(folder: Path) -> None:
    study, key = build(result_folders(folder))
    votes = [vote(key, "anna", pair, True) for pair in key.pairs]
    VoteStore(folder / "votes.sqlite", study).add(votes)


def make_results(folder: Path) -> None:
    cell = {"mean": 0.8, "low": 0.7, "high": 0.9, "n": 6}
    (folder / "summary.json").write_text(json.dumps({"methods": {"ours": {"ssim": cell, "psnr": cell}}}))
    (folder / "metrics.csv").write_text("method,sequence,psnr,ssim\nours,a,20.5,0.8\nours,b,21,\nothers,a,19,0.7\n")


def make_training_state(folder: Path) -> None:
    from mimicmotion.training.state import IDENTITY, STATE, write_state

    write_state(folder, {k: {"a": torch.zeros(3)} for k in STATE}, {k: {"a": 1} for k in IDENTITY})


def make_networks(folder: Path) -> None:
    shutil.copy(find_asset("holistic/hand_recrop.onnx"), folder / "a.onnx")


# --- reading --------------------------------------------------------------------------------------------------------


def poses_of(path: Path, out: Path) -> None:
    """The job `poses`, which decodes all frames; one person stands in every frame."""
    settings = {"video": path, "output": out / "poses.npz", "pose_cache": False, "fps": 6}
    found = finish(find_poses(parse(PosesConfig, settings))).poses
    assert np.isfinite(found.xy).all(), "NaN in the poses"
    assert np.isfinite(found.confidence).all(), "NaN in the poses"


def picture_of(path: Path, out: Path) -> None:
    check_picture_size(read_picture(path), name=str(path))


def picture_or_video(path: Path, out: Path) -> None:
    (picture_of if path.suffix == ".png" else poses_of)(path, out)


def sound_of(path: Path, out: Path) -> None:
    with open_writer(out / "a.mp4", (32, 32), 10, audio_from=path) as writer:
        for _ in range(6):
            writer.write(np.zeros((32, 32, 3), np.uint8))


def settings_of(path: Path, out: Path) -> None:
    if path.name == "generate.yaml":
        parse(GenerateConfig, load_yaml(path))
    elif path.name == "protocol.yaml":
        load_protocol(str(path))
    else:
        (load_ablation if "ablation" in path.name else load_config)(path)


def model_of(path: Path, out: Path) -> None:
    MimicMotionPipeline.from_pretrained(folder_of(path, "model"))


def folder_of(path: Path, name: str) -> Path:
    return next(p for p in path.parents if p.name == name)


def checkpoint_of(path: Path, out: Path) -> None:
    with contextlib.suppress(MimicMotionError):
        verify(path)
    MimicMotionPipeline.from_pretrained(path.parent / "model", path)


def shards_of(path: Path, out: Path) -> None:
    shards = open_shards(path.parent)
    for record in shards:
        _ = record.meta, record.poses, record.truth
        record.frames(range(len(record)))


def state_of(path: Path, out: Path) -> None:
    if path.name == "r.mp4.json":
        sidecar_fusion(path.with_suffix(""))
        (path.parent / "p.png").write_bytes(b"1")
        (path.parent / "v.mp4").write_bytes(b"1")
        replay_config(read_sidecar(path, NEEDED), path, out / "again.mp4", False, {})
    elif path.name == "cached.npz":
        cache = PoseCache(path.parent)
        assert cache.load(path) is None or len(cache.load(path) or ())
    elif path.name == "analysis.npz":
        load_analysis(path)
    else:
        with RunState(path.parents[1] / "r.mp4") as state:
            state.read()


def study_of(path: Path, out: Path) -> None:
    folder = path.parent if path.name.startswith("votes") else folder_of(path, "study").parent
    study = load_study(folder / "study")
    load_key(folder / "study", study)
    load_votes(folder / "study", study, [folder / "votes.sqlite"])


def training_state_of(path: Path, out: Path) -> None:
    (read_identity if path.suffix == ".json" else read_state)(path.parents[1])


KINDS: dict[str, Kind] = {
    "pictures": Kind(make_pictures, picture_of, 300),
    "pictures as videos": Kind(make_pictures, poses_of, 60),
    "videos": Kind(make_videos, poses_of, 420),
    "crafted": Kind(make_crafted, picture_or_video, 70),
    "frames": Kind(make_frames, lambda p, out: poses_of(p.parent, out), 30),
    "sounds": Kind(make_sounds, sound_of, 100),
    "poses": Kind(lambda f: save_poses(standing(4), f / "a.npz"), poses_of, 180),
    "openpose": Kind(make_openpose, lambda p, out: poses_of(p.parent, out), 100),
    "openpose in one": Kind(make_comfy, poses_of, 60),
    "settings": Kind(make_settings, settings_of, 160),
    "checkpoints": Kind(make_checkpoints, checkpoint_of, 110, ("*.safetensors", "*.pth")),
    "models": Kind(make_model, model_of, 110, ("**/*.json", "**/*.safetensors")),
    "shards": Kind(make_shards, shards_of, 140, ("**/*.tar", "**/*.json")),
    "states": Kind(make_states, state_of, 60, ("**/*",)),
    "study": Kind(make_study, study_of, 50, ("study/**/*.json", "votes.*")),
    "results": Kind(make_results, lambda p, out: load_results(p), 20),
    "training": Kind(make_training_state, training_state_of, 15, ("state/*",)),
    "networks": Kind(make_networks, lambda p, out: open_session(p, threads=1, device="cpu"), 15),
}
assert sum(kind.count for kind in KINDS.values()) == 2000


# --- running --------------------------------------------------------------------------------------------------------


def run(read: Callable[[], object]) -> dict[str, Any]:
    """Read a file in a fork; returns outcome, CPU seconds and peak memory."""
    ours, theirs = os.pipe()
    start, child = time.monotonic(), os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
            os.write(theirs, json.dumps(outcome(read)).encode()[:60_000])
        os._exit(0)
    os.close(theirs)
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - start > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    with os.fdopen(ours) as answer:
        said = answer.read()
    found = json.loads(said) if said else {"bad": f"killed by signal {os.WTERMSIG(ended[1])}"}
    usage = ended[2]
    return found | {"cpu": round(usage.ru_utime + usage.ru_stime, 1), "bytes": usage.ru_maxrss * 1024}


def outcome(read: Callable[[], object]) -> dict[str, Any]:
    try:
        read()
    except MimicMotionError as e:
        return {"error": type(e).__name__, "said": str(e)[:300]}
    except BaseException as e:
        return {"bad": type(e).__name__, "said": str(e)[:300], "where": traceback.format_exc()[-1500:]}
    return {"error": ""}


class Cases:
    """The damaged files of one kind, made one after the other in the folder `root`."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.kind, self.root = name, KINDS[name], root
        (root / "sound").mkdir(parents=True)
        made = run(lambda: self.kind.make(root / "sound"))  # forked: threads here would deadlock forks
        assert made.get("error") == "", (name, made)
        matches = sorted({p for glob in self.kind.files for p in (root / "sound").glob(glob) if p.is_file()})
        self.victims = [p.relative_to(root / "sound") for p in matches]

    def read(self, path: Path) -> Callable[[], object]:
        out = self.root / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return lambda: self.kind.read(path, out)

    def check_sound(self) -> None:
        """Check that every undamaged file but the crafted ones can be read."""
        for victim in self.victims if self.name != "crafted" else ():
            found = run(self.read(self.root / "sound" / victim))
            assert found.get("error") == "", (self.name, victim, found)

    def case(self, number: int) -> Path:
        """The damaged file."""
        rng = random.Random(f"{self.name} {number}")
        victim = self.victims[number % len(self.victims)]
        copy = self.root / "case"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.root / "sound", copy)
        path = copy / victim
        if self.name != "crafted" or number >= len(self.victims):
            path.write_bytes(damaged(path.read_bytes(), path.suffix, rng))
        return path

    def judge(self, number: int, idle: int) -> dict[str, Any]:
        path = self.case(number)
        found = run(self.read(path))
        if found["bytes"] > idle + EXTRA_BYTES:
            found["bad"] = f"{(found['bytes'] - idle) / 2**30:.1f} GiB of memory, {found.get('bad', '')}"
        if found.get("error") and (left := [p.name for p in (self.root / "out").iterdir()]):
            found["bad"] = f"left {left}"
        return {"kind": self.name, "number": number, "file": path.name} | found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--share", type=float, default=1.0, help="of the cases of each kind, at least one")
    arguments.add_argument("--only", choices=list(KINDS), action="append")
    arguments.add_argument("--number", type=int)
    asked = arguments.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # threads do not survive a fork
    inputs.find_estimator = planted(standing(1), dancing(10_000))
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIMICMOTION_CACHE"] = str(Path(folder) / "cache")
        for name in asked.only or KINDS:
            cases = Cases(name, Path(folder) / name)
            idle = run(lambda: None)["bytes"]
            if asked.number is None:
                cases.check_sound()
            total = KINDS[name].count
            step = 1 if asked.share == 1 else max(1, round(1 / asked.share))
            first = random.Random(name).randrange(step) % total
            for number in range(first, total, step) if asked.number is None else [asked.number]:
                found = cases.judge(number, idle)
                counts["inputs"] = counts.get("inputs", 0) + 1
                outcome = "bad" if "bad" in found else "refused" if found["error"] else "read"
                counts[outcome] = counts.get(outcome, 0) + 1
                counts["most CPU seconds"] = max(counts.get("most CPU seconds", 0), found["cpu"])
                counts["most MiB"] = max(counts.get("most MiB", 0), (found["bytes"] - idle) // 2**20)
                if "bad" in found or asked.number is not None:
                    sys.stdout.write(json.dumps(found) + "\n")
                    sys.stdout.flush()
            shutil.rmtree(cases.root)
    sys.stdout.write(json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
