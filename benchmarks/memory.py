"""Peak memory of the host against the length of the video: `python benchmarks/memory.py [--short 450 --long 9000]`.

Half a minute of video at 15 frames a second against ten minutes. Each length runs in a process of its own, with planted
poses and the bundled model at 96x64; prints one JSON line.
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

SIZE = (96, 64)


def one(frames: int) -> int:
    """Peak bytes of a generate job of so many frames."""
    import numpy as np

    from mimicmotion.config import GenerateConfig
    from mimicmotion.jobs import inputs
    from mimicmotion.jobs.generate import generate
    from mimicmotion.jobs.progress import finish
    from mimicmotion.pose.estimator import StaticPose
    from mimicmotion.pose.files import save_poses
    from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
    from mimicmotion.weights import find_asset

    rng = np.random.default_rng(0)
    xy = (rng.random((1, NUM_POINTS, 2)) * 60 + 2 + rng.random((frames, 1, 2))).astype(np.float32)
    poses = PoseSequence(xy, np.full((frames, NUM_POINTS), 0.9, np.float32), SIZE, 15.0, "planted")
    first = PoseSequence(xy[:1].copy(), poses.confidence[:1].copy(), SIZE, 15.0, "planted")
    inputs.find_estimator = lambda _: lambda static=False: StaticPose(first)  # noqa: ARG005
    with tempfile.TemporaryDirectory() as folder:
        save_poses(poses, Path(folder) / "poses.npz")
        del poses, xy  # they are no part of the job
        config = GenerateConfig(
            picture=find_asset("demo/person.png"),
            video=Path(folder) / "poses.npz",
            output=Path(folder) / "out.mp4",
            height=SIZE[0],
            width=SIZE[1],
            num_inference_steps=1,
        )
        return finish(generate(config)).peak_memory["process"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", type=int, default=450)
    parser.add_argument("--long", type=int, default=9000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.write(str(one(arguments.one)))
        return
    peaks = {}
    for frames in (arguments.short, arguments.long):
        argv = [sys.executable, __file__, "--one", str(frames)]
        peaks[frames] = int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    row = {
        "bench": "memory",
        "peak_mib": {str(k): round(v / 2**20) for k, v in peaks.items()},
        "ratio": round(peaks[arguments.long] / peaks[arguments.short], 3),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
