"""The service over HTTP: what it accepts, refuses, reports and delivers."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from mimicmotion.client import Client, ServiceError
from mimicmotion.errors import ConfigError
from mimicmotion.generate.batch import batch
from mimicmotion.runtime.progress import finish
from mimicmotion.serve.tokens import Tokens
from mimicmotion.settings import BatchConfig, GenerateConfig
from mimicmotion.settings.serve import OPERATORS, client_settings
from mimicmotion.video.reader import open_video
from service import STEPS, Service, wait_for

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    limits = ["--max-upload", "1", "--max-pixels", "4000000", "--max-seconds", "20", "--max-jobs", "6"]
    with Service(tmp_path_factory.mktemp("service"), *limits) as running:
        yield running
        assert "Traceback" not in (running.folder / "log").read_text()


@pytest.fixture(scope="module")
def done(service: Service) -> str:
    """A job that is done."""
    return service.client.wait(service.submit(seed=5)).id


def test_a_job_reports_its_progress_and_gives_what_generate_makes(
    service: Service, tmp_path: Path, one_thread: None
) -> None:
    states = list(service.client.progress(service.submit(seed=7, preview=True)))
    assert {s.state for s in states} <= {"queued", "running", "done"}
    assert states[-1].state == "done"
    assert states[-1].error is None
    last = states[-1]
    assert last.started >= last.created - 1
    assert last.finished >= last.started
    assert last.frames == 8
    path = service.client.download(last.id, tmp_path / "result.mp4")
    assert path.read_bytes() == service.expected(tmp_path, seed=7, duration=20.0)  # as --max-seconds limits it
    sidecar = service.client.sidecar(last.id)
    assert sidecar["settings"]["seed"] == 7
    assert (sidecar["settings"]["picture"], sidecar["settings"]["output"]) == ("picture.png", "result.mp4")
    assert str(service.data) not in json.dumps(sidecar)


def test_the_result_comes_in_ranges(service: Service, done: str) -> None:
    status, whole, headers = service.request("GET", f"/v1/jobs/{done}/result")
    assert (status, headers["accept-ranges"]) == (200, "bytes")
    status, part, headers = service.request("GET", f"/v1/jobs/{done}/result", {"Range": "bytes=10-29"})
    assert (status, part) == (206, whole[10:30])
    assert headers["content-range"] == f"bytes 10-29/{len(whole)}"
    assert service.request("GET", f"/v1/jobs/{done}/result", {"Range": "bytes=99999999-"})[0] == 416


def test_the_model_stays_loaded(service: Service, done: str) -> None:
    (worker,) = [w for w in service.workers() if w.memory_info().rss > 300e6]  # the one that has torch
    seen = {s.stage for s in service.client.progress(service.submit(seed=8))}
    assert worker.is_running()
    assert seen & {"encode", "denoise", "write"}  # stages shorter than the polling interval are not seen


def test_one_process_has_a_data_folder(service: Service) -> None:
    with pytest.raises(AssertionError, match="in use by another process"):
        Service(service.folder).start()
    service.client.list()  # the first still answers


def test_old_jobs_are_deleted_at_a_start(tmp_path: Path, service: Service, done: str) -> None:
    shutil.copytree(service.data, tmp_path / "data")
    (tmp_path / "data" / "incoming" / "left").mkdir(parents=True)
    os.utime(tmp_path / "data" / "incoming" / "left", (0, 0))
    with Service(tmp_path, "--keep-days", "0.000001") as other:
        wait_for(lambda: not (other.data / "jobs" / done).exists())
        with pytest.raises(ServiceError, match="no such job"):
            other.client.state(done)
        wait_for(lambda: other.left() == [])


def test_a_plan_reports_what_would_be_done(service: Service, tmp_path: Path) -> None:
    job = service.client.submit(service.picture, service.video, kind="plan")
    assert service.client.wait(job.id).kind == "plan"
    text = "\n".join(service.client.sidecar(job.id)["plan"])
    assert "result    8 frames of 48x64" in text
    assert f"steps     {STEPS}," in text
    assert open_video(service.client.download(job.id, tmp_path / "plan.png")).count() == 1


def test_the_same_key_is_the_same_job(service: Service) -> None:
    files = (service.picture, service.video)
    first = service.client.submit(*files, key="once", seed=1)
    assert service.client.submit(*files, key="once", seed=1).id == first.id
    with pytest.raises(ServiceError, match="Idempotency-Key that was used for another job") as e:
        service.client.submit(*files, key="once", seed=2)
    assert e.value.status == 422
    service.client.wait(first.id)
    assert service.client.submit(*files, key="once", seed=1).state == "done"


def test_jobs_are_listed_in_pages_the_newest_first(service: Service) -> None:
    ids = [service.submit(seed=n) for n in range(3)]
    assert [j.id for j in service.client.list(limit=3)] == ids[::-1]
    assert [j.id for j in service.client.list(limit=2, offset=1)] == ids[1::-1]
    status, page, _ = service.request("GET", "/v1/jobs?limit=2")
    assert (status, len(page["jobs"]), page["next_offset"]) == (200, 2, 2)
    assert service.request("GET", "/v1/jobs?offset=100000")[1] == {"jobs": [], "next_offset": None}
    for id in ids:
        service.client.delete(id)


def test_higher_priorities_come_first(service: Service) -> None:
    busy = service.submit(num_inference_steps=1000)
    wait_for(lambda: service.client.state(busy).state == "running")
    low, high = (service.submit(priority=p, num_inference_steps=1000) for p in (1, 8))
    service.client.cancel(busy)
    wait_for(lambda: service.client.state(high).state == "running" or service.client.state(low).state == "running")
    assert service.client.state(low).state == "queued"
    for job in (low, high):
        service.client.cancel(job)


def test_a_running_job_is_cancelled_and_the_next_one_runs(service: Service) -> None:
    job = service.submit(num_inference_steps=1000)
    wait_for(lambda: service.client.state(job).stage == "denoise")
    waiting = service.submit(seed=3)
    assert service.client.cancel(job).state == "cancelled"
    assert service.client.wait(waiting).state == "done"
    assert service.client.state(job).state == "cancelled"
    assert not (service.data / "jobs" / job / "result.mp4.state").exists()
    with pytest.raises(ServiceError, match="cancelled"):
        service.client.wait(job)
    assert service.request("GET", f"/v1/jobs/{job}/result")[0] == 409


def test_a_waiting_job_is_cancelled(service: Service, done: str) -> None:
    busy, waiting = service.submit(num_inference_steps=1000), service.submit(seed=1)
    assert service.client.cancel(waiting).state == "cancelled"
    service.client.cancel(busy)
    assert service.client.wait(service.submit(seed=1)).state == "done"
    assert service.client.state(waiting).stage is None
    assert service.client.cancel(done).state == "done"  # too late: it stays as it is


def test_a_deleted_job_leaves_nothing(service: Service) -> None:
    ended, running = service.client.list(limit=1)[0].id, service.submit(num_inference_steps=1000)
    wait_for(lambda: service.client.state(running).stage == "denoise")
    for id in (running, ended):
        service.client.delete(id)
        assert not (service.data / "jobs" / id).exists()
        assert service.request("GET", f"/v1/jobs/{id}")[0] == 404
    assert not list((service.data / "incoming").iterdir())


def test_a_job_without_a_person_fails_with_the_reason(service: Service, tmp_path: Path) -> None:
    from mimicmotion.video.picture import write_picture
    from planted_job import random_frames

    job = service.client.submit(write_picture(tmp_path / "p.png", random_frames(1, (90, 80))[0]), service.video)
    *_, state = service.client.progress(job.id)
    assert state.state == "failed"
    assert state.error["got"] == "no person found in the picture picture.png"


# --- refused ----------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A PNG that states a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def zip_bomb() -> bytes:
    """A pose file of some kB with 4 GB of zeros."""
    file = io.BytesIO()
    header = io.BytesIO()
    header.write(b"\x93NUMPY\x01\x00v\x00")
    header.write(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000), }".ljust(117) + b"\n")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("xy.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(600):  # MiB, more than a file may state
            member.write(bytes(1 << 20))
    return file.getvalue()


Parts = Callable[[Service], list[tuple[str, bytes]]]


def form(picture: bytes | None = None, video: bytes | Callable[[], bytes] | None = None, **texts: Any) -> Parts:
    def make(service: Service) -> list[tuple[str, bytes]]:
        sent = video() if callable(video) else video or service.video.read_bytes()
        files = [("picture", picture or service.picture.read_bytes()), ("video", sent)]
        return [*files, *((k, v if isinstance(v, bytes) else json.dumps(v).encode()) for k, v in texts.items())]

    return make


REFUSED: dict[str, tuple[Parts, int, str]] = {
    "no files": (lambda s: [], 422, "a form without 'picture'"),
    "no video": (lambda s: form()(s)[:1], 422, "a form without 'video'"),
    "a part twice": (lambda s: form()(s) * 2, 422, "'picture' for the second time"),
    "an unknown part": (lambda s: [*form()(s), ("evil", b"")], 422, "a form field 'evil'"),
    "settings of another type": (form(settings=[1]), 422, "settings of type list"),
    "settings no JSON": (form(settings=b"{{"), 422, "invalid settings or priority"),
    "settings nested deeply": (form(settings=b"[" * 60_000), 422, "invalid settings or priority"),
    "settings too long": (form(settings=b" " * 70_000), 413, "64 KiB"),
    "an unknown setting": (form(settings={"sed": 1}), 422, "unknown setting 'sed'"),
    "the operator's setting": (form(settings={"model": "/etc"}), 422, "the setting 'model'"),
    "a path": (form(settings={"output": "/etc/passwd"}), 422, "the setting 'output'"),
    "a wrong value": (form(settings={"seed": "x"}), 422, "seed = 'x'"),
    "out of range": (form(settings={"fps": 0}), 422, "fps=0"),
    "a wrong priority": (form(priority=10), 422, "priority 10"),
    "text as a picture": (form(picture=b"hello"), 422, "a picture in an unsupported format"),
    "a video as a picture": (form(picture=b"\0\0\0\x18ftypisom" + bytes(99)), 422, "picture.heic is damaged"),
    "a bomb as a picture": (form(picture=png(60_000, 60_000)), 422, "picture.png: Image size (3600000000 pixels)"),
    "too many pixels": (form(picture=png(2500, 2000)), 422, "picture.png has 5,000,000 pixels"),
    "a truncated picture": (form(picture=png(250, 200)), 422, "picture.png is damaged"),
    "a playlist": (form(video=b"#EXTM3U\nfile:///etc/passwd\n"), 422, "a video in an unsupported format"),
    "a list of files": (form(video=b"ffconcat version 1.0\nfile /etc/passwd"), 422, "a video in an unsupported format"),
    "a broken video": (form(video=b"\0\0\0\x18ftypisom" + bytes(999)), 422, "video.mp4 is not a video"),
    "a zip bomb": (form(video=zip_bomb), 422, "video.npz has"),
    "nested JSON": (form(video=b"[" * 500_000), 422, "video.json is nested too deeply"),
    "too large a result": (form(settings={"height": 8000, "width": 8000}), 422, "64000000 pixels"),
    "too long a result": (form(settings={"tempo": 0.01}), 422, "a result of"),
    "too large a request": (form(video=bytes(2**20)), 413, "too large"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_are_refused_in_json_and_leave_nothing(name: str, service: Service) -> None:
    parts, status, got = REFUSED[name]
    before = service.left()
    answered, answer = service.post(parts(service))
    assert (answered, set(answer), set(answer["error"])) == (status, {"error"}, {"got", "expected", "fix"})
    assert got in answer["error"]["got"]
    assert str(service.data) not in json.dumps(answer)
    assert service.left() == before


MALFORMED: dict[str, tuple[dict[str, str], bytes, int]] = {
    "no form": ({"Content-Type": "application/json"}, b"{}", 415),
    "no boundary": ({"Content-Type": "multipart/form-data"}, b"--b--", 415),
    "a long boundary": ({"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}, b"", 422),
    "not the boundary": ({"Content-Type": "multipart/form-data; boundary=b"}, b"--c\r\n\r\n", 422),
    "breaks off": (
        {"Content-Type": "multipart/form-data; boundary=b"},
        b'--b\r\nContent-Disposition: form-data; name="picture"\r\n\r\nabc',
        422,
    ),
    "no name": ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nA: b\r\n\r\nabc\r\n--b--\r\n", 422),
    "long headers": ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b\r\nA: " + b"b" * 99_999, 422),
    "nothing": ({}, b"", 415),
    "no number": ({"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "x"}, b"", 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_forms_are_refused(name: str, service: Service) -> None:
    headers, body, status = MALFORMED[name]
    before = service.left()
    answered, answer, _ = service.request("POST", "/v1/jobs", headers, body)
    assert answered == status, answer
    assert b"Traceback" not in (answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    assert service.left() == before


def test_an_upload_is_counted_while_it_is_read(service: Service) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:  # without Content-Length
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="video"\r\n\r\n'
        for _ in range(4000):
            sent += 1
            yield bytes(1 << 16)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, answer, _ = service.request("POST", "/v1/jobs", headers, pieces())
    assert status == 413
    assert answer["error"]["expected"] == "at most 1 MiB"
    assert sent < 1000  # of 250 MB; what lies in the system's buffers is on its way


LONG = f"/v1/jobs/{'a' * 3000}"  # longer than a file's name may be


@pytest.mark.parametrize(
    "path", ["/", "/v1/jobs/nothing", "/v1/jobs/..%2f..%2ftokens.json", "/v1/jobs/%00", "/../x", LONG]
)
def test_what_is_not_there_is_not_found(path: str, service: Service) -> None:
    status, answer, _ = service.request("GET", path)
    assert (status, set(answer["error"])) == (404, {"got", "expected", "fix"})


def test_too_many_jobs_of_one_token_have_to_wait(service: Service) -> None:
    ids = [service.submit(num_inference_steps=1000) for _ in range(6)]
    status, answer = service.post(form()(service))
    assert (status, answer["error"]["got"]) == (429, "over 6 queued or running jobs")
    for id in ids:
        service.client.delete(id)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "[evil"}, 421),
        ({"Host": "localhost:99"}, 200),
        ({"Host": "[::1]:99"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
    ],
)
def test_other_hosts_and_other_sites_pages_are_refused(headers: dict[str, str], status: int, service: Service) -> None:
    answered, _, found = service.request("GET", "/v1/version", headers)
    assert answered == status
    assert "access-control-allow-origin" not in found
    assert found["x-content-type-options"] == "nosniff"


def test_slow_clients_do_not_block_others(service: Service) -> None:
    slow = []
    for n in range(60):
        connection = socket.create_connection(("127.0.0.1", service.port))
        head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
        if n % 2:  # these have begun to send a form
            head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999\r\n\r\n--b\r\n"
        connection.sendall(head.encode())
        slow.append(connection)
    assert service.request("GET", "/v1/health")[0] == 200
    assert service.client.wait(service.submit(seed=2)).state == "done"
    for connection in slow:
        connection.close()
    wait_for(lambda: not list((service.data / "incoming").iterdir()))


def test_a_batch_by_a_service(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = BatchConfig(jobs=tmp_path / "jobs.yaml", engine="server", address=f"http://127.0.0.1:{service.port}")

    def write_jobs(*jobs: dict[str, Any]) -> None:
        defaults = {"picture": str(service.picture), "video": str(service.video)}
        config.jobs.write_text(json.dumps({"defaults": defaults, "jobs": jobs}))  # JSON is YAML

    before = len(service.client.list())
    write_jobs({"output": "a.mp4", "seed": 2}, {"output": "b.mp4", "model": "the operator's choice"})
    result = finish(batch(config))
    assert [o.state for o in result.outcomes] == ["done", "failed"]
    assert "model" in result.outcomes[1].message
    facts = json.loads(Path("a.mp4.json").read_text())
    assert (facts["settings"]["seed"], facts["frames"]) == (2, 8)
    Path("a.mp4").unlink()
    finish(batch(config))
    assert Path("a.mp4").is_file()
    assert len(service.client.list()) == before + 1  # sent again, it is the same job
    write_jobs({"output": "a.webm"})
    with pytest.raises(ConfigError, match=r"ending in \.mp4"):
        finish(batch(config))


@pytest.mark.slow
def test_ten_thousand_small_requests(service: Service, done: str) -> None:
    """Good and bad ones, from eight clients, while a job runs: all are answered, memory is stable, nothing is lost."""
    assert service.process
    server = psutil.Process(service.process.pid)
    before = service.left()
    requests: list[Callable[[], int]] = [
        lambda: service.request("GET", f"/v1/jobs/{done}")[0],
        lambda: service.request("GET", "/v1/jobs?limit=5")[0],
        lambda: service.request("GET", "/v1/jobs/nothing")[0],
        lambda: service.request("GET", f"/v1/jobs/{done}/result", {"Range": "bytes=0-9"})[0],
        lambda: service.request("BREW", "/v1/jobs")[0],
        lambda: service.request("POST", "/v1/jobs", {"Content-Type": "text/plain"}, b"x")[0],
        lambda: service.post([("settings", b"{"), ("picture", b"x"), ("video", b"x")])[0],
        lambda: service.request("GET", "/v1/version", {"Host": "evil.example"})[0],
    ]
    job = service.submit(seed=3, num_inference_steps=200)
    with ThreadPoolExecutor(8) as clients:
        send = lambda n: requests[n % len(requests)]()  # noqa: E731
        assert set(clients.map(lambda _: requests[0](), range(8000))) == {200}  # memory rises for the first 7,000 only
        codes = Counter(clients.map(send, range(800)))
        memory = server.memory_info().rss
        codes += Counter(clients.map(send, range(9200)))
    assert codes == dict.fromkeys((200, 206, 404, 405, 415, 421, 422), 1250) | {200: 2500}
    assert server.memory_info().rss < memory + 2**25  # each request would leave 3 kB
    assert service.client.wait(job).state == "done"
    assert service.left() == sorted([*before, job])
    assert 'method="BREW"' not in service.request("GET", "/v1/metrics")[1].decode()


def test_tokens_see_their_own_jobs_and_a_full_disk_takes_none(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        tokens = Tokens(service.data)
        secrets = {
            name: tokens.add(name, scope) for name, scope in (("anna", "jobs"), ("ben", "jobs"), ("eve", "read"))
        }
        secrets["root"] = tokens.add("root", "admin")
        anna, ben, eve, root = (Client(f"http://127.0.0.1:{service.port}", secrets[name]) for name in secrets)
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {secrets['anna']}"}):
            status, answer, _ = service.request("GET", "/v1/jobs", headers)
            assert (status, answer["error"]["got"]) == (401, "a missing or invalid token")
        assert service.request("GET", "/v1/health")[0] == 200
        job = anna.submit(service.picture, service.video, key="same")
        other = ben.submit(service.picture, service.video, key="same")
        assert job.id != other.id
        assert [j.id for j in anna.list()] == [job.id]
        assert {j.id for j in root.list()} == {job.id, other.id}
        assert eve.list() == []
        for call in (ben.state, ben.cancel, ben.delete, ben.sidecar, lambda id: ben.download(id, tmp_path / "x.mp4")):
            with pytest.raises(ServiceError, match="no such job"):
                call(job.id)
        with pytest.raises(ServiceError, match="a token with scope 'read'"):
            eve.submit(service.picture, service.video)
        assert service.request("GET", "/v1/metrics", {"Authorization": f"Bearer {secrets['anna']}"})[0] == 403
        assert service.request("GET", "/v1/metrics", {"Authorization": f"Bearer {secrets['root']}"})[0] == 200
        assert anna.state(job.id).owner == "anna"
        with (service.data / "large").open("wb") as file:
            file.truncate(200 << 30)  # takes no space
        with pytest.raises(ServiceError, match="no disk space for more files"):
            anna.submit(service.picture, service.video)
        tokens.revoke("anna")
        with pytest.raises(ServiceError, match="a missing or invalid token"):
            anna.list()
        assert secrets["anna"] not in (tmp_path / "log").read_text()


# --- numbers and words ------------------------------------------------------------------------------------------


def test_metrics_version_and_interface(service: Service, done: str) -> None:
    status, text, headers = service.request("GET", "/v1/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    numbers = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#")
    assert float(numbers['mimicmotion_jobs{state="done"}']) >= 1
    assert float(numbers['mimicmotion_requests_total{method="POST",status="201"}']) >= 1
    assert service.request("GET", "/v1/version")[1] == {"mimicmotion": "0.1.0", "api": "v1"}
    interface = service.request("GET", "/v1/openapi.json")[1]
    post = interface["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(post["properties"]) == {"picture", "video", "settings", "priority"}
    assert set(post["properties"]["settings"]["properties"]) == set(client_settings())


def test_callers_cannot_choose_files_of_the_machine() -> None:
    schema = {f: str(GenerateConfig.__dataclass_fields__[f].type) for f in client_settings()}
    assert not [name for name, kind in schema.items() if "Path" in kind]
    assert "model" in OPERATORS
