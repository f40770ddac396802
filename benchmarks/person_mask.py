"""How well the person is found in frames whose masks are known, and what `--background keep` makes of them.

    python benchmarks/person_mask.py CLIP.npz ...

Each CLIP.npz holds `frames` (uint8, frames x height x width x 3) and `masks` (uint8, 255 where the person is); the
first frame is the picture. Poses are found by the bundled estimator. What is composed are the frames themselves
with a colour shift and noise (about 34 dB), as a model's decoder leaves them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mimicmotion.pose.estimators.open import open_estimator
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.pose.mask import SelfieSegmenter
from mimicmotion.video.background import REACH, KeptBackground, distance_outside


def decoded(frame: ndarray, rng: np.random.Generator) -> ndarray:
    """The frame as a model might give it back."""
    noise = cv2.GaussianBlur(rng.normal(size=frame.shape), (0, 0), 2.0) * 6 / 0.14
    return np.clip(np.rint(frame * 0.97 + 8 + 0.5 * noise), 0, 255).astype(np.uint8)


def psnr(a: ndarray, b: ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def measure(frames: ndarray, truth: ndarray, poses: PoseSequence) -> list[dict[str, float]]:
    """One row a frame; the first frame is the picture."""
    masks = list(SelfieSegmenter(threads=1).masks(frames, poses))
    kept, rng, rows = KeptBackground(frames[0], masks[0]), np.random.default_rng(0), []
    hole = distance_outside(truth[0]) <= REACH * kept.height
    for frame, mask, true in zip(frames[1:], masks[1:], truth[1:], strict=True):
        here, there = mask >= 128, true >= 128
        far = distance_outside(true) > REACH * (np.ptp(np.flatnonzero(there.any(1))) + 1)
        model = decoded(frame, rng)
        composed, weight = kept.apply(model, mask), kept.weight(mask)
        rows.append(
            {
                "IoU": (here & there).sum() / (here | there).sum(),
                "person outside the mask %": 100 * (there & ~here).sum() / there.sum(),
                "person outside the dilated mask %": 100 * (there & (weight < 0.5)).sum() / there.sum(),
                "result / picture outside dB": min(psnr(composed[far & ~hole], frames[0][far & ~hole]), 99.0),
                "model / picture outside dB": psnr(model[far & ~hole], frames[0][far & ~hole]),
                "filled / truth dB": psnr(composed[far & hole], frame[far & hole]) if (far & hole).any() else np.nan,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clips", type=Path, nargs="+")
    rows: list[dict[str, float]] = []
    for path in parser.parse_args().clips:
        with np.load(path) as clip:
            frames, truth = clip["frames"], clip["masks"]
        of = [open_estimator(threads=1).estimate(part) for part in (frames[:1], frames[1:])]
        xy, confidence = (np.concatenate([getattr(p, name) for p in of]) for name in ("xy", "confidence"))
        rows += measure(frames, truth, PoseSequence(xy, confidence, frames.shape[1:3]))
    print(f"{len(rows)} frames")
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        print(f"{name:36s} mean {np.nanmean(values):.3f} worst {values.min():.3f} .. {values.max():.3f}")


if __name__ == "__main__":
    main()
