"""The objective on a batch, with a test for each mistake that other people's training code made.

A recording network stands in for the U-Net: it records its inputs and returns fixed numbers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.diffusion import loss as paper
from mimicmotion.diffusion.loss import network_input, v_target
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings.training import ObjectiveConfig
from mimicmotion.training import objective
from mimicmotion.training.objective import (
    Encoded,
    NetworkInput,
    band_log,
    denoising_loss,
    draw,
    loss_weights,
    network_arguments,
)

LATENT, PICTURE = (3, 4, 4, 6), (32, 48)
SCALE = 0.18215


class Recorder:
    """Returns fixed noise and records its inputs."""

    def __init__(self, seed: int = 9) -> None:
        self.shown: list[NetworkInput] = []
        self.seed = seed

    def __call__(self, shown: NetworkInput) -> torch.Tensor:
        self.shown.append(shown)
        return torch.randn(shown.x.shape, generator=torch.Generator().manual_seed(self.seed))


def encoded(batch: int = 4, seed: int = 0, **changes: Any) -> Encoded:
    g = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    slots, channels, h, w = LATENT
    fields: dict[str, Any] = {
        "latents": 5 * noise(batch, *LATENT),
        "picture_latents": 5 * noise(batch, channels, h, w),
        "token": noise(batch, 1, 8),
        "pixels": None,
        "poses": noise(batch, slots, 3, *PICTURE),
        "reference_pose": noise(batch, 3, *PICTURE),
        "hand_mask": torch.rand(batch, slots, h, w, generator=g),
        "fps": torch.tensor([6.0, 7.5, 10.0, 15.0])[:batch],
    }
    return Encoded(**(fields | changes))


def run(config: ObjectiveConfig, numbers: list[int], batch: Encoded, slot: bool = True) -> tuple[Any, NetworkInput]:
    network = Recorder()
    draws = draw(config, 0, numbers, LATENT, PICTURE)
    loss = denoising_loss(network, config, batch, draws, SCALE, reference_slot=slot)
    return loss, network.shown[0]


def test_loss_equals_a_naive_computation_in_double_precision() -> None:
    config = ObjectiveConfig(change_weight=3.0, channel_weights=(4.0, 2.0, 1.0, 1.0))
    batch, numbers = encoded(), [3, 1, 4, 5]
    loss, shown = run(config, numbers, batch)
    draws = draw(config, 0, numbers, LATENT, PICTURE)
    answer = Recorder()(shown).double()
    total, each = 0.0, np.array(config.channel_weights) / 2
    for b in range(4):
        sigma = float(draws.sigma[b])
        for s in range(LATENT[0]):
            for y in range(LATENT[2]):
                for x in range(LATENT[3]):
                    clean = batch.latents[b, s, :, y, x].double() * SCALE
                    picture = batch.picture_latents[b, :, y, x].double() * SCALE
                    m = float(batch.hand_mask[b, s, y, x]) if s else 0.0
                    change = 1 + 2 * min(1.0, float((clean - picture).abs().mean()))
                    for c in range(LATENT[1]):
                        eps = float(draws.eps[b, s, c, y, x])
                        v = (eps - sigma * float(clean[c])) / math.sqrt(1 + sigma**2)
                        seen = (float(clean[c]) + sigma * eps) / math.sqrt(1 + sigma**2)
                        assert float(shown.x[b, s, c, y, x]) == pytest.approx(seen, abs=1e-5)
                        total += (1 + 9 * m) * change * each[c] * (float(answer[b, s, c, y, x]) - v) ** 2
    assert float(loss.loss) == pytest.approx(total / batch.latents.numel(), rel=1e-6)
    assert float(loss.each.mean()) == pytest.approx(float(loss.loss), rel=1e-6)
    assert shown.c_noise.tolist() == pytest.approx([math.log(s) / 4 for s in draws.sigma.tolist()], rel=1e-6)


def test_hand_scale_of_1_is_the_plain_loss_exactly() -> None:
    batch = encoded()
    plain, _ = run(ObjectiveConfig(hand_scale=1.0), [0, 1, 2, 3], batch)
    no_hands, _ = run(ObjectiveConfig(), [0, 1, 2, 3], dataclasses.replace(batch, hand_mask=batch.hand_mask * 0))
    with_hands, _ = run(ObjectiveConfig(), [0, 1, 2, 3], batch)
    assert torch.equal(plain.loss, no_hands.loss)
    assert float(with_hands.loss) > 2 * float(plain.loss)
    assert plain.log["v"] == pytest.approx(float(plain.loss), rel=1e-6)
    assert plain.log["v"] == with_hands.log["v"], "the logged error is not weighted"


@pytest.mark.parametrize("name", ["hand_weights", "weighted_mse", "choose_dropped", "v_target", "network_input"])
def test_training_uses_the_formulas_of_the_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editing a formula of `diffusion.loss` changes the training."""
    config = ObjectiveConfig(condition_dropout=0.5)
    before, shown = run(config, [0, 1, 2, 3], encoded())
    formula = getattr(paper, name)

    def edited(*args: Any, **options: Any) -> torch.Tensor:
        out = formula(*args, **options)
        return ~out if out.dtype == torch.bool else 1 - 0.9 * out

    monkeypatch.setattr(objective, name, edited, raising=False)  # has no effect on a copy of the formula
    after, shown_after = run(config, [0, 1, 2, 3], encoded())
    pairs = [(before.each, after.each), (shown.x, shown_after.x), (shown.dropped, shown_after.dropped)]
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_reference_slot_keeps_weight_1_whatever_its_mask_says() -> None:
    batch = encoded(hand_mask=torch.ones(4, *LATENT[:1], *LATENT[2:]))
    weights = loss_weights(ObjectiveConfig(), batch, SCALE, reference_slot=True)
    assert weights is not None
    assert weights[:, 0].eq(1).all()
    assert weights[:, 1:].eq(10).all()
    weights = loss_weights(ObjectiveConfig(), batch, SCALE, reference_slot=False)
    assert weights is not None
    assert weights.eq(10).all()


