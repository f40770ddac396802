"""Quality of the small model on held-out synthetic people: python benchmarks/tiny_quality.py [--model DIR].

Prints one JSON line. The reference picture is animated by the exact poses of a clip that no training saw, and
compared with the clip's frames: PSNR and SSIM of whole frames, and PSNR inside the moving region (pixels where the
target differs from the reference picture by more than a tenth of the range), against copying the reference picture.
`bound` is the autoencoder alone. `--sheet` also writes a picture of the clips with the largest, middle and smallest
gain (reference and targets, below them reference and results).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.training.validation import BUNDLED, generate, held_out_clip, reconstruct, score, sheet

FIRST = 1000  # held-out clips before this one were looked at while settings were chosen


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, p10, p90 and mean with the half-width of its 95 % interval, over clips."""
    out = {}
    for key in rows[0]:
        values = [r[key] for r in rows]
        q = statistics.quantiles(values, n=10) if len(values) > 1 else [values[0]] * 9
        half = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        numbers = {"mean": statistics.fmean(values), "ci95": half, "p10": q[0], "median": q[4], "p90": q[8]}
        out[key] = {k: round(v, 4) for k, v in numbers.items()}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder; the bundled one if left out")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pipe = MimicMotionPipeline.from_pretrained(arguments.model)
    size = (pipe.settings.get("height", BUNDLED["height"]), pipe.settings.get("width", BUNDLED["width"]))
    rows: list[dict[str, float]] = []
    bounds: list[dict[str, float]] = []
    pictures: list[list[ndarray]] = []
    seconds = 0.0
    for index in range(arguments.clips):
        clip = held_out_clip(FIRST + index, arguments.frames, size)
        start = time.perf_counter()
        output = generate(pipe, clip)
        seconds += time.perf_counter() - start
        row = score(output, clip)
        row["gain_moving"] = row["psnr_moving"] - row["copy_psnr_moving"]
        rows.append(row)
        if index % 4 == 0:
            whole = score(reconstruct(pipe, clip.frames), clip)
            bounds.append({k: whole[k] for k in ("psnr", "psnr_moving", "ssim")})
        chosen = np.linspace(0, arguments.frames - 1, 4).astype(int)
        pictures.append([clip.reference_frame, *clip.frames[chosen], clip.reference_frame, *output[chosen]])
    if arguments.sheet:
        from PIL import Image

        order = sorted(range(len(rows)), key=lambda i: -rows[i]["gain_moving"])
        middle = len(order) // 2
        shown = dict.fromkeys([*order[:2], *order[middle : middle + 2], *order[-2:]])
        lines = [pictures[i][a:b] for i in shown for a, b in ((0, 5), (5, 10))]
        Image.fromarray(sheet(lines)).save(arguments.sheet, quality=88)
    line: dict[str, Any] = {
        "bench": "tiny_quality",
        "n": arguments.clips,
        "frames": arguments.frames,
        "size": list(size),
        "settings": pipe.settings,
        **summary(rows),
        "bound": summary(bounds),
        "ms_per_frame": round(seconds / arguments.clips / arguments.frames * 1e3, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "threads": arguments.threads,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
