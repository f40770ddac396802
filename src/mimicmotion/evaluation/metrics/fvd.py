"""Features of clips, for FVD (Unterthiner et al. 2018) and other Frechet distances between sets of clips.

Features depend only on the sequence, the network and its settings, so callers can cache them, compare sets
(`frechet.frechet_distance`) and resample sequences without running the network again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import InputError
from mimicmotion.evaluation.networks.features import FeatureNetwork, Preprocess

Mode = Literal["stride1", "disjoint"]
AnyFrame = UInt8[ndarray, "height width 3"] | Float[ndarray, "height width 3"]


def features(
    frames: Iterable[AnyFrame],
    network: FeatureNetwork,
    *,
    mode: Mode = "stride1",
    batch_size: int = 4,
) -> Float32[ndarray, "clips dim"]:
    """Compute the features of all clips of one sequence in order, one row per clip.

    Frames are streamed, and at most `batch_size` clips are held in memory.

    Args:
        frames: RGB frames, uint8 or float in 0..1, all of one size.
        network: feature network, such as `load_i3d()`; its `length` is the number of frames per clip.
        mode: "stride1": a clip starts at every frame (DisCo's protocol). "disjoint": clips do not overlap, and frames
            left over at the end are dropped.
        batch_size: clips per forward pass.

    Raises:
        InputError: fewer frames than a clip needs, frames of different sizes, NaN, or values out of range; the
            message names the frame.
    """
    step = 1 if mode == "stride1" else network.length
    clips = _clips(_prepared(frames, network.preprocess), network.length, step)
    batches = iter(lambda: list(islice(clips, batch_size)), [])
    return np.concatenate([network(np.stack(batch)) for batch in batches])


def _clips(frames: Iterator[ndarray], length: int, step: int) -> Iterator[ndarray]:
    held: deque[ndarray] = deque(maxlen=length)
    count = 0
    for frame in frames:
        held.append(frame)
        count += 1
        if count >= length and (count - length) % step == 0:
            yield np.stack(held)
    if count < length:
        fix = "leave out this sequence, or use shorter clips"
        raise InputError(f"a sequence of {count} frames", f"at least {length} for one clip", fix)


def _prepared(frames: Iterable[AnyFrame], preprocess: Preprocess) -> Iterator[ndarray]:
    shape = None
    for i, frame in enumerate(frames):
        if shape is not None and np.shape(frame) != shape:
            raise InputError(
                f"frame {i} of shape {np.shape(frame)}", f"{shape}, like the first", "resize the frames first"
            )
        shape = np.shape(frame)
        try:
            yield preprocess(frame)
        except InputError as e:
            raise InputError(f"frame {i}: {e.got}", e.expected, e.fix) from e
