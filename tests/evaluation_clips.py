"""Small folders of real and generated videos for the tests of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from mimicmotion.evaluation.job import Evaluation
from mimicmotion.runtime.progress import finish
from mimicmotion.settings.evaluation import EvaluateConfig
from mimicmotion.video.picture import write_picture
from mimicmotion.video.writer import open_writer

SIZE = (48, 32)


def frames(seed: int, noise: float = 0.0, count: int = 8, size: tuple[int, int] = SIZE) -> ndarray:
    """A noisy view that moves over a smooth picture, with a still corner."""
    rng = np.random.default_rng(seed)
    base = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (size[1] + 2 * count, size[0] + count))
    clip = np.stack([base[i : i + size[0], 2 * i : 2 * i + size[1]] for i in range(count)]).astype(float)
    clip[:, :16, :16] = 90
    return np.clip(clip + np.random.default_rng([seed, 1]).normal(0, noise, clip.shape), 0, 255).astype(np.uint8)


def video(path: Path, clip: ndarray, fps: float = 10.0) -> Path:
    """Write frames as a video, or as a folder of PNG files if the path has no suffix."""
    if path.suffix:
        with open_writer(path, clip.shape[1:3], fps) as writer:
            for frame in clip:
                writer.write(frame)
    else:
        path.mkdir(parents=True)
        for i, frame in enumerate(clip):
            write_picture(path / f"{i + 1:04d}.png", frame)
    return path


def folders(root: Path, sequences: tuple[str, ...] = ("turn", "walk"), suffix: str = "") -> dict[str, Any]:
    """Real videos and two methods, one noisier than the other; lossless folders of frames."""
    for seed, sequence in enumerate(sequences):
        for name, noise in (("real", 0.0), ("ours", 4.0), ("theirs", 12.0)):
            video(root / name / f"{sequence}{suffix}", frames(seed, noise))
    methods = {"ours": root / "ours", "theirs": root / "theirs"}
    return {"real": root / "real", "generated": methods, "output": root / "report"}


def run(**settings: Any) -> Evaluation:
    """Run an evaluation, with the cheap metrics by default."""
    settings = {"metrics": ["psnr", "l1"]} | settings
    return finish(Evaluation(EvaluateConfig(**settings)).run())


def value(done: Evaluation, method: str, sequence: str, metric: str) -> float:
    """One number."""
    return next(r.values[metric] for r in done.rows if (r.method, r.sequence) == (method, sequence))
