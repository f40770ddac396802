"""Many jobs from one file, each in a process of its own: on this machine, on a Ray cluster or by a service.

Each job gives the bytes that it gives alone. Finished results are kept, interrupted jobs resume.
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
from mimicmotion.generate.provenance import Checksums, origin_of_inputs, plain
from mimicmotion.generate.replay import compare
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.files import atomic_path, check_not_inputs, check_writable
from mimicmotion.runtime.interrupt import Interrupts
from mimicmotion.runtime.progress import Job, Progress, finish
from mimicmotion.runtime.reading import check_limit, reading
from mimicmotion.settings import BatchConfig, GenerateConfig, parse

State = Literal["made", "there", "failed"]
Answer = tuple[int, State, str]
"""Number of a job, how it ended, and the error of one that failed."""

PATHS = ("picture", "video", "output", "detector", "pose_model", "signer")
SENT = ("picture", "video", "output", "resume")
TOKEN = "MIMICMOTION_TOKEN"
"""Environment variable: the token for a service that asks for one."""
CONNECTIONS = 32
"""Jobs that wait for a service at a time."""
RETRIES = 2
"""How often Ray runs a job again whose worker died."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        output: its result.
        state: made, there (it was made before) or failed.
        message: the error.
    """

    output: Path
    state: State
    message: str = ""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How all jobs ended, in the order of the file."""

    outcomes: list[Outcome]
    seconds: float

    @property
    def failed(self) -> list[Outcome]:
        """Those that failed."""
        return [outcome for outcome in self.outcomes if outcome.state == "failed"]

    def summary(self) -> str:
        """A few lines for a person to read."""
        states = [outcome.state for outcome in self.outcomes]
        counts = f"{states.count('made')} made, {states.count('there')} there before, {states.count('failed')} failed"
        return "\n".join([*(f"{o.output}: {o.message}" for o in self.failed), f"{counts} in {self.seconds:.1f} s"])


def batch(config: BatchConfig) -> Job[BatchResult]:
    """Run all jobs of a file; one that fails does not stop the others.

    Raises:
        ConfigError: the file or the settings of a job are wrong, or two jobs write one file; before any work.
    """
    start = time.perf_counter()
    jobs = read_jobs(config.jobs)
    if config.engine == "server" and (other := next((j.output for j in jobs if j.output.suffix != ".mp4"), None)):
        raise ConfigError(f"{other} with engine=server", "a result that ends in .mp4", "rename it, or run it here")
    check_not_inputs([config.jobs], [path for job in jobs for path in _written(job)])
    if config.report is not None:
        check_writable(config.report)
    found: dict[int, Outcome] = {i: Outcome(job.output, "there") for i, job in enumerate(jobs) if is_done(job)}
    yield Progress("jobs", len(found), len(jobs))
    waiting = {i: job for i, job in enumerate(jobs) if i not in found}
    run = {"local": _run_here, "ray": _run_on_ray, "server": _run_on_server}[config.engine]
    with contextlib.closing(run(config, waiting)) as answers:  # its workers end before the caller goes on
        for i, state, message in answers:
            found[i] = Outcome(jobs[i].output, state, message)
            yield Progress("jobs", len(found), len(jobs), f"{jobs[i].output}: {state}")
    result = BatchResult([found[i] for i in range(len(jobs))], time.perf_counter() - start)
    if config.report is not None:
        with atomic_path(config.report) as part:
            facts = [dataclasses.asdict(outcome) for outcome in result.outcomes]
            part.write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
    return result


