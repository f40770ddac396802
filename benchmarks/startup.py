"""Processor time until this package starts to work: `python benchmarks/startup.py`.

Measures in new processes on one thread what `import mimicmotion.pipeline` costs in addition to `import torch`, and how
long the demo takes until the end of its first denoising step, with the poses of its video in the cache. The processes
alternate, with --against SRC also with those of another version of the sources. Prints one JSON line; takes a minute on
an idle core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from drawing import cpu_model

HERE = Path(__file__).resolve().parents[1] / "src"
END = "import os, sys, time; sys.stdout.write(str(time.process_time())); sys.stdout.flush(); os._exit(0)"
IMPORTS = {"import_torch": f"import torch; {END}", "import_pipeline": f"import mimicmotion.pipeline; {END}"}
DEMO = f"""
import sys
from mimicmotion.cli import main
from mimicmotion.pipeline import MimicMotionPipeline

steps = MimicMotionPipeline.denoise

def first_step(*args, **kwargs):
    next(steps(*args, **kwargs))
    {END}

MimicMotionPipeline.denoise = first_step
sys.exit(main(["demo", "-o", sys.argv[1]]))
"""


def run(program: str, source: Path, folder: str) -> float:
    """Processor seconds of one process, as it reports them at its end."""
    places = {"PYTHONPATH": str(source), "XDG_CACHE_HOME": folder, "MIMICMOTION_CACHE": folder}
    environment = os.environ | places | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as output:
        argv = [sys.executable, "-c", program, output]
        done = subprocess.run(argv, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="folder src of another version")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    sources = {"now": HERE} | ({} if options.against is None else {"before": options.against.resolve()})
    runs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats + 1):  # the first one fills the caches
            for name, source in sources.items():
                for what, program in (IMPORTS | {"first_step": DEMO}).items():
                    spent = run(program, source, folder)
                    if turn:
                        runs.setdefault(f"{what}_{name}", []).append(spent)
    found = {what: round(statistics.median(spent), 2) for what, spent in runs.items()}
    ratio = {n: round(found[f"import_pipeline_{n}"] / found[f"import_torch_{n}"], 2) for n in sources}
    row = {
        "bench": "startup",
        "processor_seconds": found,
        "pipeline_over_torch": ratio,
        "repeats": options.repeats,
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
    if "before" in sources:
        row["first_step_earlier"] = round(found["first_step_before"] - found["first_step_now"], 2)
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
