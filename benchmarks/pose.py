"""Milliseconds per frame of the holistic pose estimator: python benchmarks/pose.py [VIDEO] --threads 1."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy import ndarray

from mimicmotion.pose.estimators.holistic import HolisticEstimator

PEOPLE = Path(__file__).parents[1] / "tests" / "data" / "people"


def read(video: Path | None, count: int, long_side: int) -> list[ndarray]:
    """RGB frames of the video, or the four of the repository in a loop."""
    if video is None:
        frames = [np.array(cv2.imread(str(path))) for path in sorted(PEOPLE.glob("balance_*.jpg"))]
        frames = [frames[i % len(frames)] for i in range(count)]
    else:
        capture = cv2.VideoCapture(str(video))
        frames = [frame for good, frame in (capture.read() for _ in range(count)) if good]
    scale = long_side / max(frames[0].shape)
    return [cv2.cvtColor(cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), 4) for f in frames]


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="0 lets onnxruntime choose, as `generate` does")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--long-side", type=int, default=1024)
    parser.add_argument("--static", action="store_true", help="run the person detector in every frame")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    cv2.setNumThreads(arguments.threads or -1)
    frames = read(arguments.video, arguments.frames + 3, arguments.long_side)
    estimator = HolisticEstimator(threads=arguments.threads or None, device=arguments.device, static=arguments.static)
    times, busy, seen = [], [], []
    stream = estimator.estimate_stream(frames)
    for _ in frames:
        start, start_busy = time.perf_counter(), time.process_time()
        _, confidence = next(stream)
        times.append((time.perf_counter() - start) * 1e3)
        busy.append((time.process_time() - start_busy) * 1e3)
        seen.append(confidence.max() > 0)
    deciles = statistics.quantiles(times[3:], n=10)
    row = {
        "bench": "pose",
        "estimator": "holistic",
        "video": arguments.video.name if arguments.video else "tests/data/people",
        "size": frames[0].shape[:2],
        "static": arguments.static,
        "n": len(times) - 3,
        "seen": round(float(np.mean(seen)), 3),
        "ms": {"p10": deciles[0], "median": statistics.median(times[3:]), "p90": deciles[-1]},
        "cpu_ms_median": statistics.median(busy[3:]),  # processor time, which is meaningful even on a busy machine
        "threads": arguments.threads,
        "provider": estimator.provider,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "cv2": cv2.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
