"""Do segments show? The four fusion modes on long held-out clips: python benchmarks/fusion_quality.py [--clips 20].

Prints one JSON line. Each clip of a held-out synthetic person is generated from its reference picture and exact poses,
with the same noise in every mode. Seams are the change at the start of a segment (none), or at both ends of an overlap,
divided by the changes around it (1: not visible). Differences from progressive fusion are paired by clip, with 95%
intervals.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from mimicmotion.evaluation.metrics.intervals import mean_interval
from mimicmotion.evaluation.metrics.pixels import psnr, ssim
from mimicmotion.evaluation.metrics.temporal import background_flicker, jumps, seam_scores, segment_borders
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import FusionConfig
from mimicmotion.settings.synthetic import HELD_OUT_SEED
from mimicmotion.synth import render_clip
from mimicmotion.training.bundled import generate

MODES = ("none", "average", "progressive", "released")
FIRST = 5000


def rounded(interval: object) -> list[float]:
    return [round(float(getattr(interval, k)), 4) for k in ("value", "low", "high")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder; default: the bundled model")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--segment-frames", type=int, default=16)
    parser.add_argument("--overlap-frames", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    pipe = MimicMotionPipeline.from_pretrained(options.model)
    size = (pipe.backbone.settings["height"], pipe.backbone.settings["width"])
    scores: dict[str, dict[str, list[float]]] = {m: {} for m in MODES}
    for index in range(options.clips):
        clip = render_clip(HELD_OUT_SEED + FIRST + index, options.frames, size)
        for mode in MODES:
            sizes = {"segment_frames": options.segment_frames, "overlap_frames": options.overlap_frames}
            config = FusionConfig(mode=mode, **sizes)
            output = generate(pipe, clip, fusion=config, seed=index)
            row = {
                "seam": float(seam_scores(jumps(output), segment_borders(options.frames, config)).mean()),
                "flicker": background_flicker(output, clip.frames),
                "psnr": psnr(output, clip.frames),
                "ssim": ssim(output, clip.frames),
            }
            for key, value in row.items():
                scores[mode].setdefault(key, []).append(value)
        print(f"{index + 1} of {options.clips} clips", file=sys.stderr)
    line = {
        "bench": "fusion_quality",
        "n": options.clips,
        "frames": options.frames,
        "segment_frames": options.segment_frames,
        "overlap_frames": options.overlap_frames,
        "sigmas": pipe.backbone.settings.get("sigmas"),
        **{m: {k: rounded(mean_interval(v)) for k, v in s.items()} for m, s in scores.items()},
        "minus_progressive": {
            m: {k: rounded(mean_interval(np.subtract(v, scores["progressive"][k]))) for k, v in scores[m].items()}
            for m in MODES
            if m != "progressive"
        },
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": 1,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
