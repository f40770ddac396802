"""Frames of synthetic people that one core renders per second, with their ground truth.

Prints one JSON line. `frames_per_cpu_s` counts the process's own time, which is meaningful even on a busy machine, and
includes a clip's person, place and reference frame. `truth` lists the ground truth of a frame: 134 points, mask, depth,
flow to the reference, and the picture without noise. `noise_cpu_ms` is the time of the detector noise for the poses of
one clip.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numba
import numpy as np
from PIL import Image

from mimicmotion.synth import perturb_poses, render_clip
from mimicmotion.synth.assets import default_path


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="320x192", help="heightxwidth")
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--sheet", type=Path, help="write a JPEG of 48 people instead")
    args = parser.parse_args()
    if args.sheet:
        people = [render_clip(seed, 1, (240, 144)).frames[0] for seed in range(48)]
        rows = [np.concatenate(people[i : i + 12], 1) for i in range(0, 48, 12)]
        Image.fromarray(np.concatenate(rows)).save(args.sheet, quality=82)
        return
    height, width = (int(v) for v in args.size.split("x"))
    render_clip(0, 2, (height, width))  # compile
    wall, cpu = [], []
    for seed in range(args.clips):
        start, start_cpu = time.perf_counter(), time.process_time()
        n = len(render_clip(seed, args.frames, (height, width)).frames) + 1  # including the reference
        wall.append(n / (time.perf_counter() - start))
        cpu.append(n / (time.process_time() - start_cpu))
    poses = render_clip(0, args.frames, (height, width)).poses
    perturb_poses(poses, 0)
    start_cpu = time.process_time()
    for seed in range(200):
        perturb_poses(poses, seed)
    noise = (time.process_time() - start_cpu) / 200 * 1e3
    quantiles = statistics.quantiles(wall, n=10)
    result = {
        "benchmark": "synth", "size": [height, width], "frames": args.frames, "n": args.clips, "threads": 1,
        "frames_per_s": {"median": statistics.median(wall), "p10": quantiles[0], "p90": quantiles[-1]},
        "frames_per_cpu_s": {"median": statistics.median(cpu), "min": min(cpu), "max": max(cpu)},
        "people": default_path().stat().st_size, "noise_cpu_ms": noise,
        "cpu": cpu_model(), "python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
