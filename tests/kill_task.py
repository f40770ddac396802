"""Generate jobs in processes that are killed: `python tests/kill_task.py` reads one JSON request per line.

Python and the libraries are loaded once, by running the first job; each request runs in a fork. It is killed before its
n-th operation on the output's folder ("at"), after some seconds ("after"), or at a report ("report": stage and units
done). The answer is one JSON line: exit code (negative: the signal), seconds, operations seen, and what was raised.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from mimicmotion.generate import inputs
from mimicmotion.generate.job import generate
from mimicmotion.runtime.progress import Progress, finish
from mimicmotion.settings import GenerateConfig, parse
from planted_job import FRAMES, dancing, planted, standing

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir")


def run(config: GenerateConfig, at: int | None, last_report: list[Any] | None, answers: int) -> int:
    """The job, in the forked process; `answers`: where the number of operations and an error are written."""
    folder, seen, error = os.fspath(config.output.parent), 0, ""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in OPERATIONS and any(
            isinstance(a, str | Path) and os.fspath(a).startswith(folder) for a in arguments
        ):
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    def see(report: Progress) -> None:
        if [report.stage, report.done] == last_report:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        finish(generate(config), see)
    except Exception as e:
        error = f"{type(e).__name__}: {e}"
    os.write(answers, json.dumps({"seen": seen, "error": error}).encode())
    return 1 if error else 0


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run one request in a fork."""
    config = parse(GenerateConfig, request["config"])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = run(config, request.get("at"), request.get("report"), write)
        finally:
            os._exit(code)
    os.close(write)
    start = time.perf_counter()
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.perf_counter() - start > request.get("after", math.inf):
            os.kill(child, signal.SIGKILL)
        time.sleep(0.003)
    with os.fdopen(read) as file:
        said = file.read()
    seconds = time.perf_counter() - start
    return {"code": os.waitstatus_to_exitcode(ended[1]), "seconds": seconds, **(json.loads(said) if said else {})}


def plant() -> None:
    """Plant poses that are found regardless of the frames."""
    inputs.find_estimator = planted(standing(1), dancing(FRAMES))


def run_alone(config: str) -> int:
    """The job of these settings (JSON) in this process."""
    finish(generate(parse(GenerateConfig, json.loads(config))))
    return 0


def load_libraries(config: GenerateConfig) -> None:
    """Run the job once, so that no fork has to import what is imported on the way."""
    with tempfile.TemporaryDirectory() as folder:
        finish(generate(dataclasses.replace(config, output=Path(folder) / "result.mp4")))
    gc.collect()
    gc.freeze()  # so that no fork scans existing objects again


def main() -> None:
    plant()
    cv2.setNumThreads(1)  # threads do not survive a fork
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        if number == 0:
            load_libraries(parse(GenerateConfig, request["config"]))
        sys.stdout.write(json.dumps(answer(request)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
