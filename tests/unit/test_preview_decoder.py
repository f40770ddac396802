"""Tiny autoencoders for previews: the real one, a random one, and wrong files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from against_library import assert_same, half_errors, twins
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.svd.preview import WEIGHTS, TinyDecoder, load_preview_decoder
from mimicmotion.diffusion.noise import frame_noise
from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.evaluation.metrics.pixels import psnr
from mimicmotion.synth import render_clip

SVD = {"latent_channels": 4, "downscale": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny-autoencoder")
    widths = {f"{side}_block_out_channels": (8, 8, 8, 8) for side in ("encoder", "decoder")}
    AutoencoderTiny(**widths, num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1)).save_pretrained(path)
    return path


OTHER: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 2),
    "act_fn": "silu",
    "upsample_fn": "bilinear",
    "upsampling_scaling_factor": 3,
}


def pair(config: dict[str, Any]) -> tuple[Any, Any]:
    theirs = AutoencoderTiny(**config)
    return twins(theirs.decoder, TinyDecoder(theirs.config))


@pytest.mark.parametrize("config", [{}, OTHER], ids=["usual", "other"])
def test_same_as_diffusers(config: dict[str, Any]) -> None:
    z = frame_noise(0, range(2), (4, 4, 6)).double()
    assert_same(*pair(config), lambda d: d(z), lambda d: d(z))
    for dtype in (torch.float16, torch.bfloat16):
        theirs, ours = half_errors(*pair(config), *[lambda d: d(z.to(next(d.parameters()).dtype))] * 2, dtype)
        assert 0 < ours < 1.5 * theirs


def test_decodes_each_frame_by_itself(folder: Path) -> None:
    decode = load_preview_decoder(folder, **SVD)
    latents = frame_noise(0, range(3), (4, 4, 6))
    frames = decode(latents)
    assert frames.shape == (3, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames[1], decode(latents[1:2])[0])
    again = load_preview_decoder(folder / WEIGHTS, **SVD)  # the file itself, with the config beside it
    assert np.array_equal(again(latents), frames)


def test_the_real_one_shows_the_picture(shared: Callable[[str], Path]) -> None:
    path = shared("models/taesd")
    decode = load_preview_decoder(path, **SVD)
    frame = render_clip(3, 1, (256, 192)).truth.clean
    theirs = AutoencoderTiny.from_pretrained(path)
    with torch.inference_mode():
        latents = theirs.encode(to_unit(frame)).latents
        want = theirs.decode(latents).sample
        torch.testing.assert_close(decode.__self__(latents), want, rtol=0, atol=1e-5)
    assert psnr(decode(latents), frame) > 22
    assert psnr(decode(latents / 0.18215), frame) < 20  # it wants latents as they are denoised, not the VAE's own


def test_a_single_file_has_the_usual_settings(shared: Callable[[str], Path], tmp_path: Path) -> None:
    alone = tmp_path / "taesd.safetensors"
    shutil.copy(shared("models/taesd") / WEIGHTS, alone)
    latents = frame_noise(0, [0], (4, 8, 8))
    whole = load_preview_decoder(shared("models/taesd"), **SVD)
    assert np.array_equal(load_preview_decoder(alone, **SVD)(latents), whole(latents))


def test_other_latents_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="16 channels, 8 pixels"):
        load_preview_decoder(folder, latent_channels=16, downscale=8)


def damage(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if kind == "no weights":
        (folder / WEIGHTS).unlink()
    elif kind == "torn weights":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    elif kind == "no JSON":
        (folder / "config.json").write_text("{")
    else:
        change: dict[str, Any] = {
            "another class": {"_class_name": "AutoencoderKL"},
            "other widths": {"decoder_block_out_channels": [16, 16, 16, 16]},
            "nonsense": {"num_decoder_blocks": 5},
            "unknown": {"conv_kernel": 5},
        }[kind]
        (folder / "config.json").write_text(json.dumps(config | change))


KINDS = ("no weights", "torn weights", "no JSON", "another class", "other widths", "nonsense", "unknown")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_files(folder: Path, tmp_path: Path, kind: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy, kind)
    with pytest.raises(WeightsError, match="preview_decoder"):
        load_preview_decoder(copy, **SVD)
