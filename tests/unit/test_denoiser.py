from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from micro import svd_scheduler
from mimicmotion.diffusion.denoiser import guidance_ramp, guide, precondition_v
from mimicmotion.diffusion.fusion import fuse, make_plan
from mimicmotion.settings import FusionConfig

FLOAT64 = {"dtype": torch.float64}


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **FLOAT64)


def _uncond(x: Tensor, c_noise: Tensor, frames: Sequence[int]) -> Tensor:
    return torch.tanh(1.7 * x + c_noise) - 0.3 * x.mean(1, keepdim=True)


def _cond(x: Tensor, c_noise: Tensor, frames: Sequence[int]) -> Tensor:
    rows = torch.tensor(list(frames), **FLOAT64).view(1, -1, 1, 1, 1)
    return torch.sin(x * 0.9 + 0.1 * rows) + c_noise * x.roll(1, 1)


def test_precondition_matches_diffusers_prediction_of_x0() -> None:
    theirs = svd_scheduler()
    theirs.set_timesteps(4)
    x = _randn(0, 1, 3, 4, 2, 2) * 700
    for t, sigma in zip(theirs.timesteps, theirs.sigmas.double(), strict=False):
        v = _cond(theirs.scale_model_input(x, t), t.double(), range(3))
        want = theirs.step(v, t, x).pred_original_sample
        got = precondition_v(_cond)(x, sigma, range(3))
        torch.testing.assert_close(got, want.double(), rtol=1e-5, atol=1e-5)


def test_guiding_v_is_guiding_x0() -> None:
    x, sigma = _randn(1, 2, 5, 4, 3, 3) * 9, torch.tensor(7.0, **FLOAT64)
    scale = guidance_ramp(5, 1.0, 3.0)

    def guided_x0(x: Tensor, sigma: Tensor, frames: Sequence[int]) -> Tensor:
        u, c = precondition_v(_uncond)(x, sigma, frames), precondition_v(_cond)(x, sigma, frames)
        return u + scale.view(1, -1, 1, 1, 1) * (c - u)

    by_v = precondition_v(guide(lambda *a: (_uncond(*a), _cond(*a)), scale))
    torch.testing.assert_close(by_v(x, sigma, range(5)), guided_x0(x, sigma, range(5)), rtol=0, atol=1e-12)


def test_guidance_scale_belongs_to_the_frame_not_to_its_place_in_the_segment() -> None:
    x, scale = _randn(2, 1, 3, 4, 2, 2), guidance_ramp(10, 1.0, 3.0)
    got = guide(lambda *a: (_uncond(*a), _cond(*a)), scale)(x, torch.tensor(0.1), [0, 7, 9])
    u, c = _uncond(x, torch.tensor(0.1), []), _cond(x, torch.tensor(0.1), [0, 7, 9])
    for place, row in enumerate([0, 7, 9]):
        w = 1 + 2 * row / 9
        torch.testing.assert_close(got[:, place], (u + w * (c - u))[:, place])


def test_guidance_one_is_the_conditional_network() -> None:
    x = _randn(3, 1, 3, 4, 2, 2)
    got = guide(lambda *a: (_uncond(*a), _cond(*a)), guidance_ramp(3, 1, 1))(x, torch.tensor(0.1), range(3))
    torch.testing.assert_close(got, _cond(x, torch.tensor(0.1), range(3)), rtol=0, atol=1e-14)


def test_fusing_x0_after_guidance_is_fusing_v_before_it() -> None:
    cfg = FusionConfig(segment_frames=6, overlap_frames=3, reference_slot=True)
    plan = make_plan(14, cfg)
    x, sigma, scale = _randn(4, 1, 15, 4, 3, 2) * 5, torch.tensor(4.2, **FLOAT64), guidance_ramp(15, 1.5, 2.5)
    fused_x0 = fuse(precondition_v(guide(lambda *a: (_uncond(*a), _cond(*a)), scale)), plan)

    def fuse_v(network: object) -> Tensor:
        c_in = 1 / (sigma**2 + 1) ** 0.5
        v = torch.zeros_like(x)
        for rows, w in zip(plan.segments, plan.weights, strict=True):
            i = list(rows)
            v[:, i] += w[i].view(-1, 1, 1, 1) * network(c_in * x[:, i], 0.25 * sigma.log(), i)
        return v

    u, c = fuse_v(_uncond), fuse_v(_cond)
    v = u + scale.view(1, -1, 1, 1, 1) * (c - u)
    want = x / (sigma**2 + 1) - sigma / (sigma**2 + 1) ** 0.5 * v
    torch.testing.assert_close(fused_x0(x, sigma, range(15)), want, rtol=0, atol=1e-12)
