"""The log of a run as JSON lines, and the same numbers and pictures for Accelerate's trackers."""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker
from numpy import ndarray

from mimicmotion.errors import ConfigError
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.runtime.run_folder import flat
from mimicmotion.settings.training import TrainConfig, as_dict

logger = logging.getLogger(__name__)

TIMES = ("time", "seconds", "samples_per_s", "gpu_gib")
"""Keys of a log line whose values are not reproducible."""


class Means:
    """Sums and counts since the last line of the log; kept in checkpoints, so that a resumed run logs the same."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Add values to the sums."""
        for key, value in values.items():
            total = self.sums.setdefault(key, [0.0, 0.0])
            total[0] += float(value)
            total[1] += 1

    @staticmethod
    def total(parts: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
        """Add up the sums and counts of several processes."""
        keys = dict.fromkeys(k for part in parts for k in part)
        return {k: [sum(p[k][i] for p in parts if k in p) for i in (0, 1)] for k in keys}

    @staticmethod
    def average(parts: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
        """Compute the means over several processes from their sums and counts."""
        return {k: total / count for k, (total, count) in Means.total(parts).items()}


class Log:
    """Writes `log.jsonl`, and sends the same numbers to the trackers; only the main process has a log.

    Args:
        run: the run folder.
        step: number of steps done; removes lines of later steps, which a killed run wrote after its last checkpoint.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / "log.jsonl"
        self.run = run
        self.trackers: list[Any] = []
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= step]
            if kept != lines:
                with atomic_path(self.path) as part, writing(part):
                    part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line, and send it to the trackers.

        Raises:
            OutputError: the disk is full.
        """
        numbers = {k: float(f"{v:.9g}") for k, v in values.items()}
        line = {"step": step, **numbers, "time": round(time.time(), 1)}
        with writing(self.path), self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
        for tracker in self.trackers:
            tracker.log({k if "/" in k else f"train/{k}": v for k, v in numbers.items()}, step=step)

    def pictures(self, step: int, pictures: Mapping[str, ndarray]) -> None:
        """Write RUN/validation/step-N[-name].png, and send the pictures to trackers that support them.

        Raises:
            OutputError: the disk is full.
        """
        from PIL import Image

        for name, picture in pictures.items():
            end = f"-{name}" if len(pictures) > 1 else ""
            path = self.run / "validation" / f"step-{step:08d}{end}.png"
            with atomic_path(path) as part, writing(path):
                Image.fromarray(np.ascontiguousarray(picture)).save(part)
            for tracker in self.trackers:
                if tracker.name == "tensorboard":
                    tracker.log_images({name: picture[None]}, step=step, dataformats="NHWC")
                elif hasattr(tracker, "log_images"):
                    tracker.log_images({name: picture[None]}, step=step)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.finish()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a partial line of a killed process


def check_trackers(names: Sequence[str]) -> list[str]:
    """Check the names of trackers, and return those whose packages are installed.

    TensorBoard is on by default, so there is only a warning if it is not installed: log.jsonl has the same numbers.

    Raises:
        ConfigError: a name is unknown, or the package of a tracker other than TensorBoard is missing.
    """
    known = sorted(str(getattr(k, "value", k)) for k in LOGGER_TYPE_TO_CLASS)
    found = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise ConfigError(f"trackers: {name}", ", ".join(known), "correct the name, or leave it out")
        if importlib.util.find_spec(name) is not None:
            found.append(name)
        elif name == "tensorboard":
            logger.warning("tensorboard is not installed, so the log is written to log.jsonl only")
        else:
            raise ConfigError(f"trackers: {name}", f"the package {name}", f"pip install {name}, or leave it out")
    return found


def start_trackers(log: Log, accelerator: Accelerator, config: TrainConfig, names: Sequence[str], step: int) -> None:
    """Start the trackers (main process only), and send them the settings."""
    if not names:
        return
    # discard events after the checkpoint, whose steps are repeated
    board = TensorBoardTracker("tensorboard", str(log.run), purge_step=step + 1 if step else None)
    accelerator.project_configuration.set_directories(str(log.run))
    accelerator.log_with = [board if name == "tensorboard" else name for name in names]
    accelerator.init_trackers(log.run.name)
    log.trackers = list(accelerator.trackers)
    for tracker in log.trackers:
        if tracker.name != "tensorboard":  # TensorBoard would show the settings as one more run in every chart
            tracker.store_init_configuration({k: str(v) for k, v in flat(as_dict(config)).items()})
    logger.info("%s logs to %s", accelerator.device, ", ".join(names))
