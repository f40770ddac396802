"""The small networks: their start from a PCA, and PoseNet's first signal."""

from __future__ import annotations

import numpy as np
import torch

from fake_shards import FakeShards
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.backbones.tiny.build import autoencoder_config, build_tiny_posenet, init_with_pca
from mimicmotion.training.stages.autoencoder import patch_basis


def smooth_shards(count: int = 8, size: tuple[int, int] = (64, 32)) -> FakeShards:
    """Frames of blocks of 8x8 pixels in one colour each, brighter downwards."""
    shards = FakeShards(lengths=(3,) * count, size=size)
    rng = np.random.default_rng(0)
    for record in shards.records:
        coarse = rng.integers(0, 200, (3, size[0] // 8, size[1] // 8, 3), np.uint8)
        slope = np.arange(size[0], dtype=np.uint8) % 8 * 6
        record.pictures = coarse.repeat(8, 1).repeat(8, 2) + slope[:, None, None]
    return shards


def test_basis_is_the_projection_of_patches() -> None:
    shards = smooth_shards()
    mean, basis = patch_basis(shards, 8, 3, samples=60)  # type: ignore[arg-type]
    filters = basis.reshape(3, -1)
    gram = filters @ filters.T
    assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * gram.max())
    frames = np.concatenate([r.pictures for r in shards.records]).astype(np.float64) / 127.5 - 1
    patches = frames.reshape(-1, 8, 8, 4, 8, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 192)
    latents = (patches - mean.ravel()) @ filters.T
    assert 0.8 < latents.std() < 1.2
    # three colours and a constant slope, so three components explain everything
    back = latents @ (filters / np.square(filters).sum(1, keepdims=True)) + mean.ravel()
    assert np.abs(back - patches).max() < 1e-6
    again = patch_basis(shards, 8, 3, samples=60)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again[1], basis)


def test_autoencoder_starts_as_the_projection_of_patches() -> None:
    shards = smooth_shards()
    mean, basis = (torch.from_numpy(a).float() for a in patch_basis(shards, 8, 6, samples=40))  # type: ignore[arg-type]
    vae = Autoencoder(autoencoder_config(latent_channels=6)).eval()
    init_with_pca(vae, mean, basis)
    pictures = np.stack([r.pictures[0] for r in shards.records])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        got = vae(x)
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8)
    want = torch.einsum("nchwij,kcij->nkhw", patches - mean[None, :, None, None], basis)
    assert got.shape == (8, 6, 8, 4)
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.03)
    with torch.no_grad():
        out = vae.decode(got, 8)
    assert float((out - x).abs().mean()) < 0.1 * float((x - x.mean()).abs().mean())


def test_posenet_starts_with_a_signal() -> None:
    torch.manual_seed(0)
    net = build_tiny_posenet(64)
    poses = torch.full((1, 2, 6, 64, 32), -1.0)
    poses[0, 1, :, 20:40, 10:14] = 1.0
    with torch.no_grad():
        features = net(poses)
    assert float((features[0, 0] - features[0, 1]).abs().max()) > 0.05
    assert net.widths == (6, 16, 32, 64)
