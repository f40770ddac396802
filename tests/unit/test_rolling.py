"""Segment by segment and in place gives bitwise what whole tensors give, for every plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mimicmotion.config import FusionConfig, FusionMode
from mimicmotion.config.speed import Sampler
from mimicmotion.diffusion.denoiser import Denoiser
from mimicmotion.diffusion.fusion import FusionPlan, fuse, fuse_parts, make_plan
from mimicmotion.diffusion.sampling import sample
from mimicmotion.diffusion.schedule import explicit_sigmas

MODES: list[FusionMode] = ["progressive", "released", "average", "none"]
SIGMAS = explicit_sigmas([9.0, 2.0, 0.5, 0.1, 0.0])


@st.composite
def plans(draw: st.DrawFn) -> FusionPlan:
    mode, slot = draw(st.sampled_from(MODES)), draw(st.booleans())
    frames = draw(st.integers(2 if slot or mode == "released" else 1, 9))
    overlap = draw(st.integers(0, frames - 1))
    cfg = FusionConfig(mode=mode, segment_frames=frames, overlap_frames=overlap, reference_slot=slot)
    return make_plan(draw(st.integers(1, 30)), cfg)


@st.composite
def any_plans(draw: st.DrawFn) -> FusionPlan:
    """Plans that `make_plan` would never make: rows in any order, any number of segments on a row."""
    rows = draw(st.integers(1, 7))
    parts = draw(st.lists(st.permutations(range(rows)).map(lambda p: p[: 1 + len(p) // 2]), min_size=1, max_size=5))
    missing = sorted(set(range(rows)) - {r for part in parts for r in part})
    segments = [tuple(part) for part in [*parts, missing] if part]
    weights = torch.zeros(len(segments), rows, dtype=torch.float64)
    for i, part in enumerate(segments):
        weights[i, list(part)] = torch.tensor([draw(st.floats(0.1, 1)) for _ in part], dtype=torch.float64)
    weights /= weights.sum(0)
    shares = tuple(weights[i, list(part)] for i, part in enumerate(segments))
    return FusionPlan(tuple(segments), shares, False)


def _inner(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
    """Depends on the neighbours and the place within the segment, as a network with attention over time does."""
    rows = torch.tensor(list(frames), dtype=x.dtype).view(1, -1, 1, 1, 1)
    return torch.tanh(0.4 * x + 0.1 * rows + x.cumsum(1) / (1 + sigma))


def plain_fuse(inner: Denoiser, plan: FusionPlan) -> Denoiser:
    """Fusion as it is written on paper, on whole tensors."""

    def denoise(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        out = torch.zeros_like(x)
        for rows, weights in zip(plan.segments, plan.weights, strict=True):
            for place, row in enumerate(rows):
                out[:, row] += weights[row].to(x) * inner(x[:, list(rows)], sigma, rows)[:, place]
        return out

    return denoise


def plain_sample(denoiser: Denoiser, x: Tensor, sampler: Sampler) -> Iterator[Tensor]:
    """Samplers on whole tensors, DPM++ 2M in its published form with lambda = -ln sigma."""
    old = None
    for i in range(len(SIGMAS) - 1):
        sigma, after = SIGMAS[i], SIGMAS[i + 1]
        x0 = denoiser(x, SIGMAS[i], range(x.shape[1]))
        if sampler == "euler" or old is None or after == 0:
            x = x + (float(after) - float(sigma)) * ((x - x0) / float(sigma))
        else:
            h, h_last = (sigma / after).log(), (SIGMAS[i - 1] / sigma).log()
            r = h_last / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old
            x = after / sigma * x - torch.expm1(-h) * d
        old = x0
        yield x


def _start(plan: FusionPlan, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(plan.num_rows)
    return torch.randn(batch, plan.num_rows, 2, 1, 2, dtype=torch.float64, generator=generator) * 9


@pytest.mark.parametrize("sampler", ["euler", "dpmpp-2m"])
@given(plan=st.one_of(plans(), any_plans()), batch=st.integers(1, 2))
def test_in_place_and_part_by_part_equals_whole_tensors(sampler: Sampler, plan: FusionPlan, batch: int) -> None:
    x = _start(plan, batch)
    want = list(plain_sample(plain_fuse(_inner, plan), x, sampler))
    run = sample(fuse_parts(_inner, plan), x.clone(), SIGMAS, sampler, keep_x0=False, in_place=True)
    for step, whole in zip(run, want, strict=True):
        if sampler == "euler":
            assert torch.equal(step.latents, whole)
        torch.testing.assert_close(step.latents, whole, rtol=1e-12, atol=1e-12)


@given(plan=st.one_of(plans(), any_plans()))
def test_each_row_comes_once_after_its_last_segment_and_memory_is_a_window(plan: FusionPlan) -> None:
    asked: list[tuple[int, ...]] = []

    def inner(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        asked.append(tuple(frames))
        return _inner(x, sigma, frames)

    x = _start(plan, 1)
    out = torch.full_like(x, torch.nan)
    came: list[int] = []
    for rows, part in fuse_parts(inner, plan)(x, SIGMAS[0], range(plan.num_rows)):
        assert not set(rows) & {r for segment in plan.segments[len(asked) :] for r in segment}
        came += rows
        out[:, rows] = part
        x[:, rows] = torch.nan  # a sampler may write here: no later segment may look
    assert sorted(came) == list(range(plan.num_rows))
    assert asked == list(plan.segments)
    assert torch.equal(out, plain_fuse(_inner, plan)(_start(plan, 1), SIGMAS[0], range(plan.num_rows)))
    assert torch.equal(out, fuse(_inner, plan)(_start(plan, 1), SIGMAS[0], range(plan.num_rows)))


def test_a_moved_last_segment_waits_for_more_than_its_neighbour() -> None:
    plan = make_plan(10, FusionConfig(mode="released", segment_frames=8, overlap_frames=6))  # 7 own, step 2
    assert [s[1] for s in plan.segments] == [1, 3, 4], "three segments on some rows"
    parts = [rows for rows, _ in fuse_parts(_inner, plan)(_start(plan, 1), SIGMAS[0], range(11))]
    assert parts == [[1, 2], [3], [0, 4, 5, 6, 7, 8, 9, 10]]