def read_jobs(path: Path) -> list[GenerateConfig]:
    """The jobs of a YAML file (a list, or `defaults` and `jobs`) or a CSV file (a column for each setting).

    Raises:
        ConfigError: the file or a setting is wrong; names the job.
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
        raise ConfigError(f"{path} is no list of jobs", "settings of `generate` for each", "see the guide 'Batches'")
    jobs = []
    for i, row in enumerate(rows):
        try:
            jobs.append(parse(GenerateConfig, defaults | row))
        except InputError as e:
            raise ConfigError(f"{path}, job {i + 1}: {e.got}", e.expected, e.fix) from e
    return jobs


def is_done(config: GenerateConfig) -> bool:
    """Whether the result is there, made from the same inputs with the same settings, and unchanged."""
    try:
        facts = read_sidecar(sidecar_path(config.output), ["settings", "origin", "output_sha256"])
        wanted = origin_of_inputs(config, Checksums())
    except MimicMotionError:
        return False
    there = facts["origin"]
    settings = wanted["settings"] | ({} if config.estimator else {"estimator": there["settings"].get("estimator")})
    same_model = all(facts["settings"].get(name) == getattr(config, name) for name in ("model", "checkpoint"))
    same = same_model and (settings, wanted["inputs"]) == (there["settings"], there["inputs"])
    return same and compare(config.output, facts["output_sha256"]) == "the same"


def _written(config: GenerateConfig) -> list[Path]:
    beside = [side_by_side_path(config.output)] if config.side_by_side else []
    return [config.output, sidecar_path(config.output), *beside]


def _run_job(config: GenerateConfig) -> tuple[State, str]:
    """Make one result in this process, resuming an interrupted run."""
    try:
        finish(generate(dataclasses.replace(config, resume=state_path(config.output).exists())))
    except Exception as e:
        return "failed", str(e)
    return "made", ""


# --- on this machine --------------------------------------------------------------------------------------------


def _run_here(config: BatchConfig, jobs: Mapping[int, GenerateConfig]) -> Generator[Answer, None, None]:
    """One job at a time on each device, each in a process of its own: one that dies takes no other with it."""
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[int, str, Any]] = {}
    waiting, free = list(jobs.items()), _devices(config) if jobs else []
    try:
        with Interrupts():
            while waiting or running:
                while waiting and free:
                    (i, job), device = waiting.pop(0), free.pop(0)
                    ours, theirs = context.Pipe(duplex=False)
                    given = dataclasses.replace(job, device=device) if job.device == "auto" else job
                    process = context.Process(target=_work, args=(given, theirs))
                    process.start()
                    theirs.close()
                    running[ours] = i, device, process
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
                        message = f"its process died (exit code {process.exitcode}; is the memory full?)"
                    ready.close()
                    yield i, state, message
    finally:
        for _, _, process in running.values():
            process.terminate()  # as Ctrl-C: the step at hand is finished and saved
        for _, _, process in running.values():
            process.join()


def _devices(config: BatchConfig) -> list[str]:
    import torch

    return config.devices or [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["auto"]


def _work(config: GenerateConfig, answers: Connection) -> None:
    """The work of one process; Ctrl-C reaches the parent, which ends it in good order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answers.send(_run_job(config))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


# --- on a Ray cluster -------------------------------------------------------------------------------------------


def _run_on_ray(config: BatchConfig, jobs: Mapping[int, GenerateConfig]) -> Generator[Answer, None, None]:
    """A task for each job, with a GPU of its own where the cluster has any; all machines see the same folders."""
    ray = import_extra("ray", "ray")
    ray.init(address=config.address, log_to_driver=False, include_dashboard=False)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        # a process serves one job: what it leaves in memory changes no other's
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, max_calls=1)(_run_job)
        pending = {task.remote(_absolute(job)): i for i, job in jobs.items()}
        while pending:
            (ready,), _ = ray.wait(list(pending))
            i = pending.pop(ready)
            try:
                yield (i, *ray.get(ready))
            except ray.exceptions.RayError as e:
                yield i, "failed", f"its worker died {RETRIES + 1} times ({type(e).__name__})"
    finally:
        ray.shutdown()


# --- by a service -----------------------------------------------------------------------------------------------


def _run_on_server(config: BatchConfig, jobs: Mapping[int, GenerateConfig]) -> Generator[Answer, None, None]:
    """All jobs are sent, and fetched as they end. A batch that is run again finds the jobs that it has sent."""
    client = Client(config.address or "http://127.0.0.1:8000", os.environ.get(TOKEN))
    pool = ThreadPoolExecutor(max(1, min(len(jobs), CONNECTIONS)))
    try:
        sent = {pool.submit(_fetch, client, job): i for i, job in jobs.items()}
        for future in as_completed(sent):
            yield (sent[future], *future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch(client: Client, job: GenerateConfig) -> tuple[State, str]:
    """Have one result made by a service."""
    defaults = {f.name: f.default for f in dataclasses.fields(job)}
    settings = {
        k: v for k, v in plain(dataclasses.asdict(job)).items() if v != plain(defaults.get(k)) and k not in SENT
    }
    try:
        same = json.dumps([settings, origin_of_inputs(job, Checksums())["inputs"]], sort_keys=True)
        key = hashlib.sha256(same.encode()).hexdigest()
        made = client.wait(client.submit(job.picture, job.video, key=key, **settings).id)
        client.download(made.id, job.output)
        facts = client.sidecar(made.id)
        write_sidecar(sidecar_path(job.output), {k: v for k, v in facts.items() if k not in ("format", "version")})
    except Exception as e:
        return "failed", str(e)
    return "made", ""


def _absolute(config: GenerateConfig) -> GenerateConfig:
    """A worker has another folder than this process."""
    paths: dict[str, Any] = {name: path.absolute() for name in PATHS if (path := getattr(config, name)) is not None}
    return dataclasses.replace(config, **paths)
