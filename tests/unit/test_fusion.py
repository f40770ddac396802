"""Segments and weights: invariants for all sizes, and the paper's formula written out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mimicmotion.diffusion.fusion import FusionPlan, fuse, has_reference_slot, make_plan, plan_segments, segment_weights
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings import FusionConfig, FusionMode

MODES: list[FusionMode] = ["progressive", "released", "average", "none"]
PAPER = {"mode": "progressive", "reference_slot": False}


def fusion_weights(segments: Sequence[range], num_frames: int, mode: FusionMode = "progressive") -> Tensor:
    """Weights as a table (segments, num_frames)."""
    return FusionPlan(tuple(map(tuple, segments)), tuple(segment_weights(segments, num_frames, mode)), False).weights


@st.composite
def configs(draw: st.DrawFn) -> FusionConfig:
    mode, slot = draw(st.sampled_from(MODES)), draw(st.booleans())
    frames = draw(st.integers(2 if slot or mode == "released" else 1, 40))
    overlap = draw(st.integers(0, frames - 1))
    return FusionConfig(mode=mode, segment_frames=frames, overlap_frames=overlap, reference_slot=slot)


@given(cfg=configs(), num_frames=st.integers(1, 200))
def test_plan_covers_every_frame_with_segments_of_equal_length(cfg: FusionConfig, num_frames: int) -> None:
    segments = plan_segments(num_frames, cfg)
    own = cfg.segment_frames - has_reference_slot(cfg)
    assert {f for s in segments for f in s} == set(range(num_frames))
    assert {len(s) for s in segments} == {min(own, num_frames)}
    starts = [s.start for s in segments]
    assert starts == sorted(set(starts)), "no segment twice"
    shared = cfg.overlap_frames - has_reference_slot(cfg) if cfg.overlap_frames else 0
    for a, b, last in zip(segments, segments[1:], [False] * (len(segments) - 2) + [True], strict=False):
        overlap = a.stop - b.start
        expected = 0 if cfg.mode == "none" else shared
        assert overlap >= expected if last else overlap == expected


@given(cfg=configs(), num_frames=st.integers(1, 200))
def test_weights_are_a_partition_of_unity(cfg: FusionConfig, num_frames: int) -> None:
    plan = make_plan(num_frames, cfg)
    assert plan.num_rows == num_frames + plan.reference_slot
    assert plan.weights.dtype == torch.float64
    assert (plan.weights >= 0).all()
    torch.testing.assert_close(plan.weights.sum(0), torch.ones(plan.num_rows, dtype=torch.float64), rtol=0, atol=1e-14)
    for rows, weights in zip(plan.segments, plan.weights, strict=True):
        outside = torch.ones(plan.num_rows, dtype=torch.bool)
        outside[list(rows)] = False
        assert (weights[outside] == 0).all()


@given(cfg=configs(), num_frames=st.integers(1, 60))
def test_fusing_the_identity_is_the_identity(cfg: FusionConfig, num_frames: int) -> None:
    plan = make_plan(num_frames, cfg)
    x = torch.randn(2, plan.num_rows, 1, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = fuse(lambda x, sigma, frames: x, plan)(x, torch.tensor(1.0), range(plan.num_rows))
    torch.testing.assert_close(out, x, rtol=0, atol=1e-13)


@given(data=st.data(), overlap=st.integers(1, 10), extra=st.integers(0, 9), count=st.integers(2, 6))
def test_progressive_ramp_is_j_over_c_plus_one(data: st.DataObject, overlap: int, extra: int, count: int) -> None:
    segment = 2 * overlap + extra  # so that no frame lies in three segments
    num_frames = segment + (count - 1) * (segment - overlap)
    cfg = FusionConfig(segment_frames=segment, overlap_frames=overlap, **PAPER)
    segments = plan_segments(num_frames, cfg)
    assert len(segments) == count
    weights = fusion_weights(segments, num_frames)
    for i in range(1, count):
        for j in range(1, overlap + 1):
            f = segments[i].start + j - 1
            assert float(weights[i, f]) == j / (overlap + 1)
            assert float(weights[i - 1, f]) == 1 - j / (overlap + 1)


@given(overlap=st.integers(2, 10), extra=st.integers(0, 9), count=st.integers(2, 6))
def test_released_ramp_is_the_progressive_ramp_half_a_frame_later(overlap: int, extra: int, count: int) -> None:
    segment = 2 * overlap + extra
    num_frames = segment - 1 + (count - 1) * (segment - overlap)
    cfg = FusionConfig(mode="released", segment_frames=segment, overlap_frames=overlap)
    segments = plan_segments(num_frames, cfg)
    released, progressive = (fusion_weights(segments, num_frames, m) for m in ("released", "progressive"))
    shared = overlap - 1  # the reference slot is one of the shared frames
    for i in range(1, count):
        for j in range(1, shared + 1):
            f = segments[i].start + j - 1
            assert float(released[i, f]) == pytest.approx((j + 0.5) / (shared + 1), abs=1e-14)
            assert float(released[i, f] - progressive[i, f]) == pytest.approx(0.5 / (shared + 1), abs=1e-14)
    alone = (released > 0).sum(0) == 1
    torch.testing.assert_close(released[:, alone], progressive[:, alone])


def test_tiles_of_the_published_code() -> None:
    cfg = FusionConfig(mode="released", segment_frames=16, overlap_frames=6)
    ragged = make_plan(36, cfg).segments  # 37 rows with the reference
    assert ragged[0] == tuple(range(16))
    assert ragged[1] == (0, *range(11, 26))
    assert ragged[-1] == (0, *range(22, 37)), "the last tile is moved back"
    assert len(make_plan(35, cfg).segments) == 3


def test_average_and_none() -> None:
    segments = [range(0, 4), range(2, 6), range(3, 7)]
    average = fusion_weights(segments, 7, "average")
    torch.testing.assert_close(average[:, 3], torch.full((3,), 1 / 3, dtype=torch.float64))
    assert average[:, 2].tolist() == [0.5, 0.5, 0]
    cut = fusion_weights(segments, 7, "none")
    assert cut.argmax(0).tolist() == [0, 0, 0, 0, 1, 1, 2]
    assert set(cut.flatten().tolist()) == {0.0, 1.0}
    assert plan_segments(7, FusionConfig(mode="none", segment_frames=3, overlap_frames=2, reference_slot=False)) == [
        range(0, 3),
        range(3, 6),
        range(4, 7),
    ]


@pytest.mark.parametrize("mode", ["progressive", "released", "average", "none"])
def test_the_plan_of_a_long_video_holds_no_table_of_segments_and_frames(mode: FusionMode) -> None:
    plan = make_plan(3000, FusionConfig(mode=mode, segment_frames=16, overlap_frames=6))
    numbers = sum(share.untyped_storage().nbytes() // 8 for share in plan.shares)
    assert numbers == sum(len(rows) for rows in plan.segments)
    assert 3000 < numbers < 2 * 3001


def test_short_video_shrinks_the_segment_and_one_frame_works() -> None:
    assert plan_segments(5, FusionConfig(segment_frames=16, overlap_frames=6)) == [range(5)]
    assert plan_segments(1, FusionConfig(segment_frames=1, overlap_frames=0, reference_slot=False)) == [range(1)]
    assert make_plan(1, FusionConfig(mode="released")).segments == ((0, 1),)


def test_bad_plans_are_refused_with_a_fix() -> None:
    with pytest.raises(InputError, match="num_frames=0"):
        plan_segments(0, FusionConfig())
    for mode in ("progressive", "released"):
        with pytest.raises(ConfigError, match="reference_slot to false"):
            plan_segments(4, FusionConfig(mode=mode, segment_frames=1, overlap_frames=0, reference_slot=True))
    with pytest.raises(ConfigError, match="at most 5"):
        FusionConfig(segment_frames=6, overlap_frames=6)


def _naive_paper_step(
    z: Tensor, sigma: float, sigma_next: float, segment: int, overlap: int, denoise: object
) -> Tensor:
    """The paper's algorithm, literally: step each segment alone, then merge with z = j*l*z_next + (1-j*l)*z_prev."""
    merged: list[Tensor] = []
    start = 0
    lam = 1 / (overlap + 1)
    while True:
        frames = list(range(start, start + segment))
        part = z[:, frames]
        stepped = part + (sigma_next - sigma) * (part - denoise(part, frames)) / sigma
        new = list(stepped.unbind(1))
        if merged:
            for j in range(1, overlap + 1):
                previous = merged[start + j - 1]
                merged[start + j - 1] = j * lam * new[j - 1] + (1 - j * lam) * previous
            new = new[overlap:]
        merged += new
        if start + segment == z.shape[1]:
            return torch.stack(merged, dim=1)
        start += segment - overlap


