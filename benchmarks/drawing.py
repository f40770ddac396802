"""Milliseconds per drawn pose, against painting and sampling a whole canvas like the released code.

Run: python benchmarks/drawing.py [--frames 60]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mimicmotion.pose.guidance.skeleton import BODY_COLOURS, BONE_COLOURS, BONES, LIMBS, DrawnPoses, PoseDrawer
from mimicmotion.pose.keypoints import FACE, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence


def dancer(frames: int, size: tuple[int, int], seed: int = 0) -> tuple[ndarray, ndarray]:
    """A figure 80% as tall as the frame, with swinging joints, hands and a face."""
    body = [50, 20, 50, 30, 40, 30, 34, 45, 30, 60, 60, 30, 66, 45, 75, 55, 44, 58, 43, 75, 42, 95, 56, 58, 57, 75]
    figure = np.zeros((NUM_POINTS, 2))
    figure[:18] = np.array([*body, 58, 95, 48, 18, 52, 18, 45, 19, 55, 19]).reshape(18, 2)
    turn = np.linspace(0, 2 * np.pi, 68)
    figure[FACE] = np.stack([50 + 4 * np.sin(turn), 19 + 5 * np.cos(turn)], -1)
    fan = np.array([(0.0, 0.0)] + [(np.sin(f / 3) * k, np.cos(f / 3) * k) for f in range(5) for k in range(1, 5)])
    figure[LEFT_HAND], figure[RIGHT_HAND] = np.add(fan, [75, 55]), fan * [-1, 1] + [30, 60]
    random = np.random.default_rng(seed)
    time_axis, phase = np.arange(frames)[:, None, None] / 8, random.uniform(0, 6, (NUM_POINTS, 2))
    xy = figure + 2 * np.sin(time_axis + phase)
    xy = (xy - [50, 0]) * [0.7, 1] + [50, 0]
    return xy / 100 * size[::-1], random.uniform(0.4, 1, (frames, NUM_POINTS))


def draw_plainly(xy: ndarray, confidence: ndarray, size: tuple[int, int]) -> ndarray:
    """The same steps on the whole canvas: clear, paint, dim, paint, sample."""
    ratio = 2160 / min(size)
    height, width = int(size[0] * ratio), int(size[1] * ratio)
    canvas = np.zeros((height, width, 3), np.uint8)
    points = xy / size[::-1] * (width, height)
    for colour, (a, b) in zip(BODY_COLOURS, LIMBS, strict=False):
        if min(confidence[a], confidence[b]) >= 0.3:
            centre, offset = (points[a] + points[b]) / 2, points[a] - points[b]
            half, angle = int(np.hypot(*offset) / 2), int(np.degrees(np.arctan2(offset[1], offset[0])))
            outline = cv2.ellipse2Poly(tuple(centre.astype(int).tolist()), (half, 4), angle, 0, 360, 1)
            cv2.fillConvexPoly(canvas, np.array(outline), np.trunc(colour * confidence[a] * confidence[b]).tolist())
    canvas = (canvas * 0.6).astype(np.uint8)
    whole = points.astype(int).tolist()
    for k in range(18):
        if confidence[k] > 0.3:
            cv2.circle(canvas, whole[k], 4, np.trunc(BODY_COLOURS[k] * confidence[k]).tolist(), -1)
    for start in (LEFT_HAND.start, RIGHT_HAND.start):
        for colour, (a, b) in zip(BONE_COLOURS, BONES + start, strict=True):
            if min(*whole[a], *whole[b]) > 0:
                cv2.line(canvas, whole[a], whole[b], (colour * int(confidence[a] * confidence[b] * 255)).tolist(), 2)
        for k in range(start, start + 21):
            if min(whole[k]) > 0:
                cv2.circle(canvas, whole[k], 4, (int(confidence[k] * 255), 0, 0), -1)
    for k in range(FACE.start, FACE.stop):
        if min(whole[k]) > 0:
            cv2.circle(canvas, whole[k], 3, (int(confidence[k] * 255),) * 3, -1)
    small = cv2.resize(canvas, size[::-1])
    return np.ascontiguousarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)[..., ::-1])


def quantiles(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=10)
    return {"p10": round(cuts[0], 3), "median": round(statistics.median(times), 3), "p90": round(cuts[-1], 3)}


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def on_threads(xy: ndarray, confidence: ndarray, size: tuple[int, int]) -> dict[str, float]:
    """Milliseconds per frame when many are drawn at once, by number of threads."""
    poses = PoseSequence(xy.astype(np.float32), confidence.astype(np.float32), size, 15.0, "planted")
    ways = {threads: DrawnPoses(poses, PoseDrawer(size), threads) for threads in (1, 2, 4)}
    times: dict[int, list[float]] = {threads: [] for threads in ways}
    for _ in range(4):  # the first round allocates the canvases
        for threads, frames in ways.items():
            start = time.perf_counter()
            _ = frames[:]
            times[threads].append((time.perf_counter() - start) * 1e3 / len(poses))
    return {str(threads): round(statistics.median(t[1:]), 2) for threads, t in times.items()}


def main() -> None:
    """Time both ways alternately on the same frames, after checking that their pictures are identical."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)

    size, small = (1024, 576), (224, 128)
    xy, confidence = dancer(options.frames, size)
    scaled = xy * (np.array(small) / size)[::-1]
    drawer, direct = PoseDrawer(size), PoseDrawer(small, canvas_short_side=None)
    ways = {
        "plain": lambda i: draw_plainly(xy[i], confidence[i], size),
        "ours": lambda i: drawer.draw(xy[i], confidence[i]),
        "direct_224x128": lambda i: direct.draw(scaled[i], confidence[i]),
    }
    different = max(int(np.abs(ways["plain"](i).astype(int) - ways["ours"](i)).max()) for i in range(options.frames))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(options.frames):
        for name, draw in ways.items():
            start = time.perf_counter()
            draw(i)
            times[name].append((time.perf_counter() - start) * 1e3)
    row = {
        "bench": "drawing", "size": size, "frames": options.frames, "largest_difference": different,
        "ms": {name: quantiles(t) for name, t in times.items()},
        "ms_by_drawing_threads": on_threads(xy, confidence, size),
        "ratio": round(statistics.median(times["plain"]) / statistics.median(times["ours"]), 1),
        "direct_frames_per_second": round(1e3 / statistics.median(times["direct_224x128"])),
        "python": platform.python_version(), "cv2": cv2.__version__, "numpy": np.__version__,
        "threads": options.threads, "cpu": cpu_model(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
