"""A pool of rendered clips on disk: rendered once, read as memory maps by every stage."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numpy import ndarray

from mimicmotion.errors import ConfigError
from mimicmotion.pose.keypoints import NUM_POINTS
from mimicmotion.synth import SynthClip, render_clip
from mimicmotion.training.settings import PoolConfig

logger = logging.getLogger(__name__)

FRAME_RATES = (15.0, 10.0, 6.0)
"""Frames per second of the clips in turn: the interval of frames is randomised, as the paper's is not known."""

Render = Callable[[int, int, tuple[int, int]], SynthClip]


@dataclass(frozen=True, slots=True)
class Pool:
    """Clips with exact poses; slot 0 of every clip is its reference frame.

    Attributes:
        frames: RGB.
        xy: pixels of the frame.
        confidence: 0..1.
    """

    frames: UInt8[ndarray, "clips slots height width 3"]
    xy: Float32[ndarray, "clips slots 134 2"]
    confidence: Float32[ndarray, "clips slots 134"]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a frame."""
        return self.frames.shape[2], self.frames.shape[3]


def _shapes(config: PoolConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    n, f = config.clips, config.frames + 1
    return {
        "frames": ((n, f, config.height, config.width, 3), "uint8"),
        "xy": ((n, f, NUM_POINTS, 2), "float32"),
        "confidence": ((n, f, NUM_POINTS), "float32"),
    }


def _render(seed: int, frames: int, size: tuple[int, int]) -> SynthClip:
    return render_clip(seed, frames, size, fps=FRAME_RATES[seed % len(FRAME_RATES)])


def open_pool(config: PoolConfig, render: Render = _render) -> Pool:
    """Open the pool, first rendering what is missing; a killed rendering goes on where it stopped.

    Args:
        config: what the pool holds.
        render: (seed, frames, size) to clip.

    Raises:
        ConfigError: the folder holds a pool of other settings.
    """
    folder = Path(config.path)
    folder.mkdir(parents=True, exist_ok=True)
    head = {"frames": config.frames, "size": [config.height, config.width], "first_seed": config.first_seed}
    head["clips"] = config.clips
    index = folder / "pool.json"
    state: dict[str, Any] = json.loads(index.read_text(encoding="utf-8")) if index.exists() else head | {"done": 0}
    if {k: state[k] for k in head} != head:
        raise ConfigError(f"{folder} holds {state}", f"{head}", "use another folder or delete this one")
    mode = "r+" if index.exists() else "w+"
    maps = {
        k: np.lib.format.open_memmap(folder / f"{k}.npy", mode=mode, dtype=d, shape=None if mode == "r+" else s)
        for k, (s, d) in _shapes(config).items()
    }
    index.write_text(json.dumps(state), encoding="utf-8")
    for i in range(int(state["done"]), config.clips):
        clip = render(config.first_seed + i, config.frames, (config.height, config.width))
        for key, first, rest in (
            ("frames", clip.reference_frame[None], clip.frames),
            ("xy", clip.reference_pose.xy, clip.poses.xy),
            ("confidence", clip.reference_pose.confidence, clip.poses.confidence),
        ):
            maps[key][i, :1], maps[key][i, 1:] = first, rest
        if (i + 1) % 50 == 0 or i + 1 == config.clips:
            for m in maps.values():
                m.flush()
            index.write_text(json.dumps(head | {"done": i + 1}), encoding="utf-8")
            logger.info("rendered %d of %d clips", i + 1, config.clips)
    return Pool(**maps)


def patch_basis(
    pool: Pool, patch: int, components: int, samples: int = 4000, seed: int = 0
) -> tuple[Float64[ndarray, "3 patch patch"], Float64[ndarray, "components 3 patch patch"]]:
    """Mean and first principal components of square patches of the pool's pictures in [-1, 1].

    The components are scaled so that the latents (projections) have unit variance over all of them together.
    """
    rng = np.random.default_rng(seed)
    h, w = pool.size
    clip, slot = rng.integers(len(pool), size=samples), rng.integers(pool.frames.shape[1], size=samples)
    y, x = rng.integers(h // patch, size=(samples, 16)) * patch, rng.integers(w // patch, size=(samples, 16)) * patch
    rows = []
    for i in range(samples):
        picture = pool.frames[clip[i], slot[i]].astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
        rows += [picture[:, a : a + patch, b : b + patch].ravel() for a, b in zip(y[i], x[i], strict=True)]
    data = np.stack(rows)
    mean = data.mean(0)
    values, vectors = np.linalg.eigh(np.cov((data - mean).T))
    top = vectors[:, ::-1][:, :components].T
    # Together unit variance would leave the weak components far below the noise: equalise them half-way.
    spread = np.maximum(values[::-1][:components], 1e-6)
    scaled = top / spread[:, None] ** 0.25
    scaled /= np.sqrt(np.mean(np.sqrt(spread)))
    return mean.reshape(3, patch, patch), scaled.reshape(components, 3, patch, patch)
