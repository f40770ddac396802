"""Time the demo's two videos with the bundled model, in total and by stage: `python benchmarks/generate.py`."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import torch

from mimicmotion.generate.demo import demo
from mimicmotion.runtime.progress import finish


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MIMICMOTION_CACHE"] = str(Path(folder) / "cache")  # poses are estimated, not cached
        results = finish(demo(Path(folder)))
    for result in results:
        row = {
            "bench": "generate",
            "frames": result.num_frames,
            "size": result.size,
            "seconds": {k: round(v, 2) for k, v in result.seconds.items()},
            "total_seconds": round(sum(result.seconds.values()), 2),
            "peak_memory_gib": round(result.peak_memory["process"] / 2**30, 2),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        }
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
