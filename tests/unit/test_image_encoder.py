"""CLIP's vision tower against transformers' class, and its preprocessing against diffusers' pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from against_library import assert_same, half_errors, library, save, twins
from mimicmotion.backbones.svd.checkpoint import load_part
from mimicmotion.backbones.svd.image_encoder import (
    CLIP_MEAN,
    CLIP_STD,
    ImageEncoder,
    clip_pixels,
    image_embedding,
    resize_antialiased,
)
from mimicmotion.errors import ConfigError

SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 12,
    "layer_norm_eps": 1e-3,
}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pair(**change: Any) -> tuple[Any, Any]:
    config = SMALL | change
    return twins(
        library("transformers", "CLIPVisionModelWithProjection")(library("transformers", "CLIPVisionConfig")(**config)),
        ImageEncoder(config),
    )


def embed_theirs(encoder: Any) -> torch.Tensor:
    return encoder(PIXELS.to(encoder.dtype)).image_embeds


def embed_ours(encoder: ImageEncoder) -> torch.Tensor:
    return encoder(PIXELS.to(encoder.visual_projection.weight.dtype))


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_same_as_transformers(act: str) -> None:
    assert_same(*pair(hidden_act=act), embed_theirs, embed_ours)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_error_in_half_precision(dtype: torch.dtype) -> None:
    theirs, ours = half_errors(*pair(), embed_theirs, embed_ours, dtype)
    assert 0 < ours < 1.5 * theirs


def test_files_open_in_both(tmp_path: Path) -> None:
    theirs, ours = (m.float() for m in pair(hidden_act="gelu"))
    opened = (
        library("transformers", "CLIPVisionModelWithProjection")
        .from_pretrained(save(ours, tmp_path / "ours", "model"))
        .eval()
    )
    theirs.save_pretrained(tmp_path / "image_encoder")
    again: Any = load_part(tmp_path, "image_encoder")
    with torch.no_grad():
        torch.testing.assert_close(embed_theirs(opened), embed_ours(ours), rtol=0, atol=1e-5)
        assert torch.equal(embed_ours(again), embed_ours(ours))


def test_new_weights_are_as_wide_as_theirs() -> None:
    torch.manual_seed(0)
    config = SMALL | {"hidden_size": 96, "initializer_factor": 2.0}  # of 96 numbers: 0.3 is three standard errors
    theirs, ours = (
        library("transformers", "CLIPVisionModelWithProjection")(library("transformers", "CLIPVisionConfig")(**config)),
        ImageEncoder(config),
    )
    found = ours.state_dict()
    for name, want in theirs.state_dict().items():
        assert float(found[name].std()) == pytest.approx(float(want.std()), rel=0.3), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act"),
        ({"num_attention_heads": 5}, "heads"),
        ({"vision_config": {}}, "unknown vision_config"),
        ({"model_type": "siglip_vision_model"}, "model_type"),
    ],
)
def test_unsupported_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ImageEncoder(SMALL | change)


def test_all_that_transformers_writes_is_known() -> None:
    written = library("transformers", "CLIPVisionConfig")(**SMALL).to_dict() | {
        "torch_dtype": "float16",
        "dropout": 0.0,
    }
    assert ImageEncoder(written).config.projection_dim == 12


@pytest.mark.parametrize("size", [(128, 64), (150, 300), (56, 56), (57, 60), (300, 100)])
def test_resize_equals_diffusers(size: tuple[int, int]) -> None:
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(
        resize_antialiased(x, (56, 56)), _resize_with_antialiasing(x, (56, 56)), rtol=0, atol=1e-6
    )


def test_constant_pictures_and_tiny_pictures() -> None:
    for size in ((4, 4), (1, 1), (2, 900), (700, 500)):
        out = clip_pixels(torch.full((1, 3, *size), 0.5), 32)
        want = (0.75 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
        torch.testing.assert_close(out, want.view(1, 3, 1, 1).expand(1, 3, 32, 32), rtol=0, atol=1e-4)


def test_embedding(golden) -> None:
    config = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 16, "projection_dim": 12,
    }  # fmt: skip
    encoder = ImageEncoder(config).eval()
    with torch.no_grad():
        for i, p in enumerate(encoder.parameters()):  # the same on every version and machine
            p.copy_(torch.linspace(-1, 1, p.numel()).mul(7 + i).sin().reshape(p.shape) * 0.3)
    y, x = np.mgrid[0:60, 0:40].astype(np.float32)
    picture = torch.from_numpy(np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)]))[None]
    out = image_embedding(encoder, picture)
    assert out.shape == (1, 1, 12)
    golden("image_embedding", atol=1e-5, rtol=1e-4, embedding=out.numpy())
    assert image_embedding(encoder.bfloat16(), picture).dtype == torch.float32
