"""Block cache: reuse the output of the U-Net's deep part while it changes little (approximate; off by default).

The coarse levels of the U-Net change slowly between neighbouring noise levels. A *light* pass only computes the
outermost level (`conv_in`, first down block, last up block, `conv_out`) and takes the output of all deeper levels from
the last *full* pass with the same segment and condition.

Full passes are triggered by measurements, not by a schedule. Every pass computes the input of the deep part, and
measures how much it has changed since the last full pass. The change of the output is predicted from it with the ratio
of output change to input change, which full passes measure. It is weighted by the contribution of the network's output
to the clean latents, sigma / sqrt(sigma^2 + 1). The predictions of light passes add up; if their sum would exceed the
budget, the pass is a full one. The first two passes are always full, since the ratio is still unknown.
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
"""Changes are measured at every fourth position along height and width. This saves memory; the mean hardly differs."""

PREFIX = "deep_features."
"""Prefix of the names in `BlockCache.state`."""

PassKey = tuple[tuple[int, ...], bool]
"""(slots of the segment, whether the pass is conditional)."""


def pass_key(slots: Sequence[int], conditional: bool) -> PassKey:
    """Return the cache key of a pass."""
    return tuple(slots), conditional


@dataclass(slots=True, eq=False)
class Entry:
    """The last full pass for a key.

    Attributes:
        x: input of the pass, sufficient to recompute its features.
        c_noise: its noise level.
        inside: input of the deep part, at every `STRIDE`-th position; None after a resume until it is recomputed.
        deep: output of the deep part; None whenever `inside` is.
        ratio: last measured change of `deep` per change of `inside`; None before the second full pass.
        error: sum of the predictions for the light passes since then.
    """

    x: Float[Tensor, "1 frames channels h w"]
    c_noise: float
    inside: Tensor | None = None
    deep: Tensor | None = None
    ratio: float | None = None
    error: float = 0.0


class BlockCache:
    """Deep features of one run, by segment and condition.

    They are stored here and not in the network, so that runs can share a network.

    Args:
        budget: largest predicted error of the deep part's output (mean absolute change over mean absolute value).
        state: state of the run to resume (`state()`). Features are recomputed on first use from the latents that they
            were computed from, so that the resumed run is bit-identical to an uninterrupted one.

    Attributes:
        full: number of full passes so far.
        light: number of light passes so far.

    Raises:
        InputError: the budget is not positive, or the state is empty or incomplete.
    """

    def __init__(self, budget: float, state: Mapping[str, Tensor] | None = None) -> None:
        if not 0 < budget < math.inf:
            raise ConfigError(f"block_cache={budget}", "a budget above 0", "use 0.1, for example, or leave it out")
        self.budget = budget
        self.entries: dict[PassKey, Entry] = {} if state is None else _restore(state)
        self.full = self.light = 0

    def clear(self) -> None:
        """Drop all features, but not the counts."""
        self.entries.clear()

    def state(self) -> dict[str, Tensor]:
        """Return the state for resuming, by name, with the latents that the features were computed from.

        The tensors do not change when the run continues.
        """
        out: dict[str, Tensor] = {}
        indices: dict[int, int] = {}  # both passes of guidance share their latents, which are stored once
        for i, ((slots, conditional), e) in enumerate(self.entries.items()):
            x, ratio = e.x, math.nan if e.ratio is None else e.ratio
            index = indices.setdefault(x.data_ptr(), i)
            out[f"{PREFIX}{index}.x"] = x
            out[f"{PREFIX}{i}.key"] = torch.tensor([index, int(conditional), *slots])
            out[f"{PREFIX}{i}.numbers"] = torch.tensor([ratio, e.error, e.c_noise], dtype=torch.float64)
        return out

    def lost(self, key: PassKey) -> Entry | None:
        """Return the pass to rerun first after a resume, to recompute its features; None if they exist."""
        entry = self.entries.get(key)
        return entry if entry is not None and entry.deep is None else None

    def deep(self, key: PassKey, x: Tensor, c_noise: float, inside: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """Return the deep part's output, cached or computed.

        Args:
            key: key of this pass.
            x: input of the pass.
            c_noise: its noise level.
            inside: input of the deep part, subsampled by `sparse`.
            compute: computes the deep part's output.
        """
        last = self.entries.get(key)
        if last is None:
            return self._store(key, Entry(x, c_noise, inside, compute()))
        if last.deep is None or last.inside is None:
            return self._store(key, Entry(x, c_noise, inside, compute(), last.ratio, last.error))
        change = relative_change(inside, last.inside)
        predicted = math.inf if last.ratio is None else last.ratio * change * output_share(c_noise)
        if last.error + predicted <= self.budget:
            last.error += predicted
            self.light += 1
            return last.deep
        out = compute()
        ratio = relative_change(out, last.deep) / change if change > 0 else last.ratio
        return self._store(key, Entry(x, c_noise, inside, out, ratio))

    def _store(self, key: PassKey, entry: Entry) -> Tensor:
        assert entry.deep is not None
        self.entries[key] = entry
        self.full += 1
        return entry.deep


def sparse(features: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n channels few_h few_w"]:
    """Copy the features at every `STRIDE`-th position along height and width."""
    return features[..., ::STRIDE, ::STRIDE].clone()


def relative_change(new: Tensor, old: Tensor) -> float:
    """Return the mean absolute difference, relative to the mean absolute value of `old`, computed in float32."""
    new, old = new.float(), old.float()
    return float((new - old).abs().mean() / old.abs().mean().clamp_min(1e-12))


def output_share(c_noise: float) -> float:
    """Return the output's contribution to clean latents, sigma / sqrt(sigma^2 + 1), where c_noise = ln(sigma) / 4."""
    return 1 / math.sqrt(1 + math.exp(min(-8 * c_noise, 700.0)))


def cache_bytes(unet: Any, slots: int, height: int, width: int, itemsize: int) -> int:
    """Return the bytes that a cache stores per segment and condition (guidance has two).

    Args:
        unet: SVD's U-Net.
        slots: frames of a segment, including the reference slot.
        height: height of the latents.
        width: width of the latents.
        itemsize: bytes of a number in the U-Net (2 for float16).
    """
    widths = list(unet.config.block_out_channels)
    out = widths[min(1, len(widths) - 1)] * height * width  # the second-to-last up block returns full size
    down = 2 if len(widths) > 1 else 1
    inside = widths[0] * math.ceil(height / down / STRIDE) * math.ceil(width / down / STRIDE)
    return slots * (out + inside) * itemsize


def _restore(state: Mapping[str, Tensor]) -> dict[PassKey, Entry]:
    entries: dict[PassKey, Entry] = {}
    names = [n.removesuffix(".key") for n in state if n.startswith(PREFIX) and n.endswith(".key")]
    try:
        for name in names:
            index, conditional, *slots = state[f"{name}.key"].tolist()
            ratio, error, c_noise = state[f"{name}.numbers"].tolist()
            ratio, x = None if math.isnan(ratio) else ratio, state[f"{PREFIX}{index}.x"]
            entries[pass_key(slots, bool(conditional))] = Entry(x, c_noise, ratio=ratio, error=error)
    except (KeyError, ValueError) as e:
        raise InputError(f"block cache: {e!r}", "Step.memory of the step to resume from", "pass it unchanged") from e
    if not entries:
        raise InputError("no block cache in memory", "Step.memory of the step to resume from", "pass it unchanged")
    return entries
