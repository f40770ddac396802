"""The state of a generate job beside its output, from which a killed run goes on.

OUTPUT.state/ holds `state.json` and the two files that it names: `inputs-*.npz` (fitted picture, found and aligned
poses) and `step-*.safetensors` (latents and what the sampler remembers). Files are complete and on disk before
`state.json`, which is replaced in one go, names them, and have new names each time: whenever the process dies, the
state is the one before or the one after, never a mix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimicmotion.errors import ConfigError, MimicMotionError, OutputError
from mimicmotion.generate.inputs import Inputs
from mimicmotion.generate.outputs import state_path
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import sha256_file, writing
from mimicmotion.runtime.run_folder import FolderLock, durable_file, sync
from mimicmotion.video.geometry import Fit

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT, VERSION = "mimicmotion.state", 1
STATE_FILE, LOCK_FILE = "state.json", "lock"
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
        latents: all frames of the plan, the reference slot in front.
        memory: what the sampler remembers beside them, by name.
    """

    done: int
    total: int
    sigma: float
    latents: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What an interrupted run left.

    Attributes:
        origin: settings, checksums and versions, see `mimicmotion.generate.provenance`.
        inputs: fitted picture and poses.
        step: None where denoising had not come to its first save.
        facts: what the run says about itself (seconds, peak memory, when it was resumed), for the sidecar.
    """

    origin: dict[str, Any]
    inputs: Inputs
    step: SavedStep | None
    facts: dict[str, Any]


class RunState:
    """The state folder of one output. Nothing is written before the first save.

    Args:
        output: the result that the state belongs to.
        enabled: False saves nothing (an earlier state is still read and removed).
    """

    def __init__(self, output: Path, *, enabled: bool = True) -> None:
        self.folder, self.enabled = state_path(output), enabled
        self.origin: dict[str, Any] = {}
        self.done: int | None = None
        """Steps in the state on disk; 0: poses alone; None: this run has none."""
        self.problems: list[str] = []
        self._files: dict[str, dict[str, Any]] = {}
        self._lock: FolderLock | None = None
        self._old = self.folder.with_name(f"{self.folder.name}.old")
        self._put_aside = False

    @property
    def exists(self) -> bool:
        """Whether there is a state on disk, of whatever run."""
        return (self.folder / STATE_FILE).is_file()

    def read(self) -> Saved | None:
        """The last complete state, which this run now goes on with; None where it is damaged.

        Raises:
            ConfigError: another process works on it, or it is of a newer version of this package.
        """
        self._claim()
        try:
            data = self._read_json()
            self._files = {k: v for k, v in data["files"].items() if k in ("inputs", "step")}
            inputs = load_inputs(self._checked("inputs"))
        except DamagedError as e:
            self._note(f"the state in {self.folder} is damaged and not used: {e}")
            return None
        step = None
        if "step" in self._files:
            try:
                step = load_step(self._checked("step"))
            except DamagedError as e:  # the poses are whole: denoising begins anew
                self._files.pop("step")
                self._note(f"the latents in {self.folder} are damaged, denoising begins anew: {e}")
        self.done = step.done if step else 0
        return Saved(data["origin"], inputs, step, data["facts"])

    def _read_json(self) -> dict[str, Any]:
        path = self.folder / STATE_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT or not isinstance(data["version"], int):
                raise DamagedError(f"{path.name} is not of this package")
            if not all(isinstance(data[k], dict) for k in ("origin", "facts", "files")):
                raise DamagedError(f"{path.name} lacks something")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
            raise DamagedError(f"{path.name}: {e}") from e
        if (version := data["version"]) > VERSION:
            got = f"{self.folder} is of version {version}"
            raise ConfigError(got, f"version {VERSION} or older", "update mimicmotion")
        return data

    def _checked(self, part: str) -> Path:
        try:
            path = self.folder / Path(self._files[part]["name"]).name
            if sha256_file(path) == self._files[part]["sha256"]:
                return path
        except (KeyError, TypeError, MimicMotionError) as e:
            raise DamagedError(f"{part}: {e}") from e
        raise DamagedError(f"{path.name} is not what was written")

    # --- writing ------------------------------------------------------------------------------------------------

    def put_aside(self) -> None:
        """Say that a state is here which this run does not use; it is kept until this run's own result is complete.

        Raises:
            ConfigError: another process works on it.
        """
        if not self.exists:
            return
        self._claim()
        says = f"an interrupted run has left its state in {self.folder}: add --resume to go on with it. This run begins"
        if self.enabled:
            self._put_aside = True
            self._note(f"{says} anew; the state is kept as {self._old} until this run's result is complete")
        else:
            self._note(f"{says} anew, without states of its own; that one stays")
            self.close()

    def save_inputs(self, inputs: Inputs, facts: Mapping[str, Any]) -> None:
        """Keep the poses; from now on the state is this run's."""
        self._files.clear()
        self._save("inputs", 0, "inputs-{}.npz", lambda path: dump_inputs(inputs, path), facts)

    def save_step(self, step: SavedStep, facts: Mapping[str, Any]) -> None:
        """Keep the sampler's state."""
        name = f"step-{step.done:05d}-{{}}.safetensors"
        if "inputs" in self._files:  # else saving them failed
            self._save("step", step.done, name, lambda path: dump_step(step, path), facts)

    def _save(self, part: str, done: int, name: str, write: Callable[[Path], object], facts: Mapping[str, Any]) -> None:
        """Write one file, then the state that names it. A full disk must not stop the job: it is only said."""
        if not self.enabled:
            return
        try:
            with writing(self.folder):
                self._begin()
                path = self.folder / name.format(secrets.token_hex(4))
                with durable_file(path) as file:
                    write(file)
                files = self._files | {part: {"name": path.name, "sha256": sha256_file(path)}}
                data = {"format": FORMAT, "version": VERSION, "origin": self.origin, "facts": facts, "files": files}
                with durable_file(self.folder / STATE_FILE) as file:
                    file.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
                sync(self.folder)
        except (OutputError, ConfigError) as e:
            self._note(f"the state after step {done} could not be saved, the job goes on: {e.got}")
        else:
            self._files, self.done = files, done
        self._clear()

    def _begin(self) -> None:
        """Have the folder for this run; the state of another one moves out of the way."""
        if self._put_aside and self.exists:
            shutil.rmtree(self._old, ignore_errors=True)
            self.close()  # the lock goes with the folder
            self.folder.replace(self._old)
        self._put_aside = False
        self._claim()

    def _clear(self) -> None:
        """Delete what the state does not name: older files, and halves of a killed process."""
        if self._lock is None:
            return
        keep = {STATE_FILE, LOCK_FILE, *(f["name"] for f in self._files.values())}
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name not in keep:
                    path.unlink()

    def remove(self) -> None:
        """All results are complete: nothing of the state is needed any more."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            (self.folder / STATE_FILE).unlink(missing_ok=True)  # first: half a folder is no state
        for folder in (self.folder, self._old):
            shutil.rmtree(folder, ignore_errors=True)
        self.done = None
        self.close()

    def __enter__(self) -> RunState:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None and not self.exists:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let other processes have the state."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _claim(self) -> None:
        """Keep other processes off until `close`."""
        if self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder / LOCK_FILE)

    def _note(self, text: str) -> None:
        logger.warning("%s", text)
        self.problems.append(text)


# --- the files --------------------------------------------------------------------------------------------------


def dump_inputs(inputs: Inputs, path: Path) -> None:
    """Write picture, transform, poses and warnings as .npz, without a copy of the arrays."""
    arrays: dict[str, Any] = {"picture": inputs.picture}
    facts: dict[str, Any] = {"fit": dataclasses.asdict(inputs.fit), "warnings": inputs.warnings}
    for name in POSES:
        poses: PoseSequence = getattr(inputs, name)
        arrays |= {f"{name}.xy": poses.xy, f"{name}.confidence": poses.confidence}
        facts[name] = {"size": poses.size, "fps": poses.fps, "source": poses.source}
    np.savez(path, allow_pickle=False, facts=json.dumps(facts), **arrays)


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
    from safetensors.torch import save_file

    tensors = {"latents": step.latents, **{f"memory.{k}": v for k, v in step.memory.items()}}
    numbers = {"done": str(step.done), "total": str(step.total), "sigma": repr(step.sigma)}
    save_file({k: _alone(v) for k, v in tensors.items()}, path, metadata=numbers)


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
        latents, memory = tensors.pop("latents"), {k.removeprefix("memory."): v for k, v in tensors.items()}
        return SavedStep(int(numbers["done"]), int(numbers["total"]), float(numbers["sigma"]), latents, memory)
    except Exception as e:  # safetensors raises several kinds
        raise DamagedError(f"{path.name}: {e}") from e
