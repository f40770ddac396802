"""Run the generate jobs listed in a file, each in its own process: on this machine, on a Ray cluster or on a server.

Results are byte-identical to those of single jobs. Completed jobs are skipped, and interrupted ones resume.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from mimicmotion.client import Client
from mimicmotion.errors import ConfigError, InputError, MimicMotionError
from mimicmotion.generate.job import generate
from mimicmotion.generate.outputs import read_sidecar, side_by_side_path, sidecar_path, state_path, write_sidecar
from mimicmotion.generate.provenance import Checksums, inputs_provenance, plain
from mimicmotion.generate.replay import compare
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.files import check_not_inputs
from mimicmotion.runtime.interrupt import Interrupts
from mimicmotion.runtime.progress import Job, Progress, finish
from mimicmotion.runtime.reading import check_limit, reading
from mimicmotion.settings import BatchConfig, GenerateConfig, parse

State = Literal["done", "skipped", "failed"]
Report = tuple[int, State, str]
"""Index of a job, its state, and the error message if it failed."""

PATHS = ("picture", "video", "output", "detector", "pose_model", "signer")
NOT_SENT = ("picture", "video", "output", "resume")
"""Settings that are not sent to a service, which receives the files instead of their paths."""
TOKEN = "MIMICMOTION_TOKEN"
"""Environment variable that contains the access token of the service."""
CONNECTIONS = 32
"""Maximum number of jobs that a batch submits to a service at a time."""
RETRIES = 2
"""Number of times that Ray retries a job whose worker died."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a job.

    Attributes:
        output: path of the result.
        state: "done", "skipped" (an earlier run completed it) or "failed".
        message: error message, if the job failed.
    """

    output: Path
    state: State
    message: str = ""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Outcomes of all jobs, in the order of the jobs file, and the total time in seconds."""

    outcomes: list[Outcome]
    seconds: float

    @property
    def failed(self) -> list[Outcome]:
        """Outcomes of the failed jobs."""
        return [outcome for outcome in self.outcomes if outcome.state == "failed"]

    def summary(self) -> str:
        """A short summary for the user."""
        states = [outcome.state for outcome in self.outcomes]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "skipped", "failed"))
        return "\n".join([*(f"{o.output}: {o.message}" for o in self.failed), f"{counts} in {self.seconds:.1f} s"])


def batch(config: BatchConfig) -> Job[BatchResult]:
    """Run all jobs of a file. If a job fails, the others continue.

    Raises:
        ConfigError: before any job starts: the file or a job's settings are invalid, or two jobs write the same file.
    """
    start = time.perf_counter()
    jobs = read_jobs(config.jobs)
    if config.engine == "server" and (other := next((j.output for j in jobs if j.output.suffix != ".mp4"), None)):
        raise ConfigError(f"{other} with engine=server", "an output ending in .mp4", "rename it, or use another engine")
    outputs = [path for job in jobs for path in (job.output, sidecar_path(job.output))]
    outputs += [side_by_side_path(job.output) for job in jobs if job.side_by_side]
    check_not_inputs([config.jobs], outputs)
    outcomes: dict[int, Outcome] = {i: Outcome(job.output, "skipped") for i, job in enumerate(jobs) if is_done(job)}
    yield Progress("jobs", len(outcomes), len(jobs))
    waiting = {i: job for i, job in enumerate(jobs) if i not in outcomes}
    run = {"local": _run_locally, "ray": _run_on_ray, "server": _run_on_server}[config.engine]
    with contextlib.closing(run(config, waiting)) as reports:  # even after an error, wait for the workers
        for i, state, message in reports:
            outcomes[i] = Outcome(jobs[i].output, state, message)
            yield Progress("jobs", len(outcomes), len(jobs), f"{jobs[i].output}: {state}")
    return BatchResult([outcomes[i] for i in range(len(jobs))], time.perf_counter() - start)


def read_jobs(path: Path) -> list[GenerateConfig]:
    """Read the jobs of a YAML file (a list, or `defaults` and `jobs`) or a CSV file (one column per setting).

    Raises:
        ConfigError: the file or a setting is invalid; the message contains the number of the job.
    """
    import yaml

    rows: Any
    with reading(path, "a readable YAML or CSV file", "check the path and the syntax", ConfigError):
        check_limit("bytes", path.stat().st_size, path, ConfigError)
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(text.splitlines())]
        else:
            rows = yaml.safe_load(text)
    defaults: Any = {}
    if isinstance(rows, dict) and set(rows) <= {"defaults", "jobs"}:
        defaults, rows = rows.get("defaults", {}), rows.get("jobs")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in (*rows, defaults)):
        raise ConfigError(f"{path} is not a list of jobs", "a list of `generate` settings", "see the guide 'Batches'")
    jobs = []
    for i, row in enumerate(rows):
        try:
            jobs.append(parse(GenerateConfig, defaults | row))
        except InputError as e:
            raise ConfigError(f"{path}, job {i + 1}: {e.got}", e.expected, e.fix) from e
    return jobs


