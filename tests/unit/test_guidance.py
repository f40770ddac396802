"""Which steps are guided, and guidance that reuses the last difference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd.conditioning import Conditioning
from mimicmotion.diffusion.guidance import Differences, plan_passes
from mimicmotion.diffusion.recipe import Recipe
from mimicmotion.diffusion.schedule import ays_sigmas, explicit_sigmas, karras_sigmas
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import FusionConfig, SamplingSettings

pytestmark = pytest.mark.whole
IMAGE, POSES, REFERENCE = random_frames(0, 32, 32, 3), random_frames(1, 9, 32, 32, 3), random_frames(2, 32, 32, 3)
TWO = torch.full((3,), 2.0, dtype=torch.float64)
LEVELS = explicit_sigmas([100, 50, 20, 5, 1, 0.1, 0])


@pytest.fixture(scope="module")
def pipe() -> MimicMotionPipeline:
    return micro_pipeline()


@pytest.fixture(scope="module")
def conditioning(pipe: MimicMotionPipeline) -> Conditioning:
    return pipe.encode(IMAGE, POSES, REFERENCE)


def _run(pipe: MimicMotionPipeline, conditioning: Conditioning, recipe: Recipe, **options: Any) -> list[Any]:
    noise = pipe.draw_noise(recipe, (32, 32)).latents
    return list(pipe.denoise(conditioning, noise, recipe, **options))


def planned(levels, scale, interval=None, every=1):
    return plan_passes(levels, scale, SamplingSettings(guidance_interval=interval, guidance_every=every))


def test_passes_of_interval_and_every() -> None:
    assert planned(LEVELS, TWO) == ("both",) * 6
    assert planned(LEVELS, TWO * 0 + 1, (1, 50), 2) == ("none",) * 6, "nothing to guide"
    assert planned(LEVELS, TWO, (1, 50)) == ("none", "both", "both", "both", "both", "none")
    assert planned(LEVELS, TWO, (0.05, 20), 3) == ("none", "none", "both", "reuse", "reuse", "both")
    assert planned(LEVELS, TWO, None, 100) == ("both", *["reuse"] * 5)
    assert planned(LEVELS, TWO, (200, 300)) == ("none",) * 6
    ramp = torch.tensor([1.0, 1.5, 2.0])
    assert planned(LEVELS, ramp, (1, 50), 2) == ("none", "both", "reuse", "both", "reuse", "none")


@given(
    steps=st.integers(1, 40),
    every=st.integers(1, 7),
    interval=st.none() | st.tuples(st.floats(0, 10), st.floats(11, 800)),
)
def test_a_difference_is_used_again_only_after_a_step_that_made_one(
    steps: int, every: int, interval: tuple[float, float] | None
) -> None:
    passes = planned(karras_sigmas(steps), TWO, interval, every)
    assert len(passes) == steps
    since = every
    for now in passes:
        since = 1 if now == "both" else since + 1
        assert now != "reuse" or since <= every
    inside = [p for p in passes if p != "none"]
    assert inside.count("both") == -(-len(inside) // every)


@pytest.mark.parametrize("interval", [(5.0, 5.0), (9.0, 1.0), (-1.0, 5.0), (float("nan"), 1.0)])
def test_wrong_settings_are_refused(pipe: MimicMotionPipeline, interval: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="guidance_interval"):
        pipe.recipe(9, reference_slot=True, guidance_interval=interval)
    with pytest.raises(ConfigError, match="guidance_every=0"):
        pipe.recipe(9, reference_slot=True, guidance_every=0)
    with pytest.raises(ConfigError, match="sampler='heun'"):
        pipe.recipe(9, reference_slot=True, sampler="heun")
    with pytest.raises(ConfigError, match="schedule='linear'"):
        pipe.recipe(9, reference_slot=True, schedule="linear")
    with pytest.raises(ConfigError, match="one of the two"):
        pipe.recipe(9, reference_slot=True, schedule="ays", sigmas=[3, 0])


def test_levels_of_a_schedule(pipe: MimicMotionPipeline) -> None:
    def levels(**options: Any) -> Tensor:
        return pipe.recipe(9, reference_slot=True, **options).sigmas

    assert torch.equal(levels(), karras_sigmas(3)), "the model's own number of steps"
    assert torch.equal(levels(schedule="ays"), ays_sigmas(10))
    assert torch.equal(levels(schedule="ays", num_inference_steps=7), ays_sigmas(7))
    own = micro_pipeline()
    own.backbone.settings = {**own.backbone.settings, "sigmas": [30.0, 1.0, 0.0]}
    assert own.recipe(9, reference_slot=True).sigmas.tolist() == [30, 1, 0]
    assert torch.equal(own.recipe(9, reference_slot=True, schedule="karras").sigmas, karras_sigmas(3))


def _batches(pipe: MimicMotionPipeline, run: Callable[[], Any]) -> list[int]:
    seen: list[int] = []
    hook = pipe.backbone.unet.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[0]))
    run()
    hook.remove()
    return seen


def test_the_unconditional_pass_runs_only_where_it_is_planned(
    pipe: MimicMotionPipeline, conditioning: Conditioning
) -> None:
    recipe = pipe.recipe(
        9, reference_slot=True, sigmas=LEVELS.tolist(), guidance_interval=(0.5, 60), guidance_every=2
    )  # fmt: skip
    segments = len(recipe.plan.segments)
    assert segments > 1
    assert recipe.passes == ("none", "both", "reuse", "both", "reuse", "none")
    counts = [1, 2, 1, 2, 1, 1]
    assert _batches(pipe, lambda: _run(pipe, conditioning, recipe)) == [c for c in counts for _ in range(segments)]


def test_outside_the_interval_the_network_is_conditional(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    def last(**options: Any) -> Tensor:
        return _run(pipe, conditioning, pipe.recipe(9, reference_slot=True, **options))[-1].latents

    never = last(guidance_interval=(1000, 2000))
    assert torch.equal(never, last(guidance_scale=1.0))
    assert torch.equal(last(guidance_interval=(0, 2000)), last())
    assert not torch.allclose(last(), never, atol=1e-3)


def test_a_difference_used_again_at_the_level_where_it_was_made_changes_nothing(
    pipe: MimicMotionPipeline, conditioning: Conditioning
) -> None:
    # Two levels that all but coincide: the second step's own difference is the first's.
    sigmas = [20.0, 20.0 * (1 - 1e-9), 0.0]
    plain, skipped = (
        _run(pipe, conditioning, pipe.recipe(9, reference_slot=True, sigmas=sigmas, guidance_every=n))[-1].latents
        for n in (1, 2)
    )
    torch.testing.assert_close(plain, skipped, rtol=0, atol=2e-4)


def test_each_segment_keeps_its_own_difference(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    recipe = pipe.recipe(9, reference_slot=True, sigmas=[20.0, 5.0, 0.0], guidance_every=2)
    first, last = _run(pipe, conditioning, recipe)
    kept = [first.memory[f"guidance.{i}"] for i in range(len(recipe.plan.segments))]
    assert last.memory == {}
    shared = sorted(set(recipe.plan.segments[0][1:]) & set(recipe.plan.segments[1]))
    place = recipe.plan.segments[0].index(shared[0]), recipe.plan.segments[1].index(shared[0])
    assert not torch.allclose(kept[0][:, place[0]], kept[1][:, place[1]], atol=1e-3)


@pytest.mark.parametrize("sampler", [pytest.param("euler", marks=pytest.mark.slow), "dpmpp-2m"])  # which keeps more
def test_a_run_resumes_from_any_step_bit_by_bit(
    pipe: MimicMotionPipeline, conditioning: Conditioning, sampler: Any
) -> None:
    recipe = pipe.recipe(
        9, reference_slot=True, sigmas=LEVELS.tolist(), sampler=sampler, guidance_interval=(0.05, 60), guidance_every=3
    )
    states = _run(pipe, conditioning, recipe)
    assert recipe.passes == ("none", "both", "reuse", "reuse", "both", "reuse")
    assert ["guidance.0" in s.memory for s in states] == [False, True, True, False, True, False]
    assert ["x0" in s.memory for s in states] == [sampler == "dpmpp-2m"] * 6
    for state in states[:-1]:
        memory = {k: v.clone() for k, v in state.memory.items()}
        resumed = pipe.denoise(
            conditioning, state.latents.clone(), recipe, start=state.index + 1, memory=memory, in_place=True
        )
        for again in resumed:
            assert torch.equal(again.latents, states[again.index].latents)


def test_resuming_without_the_difference_is_refused(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    recipe = pipe.recipe(9, reference_slot=True, sigmas=LEVELS.tolist(), guidance_every=2)
    x = torch.zeros(1, 10, 4, 4, 4)
    with pytest.raises(InputError, match="no guidance.0 in memory"):
        pipe.denoise(conditioning, x, recipe, start=1)
    with pytest.raises(InputError, match="no difference is stored"):
        Differences([(0, 1)], "cpu").get((0, 1), x)
    pipe.denoise(conditioning, x, recipe, start=2)


@pytest.mark.parametrize(
    ("sampler", "mode"),
    [
        ("euler", "progressive"),
        ("dpmpp-2m", "average"),
        *(pytest.param("euler", mode, marks=pytest.mark.slow) for mode in ("released", "average", "none")),
        *(pytest.param("dpmpp-2m", mode, marks=pytest.mark.slow) for mode in ("progressive", "released", "none")),
    ],
)
def test_memory_saving_options_change_no_bit(
    pipe: MimicMotionPipeline, conditioning: Conditioning, mode: Any, sampler: Any
) -> None:
    fusion = FusionConfig(mode=mode, segment_frames=6, overlap_frames=3)
    recipe = pipe.recipe(9, reference_slot=True, fusion=fusion, sampler=sampler, guidance_every=2)
    want = _run(pipe, conditioning, recipe)
    noise = pipe.draw_noise(recipe, (32, 32)).latents.clone()
    run = pipe.denoise(conditioning, noise, recipe, keep_x0=False, in_place=True)
    for state in run:
        assert state.latents.data_ptr() == noise.data_ptr()
        assert torch.equal(state.latents, want[state.index].latents)
        assert state.x0 is None


def test_half_precision_keeps_differences_in_half_precision() -> None:
    pipe = micro_pipeline().to(dtype=torch.bfloat16)
    recipe = pipe.recipe(9, reference_slot=True, guidance_every=2)
    states = _run(pipe, pipe.encode(IMAGE, POSES, REFERENCE), recipe)
    assert states[0].memory["guidance.0"].dtype == torch.bfloat16
    assert states[0].latents.dtype == torch.float32


def test_the_call_takes_the_same_settings(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    options: dict[str, Any] = {
        "sampler": "dpmpp-2m", "schedule": "ays", "guidance_interval": (0.5, 60.0), "guidance_every": 2,
        "num_inference_steps": 4,
    }  # fmt: skip
    recipe = pipe.recipe(9, reference_slot=True, **options)
    want = _run(pipe, conditioning, recipe)[-1].latents
    assert torch.equal(pipe(IMAGE, POSES, REFERENCE, output_type="latent", **options).frames, recipe.plan.video(want))
    plain = _run(pipe, conditioning, dataclasses.replace(recipe, sampling=SamplingSettings(sampler="dpmpp-2m")))
    assert not torch.allclose(plain[-1].latents, want, atol=1e-4)
