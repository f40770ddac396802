"""The whole pipeline against results of the released code on small random weights.

Three small cases are in data/, whose README explains the tolerances. A larger set, with every intermediate result, is
used if it is available.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor

from mimicmotion.backbones.svd.conditioning import ConditionedUNet, Conditioning
from mimicmotion.backbones.svd.decode import decode_float
from mimicmotion.diffusion.denoiser import guide
from mimicmotion.diffusion.noise import periodic_noise
from mimicmotion.diffusion.recipe import Recipe
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import FusionConfig

Shared = Callable[[str], Path]
DATA = Path(__file__).with_name("data")
SMALL = ["one_tile", "ragged_tiles", "aug_ramp"]
ALL_CASES = ["a16_one_tile", "a16_one_tile_aug", "b40_tiles", "b40_tiles_aug", "c37_ragged", "d36_exact"]
NOISE = 5e-6  # torch.randn differs by 2e-6 between kinds of CPU
# The whole way runs for all in data/; these run one step and are whole under `slow`.


@pytest.fixture(scope="module")
def small() -> MimicMotionPipeline:
    return MimicMotionPipeline.from_pretrained(DATA / "svd", DATA / "mimicmotion.safetensors")


@pytest.fixture(scope="module")
def pipe(shared: Shared) -> MimicMotionPipeline:
    return MimicMotionPipeline.from_pretrained(shared("parity/tiny_svd"), shared("parity/tiny_mimicmotion.pth"))


class Case:
    def __init__(self, path: Path, pipe: MimicMotionPipeline) -> None:
        self.want = np.load(path)
        self.set = json.loads(str(self.want["case"]))
        poses = np.ascontiguousarray(self.want["pose_uint8"].transpose(0, 2, 3, 1))
        self.image, self.reference_pose, self.poses = self.want["ref_image"], poses[0], poses[1:]
        self.fusion = FusionConfig(
            mode="released", segment_frames=self.set["tile"], overlap_frames=self.set["overlap"], reference_slot=True
        )
        self.recipe: Recipe = pipe.recipe(
            len(self.poses),
            reference_slot=True,
            fusion=self.fusion,
            num_inference_steps=self.set["steps"],
            min_guidance_scale=self.set["gmin"],
            max_guidance_scale=self.set["gmax"],
            decode_chunk_size=self.set["chunk"],
        )
        self.conditioning = pipe.encode(
            self.image,
            self.poses,
            self.reference_pose,
            fps=self.set["fps"],
            motion_bucket_id=self.set["bucket"],
            noise_aug_strength=self.set["aug"],
            image_noise=self.tensor("image_noise"),
        )
        self.noise = periodic_noise(self.tensor("init_noise"), self.recipe.plan.num_rows)

    def run(self, pipe: MimicMotionPipeline) -> ndarray:
        """One call, with the noise of the seed."""
        return pipe(
            self.image,
            self.poses,
            self.reference_pose,
            fusion=self.fusion,
            num_inference_steps=self.set["steps"],
            min_guidance_scale=self.set["gmin"],
            max_guidance_scale=self.set["gmax"],
            fps=self.set["fps"],
            motion_bucket_id=self.set["bucket"],
            noise_aug_strength=self.set["aug"],
            seed=self.set["seed"],
            decode_chunk_size=self.set["chunk"],
        ).frames

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.want[name])


def _close(got: Tensor | ndarray, want: Tensor | ndarray, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(want), atol=atol, rtol=rtol)


@pytest.mark.parametrize("name", ALL_CASES)
def test_inputs_and_plan(name: str, shared: Shared, pipe: MimicMotionPipeline) -> None:
    case = Case(shared(f"parity/goldens/pipeline/{name}.npz"), pipe)
    c, want, plan = case.conditioning, case.want, case.recipe.plan
    assert [list(s) for s in plan.segments] == want["tile_indices"].tolist()
    _close(case.recipe.sigmas.float(), want["sigmas"], 0, 1e-6)
    _close((0.25 * case.recipe.sigmas[:-1].log()).float(), want["timesteps"], 1e-6)
    _close(c.image_embeddings, want["image_embeddings"], 1e-5)
    _close(c.image_latents[0, 0], want["image_latents"], 3e-5)  # as in data/README.md
    _close(c.added_time_ids, want["added_time_ids"], 1e-8)
    _close(c.pose_slots(plan.segments[0], True)[0], want["step0_tile0_pose_latents"], 1e-5)
    _close(case.noise * float(want["init_noise_sigma"]), want["latents_steps"][0], 0, 1e-6)
    x = (case.noise * float(want["init_noise_sigma"]) / (700.0**2 + 1) ** 0.5)[:, list(plan.segments[0])]
    _close(x, want["step0_tile0_input_cond"][:, :, :4], 1e-5)


@pytest.mark.parametrize("seeded", ["seed", "generator"])
@pytest.mark.parametrize("name", ["b40_tiles", "b40_tiles_aug"])
def test_noise_is_drawn_in_the_published_order(
    name: str, seeded: str, shared: Shared, pipe: MimicMotionPipeline
) -> None:
    case = Case(shared(f"parity/goldens/pipeline/{name}.npz"), pipe)
    seed, size = case.set["seed"], case.image.shape[:2]
    if seeded == "seed":
        noise = pipe.draw_noise(case.recipe, size, seed=seed)
    else:
        noise = pipe.draw_noise(case.recipe, size, generator=torch.Generator().manual_seed(seed))
    _close(noise.latents, case.noise, NOISE)
    _close(noise.picture, case.tensor("image_noise"), NOISE)


@pytest.mark.parametrize("name", ["b40_tiles"])
def test_first_step_of_each_tile(name: str, shared: Shared, pipe: MimicMotionPipeline) -> None:
    case = Case(shared(f"parity/goldens/pipeline/{name}.npz"), pipe)
    sigma = case.recipe.sigmas[0]
    x = case.noise  # c_in * sqrt(sigma^2 + 1) = 1
    for one_batch, tiles in ((True, [0]), (False, [len(case.recipe.plan.segments) - 1])):
        unet = ConditionedUNet(pipe.backbone.unet, case.conditioning, True, one_batch)
        for k in tiles:
            rows = case.recipe.plan.segments[k]
            with torch.inference_mode():
                uncond, cond = unet.pair(x[:, list(rows)], 0.25 * sigma.log(), rows)
                guided = guide(lambda *_, u=uncond, c=cond: (u, c), case.recipe.guidance)(x, sigma, rows)
            _close(uncond[0], case.want["step0_tile_uncond"][k], 5e-5)
            _close(cond[0], case.want["step0_tile_cond"][k], 5e-5)
            _close(guided, uncond + 2 * (cond - uncond), 1e-6)


def _fused(outputs: list[Tensor], case: Case) -> Tensor:
    """The guided v of all frames from the U-Net's outputs for each tile."""
    plan, v = case.recipe.plan, torch.zeros(case.noise.shape, dtype=torch.float64)
    for (uncond, cond), rows, weights in zip(outputs, plan.segments, plan.weights, strict=True):
        i = list(rows)
        weight, scale = (a[i].view(-1, 1, 1, 1).double() for a in (weights, case.recipe.guidance))
        v[0, i] += weight * (uncond[0] + scale * (cond[0] - uncond[0]))
    return v


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What the U-Net gives for each tile, without and with condition."""
    kept: list[tuple[Tensor, Tensor]] = []
    run = ConditionedUNet.pair

    def pair(*args: Any) -> tuple[Tensor, Tensor]:
        kept.append(run(*args))
        return kept[-1]

    monkeypatch.setattr(ConditionedUNet, "pair", pair)
    return kept


def _close_frames(got: ndarray, want: ndarray) -> None:
    difference = np.abs(got.astype(int) - want.transpose(0, 2, 3, 1).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_small_cases(name: str, small: MimicMotionPipeline, outputs: list[tuple[Tensor, Tensor]]) -> None:
    case = Case(DATA / f"pipeline/{name}.npz", small)
    c, want, recipe = case.conditioning, case.want, case.recipe
    assert [list(s) for s in recipe.plan.segments] == want["tile_indices"].tolist()
    _close(recipe.sigmas.float(), want["sigmas"], 0, 1e-6)
    _close((0.25 * recipe.sigmas[:-1].log()).float(), want["timesteps"], 1e-6)
    _close(c.image_embeddings, want["image_embeddings"], 1e-5)
    _close(c.image_latents[0, 0], want["image_latents"], 3e-5)
    _close(c.added_time_ids, want["added_time_ids"], 1e-7)
    drawn = small.draw_noise(recipe, case.image.shape[:2], seed=case.set["seed"])
    _close(drawn.picture, want["image_noise"], NOISE)
    _close(drawn.latents[:, : case.set["tile"]], want["init_noise"], NOISE)
    _close(drawn.latents, case.noise, NOISE)

    states = list(small.denoise(c, case.noise, recipe))
    _close(states[0].latents, want["latents_after_first_step"], 1e-3)
    last = outputs[-len(recipe.plan.segments) :]
    _close(_fused(last, case).float(), want["noise_pred_last_step"], 2e-4)
    _close(states[-1].latents, want["latents"], 1e-4)
    frames = np.stack(list(small.decode_step(states[-1], recipe)))
    assert len(frames) == case.set["frames"] - 1
    _close_frames(frames[want["frames_kept"]], want["frames_uint8"])


def test_a_wrong_setting_is_seen(small: MimicMotionPipeline) -> None:
    """Each differs after one step by far more than its tolerance: fps, bucket, strength of the noise, noise level."""
    case = Case(DATA / "pipeline/aug_ramp.npz", small)
    sigma, rows = case.recipe.sigmas, case.recipe.plan.segments[0]
    fall = float(sigma[0] - sigma[1])

    def guided(c: Conditioning, level: float = 1.0) -> Tensor:
        unet = ConditionedUNet(small.backbone.unet, c, True)
        with torch.inference_mode():
            pair = unet.pair(case.noise[:, list(rows)], level * 0.25 * sigma[0].log(), rows)
        return guide(lambda *_: pair, case.recipe.guidance)(case.noise, sigma[0], rows)

    right = guided(case.conditioning)
    for place, wrong in ((0, 10.0), (1, 91.0), (2, 0.021)):
        ids = case.conditioning.added_time_ids.clone()
        ids[:, place] = wrong
        off = guided(dataclasses.replace(case.conditioning, added_time_ids=ids))
        assert fall * (off - right).abs().max() > 20 * 1e-3, place
    assert fall * (guided(case.conditioning, 1.01) - right).abs().max() > 20 * 1e-3


def test_one_call_gives_the_frames_of_a_small_case(small: MimicMotionPipeline) -> None:
    """From the file's seed, not from its noise."""
    case = Case(DATA / "pipeline/one_tile.npz", small)
    frames = case.run(small)
    _close_frames(frames[case.want["frames_kept"]], case.want["frames_uint8"])


