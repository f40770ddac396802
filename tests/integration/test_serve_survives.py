"""No accepted job is lost, whatever is killed, and results have the bytes of an uninterrupted run."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from service import Service, wait_for

pytestmark = pytest.mark.whole
STEPS = 30


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("plain")) as service:
        yield service


@pytest.fixture(scope="module")
def plain(undisturbed: Service) -> dict[int, bytes]:
    """The results of some seeds when nothing is killed."""
    jobs = {seed: undisturbed.submit(seed=seed, num_inference_steps=STEPS) for seed in range(3)}
    return results(undisturbed, jobs, undisturbed.folder)


def results(service: Service, jobs: dict[int, str], folder: Path) -> dict[int, bytes]:
    return {
        number: service.client.download(service.client.wait(id).id, folder / f"{id}.mp4").read_bytes()
        for number, id in jobs.items()
    }


def kill_at_random(service: Service, draw: random.Random, seconds: float) -> None:
    """Kill the server (whose workers live on for a moment) or a worker after a random time; then restart."""
    time.sleep(draw.uniform(0, seconds))
    victims = service.workers()
    if victims and draw.random() < 0.5:
        with contextlib.suppress(psutil.NoSuchProcess):
            draw.choice(victims).kill()
    else:
        service.kill()
        service.start()


def test_jobs_survive_a_stop_and_a_kill(tmp_path: Path, one_thread: None) -> None:
    steps = {0: 20, 1: 1}  # by seed

    def denoising(least: int) -> bool:
        state = service.client.state(sent[0])
        assert state.state in ("queued", "running")
        return state.stage == "denoise" and (state.done or 0) >= least

    with Service(tmp_path) as service:
        sent = {seed: service.submit(seed=seed, num_inference_steps=n) for seed, n in steps.items()}
        wait_for(lambda: denoising(3))
        assert service.stop() == 0
        assert (service.data / "jobs" / sent[0] / "result.mp4.state" / "state.json").exists()
        service.start()
        wait_for(lambda: denoising(5))
        for worker in service.workers():
            worker.kill()
        service.kill()
        service.start()
        found = results(service, sent, tmp_path)
        assert service.client.sidecar(sent[0])["resumed_at"][0] >= 3
        assert {s: service.expected(tmp_path, seed=s, num_inference_steps=n) for s, n in steps.items()} == found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_whatever_is_killed(seed: int, tmp_path: Path, plain: dict[int, bytes]) -> None:
    """A hundred kills over twenty jobs in all."""
    draw, kills = random.Random(seed), 20
    with Service(tmp_path) as service:
        sent = {number: service.submit(seed=number % 3, num_inference_steps=STEPS) for number in range(2)}
        for kill in range(kills):
            kill_at_random(service, draw, 6.0)
            if kill in (1, 3):  # requests come in while things die
                sent[len(sent)] = service.submit(seed=len(sent) % 3, num_inference_steps=STEPS)
        found = results(service, sent, tmp_path)
        assert len(service.client.list()) == len(sent)
    assert {number: plain[number % 3] for number in sent} == found


@pytest.mark.slow
def test_a_job_accepted_but_not_queued_yet_is_found(tmp_path: Path, plain: dict[int, bytes]) -> None:
    with Service(tmp_path) as service:
        job = service.submit(seed=0, num_inference_steps=STEPS)
        service.kill()
        for file in service.data.glob("jobs.sqlite*"):  # as if killed between the two
            file.unlink()
        service.start()
        assert results(service, {0: job}, tmp_path)[0] == plain[0]


@pytest.mark.slow
def test_a_job_that_kills_its_worker_eventually_fails(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        job = service.submit(num_inference_steps=1000)
        wait_for(lambda: service.client.state(job).stage == "denoise")
        end = time.monotonic() + 300
        state = service.client.state(job)
        while state.state == "running" and time.monotonic() < end:
            for worker in service.workers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
            time.sleep(0.05)
            state = service.client.state(job)
        assert state.state == "failed"
        assert "a worker process ended" in state.error["got"]


# --- several machines -------------------------------------------------------------------------------------------


@pytest.fixture
def postgres() -> Iterator[str]:
    """Address of an empty database on a real server."""
    program = shutil.which("postgres")
    if program is None:
        pytest.skip("no postgres on this machine")
    tools, user = Path(program).resolve().parent, None
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("no user 'postgres' to run the server as")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as data:  # pytest's folders are closed to other users
        if user is not None:
            shutil.chown(data, user)
        yield from run_postgres(tools, Path(data), user)


def run_postgres(tools: Path, data: Path, user: str | None) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    subprocess.run(
        [tools / "initdb", "-D", data, "-A", "trust", "-U", "test"], user=user, check=True, capture_output=True
    )
    options = ["-p", str(port), "-k", "", "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen([tools / "postgres", "-D", data, *options], user=user, stderr=subprocess.DEVNULL)
    try:
        ready = [tools / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0)
        yield f"postgresql://test@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()


@pytest.mark.slow
def test_machines_that_share_a_database_share_the_work(postgres: str, tmp_path: Path, plain: dict[int, bytes]) -> None:
    shared = ("--database", postgres)
    with Service(tmp_path, *shared, "--name", "one") as one, Service(tmp_path, *shared, "--name", "two") as two:
        sent = {
            number: (one, two)[number % 2].submit(seed=number % 3, num_inference_steps=STEPS) for number in range(5)
        }
        wait_for(lambda: any(s.state == "running" for s in two.client.list()))
        one.kill()  # its running job waits for it; the others are done by the other one
        one.start()
        assert results(two, sent, tmp_path) == {number: plain[number % 3] for number in sent}
        assert len(one.client.list()) == 5
