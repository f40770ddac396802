"""The autoencoder against diffusers' class, with and without chunks, and its encoder in float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from against_library import assert_same, half_errors, library, save, twins
from mimicmotion.backbones.svd.checkpoint import load_part
from mimicmotion.backbones.svd.vae import Autoencoder, encode_mode
from mimicmotion.errors import ConfigError

SMALL: dict[str, Any] = {
    "block_out_channels": [32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "latent_channels": 4,
    "layers_per_block": 2,
}
FRAMES = 3


def pair(**change: Any) -> tuple[Any, Any]:
    config = SMALL | change
    return twins(library("diffusers", "AutoencoderKLTemporalDecoder")(**config), Autoencoder(config))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGES, LATENTS = normal(3, 3, 16, 24), normal(2 * FRAMES, 4, 4, 6)


def their_moments(vae: Any) -> torch.Tensor:
    found = vae.encode(IMAGES.to(vae.dtype)).latent_dist
    return torch.cat([found.mean, found.logvar])


def our_moments(vae: Autoencoder) -> torch.Tensor:
    return torch.cat(vae.encode(IMAGES.to(vae.quant_conv.weight.dtype)))


@pytest.mark.whole
@pytest.mark.parametrize("layers", [1, 2, 3])  # with 1 the decoder has no attention, with 3 a block that is not run
def test_same_as_diffusers(layers: int) -> None:
    theirs, ours = pair(layers_per_block=layers)
    assert_same(theirs, ours, their_moments, our_moments)
    decode = lambda vae: vae.decode(LATENTS, num_frames=FRAMES).sample  # noqa: E731
    assert_same(theirs, ours, decode, lambda vae: vae.decode(LATENTS, FRAMES))


@pytest.mark.parametrize(
    "frame_chunk", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(2 * FRAMES, marks=pytest.mark.slow)]
)
def test_chunks_change_nothing(frame_chunk: int) -> None:
    theirs, ours = pair()
    decode = lambda vae: vae.decode(LATENTS, num_frames=FRAMES).sample  # noqa: E731
    assert_same(theirs, ours, decode, lambda vae: vae.decode(LATENTS, FRAMES, frame_chunk))


def test_frames_run_in_chunks() -> None:
    _, ours = pair()
    seen: list[int] = []
    for layer in (ours.decoder.conv_in, ours.decoder.up_blocks[0]["upsamplers"][0], ours.decoder.conv_out):
        layer.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad():
        ours.decode(LATENTS, FRAMES, 4)
    assert seen == [4, 2] * 3


@pytest.mark.parametrize(
    ("frame_chunk", "dtype"),
    [
        (None, torch.bfloat16),
        (2, torch.float16),
        pytest.param(None, torch.float16, marks=pytest.mark.slow),
        pytest.param(2, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_error_in_half_precision(dtype: torch.dtype, frame_chunk: int | None) -> None:
    decode = lambda vae: vae.decode(LATENTS.to(vae.dtype), num_frames=FRAMES).sample  # noqa: E731
    ours = lambda vae: vae.decode(LATENTS.to(vae.quant_conv.weight.dtype), FRAMES, frame_chunk)  # noqa: E731
    for run_theirs, run_ours in ((their_moments, our_moments), (decode, ours)):
        theirs_off, ours_off = half_errors(*pair(), run_theirs, run_ours, dtype)
        assert 0 < ours_off < 1.5 * theirs_off


def test_files_open_in_both(tmp_path: Path) -> None:
    theirs, ours = (m.float() for m in pair(scaling_factor=0.3))
    opened = library("diffusers", "AutoencoderKLTemporalDecoder").from_pretrained(save(ours, tmp_path / "ours")).eval()
    assert opened.config.scaling_factor == 0.3
    theirs.save_pretrained(tmp_path / "vae")
    again = load_part(tmp_path, "vae")
    assert again.config.scaling_factor == 0.3
    z = LATENTS.float()
    with torch.no_grad():
        want = opened.decode(z, num_frames=FRAMES).sample
        torch.testing.assert_close(ours.decode(z, FRAMES), want, rtol=0, atol=1e-5 * float(want.abs().max()))
        assert torch.equal(again.decode(z, FRAMES), ours.decode(z, FRAMES))


def test_patches_are_folded_into_channels(tmp_path: Path) -> None:
    config = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "block_out_channels": [32, 64]}
    vae = Autoencoder(config).eval()
    x = IMAGES.float()
    with torch.no_grad():
        z = vae(x)
        out = vae.decode(z, num := len(x))
        assert (z.shape, out.shape, vae.downscale) == ((3, 4, 4, 6), x.shape, 4)
        save(vae, tmp_path / "vae")
        again = load_part(tmp_path, "vae")
        assert torch.equal(again.decode(again(x), num), out)
    assert again.config == vae.config
    assert vae.config["_class_name"] == "Autoencoder", "diffusers' class would not know patch_size"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm_num_groups": 16}, "unknown norm_num_groups"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "down_block_types"),
        ({"in_channels": 4}, "3 \\* patch_size"),
        ({"_class_name": "AutoencoderKL"}, "class AutoencoderKL"),
    ],
)
def test_unsupported_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Autoencoder(SMALL | change)
    assert Autoencoder(SMALL | {"sample_size": 768}).config.sample_size == 768


def test_encode_is_the_mode_and_upcasts_float16_without_touching_the_network() -> None:
    vae = pair()[1].float()
    images = IMAGES.float().clamp(-1, 1)
    with torch.no_grad():
        assert torch.equal(encode_mode(vae, images), vae.encode(images)[0])
        half = pair()[1].half()
        got = encode_mode(half, images)
        assert got.dtype == torch.float32
        assert {p.dtype for p in half.parameters()} == {torch.float16}
        torch.testing.assert_close(got, pair()[1].half().float()(images), rtol=0, atol=1e-6)
        half.config["force_upcast"] = False
        assert float((encode_mode(half, images) - got).abs().max()) > 1e-4
    assert encode_mode(pair()[1].bfloat16(), images).dtype == torch.float32
