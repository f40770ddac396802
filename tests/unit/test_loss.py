"""The training objective, with a test for each mistake that other people's training code made."""

from __future__ import annotations

import math

import pytest
import torch

from mimicmotion.diffusion.loss import (
    SIGMA_PRESETS,
    LogNormal,
    c_noise,
    draw_dropped,
    drop_conditions,
    hand_weights,
    network_input,
    v_target,
    weighted_mse,
    x0_from_v,
)
from mimicmotion.diffusion.noise import added_time_ids, augment_picture
from mimicmotion.errors import ConfigError, InputError


def _latents(seed: int, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 2, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


def test_plain_v_loss_is_the_edm_loss() -> None:
    x0, eps, guess = _latents(0), _latents(1), _latents(2)
    sigma = torch.tensor([0.05, 1.3, 80.0])
    x = x0 + sigma.view(-1, 1, 1, 1, 1) * eps
    edm_weight = ((1 + sigma**2) / sigma**2).view(-1, 1, 1, 1, 1)
    edm = (edm_weight * (x0_from_v(x, guess, sigma) - x0) ** 2).mean()
    torch.testing.assert_close(weighted_mse(guess, v_target(x0, eps, sigma)), edm, rtol=1e-3, atol=0)


def test_true_v_gives_back_x0_and_input_has_unit_variance() -> None:
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(4, 8, 4, 16, 16, generator=g), torch.randn(4, 8, 4, 16, 16, generator=g)
    sigma = torch.tensor([0.002, 0.5, 5.0, 700.0])
    x = x0 + sigma.view(-1, 1, 1, 1, 1) * eps
    torch.testing.assert_close(x0_from_v(x, v_target(x0, eps, sigma), sigma), x0, rtol=0, atol=2e-4)
    assert network_input(x0, eps, sigma).std(dim=(1, 2, 3, 4)) == pytest.approx([1] * 4, abs=0.03)
    assert v_target(x0, eps, sigma).std(dim=(1, 2, 3, 4)) == pytest.approx([1] * 4, abs=0.03)


def test_half_precision_latents_do_not_overflow_at_large_sigma() -> None:
    x0, eps, sigma = _latents(0).half() * 100, _latents(1).half(), torch.tensor([700.0] * 3, dtype=torch.float16)
    for out in (network_input(x0, eps, sigma), v_target(x0, eps, sigma), c_noise(sigma)):
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()
    assert float(c_noise(sigma)[0]) == pytest.approx(math.log(700) / 4)


@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mimicmotion", 0.5, 1.4), ("svd-320x576", 0.7, 1.6), ("svd-576x1024", 1.0, 1.6)]
)
def test_log_sigma_has_the_presets_mean_and_spread_not_swapped(name: str, mean: float, std: float) -> None:
    log = SIGMA_PRESETS[name].sample(40_000, torch.Generator().manual_seed(1)).log()
    assert float(log.mean()) == pytest.approx(mean, abs=0.03)
    assert float(log.std()) == pytest.approx(std, abs=0.03)


def test_time_ids_order_and_fps_minus_one() -> None:
    assert added_time_ids(7, 127, 0.02).tolist() == [[6.0, 127.0, pytest.approx(0.02)]]


def test_noise_augmentation_uses_the_strength_that_the_network_is_told() -> None:
    g = torch.Generator().manual_seed(0)
    picture, noise = torch.zeros(1, 3, 64, 64), torch.randn(1, 3, 64, 64, generator=g)
    ids = added_time_ids(7, 127, 0.3)
    assert float(augment_picture(picture, 0.3, noise).std()) == pytest.approx(float(ids[0, 2]), rel=0.05)
    assert augment_picture(picture, 0.0, noise) is picture


def test_hand_weight_is_area_averaged_and_united_over_hands() -> None:
    mask = torch.zeros(1, 2, 2, 16, 16)
    mask[0, :, 0, :8, :4] = 1  # the left half of the top left latent; the second hand was not accepted: all 0
    weights = hand_weights(mask, 10.0, 8, reference_slot=True)
    assert weights.shape == (1, 2, 1, 2, 2)
    assert weights[0, 0].eq(1).all(), "the reference slot keeps weight 1"
    torch.testing.assert_close(weights[0, 1, 0], torch.tensor([[5.5, 1.0], [1.0, 1.0]]))
    both = mask.clone()
    both[0, :, 1, :8, :8] = 1
    assert float(hand_weights(both, 10.0, 8, reference_slot=False)[0, 0, 0, 0, 0]) == 10.0, "boxes unite, not add"


def test_hand_loss_is_not_renormalised() -> None:
    out, target = torch.ones(1, 1, 4, 2, 2), torch.zeros(1, 1, 4, 2, 2)
    weights = torch.ones(1, 1, 1, 2, 2)
    weights[..., 0, 0] = 10
    assert float(weighted_mse(out, target, weights)) == pytest.approx(13 / 4)
    assert float(weighted_mse(out, target)) == 1.0


def test_dropout_drops_every_condition_of_the_same_samples() -> None:
    dropped = draw_dropped(1000, 0.1, torch.Generator().manual_seed(0))
    assert 60 < int(dropped.sum()) < 140
    embedding, latent, pose = torch.ones(1000, 1, 4), torch.ones(1000, 1, 4, 2, 2), torch.ones(1000, 3, 5, 2, 2)
    for c in drop_conditions(dropped, embedding, latent, pose):
        assert torch.equal(c.flatten(1).amax(1) == 0, dropped)
        assert torch.equal(c.flatten(1).amin(1) == 1, ~dropped)
    assert not draw_dropped(50, 0.0).any()
    assert draw_dropped(50, 1.0).all()


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="std=0"):
        LogNormal(0.0, 0.0)
    with pytest.raises(ConfigError, match="condition_dropout"):
        draw_dropped(1, 1.5)
    with pytest.raises(ConfigError, match="hand_scale"):
        hand_weights(torch.zeros(1, 1, 1, 8, 8), -1.0, 8, reference_slot=False)
    with pytest.raises(InputError, match="same shape"):
        weighted_mse(torch.zeros(1, 2), torch.zeros(2, 1))
