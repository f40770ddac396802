from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mimicmotion.models.image_encoder import CLIP_MEAN, CLIP_STD, clip_pixels, image_embedding, resize_antialiased


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
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=12,
    )  # fmt: skip
    encoder = CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for i, p in enumerate(encoder.parameters()):  # the same on every version and machine
            p.copy_(torch.linspace(-1, 1, p.numel()).mul(7 + i).sin().reshape(p.shape) * 0.3)
    y, x = np.mgrid[0:60, 0:40].astype(np.float32)
    picture = torch.from_numpy(np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)]))[None]
    out = image_embedding(encoder, picture)
    assert out.shape == (1, 1, 12)
    golden("image_embedding", atol=1e-5, rtol=1e-4, embedding=out.numpy())
    assert image_embedding(encoder.bfloat16(), picture).dtype == torch.float32
