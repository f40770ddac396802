"""Fixtures of small whole jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from micro import micro_pipeline
from mimicmotion.generate import inputs
from mimicmotion.pipeline import pipeline
from mimicmotion.settings import GenerateConfig
from planted_job import FRAMES, dancing, loaded_once, make_job, planted, save_micro_model, standing


@pytest.fixture(scope="module")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A saved model with random weights, which the jobs of a module load once."""
    folder = save_micro_model(tmp_path_factory.mktemp("model") / "micro")
    with loaded_once(folder):
        yield folder


@pytest.fixture
def job(tmp_path: Path, micro_folder: Path, monkeypatch: pytest.MonkeyPatch) -> GenerateConfig:
    """A small job with planted poses."""
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inputs, "find_estimator", planted(standing(1), dancing(FRAMES)))
    return make_job(tmp_path, micro_folder)


@pytest.fixture(scope="module")
def small_bundled(tmp_path_factory: pytest.TempPathFactory, bundled_once: None) -> Iterator[None]:
    """Replaces the bundled model, which other tests run, with one of few channels for frames of 112x64."""
    pipe = micro_pipeline(warp="residual")
    pipe.backbone.settings |= {"height": 112, "width": 64}
    folder = tmp_path_factory.mktemp("bundled") / "small"
    pipe.save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "find_asset", lambda _: folder)
        yield


@pytest.fixture(scope="module")
def bundled_once() -> Iterator[None]:
    """The bundled model is loaded once."""
    with loaded_once(None):
        yield
