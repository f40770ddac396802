"""FVD (Unterthiner et al. 2018) and other Frechet distances of clips: windows, features, distance.

Features of a sequence depend on the sequence, the network and its settings alone, so callers can keep them and
compare sets, or resample sequences, without the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.evaluation.metrics.frechet import frechet_distance
from mimicmotion.evaluation.networks.features import FeatureNetwork, Fit, Preprocess, load_i3d

__all__ = ["features", "fvd", "load_i3d", "windows"]

Mode = Literal["stride1", "disjoint"]
AnyFrame = UInt8[ndarray, "height width 3"] | Float[ndarray, "height width 3"]


def windows(num_frames: int, length: int = 16, mode: Mode = "stride1") -> list[tuple[int, int]]:
    """Clips of a sequence, as (first frame, frame after the last).

    Args:
        num_frames: frames of the sequence.
        length: frames of a clip.
        mode: "stride1": one clip begins at every frame (DisCo's protocol). "disjoint": one after the other, the rest
            is left out.

    Raises:
        InputError: fewer frames than one clip has, or an unknown mode.
    """
    if mode not in ("stride1", "disjoint") or length < 1:
        raise InputError(f"mode={mode!r}, length={length}", "'stride1' or 'disjoint', length >= 1", "correct it")
    if num_frames < length:
        fix = "leave this sequence out, or use shorter clips"
        raise InputError(f"a sequence of {num_frames} frames", f"at least {length} for one clip", fix)
    return [(i, i + length) for i in range(0, num_frames - length + 1, 1 if mode == "stride1" else length)]


def features(
    frames: Iterable[AnyFrame],
    network: FeatureNetwork,
    *,
    mode: Mode = "stride1",
    batch_size: int = 4,
) -> Float32[ndarray, "clips dim"]:
    """Features of all clips of one sequence, a row each, in order.

    The frames are taken one by one; at most `batch_size` clips are held, so sequences can be of any length.

    Args:
        frames: RGB frames, uint8 or float in 0..1, all of one size.
        network: such as `load_i3d()`; its `length` is the length of the clips.
        mode: see `windows`.
        batch_size: clips that go through the network at once.

    Raises:
        InputError: fewer frames than one clip has, frames of different sizes, NaN, or values out of range; the
            message says which frame.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}", "at least 1", "correct it")
    clips = _clips(_prepared(frames, network.preprocess), network.length, mode)
    batches = iter(lambda: list(islice(clips, batch_size)), [])
    return np.concatenate([network(np.stack(batch)) for batch in batches])


def _clips(frames: Iterator[ndarray], length: int, mode: Mode) -> Iterator[ndarray]:
    windows(length, length, mode)  # an unknown mode is refused before the first frame is read
    held: deque[ndarray] = deque(maxlen=length)
    step, count = 1 if mode == "stride1" else length, 0
    for frame in frames:
        held.append(frame)
        count += 1
        if count >= length and (count - length) % step == 0:
            yield np.stack(held)
    windows(count, length, mode)  # raises where there were too few


def _prepared(frames: Iterable[AnyFrame], preprocess: Preprocess) -> Iterator[ndarray]:
    shape = None
    for i, frame in enumerate(frames):
        if shape is not None and np.shape(frame) != shape:
            raise InputError(f"frame {i} of shape {np.shape(frame)}", f"{shape} as before", "resize the frames first")
        shape = np.shape(frame)
        try:
            yield preprocess(frame)
        except InputError as e:
            raise InputError(f"frame {i}: {e.got}", e.expected, e.fix) from e


def fvd(
    real: Iterable[Iterable[AnyFrame]],
    generated: Iterable[Iterable[AnyFrame]],
    *,
    mode: Mode = "stride1",
    fit: Fit = "squash",
    length: int = 16,
    batch_size: int = 4,
    path: Path | str | None = None,
    device: str | None = None,
) -> float:
    """FVD between two sets of videos, in one call.

    Only compare numbers computed with the same settings and the same number of clips; published ones seldom agree
    with one another.

    Args:
        real: videos, each an iterable of frames (see `features`).
        generated: the same.
        mode: see `windows`.
        fit: see `networks.features.Preprocess`.
        length: frames a clip.
        batch_size: clips at once.
        path: weights of I3D; default are the fetched ones.
        device: default is a GPU where there is one.

    Raises:
        InputError: fewer than two clips in a set, or what `features` refuses.
        WeightsError: I3D is not here.
    """
    network = load_i3d(path, fit=fit, length=length, device=device)
    sets = [
        [features(video, network, mode=mode, batch_size=batch_size) for video in videos] for videos in (real, generated)
    ]
    for name, rows in zip(("real", "generated"), sets, strict=True):
        if not rows:
            raise InputError(f"no {name} videos", "at least two clips", "check the list")
    return frechet_distance(*(np.concatenate(rows) for rows in sets))
