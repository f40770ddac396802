"""Save the state of an unfinished generate job next to its output, so that a killed run can be resumed.

OUTPUT.state/ contains `state.json` and the two files it refers to: `inputs-*.npz` (the fitted picture and poses) and
`step-*.safetensors` (latents and the sampler's memory). Each file gets a new name and is flushed to disk before
`state.json` is atomically replaced to refer to it. Whenever the process dies, the folder contains either the previous
state or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

    from mimicmotion.diffusion.sampling import Step

logger = logging.getLogger(__name__)

FORMAT, VERSION = "mimicmotion.state", 2
STATE_FILE, LOCK_FILE = "state.json", "lock"
POSES = ("reference", "driving", "aligned")


class DamagedError(Exception):
    """A file of the state cannot be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """The state of an interrupted run.

    Attributes:
        origin: provenance: settings, checksums and versions; see `mimicmotion.generate.provenance`.
        inputs: the fitted picture and poses.
        step: the last saved step, on the CPU and without `x0`; None if no step was saved.
        facts: facts about the run for the sidecar; see `RunRecord.facts`.
    """

    origin: dict[str, Any]
    inputs: Inputs
    step: Step | None
    facts: dict[str, Any]


class RunState:
    """The state folder of one output, which is created by the first save.

    Args:
        output: path of the result that the state belongs to.
        enabled: False saves nothing, but an existing state can still be read and removed.

    Attributes:
        origin: see `Saved`; must be set before the first save.
        done: number of completed steps in the state on disk; 0 with only the inputs, None if this run has no state.
        warnings: notes for the user, one sentence each.
    """

    def __init__(self, output: Path, *, enabled: bool = True) -> None:
        self.folder, self.enabled = state_path(output), enabled
        self.origin: dict[str, Any] = {}
        self.done: int | None = None
        self.warnings: list[str] = []
        self._files: dict[str, dict[str, Any]] = {}
        self._lock: FolderLock | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a state on disk, of this or an earlier run."""
        return (self.folder / STATE_FILE).is_file()

    def read(self) -> Saved | None:
        """Read the state that this run is to continue; return None if it is damaged.

        Raises:
            ConfigError: the state is in use by another process, or was written by another version.
        """
        self._claim()
        try:
            data = self._read_json()
            self._files = {k: v for k, v in data["files"].items() if k in ("inputs", "step")}
            inputs = load_inputs(self._checked("inputs"))
        except DamagedError as e:
            self._warn(f"the state in {self.folder} is damaged, so the run starts over: {e}")
            return None
        step = None
        if "step" in self._files:
            try:
                step = load_step(self._checked("step"))
            except DamagedError as e:  # the inputs are intact
                del self._files["step"]
                self._warn(f"the latents in {self.folder} are damaged, so denoising starts over: {e}")
        self.done = step.index + 1 if step else 0
        return Saved(data["origin"], inputs, step, data["facts"])

    def _read_json(self) -> dict[str, Any]:
        path = self.folder / STATE_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT or not isinstance(data["version"], int):
                raise DamagedError(f"{path.name} was not written by this package")
            if not all(isinstance(data[k], dict) for k in ("origin", "facts", "files")):
                raise DamagedError(f"{path.name} is incomplete")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
            raise DamagedError(f"{path.name}: {e}") from e
        if (version := data["version"]) != VERSION:
            fix = "resume with the version of mimicmotion that wrote it, or delete the folder to start over"
            raise ConfigError(f"{self.folder} has version {version}", f"version {VERSION}", fix)
        return data

    def _checked(self, part: str) -> Path:
        """Verify the checksum of a file of the state, and return its path."""
        try:
            path = self.folder / Path(self._files[part]["name"]).name
            if sha256_file(path) == self._files[part]["sha256"]:
                return path
        except (KeyError, TypeError, MimicMotionError) as e:
            raise DamagedError(f"{part}: {e}") from e
        raise DamagedError(f"{path.name} has changed since it was written")

    # --- writing ------------------------------------------------------------------------------------------------

    def check_absent(self) -> None:
        """Raise ConfigError if there is a state of an interrupted run or of another process."""
        if self.exists:
            self._claim()
            got = f"{self.folder} contains the state of an interrupted run"
            raise ConfigError(got, "--resume, or no state", "add --resume to continue it, or delete it to start over")

    def save_inputs(self, inputs: Inputs, facts: Mapping[str, Any]) -> None:
        """Save the inputs, replacing the state of any earlier run."""
        self._files.clear()
        self._save("inputs", 0, "inputs-{}.npz", lambda path: dump_inputs(inputs, path), facts)

    def save_step(self, step: Step, facts: Mapping[str, Any]) -> None:
        """Save the state of the sampler after a step."""
        name = f"step-{step.index + 1:05d}-{{}}.safetensors"
        if "inputs" in self._files:  # otherwise, saving the inputs failed
            self._save("step", step.index + 1, name, lambda path: dump_step(step, path), facts)

    def _save(self, part: str, done: int, name: str, write: Callable[[Path], object], facts: Mapping[str, Any]) -> None:
        """Write one file, then a `state.json` that refers to it. If that fails, a warning is logged."""
        if not self.enabled:
            return
        try:
            with writing(self.folder):
                self._claim()
                path = self.folder / name.format(secrets.token_hex(4))
                with durable_file(path) as file:
                    write(file)
                files = self._files | {part: {"name": path.name, "sha256": sha256_file(path)}}
                data = {"format": FORMAT, "version": VERSION, "origin": self.origin, "facts": facts, "files": files}
                with durable_file(self.folder / STATE_FILE) as file:
                    file.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
                sync(self.folder)
        except (OutputError, ConfigError) as e:
            self._warn(f"the state after step {done} could not be saved, but the job continues: {e.got}")
        else:
            self._files, self.done = files, done
        self._delete_unreferenced()

    def _delete_unreferenced(self) -> None:
        """Delete files that `state.json` does not refer to: older ones, and partial ones of a killed process."""
        if self._lock is None:
            return
        keep = {STATE_FILE, LOCK_FILE, *(f["name"] for f in self._files.values())}
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name not in keep:
                    path.unlink()

    def remove(self) -> None:
        """Delete the state; called when the result is complete."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            (self.folder / STATE_FILE).unlink(missing_ok=True)  # first, so that no incomplete state can remain
        shutil.rmtree(self.folder, ignore_errors=True)
        self.done = None
        self._close()

    def __enter__(self) -> RunState:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None and not self.exists:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._close()

    def _close(self) -> None:
        """Release the lock on the state."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _claim(self) -> None:
        """Lock the state against other processes until `_close`."""
        if self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder / LOCK_FILE)

    def _warn(self, text: str) -> None:
        logger.warning("%s", text)
        self.warnings.append(text)


# --- the files --------------------------------------------------------------------------------------------------


def dump_inputs(inputs: Inputs, path: Path) -> None:
    """Write the picture, transform, poses and warnings to an uncompressed .npz file."""
    arrays: dict[str, Any] = {"picture": inputs.picture}
    facts: dict[str, Any] = {"fit": dataclasses.asdict(inputs.fit), "warnings": inputs.warnings}
    for name in POSES:
        poses: PoseSequence = getattr(inputs, name)
        arrays |= {f"{name}.xy": poses.xy, f"{name}.confidence": poses.confidence}
        facts[name] = {"size": poses.size, "fps": poses.fps, "source": poses.source}
    np.savez(path, facts=json.dumps(facts), **arrays)


def load_inputs(path: Path) -> Inputs:
    """Read a file that `dump_inputs` wrote.

    Raises:
        DamagedError: the file cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            facts = _tuples(json.loads(str(data["facts"])))
            poses = {n: PoseSequence(data[f"{n}.xy"], data[f"{n}.confidence"], **facts[n]) for n in POSES}
            return Inputs(picture=data["picture"], fit=Fit(**facts["fit"]), warnings=list(facts["warnings"]), **poses)
    except Exception as e:  # zipfile, numpy and json raise many types
        raise DamagedError(f"{path.name}: {e}") from e


