"""The block cache: off is the plain path, features are reused only in their pass, and a resumed run is identical."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mimicmotion.backbones.svd.conditioning
from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd import backbone
from mimicmotion.backbones.svd.conditioning import ConditionedUNet, Conditioning
from mimicmotion.backbones.svd.execution.deep_features import (
    BlockCache,
    cache_bytes,
    output_share,
    pass_key,
    sparse,
)
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.diffusion.noise import frame_noise
from mimicmotion.diffusion.sampling import Step
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import FusionConfig

pytestmark = pytest.mark.whole
SIZE, FRAMES, STEPS, BUDGET = (32, 48), 8, 4, 0.25


@pytest.fixture(scope="module")
def pipe() -> MimicMotionPipeline:
    return micro_pipeline()


@pytest.fixture(scope="module")
def conditioning(pipe: MimicMotionPipeline) -> Conditioning:
    return encode(pipe, 1)


def encode(pipe: MimicMotionPipeline, seed: int, frames: int = FRAMES) -> Conditioning:
    picture, poses = random_frames(seed, *SIZE, 3), random_frames(seed + 1, FRAMES, *SIZE, 3)
    return pipe.encode(picture, poses[:frames], picture)


def run(pipe: MimicMotionPipeline, conditioning: Conditioning, **options: Any) -> list[Step]:
    keep = {k: options.pop(k) for k in ("start", "memory") if k in options}
    noise = options.pop("noise", None)
    defaults = {"reference_slot": True, "num_inference_steps": STEPS, "block_cache": BUDGET, "guidance_scale": 2.0}
    recipe = pipe.recipe(conditioning.num_frames, **(defaults | options))
    if noise is None:
        noise = pipe.draw_noise(recipe, SIZE, seed=3).latents
    return list(pipe.denoise(conditioning, noise, recipe, **keep))


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[BlockCache]:
    """Collect the caches that runs create."""
    made: list[BlockCache] = []

    def make(*arguments: Any) -> BlockCache:
        made.append(BlockCache(*arguments))
        return made[-1]

    monkeypatch.setattr(backbone, "BlockCache", make)
    return made


def test_no_budget_and_a_budget_too_small_are_the_plain_path(
    pipe: MimicMotionPipeline, conditioning: Conditioning, caches: list[BlockCache]
) -> None:
    pipe.backbone.configure(ExecutionPlan(guidance_in_one_batch=False))
    plain = run(pipe, conditioning, block_cache=0.0)
    assert not caches
    small = run(pipe, conditioning, block_cache=1e-9)
    assert caches[0].light == 0
    assert torch.equal(plain[-1].latents, small[-1].latents)


def test_budget_is_kept_to_and_saves_passes(
    pipe: MimicMotionPipeline, conditioning: Conditioning, caches: list[BlockCache]
) -> None:
    exact = run(pipe, conditioning, block_cache=0.0)[-1].latents
    errors = []
    for budget in (0.05, BUDGET, 5.0):
        out = run(pipe, conditioning, block_cache=budget)[-1].latents
        errors.append(float((out - exact).abs().mean()))
    assert [c.light for c in caches] == sorted(c.light for c in caches)
    assert 0 < caches[1].light < caches[2].light
    assert caches[2].full == 2 * 2 * 2  # two segments, two conditions; the first two steps
    assert 0 < errors[1] < errors[2]
    assert not any(c.entries for c in caches)  # dropped when the run is over


def test_refresh_follows_the_measured_ratio() -> None:
    cache, key = BlockCache(0.25), pass_key(range(2), True)
    calls = []

    def step(inside: float, out: float, c_noise: float = 10.0) -> float:
        def compute() -> Tensor:
            calls.append(inside)
            return torch.full((2, 1, 4, 4), float(out))

        return float(cache.deep(key, torch.zeros(1), c_noise, sparse(torch.full((2, 1, 4, 4), inside)), compute).mean())

    assert step(1.0, 1.0) == 1.0
    assert step(1.1, 1.2) == pytest.approx(1.2)  # no ratio is known yet; now: 0.2 / 0.1 = 2
    assert step(1.1 * 1.05, 9) == pytest.approx(1.2)  # predicted 2 * 0.05
    assert step(1.1 * 1.07, 9) == pytest.approx(1.2)  # and 2 * 0.07: 0.24 together
    assert step(1.1 * 1.01, 9) == 9  # 0.26 would be too much
    assert len(calls) == 3
    ratio = (9 / 1.2 - 1) / 0.01
    kept = cache.entries[key]
    assert kept.ratio == pytest.approx(ratio, rel=1e-3)
    assert kept.error == 0
    # At a low noise level the network's output hardly enters the clean latents, so an error there counts less.
    change = 0.2 / ratio
    assert step(1.1 * 1.01 * (1 + 4 * change), 7, c_noise=0.25 * math.log(0.2)) == 9
    assert (cache.full, cache.light) == (3, 3)


def test_share_of_the_output_in_the_clean_latents() -> None:
    for sigma in (0.002, 1.0, 700.0):
        assert output_share(math.log(sigma) / 4) == pytest.approx(sigma / math.hypot(sigma, 1), rel=1e-5)
    assert output_share(1e6) == 1.0


def independent(frames: int) -> dict[str, Any]:
    """Segments that are independent of each other."""
    return {"fusion": FusionConfig(mode="none", segment_frames=4, overlap_frames=0), "reference_slot": False}


def halves_equal_the_whole(pipe: MimicMotionPipeline, whole: Conditioning, half: Conditioning) -> bool:
    noise = frame_noise(5, range(FRAMES), (4, 4, 6))[None]
    options: dict[str, Any] = {"block_cache": 0.5, **independent(FRAMES)}
    together = run(pipe, whole, noise=noise, **options)[-1].latents
    alone = run(pipe, half, noise=noise[:, :4], **options)[-1].latents
    return torch.equal(together[:, :4], alone)


def conditions_do_not_mix(pipe: MimicMotionPipeline, conditioning: Conditioning) -> bool:
    rows, levels = range(4), [20.0, 15.0, 11.0, 8.0]
    x = frame_noise(6, rows, (4, 4, 6))[None]

    def network() -> ConditionedUNet:
        return ConditionedUNet(pipe.backbone.unet, conditioning, False, cache=BlockCache(5.0))

    both, alone = network(), network()
    same = True
    with torch.inference_mode():
        for sigma in levels:
            c_noise, scaled = torch.tensor(sigma).log() / 4, x * (1 + 1 / sigma)
            pair = both.pair(scaled, c_noise, rows)
            same &= torch.equal(pair[1], alone.conditional(scaled, c_noise, rows))
    assert both.cache is not None
    assert both.cache.light > 0
    return same


def without_rows(rows: Sequence[int], conditional: bool) -> Any:
    return (), conditional


def without_condition(rows: Sequence[int], conditional: bool) -> Any:
    return tuple(rows), True


def test_key_has_the_segment(
    pipe: MimicMotionPipeline, conditioning: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = encode(pipe, 1, 4)
    assert halves_equal_the_whole(pipe, conditioning, half)
    monkeypatch.setattr(mimicmotion.backbones.svd.conditioning, "pass_key", without_rows)
    assert not halves_equal_the_whole(pipe, conditioning, half)


def test_key_has_the_condition(
    pipe: MimicMotionPipeline, conditioning: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conditions_do_not_mix(pipe, conditioning)
    monkeypatch.setattr(mimicmotion.backbones.svd.conditioning, "pass_key", without_condition)
    assert not conditions_do_not_mix(pipe, conditioning)


def test_runs_side_by_side_do_not_mix(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    other = encode(pipe, 11)
    recipe = pipe.recipe(FRAMES, reference_slot=True, num_inference_steps=STEPS, block_cache=BUDGET)
    noise = pipe.draw_noise(recipe, SIZE, seed=3).latents
    steps = zip(*(pipe.denoise(c, noise, recipe) for c in (conditioning, other)), strict=True)
    *_, last = steps
    for state, c in zip(last, (conditioning, other), strict=True):
        assert torch.equal(state.latents, run(pipe, c)[-1].latents)


@pytest.mark.parametrize(
    "options", [pytest.param({}, marks=pytest.mark.slow), {"sampler": "dpmpp-2m", "guidance_every": 2}]
)
def test_resumed_run_is_the_uninterrupted_one(
    pipe: MimicMotionPipeline, conditioning: Conditioning, caches: list[BlockCache], options: dict[str, Any]
) -> None:
    states = run(pipe, conditioning, **options)
    assert caches[0].light > 0
    latents = [v for k, v in states[0].memory.items() if k.endswith(".x")]
    assert len(latents) == len({v.data_ptr() for v in latents}) == 2  # once per segment
    for state in states[:-1]:
        memory = {k: v.clone() for k, v in state.memory.items()}
        latents = state.latents.clone()
        resumed = run(pipe, conditioning, noise=latents, start=state.index + 1, memory=memory, **options)
        assert torch.equal(resumed[-1].latents, states[-1].latents), f"after step {state.index + 1}"


def test_resuming_requires_the_memory(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    state = run(pipe, conditioning)[1]
    with pytest.raises(InputError, match="no block cache in memory"):
        run(pipe, conditioning, noise=state.latents, start=2)
    part = {k: v for k, v in state.memory.items() if not k.endswith(".x")}
    with pytest.raises(InputError, match="block cache"):
        run(pipe, conditioning, noise=state.latents, start=2, memory=part)


def test_memory_is_as_stated(pipe: MimicMotionPipeline, conditioning: Conditioning, caches: list[BlockCache]) -> None:
    recipe = pipe.recipe(FRAMES, reference_slot=True, num_inference_steps=STEPS, block_cache=BUDGET)
    states = pipe.denoise(conditioning, pipe.draw_noise(recipe, SIZE).latents, recipe)
    next(states)
    rows = len(recipe.plan.segments[0])
    one = cache_bytes(pipe.backbone.unet, rows, SIZE[0] // 8, SIZE[1] // 8, 4)
    kept = sum(e.deep.nbytes + e.inside.nbytes for e in caches[0].entries.values())
    assert kept == 2 * len(recipe.plan.segments) * one
    states.close()  # type: ignore[attr-defined]
    assert not caches[0].entries  # closed early: nothing is kept either


def test_memory_of_the_large_model() -> None:
    class Shape:
        class config:
            block_out_channels = (320, 640, 1280, 1280)

    size = cache_bytes(Shape(), 72, 72, 128, 2)
    assert size == pytest.approx(72 * 640 * 72 * 128 * 2, rel=0.02)


@pytest.mark.parametrize("budget", [-1.0, math.inf, math.nan])
def test_wrong_budgets(pipe: MimicMotionPipeline, budget: float) -> None:
    with pytest.raises(ConfigError):
        BlockCache(budget)
    with pytest.raises(ConfigError):
        pipe.recipe(4, reference_slot=True, block_cache=budget)


def test_the_cache_is_the_same_with_offloaded_blocks(conditioning: Conditioning, caches: list[BlockCache]) -> None:
    pipe = micro_pipeline()
    plain = run(pipe, conditioning, block_cache=5.0)[-1].latents
    recipe = pipe.recipe(FRAMES, reference_slot=True, num_inference_steps=STEPS, block_cache=5.0)
    states = pipe.denoise(conditioning, pipe.draw_noise(recipe, SIZE, seed=3).latents, recipe)
    next(states)
    pipe.backbone.configure(ExecutionPlan(offload="blocks"))  # as if memory had run out during the run
    *_, last = states
    assert torch.equal(last.latents, plain)
    assert caches[0].light == caches[1].light > 0


def test_pipeline_takes_a_budget(pipe: MimicMotionPipeline, caches: list[BlockCache]) -> None:
    picture, poses = random_frames(1, *SIZE, 3), random_frames(2, 4, *SIZE, 3)
    out = [pipe(picture, poses, picture, num_inference_steps=4, block_cache=b).frames for b in (5.0, 5.0, 0.0)]
    assert len(caches) == 2
    assert np.array_equal(out[0], out[1])
    assert not np.array_equal(out[0], out[2])
