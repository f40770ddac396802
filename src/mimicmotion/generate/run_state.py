"""The state of a generate job beside its output, from which a killed run goes on.

OUTPUT.state/ holds `state.json` and the two files that it names: `inputs-*.npz` (fitted picture, found and aligned
poses) and `step-*.safetensors` (latents and what the sampler remembers). Files are complete and on disk before
`state.json`, which is replaced in one go, names them, and have new names each time: whenever the process dies, the
state is the one before or the one after, never a mix.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mimicmotion.errors import ConfigError, MimicMotionError, OutputError
from mimicmotion.generate.inputs import Inputs
from mimicmotion.generate.state_files import (
    DamagedError,
    SavedStep,
    dump_inputs,
    dump_step,
    load_inputs,
    load_step,
    sync_folder,
    write_new,
)
from mimicmotion.runtime.files import sha256_file, writing

logger = logging.getLogger(__name__)

FORMAT, VERSION = "mimicmotion.state", 1
STATE_FILE, LOCK_FILE = "state.json", "lock"


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


def state_path(output: Path) -> Path:
    """OUTPUT.state."""
    return output.with_name(f"{output.name}.state")


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
        self._lock: IO[bytes] | None = None
        self._aside: Path | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a state on disk, of whatever run."""
        return (self.folder / STATE_FILE).is_file()

    # --- reading ------------------------------------------------------------------------------------------------

    def read(self) -> Saved | None:
        """The last complete state, which this run now goes on with; None where there is none or it is damaged.

        Raises:
            ConfigError: another process works on it, or it is of a newer version of this package.
        """
        if not self.exists:
            return None
        self._claim()
        try:
            saved = self._read()
        except DamagedError as e:
            self._note(f"the state in {self.folder} is damaged and not used: {e}")
            return None
        self.done = saved.step.done if saved.step else 0
        return saved

    def _read(self) -> Saved:
        data = self._read_json()
        if data["version"] > VERSION:
            raise ConfigError(
                f"{self.folder} is of version {data['version']}", f"version {VERSION} or older", "update mimicmotion"
            )
        self._files = {k: v for k, v in data["files"].items() if k in ("inputs", "step")}
        inputs = load_inputs(self._checked("inputs"))
        step = None
        if "step" in self._files:
            try:
                step = load_step(self._checked("step"))
            except DamagedError as e:  # the poses are whole: denoising begins anew
                self._files.pop("step")
                self._note(f"the latents in {self.folder} are damaged, denoising begins anew: {e}")
        return Saved(data["origin"], inputs, step, data["facts"])

    def _read_json(self) -> dict[str, Any]:
        path = self.folder / STATE_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT or not isinstance(data["version"], int):
                raise DamagedError(f"{path.name} is not of this package")
            shapes = {"origin": dict, "facts": dict, "files": dict}
            if any(not isinstance(data[k], kind) for k, kind in shapes.items()) or "inputs" not in data["files"]:
                raise DamagedError(f"{path.name} lacks something")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DamagedError(f"{path.name}: {e}") from e
        return data

    def _checked(self, part: str) -> Path:
        entry = self._files[part]
        try:
            path = self.folder / Path(str(entry["name"])).name
            if sha256_file(path) != entry["sha256"]:
                raise DamagedError(f"{path.name} is not what was written")
        except (KeyError, TypeError, MimicMotionError) as e:
            raise DamagedError(f"{part}: {e}") from e
        return path

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
            self._aside = self.folder.with_name(f"{self.folder.name}.old")
            self._note(f"{says} anew; the state is kept as {self._aside} until this run's result is complete")
        else:
            self._note(f"{says} anew, without states of its own; that one stays")
            self.close()

    def save_inputs(self, inputs: Inputs, facts: Mapping[str, Any]) -> None:
        """Keep the poses; from now on the state is this run's."""
        self._files.clear()
        self._save("inputs", 0, "inputs.npz", lambda path: dump_inputs(inputs, path), facts)

    def save_step(self, step: SavedStep, facts: Mapping[str, Any]) -> None:
        """Keep the sampler's state."""
        name = f"step-{step.done:05d}.safetensors"
        if "inputs" in self._files:  # else saving them failed
            self._save("step", step.done, name, lambda path: dump_step(step, path), facts)

    def _save(self, part: str, done: int, name: str, write: Callable[[Path], object], facts: Mapping[str, Any]) -> None:
        """Write one file, then the state that names it. A full disk must not stop the job: it is only said."""
        if not self.enabled:
            return
        try:
            with writing(self.folder):
                self._take_place()
                path = write_new(self.folder / name, write)
                files = self._files | {part: {"name": path.name, "sha256": sha256_file(path)}}
                data = {"format": FORMAT, "version": VERSION, "origin": self.origin, "facts": facts, "files": files}
                text = json.dumps(data, indent=1, default=str) + "\n"
                new = write_new(self.folder / STATE_FILE, lambda path: path.write_text(text, encoding="utf-8"))
                new.replace(self.folder / STATE_FILE)
                sync_folder(self.folder)
        except (OutputError, ConfigError) as e:
            self._note(f"the state after step {done} could not be saved, the job goes on: {e.got}")
        else:
            self._files, self.done = files, done
        self._clear()

    def _take_place(self) -> None:
        if self._aside is not None:
            if self.exists:
                shutil.rmtree(self._aside, ignore_errors=True)
                self.close()  # the lock goes with the folder
                self.folder.replace(self._aside)
            self._aside = None
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
        for folder in (self.folder, self.folder.with_name(f"{self.folder.name}.old")):
            shutil.rmtree(folder, ignore_errors=True)
        self.done = None
        self.close()

    # --- one process at a time ----------------------------------------------------------------------------------

    def __enter__(self) -> RunState:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None and not self.exists:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let other processes have the state."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _claim(self) -> None:
        """Keep other processes off until `close`, or until this process ends in whatever way."""
        if self._lock is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / LOCK_FILE).open("ab")
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            lock.close()
            raise ConfigError(
                f"{self.folder} is in use by another process", "one process for each output", "wait, or name another"
            ) from e
        except (ImportError, OSError):  # Windows, or a file system without locks
            pass
        self._lock = lock

    def _note(self, text: str) -> None:
        logger.warning("%s", text)
        self.problems.append(text)