def _whole(case: Case, pipe: MimicMotionPipeline, outputs: list[tuple[Tensor, Tensor]]) -> None:
    want, states = case.want, []
    for state in pipe.denoise(case.conditioning, case.noise, case.recipe):
        states.append(state)
        # a step multiplies the error of v by the fall of sigma, 629 in the first one
        fall = float(case.recipe.sigmas[state.index] - case.recipe.sigmas[state.index + 1])
        _close(state.latents, want["latents_steps"][state.index + 1], 1e-4 + 2e-6 * fall)
        _close(_fused(outputs, case).float(), want["noise_pred"][state.index], 1e-4)
        outputs.clear()
    final = states[-1].latents
    _close(final, want["latents"], 1e-4)
    raw = torch.stack(list(decode_float(pipe.backbone.vae, final[0], case.set["chunk"], released=True)))
    _close(raw, want["frames_raw"][0].transpose(1, 0, 2, 3), 1e-4)
    _close_frames(np.stack(list(pipe.decode_step(states[-1], case.recipe))), want["frames_uint8"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_CASES)
def test_whole_pipeline(name: str, shared: Shared, pipe: MimicMotionPipeline, outputs: list[Any]) -> None:
    _whole(Case(shared(f"parity/goldens/pipeline/{name}.npz"), pipe), pipe, outputs)


@pytest.mark.slow
def test_one_call_gives_the_published_frames(shared: Shared, pipe: MimicMotionPipeline) -> None:
    case = Case(shared("parity/goldens/pipeline/a16_one_tile.npz"), pipe)
    _close_frames(case.run(pipe), case.want["frames_uint8"])
