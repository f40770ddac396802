"""Block cache: reuse the output of the U-Net's deep part while it changes little (approximate; off by default).

Between neighbouring noise levels the coarse levels of the U-Net change slowly. A *light* pass computes the outermost
level alone (`conv_in`, first down block, last up block, `conv_out`) and takes the output of everything deeper from the
last *full* pass of the same segment with the same condition.

Full passes are triggered by measurement, not by a schedule. The input of the deep part is computed in every pass, and
its distance to that of the last full pass predicts the change of the output: each full pass measures the ratio of
output change to input change, which scales later predictions. A change is weighted by the share of the network's output
in the clean latents, sigma / sqrt(sigma^2 + 1). The predictions of light passes add up; if their sum would exceed the
budget, the pass is a full one. The first two passes are always full, since no ratio is known before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mimicmotion.errors import ConfigError, InputError

STRIDE = 4
"""Changes are measured at every fourth position along height and width: the mean hardly differs, memory does."""

PREFIX = "block_cache."
"""Of the names in a state."""

PassKey = tuple[tuple[int, ...], bool, int]
"""(rows of the segment, with or without the condition, number of the video in the batch)."""


def pass_key(rows: Sequence[int], conditional: bool, video: int = 0) -> PassKey:
    """Identifies features by segment, condition and video of the batch."""
    return tuple(rows), conditional, video


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Input of a full pass, sufficient to recompute its features."""

    x: Float[Tensor, "1 frames channels h w"]
    c_noise: float


@dataclass(slots=True, eq=False)
class Kept:
    """State of the last full pass of a key.

    Attributes:
        source: what the pass was made from.
        inside: features in front of the deep part, at every `STRIDE`-th position; None after a resume, until remade.
        deep: output of the deep part; None like `inside`.
        ratio: change of `deep` per change of `inside`, as last measured; None before there were two full passes.
        error: predictions for the light passes since, added up.
    """

    source: Source
    inside: Tensor | None
    deep: Tensor | None
    ratio: float | None = None
    error: float = 0.0


