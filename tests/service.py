"""A running service for tests: `mimicmotion serve` in a separate process, on the micro model and a pose file."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from mimicmotion.client import Client
from mimicmotion.generate.job import generate
from mimicmotion.pose.files import save_poses
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import GenerateConfig, load_yaml, parse
from mimicmotion.settings.serve import ServeConfig
from mimicmotion.weights.registry import find_asset
from planted_job import dancing, save_micro_model

STEPS = 2


class Service:
    """Starts, kills and starts again.

    Args:
        folder: folder with the data folder, the model and the files to send.
        options: options of the command besides --data, --port and --settings.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.data, self.options = folder, folder / "data", options
        self.picture, self.video = find_asset("demo/person.png"), folder / "poses.npz"
        if not self.video.exists():
            save_poses(dancing(8), self.video)
            settings = {"model": str(save_micro_model(folder / "model")), "num_inference_steps": STEPS}
            settings["label"] = "visible"  # no two signatures are the same
            (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> Service:
        command = [sys.executable, "-m", "mimicmotion.cli", "serve", "--data", str(self.data), "--port", str(self.port)]
        command += ["--settings", str(self.folder / "settings.yaml"), *self.options]
        command += [] if "--page" in self.options else ["--no-page"]
        with (self.folder / "log").open("a") as log:
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # sums come in the same order everywhere
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=one_thread)
        assert self.process.stdout is not None
        with self.process.stdout as said:
            line = said.readline()
        if not line.startswith("http://"):
            self.process.wait()
            raise AssertionError((self.folder / "log").read_text())
        self.port = int(line.split()[0].rpartition(":")[2])
        return self

    @property
    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}")

    def submit(self, **settings: Any) -> str:
        return self.client.submit(self.picture, self.video, **settings).id

    def expected(self, folder: Path, **settings: Any) -> bytes:
        """Result of `generate` with the same settings in this process."""
        given = {"duration": ServeConfig().max_seconds} | load_yaml(self.folder / "settings.yaml") | settings
        places = {"picture": self.picture, "video": self.video, "output": folder / "expected.mp4"}
        return finish(generate(parse(GenerateConfig, given | places))).path.read_bytes()

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(300)

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (else bytes) and headers of the answer to a raw request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            raw = answer.read()
            found = dict(answer.getheaders())
        return answer.status, json.loads(raw) if "json" in found.get("content-type", "") else raw, found

    def post(self, parts: list[tuple[str, bytes]], path: str = "/v1/jobs", **headers: str) -> tuple[int, Any]:
        """Send a form of (name, contents)."""
        body = b""
        for name, contents in parts:
            body += f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="../../x"\r\n\r\n'.encode()
            body += contents + b"\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=b", **headers}
        return self.request("POST", path, headers, body + b"--b--\r\n")[:2]

    def left(self) -> list[str]:
        """Contents of the folders of jobs and uploads."""
        return sorted(p.name for folder in ("jobs", "incoming") for p in (self.data / folder).glob("*"))


def wait_for(what: Any, seconds: float = 300.0) -> None:
    """Wait until `what()` is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
