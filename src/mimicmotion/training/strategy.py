"""Weights and optimiser state as whole tensors, however Accelerate has spread them over processes.

One process and DDP hold them whole. FSDP2 shards them (DTensor): they are gathered on saving and cut again on
loading, so a checkpoint may be resumed by another number of processes. FSDP1 is refused: it flattens parameters.
DeepSpeed owns its optimiser: the engine writes its own files, which need the same number of processes.

Tests run one process, DDP and FSDP2's shards in two CPU processes. Not run by any test, for want of machines: NCCL,
Accelerate's own wrapping of FSDP2 (it does so on GPUs only), DeepSpeed, 8-bit AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mimicmotion.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator

ENGINE = "engine"
"""Folder of DeepSpeed's own files inside of a checkpoint's state."""


class Strategy:
    """What differs between one process, DDP, FSDP2 and DeepSpeed.

    Args:
        accelerator: that wraps.
        model: with the trained parameters; all others take no gradient.
        optimizer: of the trained parameters.
        names: the trained parameters' names to their names inside of `model`.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, names: Mapping[str, str]
    ) -> None:
        kind = accelerator.distributed_type.value
        self.accelerator, self.names = accelerator, dict(names)
        self.deepspeed = kind == "DEEPSPEED"
        if kind == "FSDP" and not accelerator.is_fsdp2:
            raise ConfigError("FSDP version 1", "FSDP2 (fsdp_version: 2)", "change it with 'accelerate config'")
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.inner: nn.Module = accelerator.unwrap_model(self.model)

    @property
    def sharded(self) -> bool:
        """Whether parameters are pieces (FSDP2)."""
        from torch.distributed.tensor import DTensor

        return any(isinstance(p, DTensor) for p in self.inner.parameters())

    def params(self) -> dict[str, Tensor]:
        """The trained parameters as they are held here: sharding replaces them."""
        held = dict(self.inner.named_parameters())
        return {name: held[inside] for name, inside in self.names.items()}

    def whole(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole float32 CPU tensors of parameters or averages on the main process, nothing on the others.

        All processes must call it.
        """
        out = {}
        for name, value in values.items():
            if self.deepspeed:
                from deepspeed.utils import safe_get_full_fp32_param  # pyrefly: ignore

                value = safe_get_full_fp32_param(value)  # noqa: PLW2901
            full = value.full_tensor() if hasattr(value, "full_tensor") else value
            if self.accelerator.is_main_process:  # cloned: on a CPU the next step would change it under the writer
                out[name] = full.detach().to("cpu", torch.float32, copy=True)
        return out

    @torch.no_grad()
    def fill(self, held: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
        """Write whole tensors into the parameters or averages that are held here."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        for name, value in held.items():
            source = whole[name].to(value.device, value.dtype)
            if isinstance(value, DTensor):
                source = distribute_tensor(source, value.device_mesh, value.placements)
            value.copy_(source)

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """The trained parameters' names to their moments as whole tensors; empty under DeepSpeed.

        Of shards the main process alone gets them. They look alike for all strategies, so that a run may change from
        one to another. All processes must call it.
        """
        if self.deepspeed:
            return {}
        if not self.sharded:
            state = self.optimizer.state_dict()["state"]
            return {name: state[i] for i, name in enumerate(self.names) if i in state}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole: Any = get_optimizer_state_dict(self.model, self._plain_optimizer(), options=options)
        state = whole.get("state", {})  # the main process alone gets it
        return {name: state[inside] for name, inside in self.names.items() if inside in state}

    def load_optimizer_state(self, moments: Mapping[str, dict[str, Any]]) -> None:
        """Take over what `optimizer_state` gave, of any strategy and number of processes."""
        if self.deepspeed:
            return
        if not self.sharded:
            state = {i: moments[name] for i, name in enumerate(self.names) if name in moments}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            return
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        plain = self._plain_optimizer()
        # one group, as `build_optimizer` makes it
        group = {k: v for k, v in plain.param_groups[0].items() if k != "params"}
        whole: Any = {
            "state": {self.names[name]: state for name, state in moments.items()},
            "param_groups": [{**group, "params": list(self.names.values())}],
        }
        set_optimizer_state_dict(self.model, plain, whole, options=StateDictOptions(full_state_dict=True))

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def save_engine(self, folder: Path) -> None:
        """DeepSpeed: write the engine's state. All processes must call it."""
        self.accelerator.save_state(str(folder / ENGINE))

    def load_engine(self, folder: Path) -> None:
        """DeepSpeed: read the engine's state. All processes must call it."""
        if not (folder / ENGINE).is_dir():
            raise ConfigError(f"{folder} was not written by DeepSpeed", "a checkpoint of the same strategy", "use it")
        self.accelerator.load_state(str(folder / ENGINE))


def build_optimizer(kind: str, params: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    """AdamW of one of the kinds of `OptimConfig.optimizer`.

    Raises:
        ConfigError: the 8-bit kind without its package or without a GPU.
    """
    if kind != "adamw-8bit":
        return torch.optim.AdamW(params, fused=kind == "adamw-fused", **options)
    if not torch.cuda.is_available():
        raise ConfigError("optim.optimizer=adamw-8bit without a GPU", "a CUDA GPU", "use adamw-fused")
    try:
        from bitsandbytes.optim import AdamW8bit  # pyrefly: ignore
    except ImportError as e:
        raise ConfigError(
            "optim.optimizer=adamw-8bit", "the package bitsandbytes", "pip install bitsandbytes, or use adamw-fused"
        ) from e
    return AdamW8bit(params, **options)