def is_done(config: GenerateConfig) -> bool:
    """Return whether the result exists, is unchanged, and was made with the same inputs, settings and model names."""
    try:
        facts = read_sidecar(sidecar_path(config.output), ["settings", "origin", "output_sha256"])
        expected = inputs_provenance(config, Checksums())
    except MimicMotionError:
        return False
    origin = facts["origin"]
    settings = expected["settings"] | ({} if config.estimator else {"estimator": origin["settings"].get("estimator")})
    same_model = all(facts["settings"].get(name) == getattr(config, name) for name in ("model", "checkpoint"))
    same = same_model and (settings, expected["inputs"]) == (origin["settings"], origin["inputs"])
    return same and compare(config.output, facts["output_sha256"]) == "unchanged"


def _run_job(config: GenerateConfig) -> tuple[State, str]:
    """Run one job in this process, resuming an interrupted run."""
    try:
        finish(generate(dataclasses.replace(config, resume=state_path(config.output).exists())))
    except Exception as e:
        return "failed", str(e)
    return "done", ""


# --- on this machine --------------------------------------------------------------------------------------------


def _run_locally(config: BatchConfig, jobs: Mapping[int, GenerateConfig]) -> Generator[Report, None, None]:
    """Run one job at a time per device, each in its own process, so that a crash does not affect the others."""
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[int, str, Any]] = {}
    waiting, free = list(jobs.items()), (config.devices or _devices()) if jobs else []
    try:
        with Interrupts():
            while waiting or running:
                while waiting and free:
                    (i, job), device = waiting.pop(0), free.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    job = dataclasses.replace(job, device=device) if job.device == "auto" else job
                    process = context.Process(target=_work, args=(job, sender))
                    process.start()
                    sender.close()
                    running[receiver] = i, device, process
                for ready in wait(list(running)):
                    assert isinstance(ready, Connection)
                    i, device, process = running.pop(ready)
                    free.append(device)
                    try:
                        state, message = ready.recv()
                        process.join()
                    except EOFError:
                        process.join()
                        state = "failed"
                        message = f"the process died (exit code {process.exitcode}); it may have run out of memory"
                    ready.close()
                    yield i, state, message
    finally:
        for _, _, process in running.values():
            process.terminate()  # the current step is finished and saved
        for _, _, process in running.values():
            process.join()


def _devices() -> list[str]:
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["auto"]


def _work(config: GenerateConfig, reports: Connection) -> None:
    """Main function of a worker process. It ignores Ctrl-C, which the parent handles by terminating the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reports.send(_run_job(config))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


# --- on a Ray cluster -------------------------------------------------------------------------------------------


def _run_on_ray(config: BatchConfig, jobs: Mapping[int, GenerateConfig]) -> Generator[Report, None, None]:
    """Run one task per job, each with its own GPU if the cluster has any. Paths must be valid on all machines."""
    ray = import_extra("ray", "ray")
    ray.init(address=config.address, log_to_driver=False, include_dashboard=False)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # max_calls=1: a new process for each job
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, max_calls=1)(_run_job)
        pending = {task.remote(_absolute(job)): i for i, job in jobs.items()}
        while pending:
            (ready,), _ = ray.wait(list(pending))
            i = pending.pop(ready)
            try:
                yield (i, *ray.get(ready))
            except ray.exceptions.RayError as e:
                yield i, "failed", f"the worker died {RETRIES + 1} times ({type(e).__name__})"
    finally:
        ray.shutdown()


# --- on a service -----------------------------------------------------------------------------------------------


def _run_on_server(config: BatchConfig, jobs: Mapping[int, GenerateConfig]) -> Generator[Report, None, None]:
    """Submit all jobs and download the results. A repeated batch reuses the jobs that it submitted before."""
    client = Client(config.address or "http://127.0.0.1:8000", os.environ.get(TOKEN))
    pool = ThreadPoolExecutor(max(1, min(len(jobs), CONNECTIONS)))
    try:
        futures = {pool.submit(_fetch, client, job): i for i, job in jobs.items()}
        for future in as_completed(futures):
            yield (futures[future], *future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch(client: Client, job: GenerateConfig) -> tuple[State, str]:
    """Run one job on the service, and download its result."""
    defaults = {f.name: plain(f.default) for f in dataclasses.fields(job) if f.name not in NOT_SENT}
    values = plain(dataclasses.asdict(job))
    settings = {name: values[name] for name, default in defaults.items() if values[name] != default}
    try:
        content = json.dumps([settings, inputs_provenance(job, Checksums())["inputs"]], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()
        done = client.wait(client.submit(job.picture, job.video, key=key, **settings).id)
        client.download(done.id, job.output)
        facts = client.sidecar(done.id)
        write_sidecar(sidecar_path(job.output), {k: v for k, v in facts.items() if k not in ("format", "version")})
    except Exception as e:
        return "failed", str(e)
    return "done", ""


def _absolute(config: GenerateConfig) -> GenerateConfig:
    """Make all paths absolute, because workers run in a different folder."""
    paths: dict[str, Any] = {name: path.absolute() for name in PATHS if (path := getattr(config, name)) is not None}
    return dataclasses.replace(config, **paths)
