"""Our networks against those of diffusers and transformers: outputs, gradients, errors in half precision, files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mimicmotion.backbones.svd.checkpoint import config_of

Run = Callable[[Any], Tensor]


def library(module: str, name: str) -> Any:
    """A class of diffusers or transformers: their import takes seconds, and every process collects all tests."""
    return getattr(importlib.import_module(module), name)


def twins(theirs: nn.Module, ours: nn.Module, seed: int = 0) -> tuple[Any, Any]:
    """Both networks in float64 with the same random weights; names, order and shapes must agree."""
    names = [(k, p.shape) for k, p in theirs.named_parameters()]
    assert names == [(k, p.shape) for k, p in ours.named_parameters()]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            wide = p[0].numel() ** 0.5 if p.ndim > 1 else 5
            p.copy_(noise / wide + float(p.ndim == 1 and name.endswith("weight")))
    ours.load_state_dict(theirs.state_dict())
    return theirs.double().eval(), ours.double().eval()


def assert_same(theirs: nn.Module, ours: nn.Module, run_theirs: Run, run_ours: Run) -> None:
    """Outputs, with and without gradients, and the gradient of every parameter agree to 1e-6."""
    want, got = run_theirs(theirs), run_ours(ours)
    limit = 1e-6 * float(want.detach().abs().max())
    torch.testing.assert_close(got, want, rtol=0, atol=limit)
    with torch.no_grad():  # this path works in place
        torch.testing.assert_close(run_ours(ours), want, rtol=0, atol=limit)
    pull = torch.randn(want.shape, generator=torch.Generator().manual_seed(1), dtype=want.dtype)
    for module, out in ((theirs, want), (ours, got)):
        module.zero_grad()
        (out * pull).sum().backward()
    found = {k: p.grad for k, p in theirs.named_parameters()}
    largest = max(float(g.abs().max()) for g in found.values() if g is not None)
    for name, p in ours.named_parameters():
        grad = found[name]
        assert (p.grad is None) == (grad is None), name
        if grad is not None and p.grad is not None:
            # some are zero up to rounding: the bias of keys, and biases that a norm removes
            limit = 1e-6 * float(grad.abs().max()) + 1e-12 * largest
            assert float((p.grad - grad).abs().max()) <= limit, name


@torch.no_grad()
def half_errors(theirs: nn.Module, ours: nn.Module, run_theirs: Run, run_ours: Run, dtype: torch.dtype) -> list[float]:
    """Root mean squared error of theirs and of ours against float64; both modules end up in `dtype`."""
    exact = run_theirs(theirs)
    pairs = ((theirs.to(dtype), run_theirs), (ours.to(dtype), run_ours))
    return [float((run(module).double() - exact).square().mean().sqrt()) for module, run in pairs]


def save(module: nn.Module, folder: Path, name: str = "diffusion_pytorch_model") -> Path:
    """Write one part like a model folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(module)))
    save_file(module.state_dict(), folder / f"{name}.safetensors", metadata={"format": "pt"})
    return folder
