"""The jobs of the service: accepted once, kept by DBOS until they end, made by a worker process for each device.

A job is a folder (inputs, settings, progress, result) and a DBOS workflow of the same name. The workflow runs the job
`generate` in a worker, which goes on from its own state: run again after whatever died, it gives the same bytes. So it
needs no DBOS steps of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dbos import DBOS, DBOSContextSetAuth, SetEnqueueOptions, SetWorkflowID, WorkflowStatus, error

from mimicmotion.client import JobState
from mimicmotion.errors import ConfigError, MimicMotionError
from mimicmotion.generate.outputs import preview_path, sidecar_path, state_path
from mimicmotion.runtime.files import sha256_file
from mimicmotion.runtime.interrupt import Stopped
from mimicmotion.runtime.run_folder import FolderLock, durable_file, sync
from mimicmotion.serve.uploads import FORM, GIB, RefusedError, name_by_content
from mimicmotion.serve.worker import LOCK, PROGRESS, RECORD, Checker, DiedError, Generator, Worker, Workers
from mimicmotion.settings import GenerateConfig, load_yaml, parse
from mimicmotion.settings.parsing import nearest
from mimicmotion.settings.serve import OPERATORS, ServeConfig, callers_settings

logger = logging.getLogger(__name__)

Kind = Literal["generate", "plan"]
OUTPUTS: dict[str, str] = {"generate": "result.mp4", "plan": "plan.png"}
PER_JOB = ("picture", "video", "output", "resume")
CANCELLED, QUEUE = "cancelled", "jobs"
STATES = {"ENQUEUED": "queued", "DELAYED": "queued", "PENDING": "running", "SUCCESS": "done", "CANCELLED": "cancelled"}
ACTIVE, ENDED = ["ENQUEUED", "DELAYED", "PENDING"], ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
HIGHEST_PRIORITY = 9
REPEATED = {"got": "a job that ended the service again and again", "expected": "one that ends", "fix": "change it"}

MAX_DEATHS = 10
"""How often in a row a worker may die on a job, without going on, until the job fails."""
JOB_SECONDS, CHECK_SECONDS = 24 * 3600.0, 60.0
CHECK_MEMORY = 6 * GIB
CHECKERS = 2
CANCEL_SECONDS, SHUTDOWN_SECONDS = 3.0, 60.0
"""Until a worker that should stop is killed."""
SWEEP_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a job in its folder.

    Attributes:
        kind: generate, or plan: what generate would do.
        owner: name of the token.
        priority: 0 to 9; higher ones are run first.
        settings: those that came with it.
        picture: name of the file.
        video: name of the file.
        fingerprint: checksum of all that it is made of, to tell a repeated request from another one.
        frames: of the result, about.
    """

    kind: Kind
    owner: str
    priority: int
    settings: dict[str, Any]
    picture: str
    video: str
    fingerprint: str = ""
    frames: int = 0


