"""The training objective, with a test for each mistake that other people's training code made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mimicmotion.diffusion.denoiser import precondition_v
from mimicmotion.diffusion.loss import (
    c_noise,
    choose_dropped,
    drop_condition,
    hand_weights,
    network_input,
    v_target,
    weighted_mse,
)
from mimicmotion.diffusion.noise import added_time_ids, augment_picture
from mimicmotion.errors import InputError


def _latents(seed: int, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 2, 4, 3, 5, generator=torch.Generator().manual_seed(seed))


def _x0_from_v(x: torch.Tensor, v: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Clean latents, computed from the network's output as in inference."""
    found = [precondition_v(lambda *_, i=i: v[i])(x[i], s, []) for i, s in enumerate(sigma)]  # type: ignore[misc]
    return torch.stack(found)


def test_plain_v_loss_is_the_edm_loss() -> None:
    x0, eps, guess = _latents(0), _latents(1), _latents(2)
    sigma = torch.tensor([0.05, 1.3, 80.0])
    x = x0 + sigma.view(-1, 1, 1, 1, 1) * eps
    edm_weight = ((1 + sigma**2) / sigma**2).view(-1, 1, 1, 1, 1)
    edm = (edm_weight * (_x0_from_v(x, guess, sigma) - x0) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(weighted_mse(guess, v_target(x0, eps, sigma)), edm, rtol=1e-3, atol=0)


def test_true_v_gives_back_x0_and_input_has_unit_variance() -> None:
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(4, 8, 4, 16, 16, generator=g), torch.randn(4, 8, 4, 16, 16, generator=g)
    sigma = torch.tensor([0.002, 0.5, 5.0, 700.0])
    x = x0 + sigma.view(-1, 1, 1, 1, 1) * eps
    torch.testing.assert_close(_x0_from_v(x, v_target(x0, eps, sigma), sigma), x0, rtol=0, atol=2e-4)
    assert network_input(x0, eps, sigma).std(dim=(1, 2, 3, 4)) == pytest.approx([1] * 4, abs=0.03)
    assert v_target(x0, eps, sigma).std(dim=(1, 2, 3, 4)) == pytest.approx([1] * 4, abs=0.03)


def test_half_precision_latents_do_not_overflow_at_large_sigma() -> None:
    x0, eps, sigma = _latents(0).half() * 100, _latents(1).half(), torch.tensor([700.0] * 3, dtype=torch.float16)
    for out in (network_input(x0, eps, sigma), v_target(x0, eps, sigma), c_noise(sigma)):
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()
    assert float(c_noise(sigma)[0]) == pytest.approx(math.log(700) / 4)


def test_time_ids_order_and_fps_minus_one() -> None:
    assert added_time_ids(7, 127, 0.02).tolist() == [[6.0, 127.0, pytest.approx(0.02)]]


def test_noise_augmentation_uses_the_strength_that_the_network_is_told() -> None:
    g = torch.Generator().manual_seed(0)
    picture, noise = torch.zeros(1, 3, 64, 64), torch.randn(1, 3, 64, 64, generator=g)
    ids = added_time_ids(7, 127, 0.3)
    assert float(augment_picture(picture, 0.3, noise).std()) == pytest.approx(float(ids[0, 2]), rel=0.05)
    assert augment_picture(picture, 0.0, noise) is picture


def test_hand_weight_rises_with_the_share_of_a_hand() -> None:
    mask = torch.tensor([[0.5, 0.0], [1.0, 0.0]]).expand(1, 2, 2, 2)
    weights = hand_weights(mask, 10.0, reference_slot=True)
    assert weights.shape == (1, 2, 1, 2, 2)
    assert weights[0, 0].eq(1).all(), "the reference slot keeps weight 1"
    torch.testing.assert_close(weights[0, 1, 0], torch.tensor([[5.5, 1.0], [10.0, 1.0]]))
    assert torch.equal(hand_weights(mask, 10.0, reference_slot=False)[:, 0], weights[:, 1])
    assert float(mask.max()) == 1, "the mask is not written to"


def test_hand_loss_is_not_renormalised() -> None:
    out, target = torch.ones(1, 1, 4, 2, 2), torch.zeros(1, 1, 4, 2, 2)
    weights = torch.ones(1, 1, 1, 2, 2)
    weights[..., 0, 0] = 10
    assert weighted_mse(out, target, weights).tolist() == pytest.approx([13 / 4])
    assert weighted_mse(out, target).tolist() == [1.0]


def test_dropout_drops_every_condition_of_the_same_samples() -> None:
    uniform = np.random.default_rng(0).random((1000, 4))
    dropped = choose_dropped(uniform, 0.1, (0.0, 0.0, 0.0))
    assert 60 < int(dropped[:, 0].sum()) < 140
    embedding, latent, pose = torch.ones(1000, 1, 4), torch.ones(1000, 1, 4, 2, 2), torch.ones(1000, 3, 5, 2, 2)
    for which, condition in zip(dropped.T, (embedding, latent, pose), strict=True):
        assert torch.equal(which, dropped[:, 0])
        left = drop_condition(which, condition).flatten(1)
        assert torch.equal(left.amax(1) == 0, which)
        assert torch.equal(left.amin(1) == 1, ~which)
    assert not choose_dropped(uniform, 0.0, (0.0, 0.0, 0.0)).any()
    assert choose_dropped(uniform, 1.0, (0.0, 0.0, 0.0)).all()
    assert choose_dropped(uniform, 0.0, (0.0, 1.0, 0.0)).double().mean(0).tolist() == [0, 1, 0]


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="U-Net and the autoencoder of one model"):
        weighted_mse(_latents(0), _latents(1)[:, 1:])
