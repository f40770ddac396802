"""Training samples per second on one core, with latents cached and poses drawn: python benchmarks/samples.py."""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray

from mimicmotion.data.samples.batch import collate
from mimicmotion.data.samples.latents import LatentCache
from mimicmotion.data.samples.sample import SampleMaker
from mimicmotion.data.shards.shards import open_shards
from mimicmotion.runtime.progress import finish
from mimicmotion.settings.samples import SampleConfig
from mimicmotion.settings.synthetic import SyntheticConfig
from pose import cpu_name

CELL = 8


def patches(frames: ndarray) -> ndarray:
    """Latents in the shape of the bundled model's: 16 numbers for each patch of 8 x 8 pixels."""
    n, h, w, _ = frames.shape
    cells = frames.reshape(n, h // CELL, CELL, w // CELL, CELL * 3).transpose(0, 2, 4, 1, 3)
    return cells.reshape(n, -1, h // CELL, w // CELL)[:, :16].astype(np.float32) / 127.5 - 1


def measure(make: SampleMaker, slots: int, batch: int, batches: int) -> dict[str, Any]:
    times = []
    for b in range(batches + 2):
        start = time.process_time()
        collate([make(batch * b + i, num_frames=slots) for i in range(batch)])
        times.append((time.process_time() - start) / batch)
    middle = statistics.median(times[2:])
    return {"slots": slots, "ms_per_sample": round(middle * 1e3, 2), "samples_per_s": round(1 / middle, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=24)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--shards", type=Path, help="shards to use instead of rendering some")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.shards or Path(name) / "shards"
        if arguments.shards is None:
            from mimicmotion.data.synthetic import prepare_synthetic

            finish(prepare_synthetic(SyntheticConfig(count=arguments.records, output=folder)))
        shards = open_shards(folder)
        cache = LatentCache(shards, "patches", patches, Path(name) / "latents")
        for _ in cache.fill():
            pass
        config = SampleConfig(num_frames=8, detector_noise=arguments.noise, reverse=0.5)
        drawing = {"canvas_short_side": None, "stroke": 4.0}
        make = SampleMaker(shards, config, seed=0, downscale=CELL, drawing=drawing, latents=cache)
        pixels = SampleMaker(shards, config, seed=0, downscale=CELL, drawing=drawing)
        rows = [measure(make, slots, 4, arguments.batches) for slots in (4, 8)]
        rows.append(measure(pixels, 8, 4, arguments.batches) | {"latents": False})
        if arguments.profile:
            with cProfile.Profile() as profile:
                for i in range(200):
                    make(i)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    row = {
        "bench": "samples",
        "size": shards.size,
        "store": shards.store,
        "detector_noise": arguments.noise,
        "rows": rows,  # processor time, which is meaningful even on a busy machine
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cv2": cv2.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
