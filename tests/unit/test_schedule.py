from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro import svd_scheduler
from mimicmotion.diffusion.noise import PICTURE_FRAME, REFERENCE_FRAME, frame_noise, periodic_noise
from mimicmotion.diffusion.schedule import AYS_SVD, ays_sigmas, explicit_sigmas, initial_scale, karras_sigmas
from mimicmotion.errors import ConfigError


def test_karras_levels_match_diffusers() -> None:
    theirs = svd_scheduler()
    for steps in (2, 4, 25):
        theirs.set_timesteps(steps)
        torch.testing.assert_close(karras_sigmas(steps).float(), theirs.sigmas, rtol=1e-6, atol=0)
        assert initial_scale(karras_sigmas(steps)) == pytest.approx(float(theirs.init_noise_sigma), rel=1e-7)


@given(steps=st.integers(1, 200))
def test_levels_fall_from_largest_to_zero(steps: int) -> None:
    sigmas = karras_sigmas(steps)
    assert len(sigmas) == steps + 1
    assert float(sigmas[0]) == pytest.approx(700)
    assert float(sigmas[-1]) == 0
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert torch.equal(explicit_sigmas(sigmas.tolist()), sigmas)


def test_align_your_steps() -> None:
    torch.testing.assert_close(ays_sigmas(10), explicit_sigmas(AYS_SVD))
    twenty = ays_sigmas(20)
    torch.testing.assert_close(twenty[::2], explicit_sigmas(AYS_SVD))
    assert float(twenty[1]) == pytest.approx((700 * 54.5) ** 0.5)


@pytest.mark.parametrize(
    "bad", [[], [1.0], [1.0, 2.0], [2.0, 2.0], [3.0, -1.0], [float("nan"), 1.0], [float("inf"), 1]]
)
def test_explicit_levels_are_checked(bad: list[float]) -> None:
    with pytest.raises(ConfigError, match="noisiest"):
        explicit_sigmas(bad)


@given(seed=st.integers(-(2**70), 2**70), first=st.integers(0, 10**9), count=st.integers(1, 5))
def test_noise_of_a_frame_depends_on_seed_and_frame_alone(seed: int, first: int, count: int) -> None:
    whole = frame_noise(seed, range(first, first + count), (2, 3))
    assert whole.dtype == torch.float32
    assert torch.equal(whole[-1:], frame_noise(seed, [first + count - 1], (2, 3)))
    assert not torch.equal(whole[:1], frame_noise(seed + 1, [first], (2, 3)))


def test_noise_is_unit_gaussian_and_differs_between_frames() -> None:
    noise = frame_noise(42, [REFERENCE_FRAME, PICTURE_FRAME, *range(98)], (4, 16, 16)).flatten(1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    correlation = torch.corrcoef(noise) - torch.eye(100)
    assert float(correlation.abs().max()) < 0.2


def test_noise_values_stay() -> None:
    # Written down once: a seed must give the same video next year.
    got = frame_noise(42, [0, 7, REFERENCE_FRAME], (2,))
    torch.testing.assert_close(got, torch.tensor(EXPECTED), rtol=0, atol=1e-6)


EXPECTED = [[0.1817047447, -1.2426393032], [-0.5471856594, 1.8124800920], [-0.8754939437, 0.8634310961]]


def test_periodic_noise_repeats_the_first_segment() -> None:
    noise = torch.randn(1, 3, 2)
    long = periodic_noise(noise, 8)
    assert all(torch.equal(long[:, f], noise[:, f % 3]) for f in range(8))
    assert torch.equal(periodic_noise(noise, 2), noise[:, :2])


def test_no_steps_is_an_error() -> None:
    for make in (karras_sigmas, ays_sigmas):
        with pytest.raises(ConfigError, match="num_inference_steps=0"):
            make(0)