@pytest.mark.parametrize(
    ("preset", "mean", "std"), [("mimicmotion", 0.5, 1.4), ("svd-320x576", 0.7, 1.6), ("svd-576x1024", 1.0, 1.6)]
)
def test_noise_levels_are_log_normal_with_mean_and_deviation_in_their_places(
    preset: Any, mean: float, std: float
) -> None:
    sigma = draw(ObjectiveConfig(sigma_preset=preset), 0, range(8000), (1, 1, 1, 1), (1, 1)).sigma  # type: ignore[arg-type]
    assert sigma.dtype == torch.float32, "half precision overflows at large sigma"
    log = sigma.double().log()
    assert float(log.mean()) == pytest.approx(mean, abs=0.06)
    assert float(log.std()) == pytest.approx(std, abs=0.05)
    # a cosine-interpolated sampler has bounded, light-tailed levels: kurtosis well below the normal's 3
    kurtosis = float((((log - log.mean()) / log.std()) ** 4).mean())
    assert kurtosis == pytest.approx(3, abs=0.35)
    skew = float((((log - log.mean()) / log.std()) ** 3).mean())
    assert skew == pytest.approx(0, abs=0.12)


def test_mean_and_deviation_can_be_set() -> None:
    config = ObjectiveConfig(sigma_mean=2.5, sigma_std=0.2)
    log = draw(config, 0, range(2000), (1, 1, 1, 1), (1, 1)).sigma.log()  # type: ignore[arg-type]
    assert float(log.mean()) == pytest.approx(2.5, abs=0.02)
    assert float(log.std()) == pytest.approx(0.2, abs=0.02)


def test_half_precision_latents_of_any_size_stay_finite_and_float32() -> None:
    config = ObjectiveConfig(sigma_mean=11.5, sigma_std=0.01)  # sigma near 1e5, above the largest half
    batch = encoded()
    halves = dataclasses.replace(batch, latents=batch.latents.half(), picture_latents=batch.picture_latents.half())
    shown, target = network_arguments(config, halves, draw(config, 0, [0, 1, 2, 3], LATENT, PICTURE), SCALE)
    for value in (shown.x, shown.c_noise, shown.time_ids, target):
        assert value.dtype == torch.float32
        assert value.isfinite().all()
    assert shown.c_noise.tolist() == pytest.approx([11.5 / 4] * 4, abs=0.02)


def test_time_ids_are_fps_minus_1_bucket_augmentation() -> None:
    _, shown = run(ObjectiveConfig(), [0, 1, 2, 3], encoded())
    assert shown.time_ids.tolist() == [[6.0, 127.0, 0.0]] * 4
    _, shown = run(ObjectiveConfig(fps=None), [0, 1, 2, 3], encoded())
    assert shown.time_ids.tolist() == [[fps - 1, 127.0, 0.0] for fps in (6.0, 7.5, 10.0, 15.0)]


def test_augmentation_id_is_the_strength_that_is_used() -> None:
    config = ObjectiveConfig(noise_aug=0.5)
    draws = draw(config, 0, range(400), LATENT, (2, 2))  # type: ignore[arg-type]
    used = draws.noise_aug > 0
    assert 140 < int(used.sum()) < 260
    log = draws.noise_aug[used].log()
    assert float(log.mean()) == pytest.approx(-3, abs=0.12)
    assert float(log.std()) == pytest.approx(0.5, abs=0.08)
    few = dataclasses.replace(draws, **{f: getattr(draws, f)[:4] for f in ("sigma", "eps", "dropped", "noise_aug")})
    shown, _ = network_arguments(config, encoded(), few, SCALE)
    assert torch.equal(shown.time_ids[:, 2], draws.noise_aug[:4])
    assert draw(ObjectiveConfig(), 0, [0], LATENT, PICTURE).picture_noise is None


