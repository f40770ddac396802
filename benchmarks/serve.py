"""How does the service hold up under load? python benchmarks/serve.py [--minutes 10] [--clients 50] [--uploads 200].

Prints one JSON line. A service with the bundled model runs on this machine. Each client asks for the state of a job
once per second, while four others submit jobs (a picture and a short pose file) until `uploads` are accepted, spread
over the first half of the time. At the end, queued jobs are cancelled.

- `state_ms`, `submit_s`: response time of a request for a state, and of an upload (median, 95th percentile, maximum).
- `memory_mb`: memory of the server process after a tenth of the time, and at the end.
- `lost`: accepted jobs that the service no longer knows at the end. `errors`: errors of requests.
- `first_start_s`, `second_start_s`: time from the start of a job to its first denoising step, for the first and second
  job of a worker.

    python benchmarks/serve.py --minutes 10 > serve.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mimicmotion.client import Client
from mimicmotion.generate.poses import poses as find_poses
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import PosesConfig
from mimicmotion.weights.registry import find_asset

PAUSE = 1.0  # seconds between two requests of a client


class Load:
    """Clients that run on threads of this process."""

    def __init__(self, url: str, video: Path) -> None:
        self.url, self.files = url, (find_asset("demo/person.png"), video)
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.accepted: list[str] = []
        self.state_seconds: list[float] = []
        self.submit_seconds: list[float] = []
        self.errors: list[str] = []

    def watch(self) -> None:
        client, number = Client(self.url), 0
        while not self.over.wait(PAUSE):
            with self.lock:
                id = self.accepted[number % len(self.accepted)]
            number += 1
            start = time.perf_counter()
            self.guarded(lambda id=id: client.state(id))
            with self.lock:
                self.state_seconds.append(time.perf_counter() - start)

    def send(self, count: int, pause: float) -> None:
        client = Client(self.url)
        for seed in range(count):
            if self.over.is_set():
                return
            start = time.perf_counter()
            job = self.guarded(lambda seed=seed: client.submit(*self.files, seed=seed, num_inference_steps=2))
            with self.lock:
                self.submit_seconds.append(time.perf_counter() - start)
                if job is not None:
                    self.accepted.append(job.id)
            self.over.wait(pause)

    def guarded(self, call: Any) -> Any:
        try:
            return call()
        except Exception as e:
            with self.lock:
                self.errors.append(f"{type(e).__name__}: {e}"[:200])
            return None


def percentiles(values: list[float], unit: float) -> dict[str, float]:
    found = np.percentile(values, [50, 95, 100]) * unit
    return {name: round(float(v), 2) for name, v in zip(("median", "p95", "longest"), found, strict=True)}


def start_of(client: Client, files: tuple[Path, Path]) -> float:
    """Seconds from the start of a job to its first step."""
    job = client.submit(*files, num_inference_steps=2)
    for state in client.progress(job.id):
        if state.stage == "denoise" or state.ended:
            began = state.started or 0.0
            seconds = time.time() - began
            client.wait(job.id)
            return round(seconds, 2)
    raise RuntimeError("the job did not end")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    video = folder / "poses.npz"
    finish(find_poses(PosesConfig(video=find_asset("demo/driving.mp4"), output=video, duration=0.5, fps=8.0)))
    options = ["--data", str(folder / "data"), "--port", "0", "--max-jobs", "100000"]
    command = [sys.executable, "-m", "mimicmotion.cli", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        client, load = Client(url), Load(url, video)
        starts = [start_of(client, load.files) for _ in range(2)]
        load.accepted.append(client.submit(*load.files, num_inference_steps=2).id)
        senders, seconds = 4, arguments.minutes * 60
        each = -(-arguments.uploads // senders)
        threads = [threading.Thread(target=load.watch) for _ in range(arguments.clients)]
        threads += [threading.Thread(target=load.send, args=(each, seconds / each / 2)) for _ in range(senders)]
        for thread in threads:
            thread.start()
        server, memory = psutil.Process(process.pid), []
        for share in (0.1, 0.9):
            time.sleep(seconds * share)
            memory.append(server.memory_info().rss / 1e6)
        load.over.set()
        for thread in threads:
            thread.join()
        known: dict[str, Any] = {}
        while page := client.list(200, len(known)):
            known |= {job.id: job for job in page}
        for id, job in known.items():
            if not job.ended:
                client.cancel(id)
        process.terminate()
    states = [known[id].state for id in load.accepted if id in known]
    return {
        "clients": arguments.clients,
        "uploads": len(load.accepted),
        "minutes": arguments.minutes,
        "state_requests": len(load.state_seconds),
        "state_ms": percentiles(load.state_seconds, 1000),
        "submit_s": percentiles(load.submit_seconds, 1),
        "memory_mb": [round(m, 1) for m in memory],
        "lost": len(set(load.accepted) - known.keys()),
        "done": states.count("done"),
        "failed": states.count("failed"),
        "errors": load.errors[:5],
        "first_start_s": starts[0],
        "second_start_s": starts[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--uploads", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    print(json.dumps({"benchmark": "serve", "cores": os.cpu_count(), **found}))


if __name__ == "__main__":
    main()
