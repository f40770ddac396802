"""Clips per second of I3D, or frames per second of LPIPS: python benchmarks/evaluation_networks.py --net i3d."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mimicmotion.evaluation.metrics.pixels import lpips
from mimicmotion.evaluation.networks.features import features, load_i3d, load_lpips


def job(net: str, batch: int, size: int, device: str | None) -> tuple[str, Callable[[], object]]:
    """The unit that is counted, and a function that processes `batch` of them."""
    rng = np.random.default_rng(0)
    if net == "i3d":
        video = list(rng.integers(0, 256, (15 + batch, size, size, 3), np.uint8))
        network = load_i3d(device=device)
        return "clips of 16 frames", lambda: features(video, network, batch_size=batch)
    a, b = rng.integers(0, 256, (2, batch, size, size, 3), np.uint8)
    distance = load_lpips(net, device=device)  # pyrefly: ignore
    return "frames", lambda: lpips(a, b, network=distance, batch_size=batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=["i3d", "alex", "vgg"], default="i3d")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="side of the frames in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    unit, run = job(arguments.net, arguments.batch, arguments.size, arguments.device)
    run()
    times, busy = [], []
    for _ in range(arguments.repeats):
        start, start_busy = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - start) / arguments.batch)
        busy.append((time.process_time() - start_busy) / arguments.batch)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    row = {
        "bench": "evaluation_networks",
        **{k: v for k, v in vars(arguments).items() if k != "device"},
        "unit": unit,
        "per_second": 1 / statistics.median(times),
        "cpu_seconds_each": statistics.median(busy),  # processor time, which is meaningful even on a busy machine
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() and arguments.device != "cpu" else "cpu",
        "cpu": next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
