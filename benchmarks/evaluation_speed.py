"""What an evaluation costs, metric by metric: python benchmarks/evaluation_speed.py [--sequences 2] [--frames 24].

Prints one JSON line: for each metric the seconds (wall clock, and processor time, which depends less on other load),
16-frame clips per second (counting generated video only; the real video is measured as well), and whether its network
was available. Each metric runs alone, with an empty cache, on `--sequences` held-out synthetic people at `--width`,
resized from the size of the small model; `whole` is a run with all metrics. Networks must be fetched (`mimicmotion
weights fetch i3d`, `lpips-alex`), else their metrics are listed as missing.

    python benchmarks/evaluation_speed.py --make clips --sequences 8 --frames 20

writes the folders of the documentation's example instead: real, model (the bundled model), warp (a limb warp without
learning) and copy (the reference picture held still), each with a folder of PNG frames per sequence. Then

    python benchmarks/evaluation_speed.py --report report --page docs/lab/evaluation.md

inserts a report's table of methods between the two markers of the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray

from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.evaluation.job import Evaluation
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import limb_warp
from mimicmotion.runtime.files import atomic_path, sha256_file
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.settings.synthetic import HELD_OUT_SEED
from mimicmotion.synth import SynthClip, render_clip
from mimicmotion.training.bundled import generate
from mimicmotion.video.picture import write_picture

FIRST = 7000
SIZE = (224, 128)
METRICS = ("psnr", "ssim", "l1", "flicker", "warping", "seams", "poses", "lpips", "fvd")
CLIP = 16  # frames


MARKS = ("<!-- real run -->", "<!-- end of real run -->")


def write_table(report: Path, page: Path) -> None:
    """Insert a report's table of methods into the page."""
    (part,) = (p for p in (report / "report.md").read_text(encoding="utf-8").split("\n## ") if p.startswith("Methods"))
    table = "\n".join(line for line in part.splitlines() if line.startswith("|"))
    text = page.read_text(encoding="utf-8")
    start, end = (text.index(mark) for mark in MARKS)
    with atomic_path(page) as new:
        new.write_text(f"{text[: start + len(MARKS[0])]}\n\n{table}\n\n{text[end:]}", encoding="utf-8")


def save(folder: Path, frames: ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        write_picture(folder / f"{i + 1:04d}.png", frame)


def clips(options: argparse.Namespace) -> list[SynthClip]:
    return [render_clip(HELD_OUT_SEED + FIRST + i, options.frames, SIZE) for i in range(options.sequences)]


def make(options: argparse.Namespace) -> None:
    """Make the folders of real and generated sequences; existing ones are kept."""
    pipe = MimicMotionPipeline.from_pretrained(options.model)
    for i, clip in enumerate(clips(options)):
        versions = {
            "real": lambda c: c.frames,
            "model": lambda c, i=i: generate(pipe, c, seed=i),
            "warp": lambda c: limb_warp(c.reference_frame, c.reference_pose, c.poses),
            "copy": lambda c: np.repeat(c.reference_frame[None], options.frames, 0),
        }
        for name, frames in versions.items():
            folder = options.make / name / f"person{i:02d}"
            if len(list(folder.glob("*.png"))) < options.frames:
                save(folder, frames(clip))
        print(f"{i + 1} of {options.sequences} sequences", file=sys.stderr)


def timed(config: EvaluateConfig) -> tuple[float, float]:
    """Wall-clock and processor seconds of a run."""
    start, busy = time.perf_counter(), time.process_time()
    for _ in Evaluation(config).run():
        pass
    return time.perf_counter() - start, time.process_time() - busy


def measure(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """metric -> seconds and clips a second."""
    scale = options.width / SIZE[1]
    for i, clip in enumerate(clips(options)):
        large = [cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for f in clip.frames]
        save(root / "real" / f"{i}", np.stack(large))
        noise = np.random.default_rng(i).integers(-8, 9, np.stack(large).shape)
        save(root / "made" / f"{i}", np.clip(np.stack(large) + noise, 0, 255).astype(np.uint8))
    common: dict[str, Any] = {"real": root / "real", "generated": {"made": root / "made"}, "output": root / "report"}
    common |= {"cache": False}
    frechet: dict[str, Any] = {"clips": "disjoint"}
    borders: dict[str, Any] = {"borders": [CLIP]}

    def settings(*metrics: str) -> EvaluateConfig:
        own = frechet if {"fvd", "fid", "fid-vid", "cd-fvd", "features"} & set(metrics) else {}
        return EvaluateConfig(**common | own | (borders if "seams" in metrics else {}), metrics=[*metrics])

    asked = list(options.metrics or METRICS)
    rows: dict[str, Any] = {}
    windows = options.sequences * options.frames / CLIP
    here = []
    for metric in asked:
        try:
            wall, busy = timed(settings(metric))
        except (WeightsError, ConfigError) as e:
            rows[metric] = {"missing": e.got}
            continue
        here.append(metric)
        rows[metric] = row(wall, busy, windows)
        print(metric, rows[metric], file=sys.stderr)
    rows["whole"] = row(*timed(settings(*here)), windows)
    return rows


def row(wall: float, busy: float, windows: float) -> dict[str, float]:
    numbers = {"seconds": wall, "cpu_seconds": busy, "clips_per_second": windows / wall}
    return {k: round(v, 3) for k, v in (numbers | {"clips_per_cpu_second": windows / busy}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--width", type=int, default=256, help="width of the compared frames, in pixels")
    parser.add_argument("--metrics", nargs="*", help=f"default: {' '.join(METRICS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--make", type=Path, help="write the folders of the documentation's example here, and stop")
    parser.add_argument("--model", type=Path, help="with --make: model folder; default: the bundled model")
    parser.add_argument("--report", type=Path, help="a report: insert its tables into --page, and stop")
    parser.add_argument("--page", type=Path, default=Path("docs/lab/evaluation.md"))
    options = parser.parse_args()
    if options.report:
        write_table(options.report, options.page)
        return
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    if options.make:
        make(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    line = {
        "bench": "evaluation_speed",
        "sequences": options.sequences,
        "frames": options.frames,
        "size": [round(SIZE[0] * options.width / SIZE[1]), options.width],
        "metrics": rows,
        "this_script": sha256_file(Path(__file__))[:12],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processors": os.cpu_count(),
        "threads": options.threads,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
