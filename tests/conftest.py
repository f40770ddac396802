"""Shared fixtures: the hypothesis profile, golden files and the optional folder of shared test material."""

from __future__ import annotations

import functools
import gc
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy import ndarray

settings.register_profile("repo", max_examples=30, deadline=None, derandomize=True, print_blob=False)
settings.register_profile("many", settings.get_profile("repo"), max_examples=300)  # of `make test-slow`
settings.load_profile("repo")

GOLDEN = Path(__file__).parent / "golden"
# the same people in every test process, regardless of the user's cache
os.environ["MIMICMOTION_PEOPLE"] = str(Path(__file__).parent / "data" / "makehuman-small.npz")
# and this checkout's sources and helpers, regardless of what is installed
OWN = (str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent))
os.environ["PYTHONPATH"] = os.pathsep.join((*OWN, *filter(None, [os.environ.get("PYTHONPATH")])))


WRONG_ON_PURPOSE = ("refused", "malformed", "bad_settings", "contradicting", "damaged", "unknown")
"""Words in the names of tests that pass invalid arguments to functions."""


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in processes that a script starts with `&`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.set_threshold(10_000, 10, 10)  # a single network is thousands of objects


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files from this run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip these tests under `make shapes`, where the checker refuses arguments of a wrong type or shape first."""
    if config.getoption("--jaxtyping-packages", None):
        for item in items:
            if any(word in item.name for word in WRONG_ON_PURPOSE):
                item.add_marker(pytest.mark.skip(reason="gives wrong types on purpose"))


@pytest.fixture(scope="module", autouse=True)
def old_objects_are_frozen() -> None:
    """Freeze objects of libraries and earlier modules: with millions of them, a full collection takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Folder of the shared test material, which need not exist."""
    return Path(os.environ.get("MIMICMOTION_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared(shared_folder: Path) -> Callable[[str], Path]:
    """Path of a file of the shared test material; skips the test if it is not available."""

    def find(name: str) -> Path:
        path = shared_folder / name
        if not path.exists():
            pytest.skip(f"{name} is not at hand (set MIMICMOTION_SHARED to the folder that holds it)")
        return path

    return find


@pytest.fixture(scope="session", autouse=True)
def users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder of fetched weights, for reading only. Tests write to a folder of this session instead."""
    from mimicmotion.weights.registry import cache_folder

    users = cache_folder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIMICMOTION_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield users


@pytest.fixture(scope="session", autouse=True)
def pose_networks_are_cached() -> Iterator[None]:
    """Cache the output of the pose networks for each crop, since many tests use the same pictures and videos."""
    from mimicmotion.pose.estimators.holistic.networks import Networks

    run, kept = Networks._run, dict[Any, list[ndarray]]()

    def run_once(self: Networks, name: str, image: ndarray, low: float = 0.0) -> list[ndarray]:
        key = name, low, self._threads, self._device, hashlib.sha256(image.tobytes()).digest()
        if key not in kept:
            kept[key] = run(self, name, image, low)
            if len(kept) > 500:  # a body's take 0.9 MB
                del kept[next(iter(kept))]
        return [out.copy() for out in kept[key]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Networks, "_run", run_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def holes_are_filled_once() -> Iterator[None]:
    """Cache filled backgrounds: each takes half a second, and many tests use the same few pictures."""
    from mimicmotion.pose.guidance import limb_warp
    from mimicmotion.video import background

    fill, kept = background.fill_hole, dict[Any, ndarray]()

    def fill_once(picture: ndarray, hole: ndarray) -> ndarray:
        key = tuple((x.shape, x.dtype.str, hashlib.sha256(x.tobytes()).digest()) for x in (picture, hole))
        if key not in kept:
            kept[key] = fill(picture, hole)
        return kept[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        for module in (background, limb_warp):
            patch.setattr(module, "fill_hole", fill_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def synthetic_people_are_made_once() -> Iterator[None]:
    """People of the same seed wear the same clothes and textures in clips of any size; each takes 0.3 seconds."""
    from mimicmotion.synth import clip
    from mimicmotion.synth.people import FINENESS

    make, kept = clip.make_figure, dict[Any, Any]()

    def make_once(rng: np.random.Generator, assets: Any, long_side: int) -> Any:
        fineness = next(i for i, (most, *_) in enumerate(FINENESS) if long_side <= most)
        key = id(assets), fineness, str(rng.bit_generator.state)
        if key not in kept:
            kept[key] = make(rng, assets, long_side)
            if len(kept) > 40:  # of 6 to 17 MB
                del kept[next(iter(kept))]
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip, "make_figure", make_once)
        yield


@pytest.fixture(scope="module")
def scenes_are_made_once() -> Iterator[None]:
    """Cache synthetic people and places for clips of the same seed and size, since they take most of the time."""
    from mimicmotion.synth import clip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip, "make_scene", functools.cache(clip.make_scene))
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run PyTorch on this many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread, so that sums have the same order on every machine."""
    with threads(1):
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare arrays with tests/golden/NAME.npz; `pytest --update-golden` rewrites the file."""

    def check(name: str, rtol: float = 1e-6, atol: float = 1e-9, **arrays: ndarray) -> None:
        path = GOLDEN / f"{name}.npz"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, **arrays)
        with np.load(path) as want:
            assert set(want.files) == set(arrays), f"{path.name} holds {want.files}, the test made {sorted(arrays)}"
            for key, got in arrays.items():
                hint = f"{key} changed. Meant? Run pytest --update-golden and say why in changelog/"
                np.testing.assert_allclose(got, want[key], rtol=rtol, atol=atol, err_msg=hint)

    return check
