"""The pipeline on the real classes with few channels: results, invariances, bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.conditioning import ConditionedUNet
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.errors import ConfigError, InputError, NonFiniteError, PoseError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import FusionConfig, FusionMode

pytestmark = pytest.mark.whole
IMAGE, POSES, REFERENCE = random_frames(0, 32, 32, 3), random_frames(1, 9, 32, 32, 3), random_frames(2, 32, 32, 3)
ONE_STEP: dict[str, Any] = {"num_inference_steps": 1}
GOLDEN = 5e-5
"""Latents (up to 3) differ by 1.4e-5 between AVX-512, AVX2 and SSE4.1, and between one and two threads."""
MODES: list[FusionMode] = ["progressive", "released", "average", "none"]


@pytest.fixture(scope="module")
def pipe() -> MimicMotionPipeline:
    return micro_pipeline()


def _latents(pipe: MimicMotionPipeline, *args: Any, **kwargs: Any) -> torch.Tensor:
    return pipe(*(args or (IMAGE, POSES, REFERENCE)), output_type="latent", **kwargs).frames


def _fusion(mode: FusionMode, **kwargs: Any) -> FusionConfig:
    return FusionConfig(mode=mode, **({"segment_frames": 6, "overlap_frames": 3} | kwargs))


@pytest.mark.parametrize("mode", MODES)
def test_golden(pipe: MimicMotionPipeline, golden: Callable[..., None], mode: FusionMode) -> None:
    """The goldens were made with diffusers' U-Net (0.42.1) in `build_unet`, before the project had its own."""
    latents = _latents(pipe, fusion=_fusion(mode), noise_aug_strength=0.02)
    golden(f"pipeline_{mode}", rtol=0, atol=GOLDEN, latents=latents.numpy())


