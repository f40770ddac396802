"""Decoding during the last denoising step against decoding after it: `python benchmarks/meanwhile.py`.

The same job with the bundled model (one step), with and without, in turn: seconds until the first frame is handed to
the writer, of the whole, and the process's peak memory so far. Poses are given. One JSON line; a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from drawing import cpu_model
from mimicmotion.config import GenerateConfig
from mimicmotion.jobs.generate import generate
from mimicmotion.jobs.outputs import peak_memory
from mimicmotion.pipeline import MimicMotionPipeline
from released import plant_poses


def run(folder: Path, frames: int, meanwhile: bool, pipe: MimicMotionPipeline) -> dict[str, float]:
    """Seconds of one job."""
    picture, poses = plant_poses(folder, frames, (224, 128))
    config = GenerateConfig(picture=picture, video=poses, output=folder / f"{meanwhile}.mp4")
    first, start = 0.0, time.perf_counter()
    pipe.can_decode_meanwhile = lambda _: meanwhile  # type: ignore[method-assign]  # this pipeline alone
    for report in generate(config, pipe):
        if report.stage == "write" and not first:
            first = time.perf_counter() - start
    return {"first": first, "whole": time.perf_counter() - start, "peak_MiB": peak_memory()["process"] / 2**20}


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    pipe = MimicMotionPipeline.from_pretrained()
    runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), 16, True, pipe)  # warm
        for _ in range(args.repeats):
            for meanwhile in (False, True):  # the peak of the process is that of all runs so far
                runs[meanwhile].append(run(Path(name), args.frames, meanwhile, pipe))
        same = (Path(name) / "True.mp4").read_bytes() == (Path(name) / "False.mp4").read_bytes()

    def median(meanwhile: bool) -> dict[str, float]:
        return {k: round(statistics.median(r[k] for r in runs[meanwhile]), 2) for k in runs[meanwhile][0]}

    facts = {
        "benchmark": "meanwhile",
        "frames": args.frames,
        "repeats": args.repeats,
        "after the step": median(False),
        "during the step": median(True),
        "same file": same,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