def _tuples(data: Any) -> Any:
    """Recursively convert the lists in JSON data to tuples."""
    if isinstance(data, dict):
        return {k: _tuples(v) for k, v in data.items()}
    return tuple(_tuples(v) for v in data) if isinstance(data, list) else data


def dump_step(step: Step, path: Path) -> None:
    """Write the state of the sampler to a safetensors file."""
    from safetensors.torch import save_file

    tensors = {"latents": step.latents, **{f"memory.{k}": v for k, v in step.memory.items()}}
    numbers = {"done": str(step.index + 1), "total": str(step.total), "sigma": repr(step.sigma)}
    save_file({k: _compact(v) for k, v in tensors.items()}, path, metadata=numbers)


def _compact(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor on the CPU with its own storage, as safetensors requires."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def load_step(path: Path) -> Step:
    """Read a file that `dump_step` wrote.

    Raises:
        DamagedError: the file cannot be read.
    """
    from safetensors import safe_open

    from mimicmotion.diffusion.sampling import Step

    try:
        with safe_open(path, "pt") as file:
            numbers = file.metadata()
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
        latents, memory = tensors.pop("latents"), {k.removeprefix("memory."): v for k, v in tensors.items()}
        return Step(int(numbers["done"]) - 1, int(numbers["total"]), float(numbers["sigma"]), latents, None, memory)
    except Exception as e:  # safetensors raises several types
        raise DamagedError(f"{path.name}: {e}") from e