WRONG: dict[str, dict[str, Any]] = {
    "fps": {"fps": 8},
    "motion bucket": {"motion_bucket_id": 128},
    "noise augmentation": {"noise_aug_strength": 0.021},
    "overlap": {"fusion": _fusion("progressive", overlap_frames=2)},
    "noise level": {},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_little_wrong_is_seen(pipe: MimicMotionPipeline, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The goldens guard what the result depends on by far more than their tolerance (measured: 200 times and more)."""
    usual = {"noise_aug_strength": 0.02, "fusion": _fusion("progressive")}
    want = _latents(pipe, **usual)
    if what == "noise level":
        run = ConditionedUNet.pair
        monkeypatch.setattr(ConditionedUNet, "pair", lambda self, x, c_noise, rows: run(self, x, c_noise * 1.05, rows))
    got = _latents(pipe, **(usual | WRONG[what]))
    assert (got - want).abs().max() > 20 * GOLDEN


def test_golden_frames(pipe: MimicMotionPipeline, golden: Callable[..., None]) -> None:
    frames = pipe(IMAGE, POSES, REFERENCE).frames
    assert frames.dtype == np.uint8
    assert frames.shape == (9, 32, 32, 3)
    golden("pipeline_frames", rtol=0, atol=1, frames=frames.astype(np.int16))


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_frames(pipe: MimicMotionPipeline, mode: FusionMode, frames: int) -> None:
    out = _latents(pipe, num_frames=frames, fusion=_fusion(mode), num_inference_steps=1)
    assert out.shape == (1, frames, 4, 4, 4)
    assert torch.isfinite(out).all()


def test_without_reference_pose_there_is_no_slot(pipe: MimicMotionPipeline) -> None:
    bare = _latents(pipe, IMAGE, POSES)
    same = _latents(pipe, fusion=_fusion("progressive", reference_slot=False))
    torch.testing.assert_close(bare, same)
    assert not torch.allclose(bare, _latents(pipe), atol=0.01)


def test_two_passes_equal_one_batch(pipe: MimicMotionPipeline) -> None:
    two = micro_pipeline()
    two.backbone.configure(ExecutionPlan(guidance_in_one_batch=False))
    torch.testing.assert_close(_latents(two), _latents(pipe), rtol=0, atol=2e-4)


def test_guidance_one_skips_the_unconditional_pass(pipe: MimicMotionPipeline) -> None:
    batches: list[int] = []
    hook = pipe.backbone.unet.register_forward_pre_hook(lambda m, args: batches.append(args[0].shape[0]))
    one = _latents(pipe, guidance_scale=1.0)
    calls = len(batches)
    nearly = _latents(pipe, min_guidance_scale=1.0, max_guidance_scale=1.0 + 1e-6)
    hook.remove()
    assert set(batches[:calls]) == {1}
    assert set(batches[calls:]) == {2}
    torch.testing.assert_close(one, nearly, rtol=0, atol=1e-3)


def test_guidance_ramp_changes_the_last_frame_more(pipe: MimicMotionPipeline) -> None:
    # one frame a segment, so that a frame's guidance reaches no other frame
    cfg = FusionConfig(segment_frames=1, overlap_frames=0, reference_slot=False)
    flat, ramp = (
        _latents(pipe, IMAGE, POSES[:4], fusion=cfg, min_guidance_scale=2.0, max_guidance_scale=top)
        for top in (2.0, 4.0)
    )
    torch.testing.assert_close(ramp[:, 0], flat[:, 0], rtol=0, atol=2e-4)
    assert (ramp[:, -1] - flat[:, -1]).abs().max() > 0.1


def test_batch_equals_single_videos(pipe: MimicMotionPipeline) -> None:
    second_image, second_poses = random_frames(5, 32, 32, 3), random_frames(6, 9, 32, 32, 3)
    one = pipe(IMAGE, POSES, REFERENCE, **ONE_STEP).frames
    assert np.array_equal(pipe([IMAGE, second_image], [POSES, second_poses], REFERENCE, **ONE_STEP).frames[0], one)
    several = pipe(IMAGE, [second_poses, POSES], REFERENCE, seed=[1, 42], **ONE_STEP).frames
    assert several.shape == (2, 9, 32, 32, 3)
    assert np.array_equal(several[1], one)
    assert np.array_equal(several[0], pipe(IMAGE, second_poses, REFERENCE, seed=np.int64(1), **ONE_STEP).frames)


def test_encoders_run_once_however_many_segments_and_steps(pipe: MimicMotionPipeline) -> None:
    calls = {"pose": 0, "clip": 0, "vae": 0}

    def count(name: str, amount: Callable[[Any], int]) -> Callable[[Any, Any], None]:
        def hook(module: Any, args: Any) -> None:
            calls[name] += amount(args)

        return hook

    hooks = [
        pipe.backbone.pose_net.register_forward_pre_hook(count("pose", lambda a: a[0].shape[1])),
        pipe.backbone.image_encoder.register_forward_pre_hook(count("clip", lambda a: 1)),
        pipe.backbone.vae.encoder.register_forward_pre_hook(count("vae", lambda a: 1)),
    ]
    _latents(pipe, num_inference_steps=3)
    for hook in hooks:
        hook.remove()
    assert calls == {"pose": 9 + 1, "clip": 1, "vae": 1}


def test_each_step_is_seen_and_can_be_resumed(pipe: MimicMotionPipeline) -> None:
    recipe = pipe.recipe(9, reference_slot=True, num_inference_steps=4)
    noise = pipe.draw_noise(recipe, (32, 32)).latents
    c = pipe.encode(IMAGE, POSES, REFERENCE)
    states = list(pipe.denoise(c, noise, recipe))
    assert [(s.index, s.total) for s in states] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert states[0].latents.shape == states[0].x0.shape == (1, 10, 4, 4, 4)
    torch.testing.assert_close(states[-1].x0, states[-1].latents)
    *_, resumed = pipe.denoise(c, states[1].latents, recipe, start=2)
    assert torch.equal(resumed.latents, states[-1].latents)
    torch.testing.assert_close(recipe.plan.video(states[-1].latents), _latents(pipe, num_inference_steps=4))


def test_callback_sees_every_step(pipe: MimicMotionPipeline) -> None:
    seen = []
    _latents(
        pipe, callback_on_step_end=lambda p, step, sigma, kw: seen.append((step, sigma, kw["latents"].shape)),
        num_inference_steps=2,
    )  # fmt: skip
    assert [(step, shape) for step, _, shape in seen] == [(0, (1, 9, 4, 4, 4)), (1, (1, 9, 4, 4, 4))]
    assert seen[-1][1] == 0


def test_outputs_agree(pipe: MimicMotionPipeline) -> None:
    frames = pipe(Image.fromarray(IMAGE), POSES, REFERENCE, **ONE_STEP).frames
    assert np.array_equal(
        np.stack([np.asarray(f) for f in pipe(IMAGE, POSES, REFERENCE, output_type="pil", **ONE_STEP).frames]), frames
    )
    stream = pipe(IMAGE, list(POSES), REFERENCE, output_type="stream", **ONE_STEP).frames
    assert np.array_equal(np.stack(list(stream)), frames)
    decoded = list(pipe.decode(_latents(pipe, **ONE_STEP)[0]))
    assert np.array_equal(np.stack(decoded), frames)


def test_stream_decodes_as_it_is_read(pipe: MimicMotionPipeline) -> None:
    chunks: list[int] = []
    hook = pipe.backbone.vae.decoder.register_forward_pre_hook(lambda m, args: chunks.append(len(args[0])))
    stream = pipe(IMAGE, POSES, REFERENCE, output_type="stream", decode_chunk_size=2, num_inference_steps=1).frames
    assert chunks == []
    next(stream)
    assert chunks == [2]
    assert len(list(stream)) == 8
    hook.remove()
    assert len(chunks) == 8  # they overlap by one frame


def test_seeds_and_generators(pipe: MimicMotionPipeline) -> None:
    base = _latents(pipe, seed=7, **ONE_STEP)
    assert torch.equal(base, _latents(pipe, seed=7, **ONE_STEP))
    assert not torch.allclose(base, _latents(pipe, seed=8, **ONE_STEP), atol=0.01)
    g = [_latents(pipe, generator=torch.Generator().manual_seed(3), **ONE_STEP) for _ in range(2)]
    assert torch.equal(g[0], g[1])


def test_noise_of_a_frame_does_not_depend_on_length_or_slot(pipe: MimicMotionPipeline) -> None:
    def noise(frames: int, slot: bool) -> torch.Tensor:
        recipe = pipe.recipe(frames, reference_slot=slot)
        return pipe.draw_noise(recipe, (32, 32)).latents[:, int(slot) :]

    assert torch.equal(noise(5, True), noise(50, True)[:, :5])
    assert torch.equal(noise(5, True), noise(5, False))


def test_nothing_global_changes(pipe: MimicMotionPipeline) -> None:
    before = torch.get_rng_state()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    _latents(pipe, num_inference_steps=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_explicit_sigmas(pipe: MimicMotionPipeline) -> None:
    from mimicmotion.diffusion.schedule import karras_sigmas

    assert torch.equal(_latents(pipe, sigmas=karras_sigmas(3).tolist()), _latents(pipe, num_inference_steps=3))
    with pytest.raises(ConfigError, match="one of the two"):
        _latents(pipe, sigmas=[700, 1, 0], num_inference_steps=5)


def test_bfloat16_runs_and_stays_near() -> None:
    pipe = micro_pipeline().to(dtype=torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    out, want = _latents(pipe), _latents(micro_pipeline())
    assert out.dtype == torch.float32
    assert float((out - want).square().mean().sqrt()) < 0.1 * float(want.std())


def test_saved_model_gives_the_same_video(pipe: MimicMotionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    again = MimicMotionPipeline.from_pretrained(tmp_path / "model")
    assert again.backbone.settings["fusion"] == pipe.backbone.settings["fusion"]
    assert {f.suffix for f in again.backbone.files} == {".safetensors"}
    torch.testing.assert_close(_latents(again), _latents(pipe), rtol=0, atol=2e-4)


def test_model_that_compares_poses_needs_the_reference_pose() -> None:
    pipe = micro_pipeline(reference_pose_input=True)
    assert _latents(pipe, num_inference_steps=1).shape == (1, 9, 4, 4, 4)
    with pytest.raises(PoseError, match="which this model needs"):
        pipe(IMAGE, POSES)


BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "size not a multiple": ((IMAGE[:24], POSES[:, :24]), {}, InputError, "height=24"),
    "tiny picture": ((IMAGE[:4, :4], POSES[:, :4, :4]), {}, InputError, "height=4"),
    "picture of another size": ((IMAGE, POSES), {"height": 64, "width": 32}, InputError, "32x32 for a video of 64x32"),
    "poses of another size": ((IMAGE, POSES[:, :16]), {}, PoseError, r"poses\[0\]"),
    "float poses": ((IMAGE, POSES / 255.0), {}, PoseError, "float64"),
    "reference pose of another size": ((IMAGE, POSES, REFERENCE[:16]), {}, PoseError, "reference_pose"),
    "no poses": ((IMAGE, POSES[:0]), {}, PoseError, "num_frames=0"),
    "too many frames": ((IMAGE, POSES), {"num_frames": 10}, PoseError, "num_frames=10 with 9"),
    "no frames": ((IMAGE, POSES), {"num_frames": 0}, PoseError, "num_frames=0"),
    "poses are no sequence": ((IMAGE, iter(POSES)), {}, PoseError, "poses"),
    "float picture": ((IMAGE / 255.0, POSES), {}, InputError, "float64"),
    "path as picture": (("me.png", POSES), {}, InputError, "str"),
    "empty list": (([], POSES), {}, InputError, "lists of lengths"),
    "lists that differ": (([IMAGE] * 3, [POSES] * 2), {}, InputError, "lists of lengths"),
    "batch of lengths": ((IMAGE, [POSES, POSES[:5]]), {}, InputError, "one size and length"),
    "no steps": ((IMAGE, POSES), {"num_inference_steps": 0}, ConfigError, "num_inference_steps=0"),
    "NaN guidance": ((IMAGE, POSES), {"guidance_scale": float("nan")}, ConfigError, "guidance_scale=nan"),
    "negative guidance": ((IMAGE, POSES), {"max_guidance_scale": -1.0}, ConfigError, "max_guidance_scale=-1"),
    "NaN augmentation": ((IMAGE, POSES), {"noise_aug_strength": float("nan")}, ConfigError, "noise_aug_strength"),
    "fps": ((IMAGE, POSES), {"fps": 0}, ConfigError, "fps=0"),
    "chunk": ((IMAGE, POSES), {"decode_chunk_size": 0}, ConfigError, "decode_chunk_size=0"),
    "released without pose": ((IMAGE, POSES), {"fusion": _fusion("released")}, PoseError, "fusion=released"),
    "slot fills the segment": (
        (IMAGE, POSES, REFERENCE),
        {"fusion": _fusion("progressive", segment_frames=1, overlap_frames=0)},
        ConfigError,
        "reference slot",
    ),
    "output type": ((IMAGE, POSES), {"output_type": "mp4"}, ConfigError, "output_type='mp4'"),
    "stream of a batch": (([IMAGE] * 2, POSES), {"output_type": "stream"}, ConfigError, "stream"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_network_runs(pipe: MimicMotionPipeline, name: str) -> None:
    args, kwargs, error, match = BAD[name]
    ran: list[str] = []
    modules = (pipe.backbone.unet, pipe.backbone.vae.encoder, pipe.backbone.image_encoder, pipe.backbone.pose_net)
    hooks = [m.register_forward_pre_hook(lambda m, a: ran.append(type(m).__name__)) for m in modules]
    try:
        with pytest.raises(error, match=match) as caught:
            pipe(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == []
    assert "fix:" in str(caught.value)


def test_a_bad_frame_in_the_middle_is_found_before_denoising(pipe: MimicMotionPipeline) -> None:
    frames: list[ndarray] = [*POSES]
    frames[5] = frames[5][:16]
    ran: list[int] = []
    hook = pipe.backbone.unet.register_forward_pre_hook(lambda m, a: ran.append(1))
    with pytest.raises(PoseError, match="pose frame"):
        pipe(IMAGE, frames, REFERENCE)
    hook.remove()
    assert ran == []


def test_recipe_of_another_length_is_refused(pipe: MimicMotionPipeline) -> None:
    recipe = pipe.recipe(5, reference_slot=True)
    noise = pipe.draw_noise(recipe, (32, 32)).latents
    with pytest.raises(InputError, match="same number of frames"):
        pipe.denoise(pipe.encode(IMAGE, POSES, REFERENCE), noise, recipe)


def test_networks_that_do_not_fit_are_refused(pipe: MimicMotionPipeline) -> None:
    with pytest.raises(ConfigError, match="by 4, but the autoencoder by 8"):
        SVDBackbone(dataclasses.replace(pipe.backbone.parts, pose_net=PoseNet(32, (3, 4, 4))))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("image_encoder", "the image encoder's embedding"),
        ("pose_net", "PoseNet's features"),
        ("unet", "the latents after step 1 of 2"),
        ("vae", "the autoencoder's latents of the picture"),
        ("vae.decoder", "the decoded frames 0 to 2"),
    ],
)
def test_each_network_that_returns_nan_is_named(network: str, says: str) -> None:
    pipe = micro_pipeline()
    module = pipe.backbone
    for name in network.split("."):
        module = getattr(module, name)
    with torch.no_grad():
        for parameter in list(module.parameters())[-2:]:
            parameter.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=says):
        pipe(IMAGE, POSES[:3], REFERENCE, num_inference_steps=2)