def test_condition_latent_is_neither_scaled_nor_noised() -> None:
    batch = encoded()
    _, shown = run(ObjectiveConfig(), [0, 1, 2, 3], batch)
    assert torch.equal(shown.picture_latents, batch.picture_latents[:, None])


def test_pose_is_dropped_with_the_picture() -> None:
    draws = draw(ObjectiveConfig(), 0, range(3000), (1, 1, 1, 1), (1, 1))  # type: ignore[arg-type]
    image, latent, pose = draws.dropped.T
    assert torch.equal(image, latent)
    assert torch.equal(image, pose)
    assert 240 < int(pose.sum()) < 360
    assert draw(ObjectiveConfig(condition_dropout=0), 0, range(200), (1, 1, 1, 1), (1, 1)).dropped.sum() == 0  # type: ignore[arg-type]


def test_conditions_can_be_dropped_one_by_one_besides() -> None:
    config = ObjectiveConfig(condition_dropout=0.0, drop_image=0.1, drop_latent=0.2, drop_pose=0.4)
    dropped = draw(config, 0, range(3000), (1, 1, 1, 1), (1, 1)).dropped.double()  # type: ignore[arg-type]
    assert dropped.mean(0).tolist() == pytest.approx([0.1, 0.2, 0.4], abs=0.03)
    both = (dropped[:, 0] * dropped[:, 2]).mean()
    assert float(both) == pytest.approx(0.04, abs=0.015), "independently of each other"


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=6, unique=True), st.integers(0, 10**6), st.booleans())
def test_a_sample_is_drawn_alike_in_every_batch(numbers: list[int], seed: int, augment: bool) -> None:
    config = ObjectiveConfig(noise_aug=0.7 if augment else 0.0)
    whole = draw(config, seed, numbers, (2, 1, 2, 2), (2, 2))
    parts = [draw(config, seed, part, (2, 1, 2, 2), (2, 2)) for part in (numbers[:1], numbers[1:])]
    for name in ("sigma", "eps", "dropped", "noise_aug", *(["picture_noise"] if augment else [])):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts])), name
    assert len(set(whole.eps.flatten(1).sum(1).tolist())) == len(numbers)


def test_one_option_does_not_change_what_another_draws() -> None:
    plain = draw(ObjectiveConfig(), 0, [5, 6], LATENT, PICTURE)
    other = draw(ObjectiveConfig(noise_aug=1.0, drop_pose=0.5, condition_dropout=0.0), 0, [5, 6], LATENT, PICTURE)
    assert torch.equal(plain.sigma, other.sigma)
    assert torch.equal(plain.eps, other.eps)


def test_inputs_of_a_batch_of_four_equal_two_batches_of_two_bitwise() -> None:
    config, batch, numbers = ObjectiveConfig(noise_aug=1.0), encoded(), [7, 2, 9, 4]
    _, whole = run(config, numbers, batch)
    halves = []
    for rows in (slice(0, 2), slice(2, 4)):
        fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        part = Encoded(**{k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in fields.items()})
        halves.append(run(config, numbers[rows], part)[1])
    for field in dataclasses.fields(NetworkInput):
        want = getattr(whole, field.name)
        if want is not None:
            assert torch.equal(want, torch.cat([getattr(h, field.name) for h in halves])), field.name


def test_log_reports_the_error_per_noise_band() -> None:
    errors = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert band_log(torch.tensor([0.1, 0.2, 9.0, 3.0]), errors) == {"v_0": 1.5, "v_2": 8.0, "v_3": 4.0}


def test_wrong_settings_and_answers_are_named() -> None:
    with pytest.raises(ConfigError, match="channel_weights"):
        run(ObjectiveConfig(channel_weights=(1.0, 2.0)), [0, 1, 2, 3], encoded())
    draws = draw(ObjectiveConfig(), 0, [0, 1, 2, 3], LATENT, PICTURE)
    with pytest.raises(InputError, match="output"):
        denoising_loss(lambda s: s.x[:, 1:], ObjectiveConfig(), encoded(), draws, SCALE, reference_slot=True)


def test_with_a_warped_picture_the_network_sees_it_and_may_denoise_the_difference() -> None:
    config, numbers = ObjectiveConfig(), [3, 1, 4, 5]
    warped = torch.randn(4, *LATENT, generator=torch.Generator().manual_seed(9))
    batch = encoded(warped_latents=warped)
    draws = draw(config, 0, numbers, LATENT, PICTURE)
    shown, target = network_arguments(config, batch, draws, SCALE)
    assert torch.equal(shown.picture_latents, warped)
    plain = v_target(batch.latents * SCALE, draws.eps, draws.sigma)
    torch.testing.assert_close(target, plain)
    shown, target = network_arguments(config, dataclasses.replace(batch, residual=True), draws, SCALE)
    difference = (batch.latents - warped) * SCALE
    torch.testing.assert_close(target, v_target(difference, draws.eps, draws.sigma))
    torch.testing.assert_close(shown.x, network_input(difference, draws.eps, draws.sigma))
