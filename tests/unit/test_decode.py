"""Decoding a stream: chunks, blending, bytes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.backbones.svd.decode import blend_weight, decode_float, plan_chunks, to_uint8
from mimicmotion.backbones.svd.vae import Autoencoder
from mimicmotion.errors import ConfigError


def make_vae(seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    vae = Autoencoder({"block_out_channels": [32, 32], "scaling_factor": 0.5})
    with torch.no_grad():  # fresh mixing factors hide most of the temporal layers
        for name, p in vae.named_parameters():
            if name.endswith("mix_factor"):
                p.fill_(-2.0)
    return vae.eval()


@pytest.fixture(scope="module")
def vae() -> Autoencoder:
    return make_vae()


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    walk = torch.randn(21, 4, 4, 4, generator=g).cumsum(0)  # neighbours alike, ends far apart, as in a video
    return walk / walk.std()


@given(st.integers(0, 200), st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_chunks_cover_with_enough_overlap(num_frames: int, sizes: tuple[int, int]) -> None:
    chunk, overlap = sizes
    chunks = plan_chunks(num_frames, chunk, overlap)
    assert sorted({f for c in chunks for f in c}) == list(range(num_frames))
    assert all(len(c) == min(chunk, num_frames) for c in chunks)
    for a, b in pairwise(chunks):
        assert a.stop - b.start >= overlap
        assert b.start > a.start


def test_blend_weights_are_a_rising_partition() -> None:
    for n in (1, 2, 5):
        w = [blend_weight(j, n) for j in range(1, n + 1)]
        assert w == sorted(w)
        np.testing.assert_allclose(np.array(w) + np.array(w[::-1]), 1)


def test_one_chunk_is_exact(vae, latents) -> None:
    with torch.inference_mode():
        want = vae.decode(latents / 0.5, 21)
    for released in (False, True):
        assert torch.equal(torch.stack(list(decode_float(vae, latents, 21, released=released))), want)
    assert list(decode_float(vae, latents[:0])) == []
    assert len(list(decode_float(vae, latents[:1]))) == 1


def test_blend_is_nearer_to_the_whole_decode_at_the_seams(vae, latents) -> None:
    whole = torch.stack(list(decode_float(vae, latents, 21)))
    error = {}
    for released in (False, True):
        frames = torch.stack(list(decode_float(vae, latents, 8, released=released)))
        steps = (frames.diff(dim=0) - whole.diff(dim=0)).square().mean((1, 2, 3)).sqrt()
        error[released] = max(steps[7], steps[15])
    assert error[False] < 0.5 * error[True]


def test_frames_come_one_by_one_and_latents_are_read_as_needed(vae, latents, monkeypatch) -> None:
    seen: list[int] = []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, frames, chunk: seen.append(frames) or decode(z, frames, chunk))
    stream = map(to_uint8, decode_float(vae, latents, 4))
    assert seen == []
    frame = next(stream)
    assert seen == [4]
    assert frame.shape == (8, 8, 3)
    assert frame.dtype == np.uint8
    assert 1 + len(list(stream)) == 21
    assert max(seen) == 4


def test_uint8_rounds_clamps_or_truncates() -> None:
    values = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0, 9.0]).repeat(3, 1)[:, None]
    assert to_uint8(values)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    assert to_uint8(values, truncate=True)[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_no_chunk_is_refused(vae, latents) -> None:
    with pytest.raises(ConfigError, match="decode_chunk_size=0"):
        decode_float(vae, latents, 0)  # before the first frame is asked for
