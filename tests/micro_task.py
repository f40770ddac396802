"""The video model's training task on micro networks and records in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fake_shards import FakeShards
from micro import copied_parts, micro_pipeline
from mimicmotion.backbones.svd.checkpoint import Components
from mimicmotion.settings import parse
from mimicmotion.settings.training import TrainConfig
from mimicmotion.training import networks
from mimicmotion.training.stages.denoiser import DenoiserTask

SIZE = (48, 32)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with changes."""
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def micro_model(folder: Path) -> Path:
    """Model folder of the micro networks, written once."""
    if not folder.exists():
        micro_pipeline().save_pretrained(folder)
    return folder


def micro_config(folder: Path, **changes: Any) -> TrainConfig:
    """Settings of a run in `folder`; nested changes."""
    base = {
        "run": str(folder / "run"),
        "data": {"workers": 0, "cache_latents": False, "sample": {"num_frames": 4}},
        "model": {"base": str(micro_model(folder / "micro"))},
        "precision": "no",
        "validation": {"clips": 2},
    }
    return parse(TrainConfig, merged(base, changes))


_load, _loaded = networks.load_components, dict[str, Components]()


def _load_once(base: str | Path, checkpoint: str | None = None, **options: Any) -> Components:
    """Reuse a complete model that was loaded before, identified by the checksums of its weights."""
    model = Path(base) / "mimicmotion.json"
    if checkpoint is not None or not model.is_file() or not (model.parent / "pose_net").is_dir():
        return _load(base, checkpoint, **options)
    if (key := model.read_text()) not in _loaded:
        _loaded[key] = _load(base, **options)
    return copied_parts(_loaded[key])


def micro_task(folder: Path, **changes: Any) -> DenoiserTask:
    """A task on random frames."""
    with mock.patch.object(networks, "load_components", _load_once):
        return DenoiserTask(micro_config(folder, **changes), shards=FakeShards(size=SIZE))  # type: ignore[arg-type]


def gradients(task: DenoiserTask, numbers: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of these samples and the gradient of each trained parameter."""
    task.model.zero_grad(set_to_none=True)
    result = task.loss(task.model, task.batch(0, numbers), 0)
    result.loss.backward()
    found = {k: p.grad for k, p in task.parameters().items()}
    assert all(g is not None for g in found.values()), [k for k, g in found.items() if g is None]
    return float(result.loss.detach()), {k: g.clone() for k, g in found.items() if g is not None}


def weights_of(task: DenoiserTask) -> dict[str, torch.Tensor]:
    """Copies of the trained parameters."""
    return {k: p.detach().clone() for k, p in task.parameters().items()}
