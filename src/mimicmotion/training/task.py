"""Interface of a training task, which supplies the network, data and loss; the trainer does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a batch.

    Attributes:
        loss: mean over the samples of the batch, float32, with its autograd graph.
        log: numbers for the log, each averaged over the batches that report it.
        samples: a name per sample, for messages.
        each: loss per sample, detached; if given, errors name only samples with a non-finite loss.
    """

    loss: Float[Tensor, ""]
    log: dict[str, float] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    each: Float[Tensor, " batch"] | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """Result of a validation.

    Attributes:
        scores: name to number.
        pictures: name to RGB picture, 0..255.
        best: name of the score that selects the best weights.
        higher_is_better: whether higher values of that score are better.
    """

    scores: dict[str, float]
    pictures: dict[str, UInt8[ndarray, "height width 3"]] = field(default_factory=dict)
    best: str = "loss"
    higher_is_better: bool = False


class Task(Protocol):
    """A network with its data and loss. Subclass it to inherit the defaults of optional methods.

    Attributes:
        model: wrapped by Accelerate; training calls it only through the wrapped `model(...)`. The trainer freezes
            everything except `parameters`.
        identity: plain data (JSON) that must not change when a run is resumed: data digest, networks.
    """

    model: nn.Module
    identity: dict[str, Any]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters, which are part of `model`, by name and in a fixed order.

        Each must receive a gradient in every step.
        """
        ...

    def batch(self, step: int, numbers: Sequence[int]) -> Any:
        """Return the samples with these global numbers. Data loader workers call this; it must be a pure function.

        The result is a tensor, a dict, list or tuple of tensors, or an object with a method `to(device)`.
        """
        ...

    def loss(self, model: nn.Module, batch: Any, step: int) -> StepResult:
        """Compute the loss of a batch.

        Random numbers must be derived from (seed, sample number) alone, so that the result depends neither on the
        number of processes nor on how a batch is split.
        """
        ...

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> Path:
        """Write the model for inference to `folder`, and return its path.

        Args:
            folder: does not exist yet.
            weights: averaged value of each parameter (float32), named as in `parameters`.
        """
        ...

    def validate(self, step: int, weights: Mapping[str, Tensor]) -> Validation:
        """Evaluate averaged weights on held-out data, without changing `model`."""
        ...

    def place(self, device: torch.device) -> None:
        """Move everything that is not part of `model` (frozen encoders, constants) to the device."""
        del device  # nothing to move by default

    def compile(self) -> None:
        """Compile `model` in place; called before it is wrapped, if enabled in the settings."""
        self.model.compile(dynamic=False)
