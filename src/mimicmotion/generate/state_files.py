"""The files of a job's state: picture and poses as .npz, the sampler's tensors as safetensors."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimicmotion.generate.inputs import Inputs
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.video.geometry import Fit

if TYPE_CHECKING:
    from torch import Tensor

POSES = ("reference", "driving", "aligned")


class DamagedError(Exception):
    """A file of a state cannot be read."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedStep:
    """The sampler after a step, on the CPU.

    Attributes:
        done: steps done.
        total: steps of the schedule.
        sigma: noise level that is in the latents.
        latents: all rows of the plan, the reference slot in front.
        memory: what the sampler remembers beside them, by name.
    """

    done: int
    total: int
    sigma: float
    latents: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)


def dump_inputs(inputs: Inputs, path: Path) -> None:
    """Write picture, transform, poses and warnings as .npz, without a copy of the arrays."""
    arrays: dict[str, Any] = {"picture": inputs.picture}
    facts: dict[str, Any] = {"fit": dataclasses.asdict(inputs.fit), "warnings": inputs.warnings}
    for name in POSES:
        poses: PoseSequence = getattr(inputs, name)
        arrays |= {f"{name}.xy": poses.xy, f"{name}.confidence": poses.confidence}
        facts[name] = {"size": poses.size, "fps": poses.fps, "source": poses.source}
    with path.open("wb") as file:  # numpy would add a suffix to a name
        np.savez(file, allow_pickle=False, facts=json.dumps(facts), **arrays)


def load_inputs(path: Path) -> Inputs:
    """Read what `dump_inputs` wrote.

    Raises:
        DamagedError: it is not.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            facts = _tuples(json.loads(str(data["facts"])))
            poses = {n: PoseSequence(data[f"{n}.xy"], data[f"{n}.confidence"], **facts[n]) for n in POSES}
            return Inputs(picture=data["picture"], fit=Fit(**facts["fit"]), warnings=list(facts["warnings"]), **poses)
    except Exception as e:  # zipfile, numpy and json raise many kinds
        raise DamagedError(f"{path.name}: {e}") from e


def _tuples(data: Any) -> Any:
    """What JSON has made lists of."""
    if isinstance(data, dict):
        return {k: _tuples(v) for k, v in data.items()}
    return tuple(_tuples(v) for v in data) if isinstance(data, list) else data


def dump_step(step: SavedStep, path: Path) -> None:
    """Write the sampler's state as safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {"latents": step.latents, **{f"memory.{k}": v for k, v in step.memory.items()}}
    numbers = {"done": str(step.done), "total": str(step.total), "sigma": repr(step.sigma)}
    try:
        save_file({k: _alone(v) for k, v in tensors.items()}, path, metadata=numbers)
    except SafetensorError as e:  # its writer raises no OSError
        raise OSError(errno.EIO, str(e), str(path)) from e


def _alone(tensor: Tensor) -> Tensor:
    """On the CPU, in memory of its own, as safetensors wants it."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def load_step(path: Path) -> SavedStep:
    """Read what `dump_step` wrote.

    Raises:
        DamagedError: it is not.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            numbers = file.metadata()
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
        memory = {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")}
        done, total = int(numbers["done"]), int(numbers["total"])
        return SavedStep(done, total, float(numbers["sigma"]), tensors["latents"], memory)
    except Exception as e:  # safetensors raises several kinds
        raise DamagedError(f"{path.name}: {e}") from e


def write_new(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a name of its own and wait until it is on the disk; nothing stays on an error."""
    new = path.with_name(f"{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(new)
        with new.open("rb") as file:
            os.fsync(file.fileno())  # a name must not outlive a power cut with half of the contents
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    return new


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
