"""Cost of storing frames, for each kind of storage: python benchmarks/shards.py --clips 12.

Processor time, which depends little on other load, of rendering, writing, and reading 8 frames at random.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from mimicmotion.data.shards.shards import open_shards
from mimicmotion.data.shards.writing import RecordData, ShardSettings, plan_shards, write_shards
from mimicmotion.data.synthetic import synthetic_records
from mimicmotion.runtime.progress import finish
from mimicmotion.settings.synthetic import SyntheticConfig


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--width", type=int, default=128)
    arguments = parser.parse_args()
    size, rng = (arguments.height, arguments.width), np.random.default_rng(0)
    config = SyntheticConfig(
        count=arguments.clips, output=Path(), frames=arguments.frames, height=size[0], width=size[1]
    )
    next(synthetic_records(config, (), 0))  # compiles the renderer
    start = time.process_time()
    records: list[RecordData] = [next(synthetic_records(config, (), seed)) for seed in range(arguments.clips)]
    total = arguments.clips * (arguments.frames + 1)
    render = (time.process_time() - start) / total
    for store in ("png", "jpeg", "video"):
        with tempfile.TemporaryDirectory() as folder:
            shared = ShardSettings(size=size, store=store)
            finish(write_shards(f"{folder}/warm", plan_shards([0], 1), lambda i: [records[i]], shared))
            start = time.process_time()
            plan = plan_shards(range(len(records)), len(records))
            finish(write_shards(folder, plan, lambda i: [records[i]], shared))
            write = (time.process_time() - start) / total
            size_mb = sum(p.stat().st_size for p in Path(folder).glob("train-*.tar")) / 1e6
            shards = open_shards(folder)
            times, error = [], []
            for turn in range(10 * len(shards)):
                found, indices = shards[turn % len(shards)], sorted(rng.integers(0, arguments.frames + 1, 8))
                start = time.process_time()
                frames = found.frames(indices)
                times.append((time.process_time() - start) * 1e3)
                want = np.stack([np.asarray(records[turn % len(shards)].frames)[i] for i in indices])
                error.append(((frames.astype(np.float32) - want) ** 2).mean())
            start = time.process_time()
            for i in range(len(shards)):
                _ = shards[i].poses
            poses = (time.process_time() - start) * 1e3 / len(shards)
        row = {
            "bench": "shards",
            "store": store,
            "size": size,
            "frames": arguments.frames + 1,
            "n": arguments.clips,
            "render_frames_per_cpu_s": round(1 / render, 1),
            "write_frames_per_cpu_s": round(1 / write, 1),
            "render_and_write_frames_per_cpu_s": round(1 / (render + write), 1),
            "mb_per_1000_clips": round(size_mb / arguments.clips * 1000, 1),
            "read_8_frames_cpu_ms_median": round(statistics.median(times), 2),
            "read_poses_cpu_ms": round(poses, 2),
            "psnr": round(float(-10 * np.log10(max(np.mean(error), 1e-9) / 255**2)), 1),
            "cpu": cpu_name(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
