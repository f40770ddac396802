"""LPIPS with weights of our own making: invariants, the trunk against its definition, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mimicmotion.errors import InputError, WeightsError
from mimicmotion.evaluation.metrics.pixels import lpips
from mimicmotion.evaluation.networks.features import load_lpips
from mimicmotion.evaluation.networks.lpips import MIN_SIZE, Lpips


@pytest.fixture(scope="module", params=["alex", "vgg"])
def network(request: pytest.FixtureRequest) -> Lpips:
    """A network with seeded weights of a sensible size."""
    with torch.device("meta"):
        net = Lpips(request.param)
    rng = np.random.default_rng(0)

    def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.startswith("heads"):
            return rng.uniform(0, 1, shape)
        if len(shape) == 1:
            return np.zeros(shape)
        # scaled by fan-in, so that activations neither die nor explode
        return rng.standard_normal(shape, np.float32) * (2 / np.prod(shape[1:])) ** 0.5

    state = {k: torch.from_numpy(values(k, tuple(v.shape))).float() for k, v in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(requires_grad=False)


def pictures(n: int, size: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size + 5, 3)).astype(np.uint8)


def test_equal_frames_are_at_0_and_others_above(network: Lpips) -> None:
    size = MIN_SIZE[network.net]
    a, b = pictures(3, size), pictures(3, size, seed=1)
    b[1] = a[1]
    got = lpips(a, b, network=network)
    assert got.shape == (3,)
    assert got.dtype == np.float64
    assert got[1] == 0
    assert got[[0, 2]].min() > 0.01
    np.testing.assert_allclose(lpips(b / 255, a, network=network, batch_size=2), got, rtol=1e-4)


def test_more_noise_is_farther(network: Lpips) -> None:
    size = MIN_SIZE[network.net]
    a = np.full((3, size, size, 3), 0.5)
    noise = np.random.default_rng(0).uniform(-0.4, 0.4, a.shape[1:])
    got = lpips(np.stack([a[i] + noise * s for i, s in enumerate((0.05, 0.3, 1))]), a, network=network)
    assert (np.diff(got) > 0).all()


def test_keeps_its_numbers(network: Lpips, golden: Callable[..., None]) -> None:
    size = MIN_SIZE[network.net] + 3
    got = lpips(pictures(2, size), pictures(2, size, seed=1), network=network)
    golden(f"lpips_{network.net}", rtol=1e-4, distance=got)


def test_the_trunks_have_the_published_taps() -> None:
    x = torch.empty(1, 3, 64, 64, device="meta")
    with torch.device("meta"):
        alex, vgg = Lpips("alex"), Lpips("vgg")
    sizes = {"alex": [15, 7, 3, 3, 3], "vgg": [64, 32, 16, 8, 4]}
    for net, channels in ((alex, [64, 192, 384, 256, 256]), (vgg, [64, 128, 256, 512, 512])):
        shapes = [tuple(f.shape[1:3]) for f in net.activations(x)]
        assert shapes == list(zip(channels, sizes[net.net], strict=True))


def test_bad_input(network: Lpips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="pixels a side"):
        lpips(pictures(1, 12), pictures(1, 12), network=network)
    with pytest.raises(InputError, match="2 output and 1 target"):
        lpips(pictures(2), pictures(1), network=network)
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="mimicmotion weights fetch lpips-vgg"):
        load_lpips("vgg")


def test_a_smaller_picture_than_the_smallest_would_not_work(network: Lpips) -> None:
    size = MIN_SIZE[network.net]
    with pytest.raises(RuntimeError):
        network(*torch.zeros(2, 1, 3, size - 1, size))