class Jobs:
    """The jobs of a data folder; one of each name at a time, and one in a process.

    Args:
        config: settings of the service.

    Raises:
        ConfigError: the settings of all jobs are wrong.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.data = config, config.data.resolve()
        given = load_yaml(config.settings) if config.settings else {}
        label = "signed" if importlib.util.find_spec("c2pa") else "visible"
        self.base = {"label": label} | {k: v for k, v in given.items() if k not in PER_JOB}
        self.configure(Path(), Record(kind="generate", owner="", priority=0, settings={}, picture="-", video="-"))
        limits = {"MIMICMOTION_MAX_PIXELS": str(config.max_pixels)}
        self.devices = Workers([Worker(Generator, name, environment=limits) for name in config.devices])
        check = (Checker, config.max_seconds, config.max_result_pixels)
        self.checkers = Workers([Worker(*check, environment=limits, memory=CHECK_MEMORY) for _ in range(CHECKERS)])
        self._submitting = threading.Lock()
        self._stopping = threading.Event()
        self._running: set[str] = set()
        self._lock: FolderLock | None = None
        # SQLite is for one process
        self.name = "local" if config.database is None else config.name or socket.gethostname()

    # --- from settings to files -------------------------------------------------------------------------------------

    def configure(self, folder: Path, record: Record) -> GenerateConfig:
        """The settings of `generate` for a job.

        Raises:
            ConfigError: one is unknown, wrong, or not the caller's to choose.
        """
        for name in record.settings:
            if name in OPERATORS:
                raise ConfigError(f"the setting {name!r}", "a setting that comes with a job", f"leave out {name!r}")
            if name not in callers_settings():
                raise ConfigError(
                    f"unknown setting {name!r}", "a setting of generate", nearest(name, callers_settings())
                )
        places = {n: folder / getattr(record, n) for n in ("picture", "video")} | {
            "output": folder / OUTPUTS[record.kind]
        }
        return parse(GenerateConfig, self.base | record.settings | places)

    def folder(self, id: str) -> Path:
        """Where a job is kept."""
        return self.data / "jobs" / id

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """A folder for what comes in; it is deleted, unless `submit` took it."""
        folder = self.data / "incoming" / secrets.token_hex(16)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def check(self, folder: Path, record: Record) -> int:
        """Look at the files of a job in a process with little memory; gives the number of frames.

        Raises:
            InputError: something is wrong with them.
            RefusedError: they cannot be read within the limits of time and memory.
        """
        config = self.configure(folder, record)
        with self.checkers.one() as worker:
            try:
                return worker.ask(config, CHECK_SECONDS)
            except DiedError as e:
                got = "files that take too much time or memory to read"
                raise RefusedError(422, got, "a common picture and video", "convert or shorten them") from e

    # --- the five -----------------------------------------------------------------------------------------------

    def accept(
        self,
        folder: Path,
        owner: str,
        kind: Kind,
        settings: dict[str, Any],
        priority: int = 5,
        key: str | None = None,
    ) -> tuple[JobState, bool]:
        """Check everything about a job, and take it: as `submit`.

        Args:
            folder: of `incoming`, with the files `picture` and `video`.
            owner: name of the token.
            kind: see `Record`.
            settings: that came with it.
            priority: see `Record`.
            key: see `submit`.

        Raises:
            InputError: something is wrong with the files or settings.
            RefusedError: as `check` and `submit`, or a file is missing.
        """
        if missing := [name for name in ("picture", "video") if not (folder / name).exists()]:
            raise RefusedError(422, f"a form without {missing[0]!r}", FORM, "send it, too")
        picture, video = (name_by_content(folder / name).name for name in ("picture", "video"))
        record = Record(kind=kind, owner=owner, priority=priority, settings=settings, picture=picture, video=video)
        return self.submit(folder, dataclasses.replace(record, frames=self.check(folder, record)), key)

    def submit(self, folder: Path, record: Record, key: str | None = None) -> tuple[JobState, bool]:
        """Accept a job: when this returns, it is not lost any more.

        Args:
            folder: of `incoming`, with the checked files.
            record: the job.
            key: two requests of one owner with the same key are one job.

        Returns:
            The job, and whether it is new.

        Raises:
            RefusedError: the owner has too many jobs, or the key is another job's.
        """
        id = _id_of_key(record.owner, key) if key else secrets.token_hex(16)
        record = dataclasses.replace(record, fingerprint=fingerprint(folder, record))
        with durable_file(folder / RECORD) as part:
            part.write_text(json.dumps(dataclasses.asdict(record), indent=1), encoding="utf-8")
        for path in folder.iterdir():
            sync(path)
        with self._submitting:
            self.check_count(record.owner)
            self.folder(id).parent.mkdir(exist_ok=True)
            try:
                folder.rename(self.folder(id))
            except OSError:
                if not (self.folder(id) / RECORD).exists():
                    raise
                return self._repeated(id, record), False
            sync(self.folder(id).parent)
            self._enqueue(id, record)
        return self.state(id, record.owner), True

    def state(self, id: str, owner: str | None) -> JobState:
        """How far a job is; `owner` None sees all.

        Raises:
            RefusedError: there is no such job, or it is another's.
        """
        known = re.fullmatch("[0-9a-f]{32}", id) and self.folder(id).exists()
        return self._state(DBOS.get_workflow_status(id) if known else None, owner)

    def list(self, owner: str | None, limit: int, offset: int) -> list[JobState]:
        """Jobs, the newest first."""
        found = DBOS.list_workflows(user=owner, limit=limit, offset=offset, sort_desc=True, load_input=False)
        states = []
        for status in found:
            with contextlib.suppress(RefusedError):  # deleted in this moment
                states.append(self._state(status, owner))
        return states

    def cancel(self, id: str, owner: str | None) -> JobState:
        """Cancel a job that waits or runs; one that has ended stays as it is."""
        if self.state(id, owner).state in ("queued", "running"):
            DBOS.cancel_workflow(id)
            with contextlib.suppress(FileNotFoundError):
                (self.folder(id) / CANCELLED).touch()
        return self.state(id, owner)

    def result(self, id: str, owner: str | None) -> Path:
        """The result of a job.

        Raises:
            RefusedError: it is not done.
        """
        state = self.state(id, owner)
        if state.state != "done":
            raise RefusedError(409, f"a job that is {state.state}", "one that is done", "wait, or look at its state")
        return self.folder(id) / OUTPUTS[state.kind]

    def input(self, id: str, owner: str | None, name: Literal["picture", "video"]) -> Path:
        """A file that a job was sent with."""
        self.state(id, owner)
        return self.folder(id) / getattr(self._record(id), name)

    def delete(self, id: str, owner: str | None) -> None:
        """Cancel a job and delete it with all its files.

        Raises:
            RefusedError: its worker has not let go of it yet.
        """
        self.cancel(id, owner)
        folder, deleted = self.folder(id), self.data / "incoming" / f"deleted-{secrets.token_hex(8)}"
        for _ in range(100):
            with contextlib.suppress(ConfigError):
                FolderLock(folder / LOCK).release()
                break
            time.sleep(0.1)
        else:
            raise RefusedError(409, "a job that is just being stopped", "one that has ended", "try again in a moment")
        deleted.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(deleted)
        DBOS.delete_workflow(id)
        shutil.rmtree(deleted, ignore_errors=True)

    # --- limits and numbers ---------------------------------------------------------------------------------------

    def check_count(self, owner: str) -> None:
        """Raise RefusedError if an owner has as many jobs that wait or run as allowed."""
        most = self.config.max_jobs
        if len(DBOS.list_workflows(user=owner, status=ACTIVE, limit=most, load_input=False, load_output=False)) >= most:
            raise RefusedError(429, f"{most} jobs that wait or run", f"at most {most}", "wait until one has ended")

    def check_room(self, used: int) -> None:
        """Raise RefusedError if the data folder holds as many bytes as allowed, or more."""
        if used > self.config.max_disk * GIB:
            raise RefusedError(507, "no room for more files", "room", "delete jobs, or try again later")

    def disk_used(self) -> int:
        """Bytes of the files in the data folder."""
        total = 0
        for parent, _, names in os.walk(self.data):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.stat(os.path.join(parent, name)).st_size  # noqa: PTH116, PTH118 - half the time
        return total

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        found = DBOS.list_workflows(load_input=False)
        names = ("queued", "running", "done", "failed", "cancelled")
        return {name: sum(_name(s) == name for s in found) for name in names}

    # --- the service begins and ends ------------------------------------------------------------------------------

    def claim(self) -> None:
        """Keep other processes of this name off the data folder; see `open`."""
        if self._lock is None:
            self.data.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.data / f"{self.name}.lock")

    def open(self) -> None:
        """Start working, and resume the jobs that an earlier process left.

        Raises:
            ConfigError: another process of this name has the data folder.
        """
        self.claim()
        logging.getLogger("dbos").addFilter(_is_not_of_a_deleted_job)
        DBOS(
            config={
                "name": "mimicmotion",
                "system_database_url": self.config.database or f"sqlite:///{self.data / 'jobs.sqlite'}",
                "application_version": "1",  # else a new version of this package would pass over earlier jobs
                "executor_id": self.name,
                "log_level": "ERROR",
            }
        )
        _Open.jobs = self
        DBOS.launch()
        workers = len(self.devices.all)
        DBOS.register_queue(QUEUE, worker_concurrency=workers, polling_interval_sec=0.5, on_conflict="always_update")
        self._find_lost()
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def close(self) -> None:
        """Save the state of what runs, and end. It goes on when the service is opened again."""
        self._stopping.set()
        end = time.monotonic() + SHUTDOWN_SECONDS
        while self._running and time.monotonic() < end:
            time.sleep(0.05)
        for worker in (*self.devices.all, *self.checkers.all):
            worker.kill()
        DBOS.destroy()
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def run(self, id: str) -> dict[str, str] | None:
        """Make the result of a job; the body of its workflow, which is run again after a kill.

        Returns:
            Why it failed; None if it did not.

        Raises:
            Stopped: it is cancelled, or the service ends. DBOS records neither as its outcome.
        """
        folder = self.folder(id)
        self._running.add(id)
        try:
            record = self._record(id)
            config = self.configure(folder, record)
            if config.duration is None:  # a video may be longer than it says
                longest = min(1000.0, config.source_seconds(self.config.max_seconds))
                config = dataclasses.replace(config, duration=longest)
            with self.devices.one() as worker:
                self._insist(worker, config)
        except FileNotFoundError as e:  # deleted meanwhile
            raise Stopped from e
        except MimicMotionError as e:
            return public(e, folder)
        else:
            return None
        finally:
            self._running.discard(id)

    def _insist(self, worker: Worker, config: GenerateConfig) -> None:
        folder = config.output.parent

        def give_up() -> float | None:
            return SHUTDOWN_SECONDS if self._stopping.is_set() else CANCEL_SECONDS if cancelled.exists() else None

        cancelled, deaths, before = folder / CANCELLED, 0, ""
        while True:
            if give_up() is not None:
                if cancelled.exists():
                    shutil.rmtree(state_path(config.output), ignore_errors=True)
                raise Stopped
            try:
                worker.ask(config, JOB_SECONDS, give_up)
                return
            except DiedError as e:
                now = _text(folder / PROGRESS)
                deaths, before = deaths + 1 if now == before else 1, now
                logger.warning("%s: %s (%d)", folder.name, e.got, deaths)
                if deaths >= MAX_DEATHS:
                    raise
            except Stopped:
                continue

    # --- inside -----------------------------------------------------------------------------------------------------

    def _record(self, id: str) -> Record:
        return Record(**json.loads((self.folder(id) / RECORD).read_text(encoding="utf-8")))

    def _repeated(self, id: str, record: Record) -> JobState:
        if self._record(id).fingerprint != record.fingerprint:
            fix = "take a new Idempotency-Key for another job"
            raise RefusedError(422, "an Idempotency-Key of another job", "the same files and settings", fix)
        self._enqueue(id, record)  # the first request may have been killed just before
        return self.state(id, record.owner)

    def _enqueue(self, id: str, record: Record) -> None:
        # in DBOS the lowest number comes first
        place = SetEnqueueOptions(priority=1 + HIGHEST_PRIORITY - record.priority)
        with SetWorkflowID(id), place, DBOSContextSetAuth(record.owner, None):
            DBOS.enqueue_workflow(QUEUE, run_job, id)

    def _state(self, status: WorkflowStatus | None, owner: str | None) -> JobState:
        try:
            if status is None or owner not in (None, status.authenticated_user):
                raise FileNotFoundError
            record, folder = self._record(status.workflow_id), self.folder(status.workflow_id)
        except FileNotFoundError as e:
            raise RefusedError(404, "no such job", "the id of a job of yours", "list the jobs") from e
        state = _name(status)
        progress = json.loads(_text(folder / PROGRESS) or "{}") if state != "queued" else {}
        started = [status.dequeued_at] if state != "queued" else [None]
        created, started, finished = (t and t / 1000 for t in (status.created_at, *started, status.completed_at))
        return JobState(
            id=status.workflow_id,
            kind=record.kind,
            state=state,
            owner=record.owner,
            priority=record.priority,
            settings=record.settings,
            frames=record.frames,
            created=created or 0.0,
            started=started,
            finished=finished,
            **({k: progress.get(k) for k in ("stage", "done", "total")}),
            eta=progress.get("eta") if state == "running" else None,
            preview=preview_path(folder / OUTPUTS[record.kind]).exists(),
            error=(status.output or REPEATED) if state == "failed" else None,
        )

    def _find_lost(self) -> None:
        """Jobs whose request was killed between their folder and their workflow."""
        for folder in (self.data / "jobs").glob("*"):
            if DBOS.get_workflow_status(folder.name) is None:
                self._enqueue(folder.name, self._record(folder.name))

    def _sweep(self) -> None:
        """Delete what is too old, from time to time."""
        while True:
            try:
                self.delete_old()
            except Exception:
                logger.exception("old jobs could not be deleted")
            if self._stopping.wait(SWEEP_SECONDS):
                return

    def delete_old(self) -> None:
        """Delete jobs that ended long ago, and what killed requests left."""
        last = time.time() - self.config.keep_days * 86400
        before = datetime.fromtimestamp(last, UTC).isoformat()
        for status in DBOS.list_workflows(status=ENDED, completed_before=before, load_input=False, load_output=False):
            try:
                self.delete(status.workflow_id, None)
            except RefusedError:  # its folder is gone already
                DBOS.delete_workflow(status.workflow_id)
        for folder in (self.data / "incoming").glob("*"):
            if folder.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(folder, ignore_errors=True)


class _Open:
    jobs: Jobs


@DBOS.workflow(name="job")
def run_job(id: str) -> dict[str, str] | None:
    """The workflow of a job; gives why it failed."""
    return _Open.jobs.run(id)


def fingerprint(folder: Path, record: Record) -> str:
    """Checksum of the files and settings of a job."""
    files = [sha256_file(folder / name) for name in (record.picture, record.video)]
    text = json.dumps([record.kind, record.settings, *files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def public(error: BaseException, folder: Path | None = None) -> dict[str, str]:
    """What a caller may know of an error: no paths into the folder of the job, and nothing of an unexpected one."""
    if not isinstance(error, MimicMotionError):
        return {"got": "an unexpected error", "expected": "none", "fix": "ask who runs the service to look at its log"}
    parts = {name: getattr(error, name) for name in ("got", "expected", "fix")}
    return {name: text.replace(f"{folder}{os.sep}", "") if folder else text for name, text in parts.items()}


def public_sidecar(output: Path) -> str:
    """The sidecar of a result, with names in place of paths into the data folder."""
    return sidecar_path(output).read_text(encoding="utf-8").replace(f"{output.parent}{os.sep}", "")


def _is_not_of_a_deleted_job(record: logging.LogRecord) -> bool:
    """DBOS reports as an error that a job was deleted just before its outcome was to be recorded."""
    return not (record.exc_info and isinstance(record.exc_info[1], error.DBOSNonExistentWorkflowError))


def _name(status: WorkflowStatus) -> str:
    """The state of a job, as callers see it."""
    return "failed" if status.status == "SUCCESS" and status.output else STATES.get(status.status, "failed")


def _id_of_key(owner: str, key: str) -> str:
    return hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()[:32]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    return ""
