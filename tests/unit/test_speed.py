"""Tiers: their contents, explicit settings, and that none makes a model slower."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micro import micro_pipeline
from mimicmotion.diffusion.schedule import named_sigmas
from mimicmotion.errors import ConfigError
from mimicmotion.generate.setup import recipe_for
from mimicmotion.settings import GenerateConfig, SamplingOptions, SamplingSettings, resolve_tier
from mimicmotion.settings.sampling import PLAIN, TIERS, Sampler, Schedule, Speed

by_hand = st.fixed_dictionaries(
    {},
    optional={
        "sampler": st.sampled_from(get_args(Sampler)),
        "schedule": st.sampled_from(get_args(Schedule)),
        "guidance_interval": st.just((0.5, 3.0)),
        "guidance_every": st.integers(1, 5),
        "block_cache": st.sampled_from([0.0, 0.2]),
    },
)
tiers = st.sampled_from(get_args(Speed))


def passes(plan: SamplingSettings, model_steps: int) -> int:
    """Steps that a plan makes of a model."""
    if plan.schedule is None and plan.num_inference_steps is None:
        return model_steps
    return len(named_sigmas(plan.schedule or "karras", plan.num_inference_steps)) - 1


@given(tier=tiers, options=by_hand, model_steps=st.none() | st.integers(1, 50))
def test_what_is_set_by_hand_holds(tier: Speed, options: dict[str, object], model_steps: int | None) -> None:
    plan = resolve_tier(SamplingOptions(speed=tier, **options), model_steps)  # type: ignore[arg-type]
    for name, value in options.items():
        assert getattr(plan, name) == value


@given(tier=tiers, model_steps=st.integers(1, 50))
def test_a_tier_never_makes_more_steps_than_the_model(tier: Speed, model_steps: int) -> None:
    plan = resolve_tier(SamplingOptions(speed=tier), model_steps)
    assert passes(plan, model_steps) <= model_steps


def test_tiers_grow_faster() -> None:
    plans = [resolve_tier(SamplingOptions(speed=t), 25) for t in ("exact", "balanced", "fast")]
    steps = [passes(p, 25) for p in plans]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 3
    assert plans[0] == SamplingSettings(**PLAIN)
    assert set(TIERS) == set(get_args(Speed))


def test_a_model_of_one_step_keeps_its_step() -> None:
    plan = resolve_tier(SamplingOptions(speed="fast"), 1)
    assert (plan.schedule, plan.num_inference_steps, plan.sampler) == (None, None, "euler")
    assert plan.block_cache == TIERS["fast"]["block_cache"]


def test_own_number_of_steps_takes_the_place_of_the_tiers() -> None:
    common = {"picture": Path("a.png"), "video": Path("b.mp4"), "output": Path("c.mp4")}
    assert resolve_tier(GenerateConfig(**common, speed="fast", num_inference_steps=7), 25).num_inference_steps == 7  # type: ignore[arg-type]
    assert (
        resolve_tier(GenerateConfig(**common, speed="fast"), 25).num_inference_steps
        == TIERS["fast"]["num_inference_steps"]
    )  # type: ignore[arg-type]
    assert resolve_tier(SamplingOptions(speed="fast", schedule="karras"), 25).num_inference_steps is None


def test_exact_is_the_default() -> None:
    assert resolve_tier(SamplingOptions()) == SamplingSettings(**PLAIN)


@pytest.mark.parametrize("options", [{"guidance_interval": (2.0, 1.0)}, {"guidance_every": 0}, {"block_cache": -0.1}])
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SamplingOptions(**options)  # type: ignore[arg-type]


def test_job_uses_the_tier_as_the_model_allows() -> None:
    pipe = micro_pipeline()  # makes 3 steps by itself
    config = GenerateConfig(picture=Path("a.png"), video=Path("b.mp4"), output=Path("c.mp4"), speed="fast")
    few = recipe_for(config, pipe, 8)
    assert len(few.sigmas) == 3 + 1
    assert few.sampling.block_cache == TIERS["fast"]["block_cache"]
    assert few.sampling.guidance_interval == TIERS["fast"]["guidance_interval"]
    pipe.backbone.settings["num_inference_steps"] = 25
    assert len(recipe_for(config, pipe, 8).sigmas) == TIERS["fast"]["num_inference_steps"] + 1  # type: ignore[operator]
    own = dataclasses.replace(config, num_inference_steps=9, block_cache=0.0, sampler="dpmpp-2m")
    recipe = recipe_for(own, pipe, 8)
    assert (len(recipe.sigmas), recipe.sampling.block_cache, recipe.sampling.sampler) == (10, 0.0, "dpmpp-2m")
