"""Fixtures of small whole jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicmotion.generate import inputs
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
def bundled_once() -> Iterator[None]:
    """The bundled model is loaded once."""
    with loaded_once(None):
        yield