@pytest.mark.parametrize(("segment", "overlap", "count"), [(8, 3, 3), (4, 0, 3), (5, 4, 4), (16, 6, 2)])
def test_fused_denoiser_is_the_papers_merge_of_stepped_latents(segment: int, overlap: int, count: int) -> None:
    num_frames = segment + (count - 1) * (segment - overlap)
    cfg = FusionConfig(segment_frames=segment, overlap_frames=overlap, **PAPER)
    plan = make_plan(num_frames, cfg)
    z = torch.randn(1, num_frames, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 5

    def denoise(x: Tensor, frames: Sequence[int]) -> Tensor:
        rows = torch.tensor(list(frames), dtype=torch.float64).view(1, -1, 1, 1, 1)
        return torch.tanh(x + 0.2 * rows + x.cumsum(1))  # depends on the place within the segment

    fused = fuse(lambda x, sigma, frames: denoise(x, frames), plan)
    ours = naive = z
    for sigma, sigma_next in [(5.0, 2.0), (2.0, 0.4), (0.4, 0.0)]:
        ours = ours + (sigma_next - sigma) * (ours - fused(ours, torch.tensor(sigma), range(num_frames))) / sigma
        naive = _naive_paper_step(naive, sigma, sigma_next, segment, overlap, denoise)
    torch.testing.assert_close(ours, naive, rtol=0, atol=1e-12)


@given(cfg=configs(), num_frames=st.integers(1, 40), batch=st.integers(1, 2))
def test_clean_latents_of_segments_are_summed_with_their_weights(
    cfg: FusionConfig, num_frames: int, batch: int
) -> None:
    plan = make_plan(num_frames, cfg)
    x = torch.randn(batch, plan.num_rows, 2, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def inner(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        rows = torch.tensor(list(frames), dtype=x.dtype).view(1, -1, 1, 1, 1)
        return torch.tanh(x + 0.1 * rows + x.cumsum(1))  # depends on the place within the segment

    want = torch.zeros_like(x)
    for rows, weights in zip(plan.segments, plan.weights, strict=True):
        for place, row in enumerate(rows):
            want[:, row] += weights[row] * inner(x[:, list(rows)], torch.tensor(1.0), rows)[:, place]
    before = x.clone()
    got = fuse(inner, plan)(x, torch.tensor(1.0), range(plan.num_rows))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)
    assert torch.equal(x, before)


def test_the_denoiser_is_told_the_rows_of_the_conditioning() -> None:
    plan: FusionPlan = make_plan(7, FusionConfig(segment_frames=5, overlap_frames=3))
    seen = []

    def inner(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        seen.append(list(frames))
        return x

    fuse(inner, plan)(torch.zeros(1, 8, 1, 1, 1), torch.tensor(1.0), range(8))
    assert seen == [[0, 1, 2, 3, 4], [0, 3, 4, 5, 6], [0, 4, 5, 6, 7]]
