"""Solvers of the probability-flow ODE: order, agreement with diffusers, resuming, and tensors that may be kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mimicmotion.diffusion.denoiser import precondition_v
from mimicmotion.diffusion.sampling import sample
from mimicmotion.diffusion.schedule import ays_sigmas, explicit_sigmas, karras_sigmas
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings.sampling import Sampler

SAMPLERS: list[Sampler] = ["euler", "dpmpp-2m"]
MEAN, SPREAD = 0.7, 0.3


def _net(x: Tensor, c_noise: Tensor, frames: Sequence[int]) -> Tensor:
    return torch.tanh(1.7 * x + c_noise) - 0.3 * x


DENOISER = precondition_v(_net)


def _start(seed: int = 0, scale: float = 700.0) -> Tensor:
    return torch.randn(1, 4, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def _ideal(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
    """Best denoiser of data ~ N(MEAN, SPREAD^2)."""
    return (MEAN * sigma**2 + x * SPREAD**2) / (sigma**2 + SPREAD**2)


def _exact(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The ODE's solution for that denoiser: the distance to the mean shrinks as the spread of the noisy data."""
    return MEAN + (x - MEAN) * math.sqrt((sigma_next**2 + SPREAD**2) / (sigma**2 + SPREAD**2))


def _error(sampler: Sampler, steps: int) -> float:
    sigmas = explicit_sigmas(torch.logspace(1, -1, steps + 1, dtype=torch.float64).tolist())
    x = _start(scale=10.0)
    *_, last = sample(_ideal, x, sigmas, sampler)
    return float((last.latents - _exact(x, 10.0, 0.1)).abs().max())


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("dpmpp-2m", 2)])
def test_order_of_convergence_on_an_equation_with_a_known_solution(sampler: Sampler, order: int) -> None:
    errors = [_error(sampler, steps) for steps in (160, 320, 640)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([order] * 2, abs=0.05), errors


def test_second_order_needs_fewer_steps() -> None:
    assert _error("dpmpp-2m", 10) < _error("euler", 40)


@pytest.mark.parametrize("steps", [2, 8, 25])
def test_dpmpp_matches_diffusers_in_its_own_terms_of_sigma(steps: int) -> None:
    from diffusers import EDMDPMSolverMultistepScheduler

    theirs = EDMDPMSolverMultistepScheduler(sigma_max=700.0, sigma_data=1.0, prediction_type="v_prediction")
    theirs.set_timesteps(steps)
    x = y = _start()
    for t, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        c_noise = 0.25 * sigma.double().log()
        y = theirs.step(_net(theirs.scale_model_input(y, t).double(), c_noise, range(4)), t, y).prev_sample
    *_, last = sample(DENOISER, x, karras_sigmas(steps), "dpmpp-2m")
    torch.testing.assert_close(last.latents, y.double(), rtol=2e-5, atol=2e-5)


def test_dpmpp_matches_the_variance_preserving_form_at_the_same_levels() -> None:
    # The same method on x / sqrt(sigma^2 + 1); diffusers takes no list of levels there, so they are put in by hand.
    from diffusers import DPMSolverMultistepScheduler

    sigmas = ays_sigmas(20)
    theirs = DPMSolverMultistepScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, final_sigmas_type="sigma_min"
    )
    theirs.set_timesteps(20)
    theirs.sigmas = sigmas
    x = _start()
    y = x / (sigmas[0] ** 2 + 1) ** 0.5
    for t, sigma in zip(theirs.timesteps, sigmas, strict=False):
        y = theirs.step(_net(y, 0.25 * sigma.log(), range(4)), t, y).prev_sample
    *_, last = sample(DENOISER, x, sigmas, "dpmpp-2m")
    torch.testing.assert_close(last.latents, y * (sigmas[-1] ** 2 + 1) ** 0.5, rtol=1e-5, atol=1e-5)


def test_first_step_and_the_step_to_zero_are_eulers() -> None:
    sigmas = explicit_sigmas([700.0, 3.0, 0.5, 0.0])
    euler, second = (list(sample(DENOISER, _start(), sigmas, sampler)) for sampler in SAMPLERS)
    assert torch.equal(euler[0].latents, second[0].latents)
    assert not torch.allclose(euler[1].latents, second[1].latents, atol=1e-3)
    torch.testing.assert_close(second[2].latents, second[2].x0, rtol=0, atol=1e-13)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_resumes_from_any_step_bit_by_bit(sampler: Sampler, in_place: bool) -> None:
    sigmas = karras_sigmas(6)
    steps = list(sample(DENOISER, _start(), sigmas, sampler))
    assert [set(s.memory) for s in steps] == [set() if sampler == "euler" else {"x0"}] * 6
    for at in range(5):
        memory = {k: v.clone() for k, v in steps[at].memory.items()}
        run = sample(
            DENOISER, steps[at].latents.clone(), sigmas, sampler, start=at + 1, memory=memory, in_place=in_place
        )
        resumed = [s.latents.clone() for s in run]
        for ours, theirs in zip(resumed, steps[at + 1 :], strict=True):
            assert torch.equal(ours, theirs.latents)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_yielded_steps_may_be_kept_and_the_start_is_not_touched(sampler: Sampler) -> None:
    x = _start()
    run = sample(DENOISER, x, karras_sigmas(4), sampler)
    first = next(run)
    copy = first.latents.clone(), first.x0.clone()
    list(run)
    assert torch.equal(first.latents, copy[0])
    assert torch.equal(first.x0, copy[1])
    assert torch.equal(x, _start())


@pytest.mark.parametrize("keep_x0", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_in_place_every_step_is_the_same_memory(sampler: Sampler, keep_x0: bool) -> None:
    x = _start()
    want = list(sample(DENOISER, _start(), karras_sigmas(4), sampler))
    for step in sample(DENOISER, x, karras_sigmas(4), sampler, keep_x0=keep_x0, in_place=True):
        assert step.latents.data_ptr() == x.data_ptr()
        assert torch.equal(step.latents, want[step.index].latents)
        assert (step.x0 is not None) == keep_x0


def test_resuming_without_the_memory_is_refused_at_once() -> None:
    x, sigmas = _start(), karras_sigmas(4)
    with pytest.raises(InputError, match="no x0 in memory"):
        sample(DENOISER, x, sigmas, "dpmpp-2m", start=2)
    with pytest.raises(InputError, match="memory x0 of shape"):
        sample(DENOISER, x, sigmas, "dpmpp-2m", start=2, memory={"x0": x[:, :2]})
    with pytest.raises(ConfigError, match="euler or dpmpp-2m"):
        sample(DENOISER, x, sigmas, "heun")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="start=4"):
        sample(DENOISER, x, sigmas, start=4)
