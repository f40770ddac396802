"""The small networks: their start from a PCA, PoseNet's first signal, and that they survive saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fake_shards import FakeShards
from mimicmotion.models.tiny import PatchAutoencoder, build_tiny_posenet, init_with_pca
from mimicmotion.training.autoencoder import patch_basis


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
    # three colours and a slope that never changes: three components tell everything
    back = latents @ (filters / np.square(filters).sum(1, keepdims=True)) + mean.ravel()
    assert np.abs(back - patches).max() < 1e-6
    again = patch_basis(shards, 8, 3, samples=60)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again[1], basis)


def test_autoencoder_starts_as_the_projection_of_patches() -> None:
    shards = smooth_shards()
    mean, basis = (torch.from_numpy(a).float() for a in patch_basis(shards, 8, 6, samples=40))  # type: ignore[arg-type]
    vae = PatchAutoencoder(latent_channels=6).eval()
    init_with_pca(vae, mean, basis)
    pictures = np.stack([r.pictures[0] for r in shards.records])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        got = vae.encode(x).latent_dist.mode()
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8)
    want = torch.einsum("nchwij,kcij->nkhw", patches - mean[None, :, None, None], basis)
    assert got.shape == (8, 6, 8, 4)
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.03)
    with torch.no_grad():
        out = vae.decode(got, num_frames=8).sample
    assert float((out - x).abs().mean()) < 0.1 * float((x - x.mean()).abs().mean())


def test_patch_autoencoder_survives_saving(tmp_path: Path) -> None:
    vae = PatchAutoencoder(
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latent_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
    )
    vae.eval().save_pretrained(tmp_path)
    again = PatchAutoencoder.from_pretrained(tmp_path).eval()
    x = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
        out = vae.decode(z, num_frames=3).sample
        assert z.shape == (3, 4, 4, 6)
        assert out.shape == x.shape
        torch.testing.assert_close(again.decode(again.encode(x).latent_dist.mode(), num_frames=3).sample, out)
        torch.testing.assert_close(again.decode(z, num_frames=3, return_dict=False)[0], out)


def test_posenet_starts_with_a_signal() -> None:
    torch.manual_seed(0)
    net = build_tiny_posenet(64)
    poses = torch.full((1, 2, 6, 64, 32), -1.0)
    poses[0, 1, :, 20:40, 10:14] = 1.0
    with torch.no_grad():
        features = net(poses)
    assert float((features[0, 0] - features[0, 1]).abs().max()) > 0.05
    assert net.widths == (6, 16, 32, 64)
