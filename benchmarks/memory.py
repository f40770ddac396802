"""Peak memory of the host by length of the video: `python benchmarks/memory.py [--short 450 --long 9000]`.

Compares half a minute of video at 15 frames per second with ten minutes. Each length runs in a separate process, with
given poses and the bundled model at 96x64. Prints one JSON line: peaks, their ratio, the growth of the peak per frame,
and the resident memory at the last report of each stage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SIZE = (96, 64)


def resident() -> int | None:
    """Resident bytes of this process; None if the system does not report them."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def one(frames: int) -> dict[str, Any]:
    """Run a generate job of this many frames; returns its peak bytes, resident bytes by stage, and seconds."""
    import numpy as np

    from mimicmotion.generate import inputs
    from mimicmotion.generate.job import generate
    from mimicmotion.pose.files import save_poses
    from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
    from mimicmotion.runtime.progress import finish
    from mimicmotion.settings import GenerateConfig
    from mimicmotion.weights.registry import find_asset

    rng = np.random.default_rng(0)
    xy = (rng.random((1, NUM_POINTS, 2)) * 60 + 2 + rng.random((frames, 1, 2))).astype(np.float32)
    poses = PoseSequence(xy, np.full((frames, NUM_POINTS), 0.9, np.float32), SIZE, 15.0, "planted")
    first = PoseSequence(xy[:1].copy(), poses.confidence[:1].copy(), SIZE, 15.0, "planted")
    planted = SimpleNamespace(estimate=lambda _: first)  # for the picture
    inputs.find_estimator = lambda _: lambda static=False: planted  # noqa: ARG005  # pyrefly: ignore[bad-assignment]
    with tempfile.TemporaryDirectory() as folder:
        save_poses(poses, Path(folder) / "poses.npz")
        del poses, xy  # they are not part of the job
        config = GenerateConfig(
            picture=find_asset("demo/person.png"),
            video=Path(folder) / "poses.npz",
            output=Path(folder) / "out.mp4",
            height=SIZE[0],
            width=SIZE[1],
            num_inference_steps=1,
            pose_cache=False,
        )
        stages: dict[str, int | None] = {}
        result = finish(generate(config), lambda report: stages.update({report.stage: resident()}))
    return {"peak": result.peak_memory["process"], "stages": stages, "seconds": sum(result.seconds.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", type=int, default=450)
    parser.add_argument("--long", type=int, default=9000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.write(json.dumps(one(arguments.one)))
        return
    found = {}
    for frames in (arguments.short, arguments.long):
        argv = [sys.executable, __file__, "--one", str(frames)]
        found[frames] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    short, long = (found[frames]["peak"] for frames in (arguments.short, arguments.long))
    row = {
        "bench": "memory",
        "peak_mib": {frames: round(one["peak"] / 2**20) for frames, one in found.items()},
        "ratio": round(long / short, 3),
        "bytes_per_frame": round((long - short) / (arguments.long - arguments.short)),
        "resident_mib": {
            frames: {stage: size and round(size / 2**20) for stage, size in one["stages"].items()}
            for frames, one in found.items()
        },
        "seconds": {frames: round(one["seconds"], 1) for frames, one in found.items()},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