class BlockCache:
    """Deep features of ONE run, by key.

    A key says which rows and which condition a pass is for: features of another segment, or of the pass without
    picture, have nothing to do with this one's. The state lives here and not in the network, so runs that share a
    network do not mix.

    Args:
        budget: how large the predicted error of the deep part may grow (mean absolute change over mean absolute value)
            before it is computed again.
        state: of a run that is resumed (`state()`); its features are made again when they are first needed, from the
            latents they were made from, so a resumed run goes on bit by bit as if it had not been interrupted.

    Raises:
        ConfigError: the budget is not above 0 (for none, use no cache).
        InputError: the state is not one, or empty.
    """

    def __init__(self, budget: float, state: Mapping[str, Tensor] | None = None) -> None:
        if not 0 < budget < math.inf:
            raise ConfigError(f"block_cache={budget}", "a budget above 0", "use e.g. 0.1; leave the cache out for none")
        self.budget = budget
        self.kept: dict[PassKey, Kept] = {} if state is None else _restore(state)
        self.full = 0
        """Full passes so far."""
        self.light = 0
        """Light passes so far."""

    def clear(self) -> None:
        """Drop all features (the counts stay)."""
        self.kept.clear()

    def nbytes(self) -> int:
        """Bytes of the kept features."""
        return sum(t.nbytes for k in self.kept.values() for t in (k.deep, k.inside) if t is not None)

    def state(self) -> dict[str, Tensor]:
        """State for resuming, by name: not the features, but the latents that they were computed from.

        The tensors do not change when the run continues.
        """
        out: dict[str, Tensor] = {}
        places: dict[int, int] = {}  # both passes of guidance saw the same latents: they are stored once
        for i, ((rows, conditional, video), k) in enumerate(self.kept.items()):
            x, ratio = k.source.x, math.nan if k.ratio is None else k.ratio
            place = places.setdefault(x.data_ptr(), i)
            out[f"{PREFIX}{place}.x"] = x
            out[f"{PREFIX}{i}.key"] = torch.tensor([place, int(conditional), video, *rows])
            out[f"{PREFIX}{i}.numbers"] = torch.tensor([ratio, k.error, k.source.c_noise], dtype=torch.float64)
        return out

    def lost(self, key: PassKey) -> Source | None:
        """What a full pass must be made from first (`remade`), since only a resumed state is there; else None."""
        kept = self.kept.get(key)
        return kept.source if kept is not None and kept.deep is None else None

    def deep(self, key: PassKey, source: Source, inside: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """The deep part's output, cached or computed.

        Args:
            key: of this pass.
            source: what the pass is made from; kept with its result.
            inside: features in front of the deep part, made `sparse`.
            compute: the deep part.
        """
        kept = self.kept.get(key)
        if kept is None:
            return self._keep(key, Kept(source, inside, compute()))
        if kept.deep is None or kept.inside is None:
            return self._keep(key, Kept(source, inside, compute(), kept.ratio, kept.error))
        change = relative_change(inside, kept.inside)
        predicted = math.inf if kept.ratio is None else kept.ratio * change * output_share(source.c_noise)
        if kept.error + predicted <= self.budget:
            kept.error += predicted
            self.light += 1
            return kept.deep
        out = compute()
        ratio = relative_change(out, kept.deep) / change if change > 0 else kept.ratio
        return self._keep(key, Kept(source, inside, out, ratio))

    def _keep(self, key: PassKey, kept: Kept) -> Tensor:
        assert kept.deep is not None
        self.kept[key] = kept
        self.full += 1
        return kept.deep


def sparse(features: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows channels few_h few_w"]:
    """A copy of every `STRIDE`-th position."""
    return features[..., ::STRIDE, ::STRIDE].clone()


def relative_change(new: Tensor, old: Tensor) -> float:
    """Mean absolute difference over the mean absolute value of `old`, in float32."""
    new, old = new.float(), old.float()
    return float((new - old).abs().mean() / old.abs().mean().clamp_min(1e-12))


def output_share(c_noise: float) -> float:
    """How much of the network's output enters the clean latents: sigma * c_in, where c_noise is ln(sigma) / 4."""
    return 1 / math.sqrt(1 + math.exp(min(-8 * c_noise, 700.0)))


def cache_bytes(unet: Any, rows: int, height: int, width: int, itemsize: int) -> int:
    """Bytes that a cache keeps per segment and condition (two conditions where there is guidance).

    Args:
        unet: SVD's U-Net.
        rows: frames of a segment, the reference slot counted.
        height: of the latents.
        width: of the latents.
        itemsize: bytes of a number of the U-Net (2 for float16).
    """
    widths = list(unet.config.block_out_channels)
    out = widths[min(1, len(widths) - 1)] * height * width  # the block before the last one has grown to full size
    down = 2 if len(widths) > 1 else 1
    inside = widths[0] * math.ceil(height / down / STRIDE) * math.ceil(width / down / STRIDE)
    return rows * (out + inside) * itemsize


def _restore(state: Mapping[str, Tensor]) -> dict[PassKey, Kept]:
    kept: dict[PassKey, Kept] = {}
    names = [n.removesuffix(".key") for n in state if n.startswith(PREFIX) and n.endswith(".key")]
    try:
        for name in names:
            place, conditional, video, *rows = state[f"{name}.key"].tolist()
            ratio, error, c_noise = state[f"{name}.numbers"].tolist()
            source = Source(state[f"{PREFIX}{place}.x"], c_noise)
            ratio = None if math.isnan(ratio) else ratio
            kept[tuple(rows), bool(conditional), video] = Kept(source, None, None, ratio, error)
    except (KeyError, ValueError) as e:
        raise InputError(f"block cache: {e!r}", "the memory of the step that is resumed", "pass it whole") from e
    if not kept:
        raise InputError("no block cache in memory", "the memory of the step that is resumed", "pass it")
    return kept
