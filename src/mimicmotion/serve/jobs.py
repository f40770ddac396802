"""The jobs of the service: DBOS records each one, and the worker process of a device runs it.

A job is a folder (inputs, settings, progress, result) and a DBOS workflow with the same id. The workflow runs
`generate` in a worker, which resumes from its own saved state. After a crash the workflow is run again, and the
result has the same bytes. So the workflow needs no DBOS steps.
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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from dbos import DBOS, DBOSContextSetAuth, SetEnqueueOptions, SetWorkflowID, WorkflowStatus, error

from mimicmotion.client import JobState
from mimicmotion.errors import ConfigError, MimicMotionError
from mimicmotion.generate.outputs import preview_path, sidecar_path, state_path
from mimicmotion.runtime.files import sha256_file
from mimicmotion.runtime.interrupt import Stopped
from mimicmotion.runtime.run_folder import FolderLock, durable_file, sync
from mimicmotion.serve.uploads import FORM, GIB, RefusedError, name_by_content
from mimicmotion.serve.worker import LOCK, PROGRESS, RECORD, UNEXPECTED, Checker, DiedError, Generator, Worker, Workers
from mimicmotion.settings import GenerateConfig, load_yaml, parse
from mimicmotion.settings.parsing import nearest
from mimicmotion.settings.serve import OPERATORS, ServeConfig, client_settings

logger = logging.getLogger(__name__)

Kind = Literal["generate", "plan"]
OUTPUTS: dict[str, str] = {"generate": "result.mp4", "plan": "plan.png"}
PER_JOB = ("picture", "video", "output", "resume")
CANCELLED, QUEUE = "cancelled", "jobs"
STATES = {"ENQUEUED": "queued", "DELAYED": "queued", "PENDING": "running", "SUCCESS": "done", "CANCELLED": "cancelled"}
ACTIVE, ENDED = ["ENQUEUED", "DELAYED", "PENDING"], ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
HIGHEST_PRIORITY = 9
CRASHING = {
    "got": "a job that crashed the service repeatedly",
    "expected": "a job that ends",
    "fix": "change its inputs",
}

MAX_DEATHS = 10
"""A job fails when its workers have died this many times in a row without progress."""
JOB_SECONDS, CHECK_SECONDS = 24 * 3600.0, 60.0
CHECK_MEMORY = 6 * GIB
CHECKERS = 2
CANCEL_SECONDS, SHUTDOWN_SECONDS = 3.0, 60.0
"""Seconds until a worker that was asked to stop is killed."""
CLEANUP_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a job in its folder.

    Attributes:
        kind: generate, or plan (only predict what generate would do).
        owner: name of the token that submitted the job.
        priority: 0 to 9; jobs with a higher priority run first.
        settings: settings sent with the job.
        picture: file name of the picture.
        video: file name of the driving video.
        fingerprint: checksum of the files and settings, to recognise a repeated request.
        frames: approximate number of frames of the result.
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
    """The jobs in a data folder. A process can open one folder, which can be open only once for each service name.

    Args:
        config: settings of the service.

    Raises:
        ConfigError: the settings for all jobs are invalid.
    """

    current: ClassVar[Jobs]
    """The open instance."""

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
        self._accepting = threading.Lock()
        self._stopping = threading.Event()
        self._running: set[str] = set()
        self._lock: FolderLock | None = None
        # an SQLite database is used by one process only
        self.name = "local" if config.database is None else config.name or socket.gethostname()

    # --- files and settings -----------------------------------------------------------------------------------------

    def configure(self, folder: Path, record: Record) -> GenerateConfig:
        """Return the `generate` settings of a job in `folder`.

        Raises:
            ConfigError: a setting is unknown, invalid, or reserved for the operator.
        """
        allowed = client_settings()
        for name in record.settings:
            if name in OPERATORS:
                raise ConfigError(f"the setting {name!r}", "a setting that clients may choose", f"remove {name!r}")
            if name not in allowed:
                raise ConfigError(f"unknown setting {name!r}", "a setting of generate", nearest(name, allowed))
        names = {"picture": record.picture, "video": record.video, "output": OUTPUTS[record.kind]}
        paths = {key: folder / name for key, name in names.items()}
        return parse(GenerateConfig, self.base | record.settings | paths)

    def folder(self, id: str) -> Path:
        """Return the folder of a job."""
        return self.data / "jobs" / id

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """Create a folder for the files of a request. It is deleted at the end, unless `accept` has moved it."""
        folder = self.data / "incoming" / secrets.token_hex(16)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check(self, folder: Path, record: Record) -> int:
        """Check the files of a job in a process with limited memory; returns the approximate number of frames."""
        config = self.configure(folder, record)
        with self.checkers.one() as worker:
            try:
                return worker.ask(config, CHECK_SECONDS)
            except DiedError as e:
                got = "files that take too much time or memory to read"
                raise RefusedError(422, got, "an ordinary picture and video", "convert or shorten them") from e

    # --- operations on jobs -----------------------------------------------------------------------------------------

    def accept(
        self, folder: Path, owner: str, kind: Kind, settings: dict[str, Any], priority: int = 5, key: str | None = None
    ) -> tuple[JobState, bool]:
        """Check a job and accept it. Once this returns, the job cannot be lost.

        Args:
            folder: folder from `incoming` with the files `picture` and `video`.
            owner: name of the token.
            kind: see `Record`.
            settings: settings of the request.
            priority: see `Record`.
            key: idempotency key; requests of one owner with the same key are the same job.

        Returns:
            The state of the job, and whether it is new.

        Raises:
            InputError: a file or setting is invalid.
            RefusedError: a file is missing or takes too much time or memory, the owner has too many jobs, or the key
                belongs to another job.
        """
        if missing := [name for name in ("picture", "video") if not (folder / name).exists()]:
            raise RefusedError(422, f"a form without {missing[0]!r}", FORM, "send both files")
        picture, video = (name_by_content(folder / name).name for name in ("picture", "video"))
        record = Record(kind=kind, owner=owner, priority=priority, settings=settings, picture=picture, video=video)
        frames = self._check(folder, record)
        contents = [kind, settings, *(sha256_file(folder / name) for name in (picture, video))]
        fingerprint = _sha256(json.dumps(contents, sort_keys=True))
        record = dataclasses.replace(record, frames=frames, fingerprint=fingerprint)
        id = _sha256(f"{owner}\n{key}")[:32] if key else secrets.token_hex(16)
        with durable_file(folder / RECORD) as part:
            part.write_text(json.dumps(dataclasses.asdict(record), indent=1), encoding="utf-8")
        for path in folder.iterdir():
            sync(path)
        with self._accepting:
            self.check_count(owner)
            self.folder(id).parent.mkdir(exist_ok=True)
            try:
                folder.rename(self.folder(id))
            except OSError:
                if not (self.folder(id) / RECORD).exists():
                    raise
                if self._record(id).fingerprint != record.fingerprint:
                    got = "an Idempotency-Key that was used for another job"
                    raise RefusedError(422, got, "the same files and settings", "choose another key") from None
                new = False  # but the service may have been killed before it was enqueued
            else:
                sync(self.folder(id).parent)
                new = True
            self._enqueue(id, record)
        return self.state(id, owner), new

    def state(self, id: str, owner: str | None) -> JobState:
        """Return the state of a job, if it belongs to `owner` or `owner` is None.

        Raises:
            RefusedError: there is no such job, or it has another owner.
        """
        exists = re.fullmatch("[0-9a-f]{32}", id) and self.folder(id).exists()
        return self._state(DBOS.get_workflow_status(id) if exists else None, owner)

    def list(self, owner: str | None, limit: int, offset: int) -> list[JobState]:
        """List the jobs of an owner (all jobs if None), newest first."""
        found = DBOS.list_workflows(user=owner, limit=limit, offset=offset, sort_desc=True, load_input=False)
        states = []
        for status in found:
            with contextlib.suppress(RefusedError):  # deleted in the meantime
                states.append(self._state(status, owner))
        return states

    def cancel(self, id: str, owner: str | None) -> JobState:
        """Cancel a queued or running job. Has no effect on a job that has ended."""
        if not self.state(id, owner).ended:
            DBOS.cancel_workflow(id)
            with contextlib.suppress(FileNotFoundError):
                (self.folder(id) / CANCELLED).touch()
        return self.state(id, owner)

    def result(self, id: str, owner: str | None) -> Path:
        """Return the path of the result of a job.

        Raises:
            RefusedError: the job is not done.
        """
        state = self.state(id, owner)
        if state.state != "done":
            raise RefusedError(409, f"a job in state {state.state!r}", "state 'done'", "wait, or check its error")
        return self.folder(id) / OUTPUTS[state.kind]

    def input(self, id: str, owner: str | None, name: Literal["picture", "video"]) -> Path:
        """Return the path of a file that a job was submitted with."""
        self.state(id, owner)
        return self.folder(id) / getattr(self._record(id), name)

    def delete(self, id: str, owner: str | None) -> None:
        """Cancel a job and delete it with all its files.

        Raises:
            RefusedError: a worker still uses the folder.
        """
        self.cancel(id, owner)
        folder, deleted = self.folder(id), self.data / "incoming" / f"deleted-{secrets.token_hex(8)}"
        for _ in range(100):
            with contextlib.suppress(ConfigError):
                FolderLock(folder / LOCK).release()
                break
            time.sleep(0.1)
        else:
            raise RefusedError(409, "a job that is still stopping", "a job that has stopped", "try again in a moment")
        deleted.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(deleted)
        DBOS.delete_workflow(id)
        shutil.rmtree(deleted, ignore_errors=True)

    # --- limits and metrics -----------------------------------------------------------------------------------------

    def check_count(self, owner: str) -> None:
        """Raise RefusedError if an owner has the maximum number of queued and running jobs."""
        limit = self.config.max_jobs
        jobs = DBOS.list_workflows(user=owner, status=ACTIVE, limit=limit, load_input=False, load_output=False)
        if len(jobs) >= limit:
            raise RefusedError(429, f"over {limit} queued or running jobs", f"at most {limit}", "wait until one ends")

    def check_room(self, used: int) -> None:
        """Raise RefusedError if `used` bytes exceed the maximum size of the data folder."""
        if used > self.config.max_disk * GIB:
            raise RefusedError(507, "no disk space for more files", "free space", "delete jobs, or try again later")

    def disk_used(self) -> int:
        """Compute the size of the data folder in bytes."""
        total = 0
        for parent, _, names in os.walk(self.data):
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.stat(os.path.join(parent, name)).st_size  # noqa: PTH116, PTH118 - half the time
        return total

    def counts(self) -> dict[str, int]:
        """Count the jobs in each state."""
        found = Counter(map(_state_name, DBOS.list_workflows(load_input=False)))
        return {name: found[name] for name in ("queued", "running", "done", "failed", "cancelled")}

    # --- start and end of the service -------------------------------------------------------------------------------

    def claim(self) -> None:
        """Lock the data folder against other processes of this name."""
        if self._lock is None:
            self.data.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.data / f"{self.name}.lock")

    def open(self) -> None:
        """Start running jobs, and resume those that an earlier process left unfinished.

        Raises:
            ConfigError: the data folder is in use by another process of this name.
        """
        self.claim()
        logging.getLogger("dbos").addFilter(_keep_record)
        DBOS(
            config={
                "name": "mimicmotion",
                "system_database_url": self.config.database or f"sqlite:///{self.data / 'jobs.sqlite'}",
                "application_version": "1",  # fixed, so that a new version of the package resumes earlier jobs
                "executor_id": self.name,
                "log_level": "ERROR",
            }
        )
        Jobs.current = self
        DBOS.launch()
        workers = len(self.devices.all)
        DBOS.register_queue(QUEUE, worker_concurrency=workers, polling_interval_sec=0.5, on_conflict="always_update")
        for folder in (self.data / "jobs").glob("*"):
            if DBOS.get_workflow_status(folder.name) is None:  # killed before it was enqueued
                self._enqueue(folder.name, self._record(folder.name))
        threading.Thread(target=self._clean_up, name="clean-up", daemon=True).start()

    def close(self) -> None:
        """Stop running jobs, which save their state first and resume when the service is opened again."""
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
        """Run a job, and return the error if it fails. This is the body of its workflow, rerun after a crash.

        Raises:
            Stopped: the job was cancelled, or the service ends. DBOS does not record this as an outcome.
        """
        folder = self.folder(id)
        self._running.add(id)
        try:
            config = self.configure(folder, self._record(id))
            if config.duration is None:  # a video may be longer than it states
                longest = min(1000.0, config.source_seconds(self.config.max_seconds))
                config = dataclasses.replace(config, duration=longest)
            with self.devices.one() as worker:
                self._run(worker, config)
        except FileNotFoundError as e:  # deleted in the meantime
            raise Stopped from e
        except MimicMotionError as e:
            return public(e, folder)
        else:
            return None
        finally:
            self._running.discard(id)

    def _run(self, worker: Worker, config: GenerateConfig) -> None:
        """Run a job in a worker, again if the worker dies."""
        folder = config.output.parent
        cancelled, deaths, before = folder / CANCELLED, 0, ""

        def stopping() -> float | None:
            return SHUTDOWN_SECONDS if self._stopping.is_set() else CANCEL_SECONDS if cancelled.exists() else None

        while stopping() is None:
            try:
                worker.ask(config, JOB_SECONDS, stopping)
                return
            except DiedError as e:
                now = _read_text(folder / PROGRESS)
                deaths, before = deaths + 1 if now == before else 1, now
                logger.warning("%s: %s (%d)", folder.name, e.got, deaths)
                if deaths >= MAX_DEATHS:
                    raise
            except Stopped:
                continue
        if cancelled.exists():
            shutil.rmtree(state_path(config.output), ignore_errors=True)
        raise Stopped

    # --- internals --------------------------------------------------------------------------------------------------

    def _record(self, id: str) -> Record:
        return Record(**json.loads((self.folder(id) / RECORD).read_bytes()))

    def _enqueue(self, id: str, record: Record) -> None:
        """Start the workflow of a job, unless it exists."""
        # in DBOS the lowest number comes first
        options = SetEnqueueOptions(priority=1 + HIGHEST_PRIORITY - record.priority)
        with SetWorkflowID(id), options, DBOSContextSetAuth(record.owner, None):
            DBOS.enqueue_workflow(QUEUE, run_job, id)

    def _state(self, status: WorkflowStatus | None, owner: str | None) -> JobState:
        try:
            if status is None or owner not in (None, status.authenticated_user):
                raise FileNotFoundError
            record, folder = self._record(status.workflow_id), self.folder(status.workflow_id)
        except FileNotFoundError as e:
            raise RefusedError(404, "no such job", "the id of one of your jobs", "list the jobs") from e
        state = _state_name(status)
        progress = json.loads(_read_text(folder / PROGRESS) or "{}") if state != "queued" else {}
        times = (status.created_at, None if state == "queued" else status.dequeued_at, status.completed_at)
        created, started, finished = (t and t / 1000 for t in times)
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
            **{k: progress.get(k) for k in ("stage", "done", "total")},
            eta=progress.get("eta") if state == "running" else None,
            preview=preview_path(folder / OUTPUTS[record.kind]).exists(),
            error=(status.output or CRASHING) if state == "failed" else None,
        )

    def _clean_up(self) -> None:
        while True:
            try:
                self._delete_old()
            except Exception:
                logger.exception("old jobs could not be deleted")
            if self._stopping.wait(CLEANUP_SECONDS):
                return

    def _delete_old(self) -> None:
        """Delete jobs that ended long ago, and the files of interrupted requests."""
        last = time.time() - self.config.keep_days * 86400
        before = datetime.fromtimestamp(last, UTC).isoformat()
        for status in DBOS.list_workflows(status=ENDED, completed_before=before, load_input=False, load_output=False):
            try:
                self.delete(status.workflow_id, None)
            except RefusedError:  # the folder no longer exists
                DBOS.delete_workflow(status.workflow_id)
        for folder in (self.data / "incoming").glob("*"):
            if folder.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(folder, ignore_errors=True)


@DBOS.workflow(name="job")
def run_job(id: str) -> dict[str, str] | None:
    """Run the job's workflow; returns the error if it fails."""
    return Jobs.current.run(id)


def public(error: BaseException, folder: Path | None = None) -> dict[str, str]:
    """Return the error without paths into the job's folder; for an unexpected error, a generic message."""
    if not isinstance(error, MimicMotionError):
        return UNEXPECTED
    parts = {name: getattr(error, name) for name in ("got", "expected", "fix")}
    return {name: text.replace(f"{folder}{os.sep}", "") if folder else text for name, text in parts.items()}


def public_sidecar(output: Path) -> str:
    """Return the sidecar of a result, without paths into the data folder."""
    return _read_text(sidecar_path(output)).replace(f"{output.parent}{os.sep}", "")


def _keep_record(record: logging.LogRecord) -> bool:
    """Return whether to log a record: not DBOS's errors about jobs deleted or cancelled just before they end."""
    ended = error.DBOSNonExistentWorkflowError, error.DBOSAwaitedWorkflowCancelledError
    return not (record.exc_info and isinstance(record.exc_info[1], ended))


def _state_name(status: WorkflowStatus) -> str:
    """Return the state of a job as clients see it."""
    return "failed" if status.status == "SUCCESS" and status.output else STATES.get(status.status, "failed")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    return ""
