from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from micro import svd_scheduler
from mimicmotion.diffusion.denoiser import precondition_v
from mimicmotion.diffusion.sampling import sample
from mimicmotion.diffusion.schedule import explicit_sigmas, karras_sigmas
from mimicmotion.errors import ConfigError, NonFiniteError


def _net(x: Tensor, c_noise: Tensor, frames: Sequence[int]) -> Tensor:
    return torch.tanh(1.7 * x + c_noise) - 0.3 * x


def _start(seed: int = 0) -> Tensor:
    return torch.randn(1, 4, 4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 700.0


def test_euler_matches_diffusers() -> None:
    theirs = svd_scheduler()
    theirs.set_timesteps(25)
    x = y = _start()
    for t in theirs.timesteps:
        y = theirs.step(_net(theirs.scale_model_input(y, t), t, range(4)), t, y).prev_sample
    *_, last = sample(precondition_v(_net), x, karras_sigmas(25))
    torch.testing.assert_close(last.latents, y.double(), rtol=1e-5, atol=1e-5)


def test_a_gaussian_is_sampled_with_its_mean_and_spread() -> None:
    # Data ~ N(0.7, 0.2^2): the ideal denoiser is known, so the ODE must carry the noise to the data.
    def ideal(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        return (0.7 * sigma**2 + x * 0.2**2) / (sigma**2 + 0.2**2)

    x = torch.randn(1, 4, 4, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 700
    *_, last = sample(ideal, x, karras_sigmas(200))
    assert float(last.latents.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(last.latents.std()) == pytest.approx(0.2, rel=0.05)


def test_every_step_is_yielded_and_sampling_resumes_anywhere() -> None:
    sigmas = karras_sigmas(6)
    steps = list(sample(precondition_v(_net), _start(), sigmas))
    assert [s.index for s in steps] == list(range(6))
    assert [s.sigma for s in steps] == pytest.approx(sigmas[1:].tolist())
    assert {s.total for s in steps} == {6}
    torch.testing.assert_close(steps[-1].latents, steps[-1].x0, rtol=0, atol=1e-12)
    for at in (0, 3, 4):
        resumed = list(sample(precondition_v(_net), steps[at].latents, sigmas, start=at + 1))
        assert [s.index for s in resumed] == list(range(at + 1, 6))
        assert torch.equal(resumed[-1].latents, steps[-1].latents)


def test_sampling_can_be_cancelled_and_leaves_no_mode_behind() -> None:
    calls = []

    def counting(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        calls.append(float(sigma))
        return torch.zeros_like(x)

    run = sample(counting, _start(), karras_sigmas(10))
    next(run)
    assert not torch.is_inference_mode_enabled()
    next(run)
    run.close()
    assert len(calls) == 2


def test_schedule_may_end_above_zero() -> None:
    *_, last = sample(lambda x, sigma, frames: torch.zeros_like(x), _start(), explicit_sigmas([700, 10, 7]))
    torch.testing.assert_close(last.latents, _start() / 100)


def test_nan_stops_sampling_with_a_fix() -> None:
    def broken(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        return x * float("nan") if sigma < 100 else x

    run = sample(broken, _start(), karras_sigmas(4))
    next(run)
    with pytest.raises(NonFiniteError, match="step 2 of 4"):
        next(run)


def test_start_outside_the_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="start=4"):
        next(sample(precondition_v(_net), _start(), karras_sigmas(4), start=4))
