"""Fetching and verifying weights, against a small hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from http_server import serving
from mimicmotion.cli import main
from mimicmotion.errors import InputError, OutputError, WeightsError
from mimicmotion.weights import checks
from mimicmotion.weights import registry as weights

BODY = bytes(range(256)) * 64
PAGE = b"<!DOCTYPE html><title>Log in to this network</title>"
SHA = hashlib.sha256(BODY).hexdigest()


class FakeHub(ThreadingHTTPServer):
    """Serves BODY for every known path; `mode` says how it misbehaves; `ranges` collects the Range headers of GETs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.etag, self.ranges, self.paths = "ok", SHA, list[str | None](), list[str]()
        self.tokens = set[str | None]()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *args: object) -> None:
        pass

    def _refuse(self, code: int, error: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes) -> None:
        refusals = {
            "gated": (401, "GatedRepo"),
            "forbidden": (403, ""),
            "missing": (404, "EntryNotFound"),
            "ill": (500, ""),
        }
        if self.server.mode == "page":
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE if body else b"")
            return
        if self.server.mode == "slow" and body:
            time.sleep(0.5)  # so that others come while it is fetched
        if self.server.mode in refusals:
            self._refuse(*refusals[self.server.mode])
            return
        if "/resolve/" in self.path:
            self.server.paths.append(self.path)
            self.server.tokens.add(self.headers.get("Authorization"))
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if self.server.mode == "no_range":
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.server.etag}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(BODY) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        if self.server.mode == "cut" and body:
            self.server.mode = "ok"
            self.wfile.write(body[:5000])  # fewer bytes than promised
            self.close_connection = True
            return
        self.wfile.write(body[start:])

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            self.server.ranges.append(self.headers.get("Range"))
        self._answer(b"x" * len(BODY) if self.server.mode == "corrupt" else BODY)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with serving(FakeHub()) as server:
        yield server


def fetch(hub: FakeHub) -> Path:
    return weights.fetch_file("owner/name", "sub/net.bin", endpoint=hub.url)


def test_fetches_once_records_and_verifies(hub: FakeHub, tmp_path: Path) -> None:
    path = fetch(hub)
    assert path == tmp_path / "owner--name" / "sub" / "net.bin"
    assert path.read_bytes() == BODY
    record = json.loads((tmp_path / "owner--name" / "checksums.json").read_text())["sub/net.bin"]
    assert record == {"sha256": SHA, "size": len(BODY), "repo": "owner/name", "commit": "c" * 40, "endpoint": hub.url}
    assert fetch(hub) == path
    assert hub.ranges == [None]  # the second call did not download
    ((checked, sha, how),) = weights.verify(path)
    assert (checked, sha) == (path, SHA)
    assert "recorded" in how
    path.write_bytes(BODY[:-1] + b"!")
    with pytest.raises(WeightsError, match="delete the file"):
        weights.verify(path)


@pytest.mark.parametrize("mode", ["ok", "no_range"])
def test_broken_download_resumes(hub: FakeHub, tmp_path: Path, mode: str) -> None:
    hub.mode = mode
    folder = tmp_path / "owner--name" / "sub"
    folder.mkdir(parents=True)
    (folder / f".net.bin.{SHA}.part").write_bytes(BODY[:1000])
    assert fetch(hub).read_bytes() == BODY
    assert hub.ranges[0] == "bytes=1000-"  # hubs before 2.0 ask once more
    assert [p.name for p in folder.iterdir()] == ["net.bin"]


def test_connection_cut_in_the_middle(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    hub.mode = "cut"
    assert fetch(hub).read_bytes() == BODY
    assert len(hub.ranges) == 2  # (where it goes on depends on how much the client had buffered)


def test_full_disk_is_found_before_the_download(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mimicmotion.weights import hub as hub_module

    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="MIMICMOTION_CACHE"):
        fetch(hub)
    assert hub.ranges == []


def test_interrupted_download_keeps_its_part(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    real = file_download.http_get

    def stop(url: str, f, **kw: object) -> None:
        f.write(BODY[:777])
        raise KeyboardInterrupt

    monkeypatch.setattr(file_download, "http_get", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch(hub)
    assert not (tmp_path / "owner--name" / "sub" / "net.bin").exists()
    monkeypatch.setattr(file_download, "http_get", real)
    assert fetch(hub).read_bytes() == BODY
    assert hub.ranges == ["bytes=777-"]


def test_part_of_another_version_is_not_continued(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "owner--name" / "sub"
    folder.mkdir(parents=True)
    (folder / ".net.bin.otheretag.part").write_bytes(b"old" * 100)
    assert fetch(hub).read_bytes() == BODY
    assert hub.ranges == [None]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("gated", ["accept the licence", "HF_TOKEN", "owner--name/sub/net.bin"]),
        ("forbidden", ["HTTP 403", "accept the licence"]),
        ("missing", ["has no sub/net.bin", "another endpoint"]),
        ("ill", ["returned HTTP 500", "another endpoint"]),
    ],
)
def test_refusals_say_what_to_do(hub: FakeHub, tmp_path: Path, mode: str, words: list[str]) -> None:
    hub.mode = mode
    with pytest.raises(WeightsError) as e:
        fetch(hub)
    for word in [*words, hub.url]:
        assert word in str(e.value)
    assert not list(tmp_path.rglob("net.bin"))


def test_no_network_says_what_was_tried(tmp_path: Path, hub: FakeHub) -> None:
    with socket.socket() as s:  # a port that nobody serves
        s.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{s.getsockname()[1]}"
    with pytest.raises(WeightsError) as e:
        weights.fetch_file("owner/name", "net.bin", endpoint=dead)
    for word in (dead, "HTTPS_PROXY", "put it at", str(tmp_path / "owner--name" / "net.bin")):
        assert word in str(e.value)


def test_wrong_content_is_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.mode = "corrupt"
    with pytest.raises(WeightsError, match=f"expected: {SHA} .according to"):
        fetch(hub)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [".lock"]
    hub.mode = "ok"
    file = weights.HubFile("sub/net.bin", len(BODY), "0" * 64)
    with pytest.raises(WeightsError, match="known to this package"):
        weights.fetch_file("owner/name", file, endpoint=hub.url)


@pytest.mark.whole
def test_two_fetches_at_once_download_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.mode = "slow"
    code = "import sys; from mimicmotion.weights import registry as w; print(w.fetch_file('owner/name', 'net.bin'))"
    env = {**os.environ, "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outcomes = [(*p.communicate(timeout=120), p.returncode) for p in started]
    assert [(out.strip(), code) for out, _, code in outcomes] == [(str(tmp_path / "owner--name" / "net.bin"), 0)] * 2, (
        outcomes
    )
    assert hub.ranges == [None], outcomes
    assert (tmp_path / "owner--name" / "net.bin").read_bytes() == BODY


def test_a_corrupt_part_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "owner--name" / "sub"
    folder.mkdir(parents=True)
    part = folder / f".net.bin.{SHA}.part"
    for rotten in (b"?" * 1000, b"?" * len(BODY)):  # half, and whole
        part.write_bytes(rotten)
        assert fetch(hub).read_bytes() == BODY
        fetch(hub).unlink()
    assert hub.ranges == ["bytes=1000-", None, None]
    hub.etag = "2" * 40  # of a file whose sha256 the hub does not tell
    (tmp_path / "owner--name" / "checksums.json").unlink()
    (folder / f".net.bin.{hub.etag}.part").write_bytes(b"?" * 1000)
    assert fetch(hub).read_bytes() == BODY
    assert hub.ranges[3:] == [None]


def test_a_web_page_is_not_taken_for_the_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.mode = "page"
    with pytest.raises(WeightsError, match="a web page in place of the file"):
        fetch(hub)
    file = weights.HubFile("sub/net.bin", len(BODY))
    with pytest.raises(WeightsError, match=f"with {len(PAGE)} bytes\n.*{len(BODY)} bytes"):
        weights.fetch_file("owner/name", file, endpoint=hub.url)
    assert not list(tmp_path.rglob("net.bin*"))


@pytest.mark.parametrize("damage", [b"", PAGE, BODY[:-1], BODY + b"more", BODY[:-1] + b"!"])
def test_a_damaged_file_is_fetched_again(
    hub: FakeHub, damage: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch(hub)
    path.write_bytes(damage)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="missing or incomplete, and offline"):
        weights.fetch_file("owner/name", "sub/net.bin")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "fetching it again" in caplog.text
    assert str(path) in caplog.text
    assert fetch(hub).read_bytes() == BODY


def test_a_file_that_changed_on_the_hub_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    path = fetch(hub)
    path.unlink()
    record = tmp_path / "owner--name" / "checksums.json"
    record.write_text(record.read_text().replace(SHA, "1" * 64))
    with pytest.raises(WeightsError, match=f"expected: {'1' * 64} .recorded by an earlier fetch; delete {record}"):
        fetch(hub)
    record.unlink()
    assert fetch(hub) == path


def test_the_pinned_revision_is_fetched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (weights.HubFile("net.bin"),)
    entry = weights.KnownWeights("demo", "a network", "owner/name", files, "MIT", revision="d" * 40)
    monkeypatch.setattr(weights, "KNOWN", (entry,))
    weights.fetch("demo", endpoint=hub.url)
    assert set(hub.paths) == {f"/owner/name/resolve/{'d' * 40}/net.bin"}


def test_checksums_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "net.bin"
    path.write_bytes(BODY)
    computed: list[Path] = []
    real = checks.sha256_file
    monkeypatch.setattr(checks, "sha256_file", lambda p: computed.append(p) or real(p))
    assert [checks.checksum(path), checks.checksum(path)] == [SHA, SHA]
    assert len(computed) == 2  # it changed just now: it may still be written
    os.utime(path, (1, 1))
    assert [checks.checksum(path), checks.checksum(path)] == [SHA, SHA]
    assert len(computed) == 3
    path.write_bytes(BODY[::-1])
    assert checks.checksum(path) == hashlib.sha256(BODY[::-1]).hexdigest()
    os.utime(path, (1, 1))
    (tmp_path / "cache" / "checksums-of-files.json").write_text("{")
    assert checks.checksum(path) == hashlib.sha256(BODY[::-1]).hexdigest()


def test_known_files_of_another_size_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they were put by hand, without a record."""
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    entry = weights.KnownWeights("demo", "a network", "owner/name", (weights.HubFile("a.bin", 64, "0" * 64),), "MIT")
    monkeypatch.setattr(weights, "KNOWN", (entry,))
    path = tmp_path / "owner--name" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(b"more than 64 bytes" * 9)
    assert entry.find() is None
    for name in ("demo", path):
        with pytest.raises(WeightsError, match=r"not downloaded|known checksum"):
            weights.verify(name)


def test_fetch_takes_several_names_and_suggests_corrections(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    files = [(weights.HubFile(f"{n}.bin"),) for n in ("one", "two")]
    entries = tuple(weights.KnownWeights(f[0].path[:3], "", "owner/name", f, "MIT") for f in files)
    monkeypatch.setattr(weights, "KNOWN", entries)
    assert main(["weights", "fetch", "one", "twoo"]) == 2
    assert "did you mean two?" in capsys.readouterr().err
    assert main(["weights", "fetch"]) == 2
    assert hub.ranges == []  # all names are looked at first
    assert main(["weights", "fetch", "one", "two"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "owner--name" / f"{n}.bin") for n in ("one", "two")]


@pytest.mark.parametrize("own", [False, True])
def test_the_token_is_never_sent_unencrypted(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own: bool
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    if own:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for name in ("a.bin", "b.bin"):
        weights.fetch_file("owner/name", name, endpoint=None if own else hub.url)
    assert hub.tokens == {None}
    assert caplog.text.count(f"token is not sent to {hub.url}") == 1
    assert "hf_secret" not in caplog.text
    hub.mode = "gated"
    with pytest.raises(WeightsError, match="your token is not sent to this address"):
        weights.fetch_file("owner/name", "c.bin", endpoint=hub.url)


def test_the_token_goes_to_its_hub_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub import file_download

    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    meta = huggingface_hub.file_download.HfFileMetadata("c" * 40, SHA, "", len(BODY), None)
    sent: dict[str, tuple[str | None, object]] = {}

    def metadata(url: str, headers: dict[str, str], token: object, timeout: float) -> object:
        sent[url.split("/owner", maxsplit=1)[0]] = headers.get("authorization"), token
        return meta

    def get(url: str, f, headers: dict[str, str], **kw: object) -> None:
        assert headers.get("authorization") == sent[url.split("/owner", maxsplit=1)[0]][0]
        f.write(BODY)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(file_download, "http_get", get)
    addresses = ("https://huggingface.co", None, "https://hf.example", "https://huggingface.co.hf.example")
    for i, endpoint in enumerate(addresses):
        weights.fetch_file("owner/name", f"{i}.bin", endpoint=endpoint)
    yes, no = ("Bearer hf_secret", None), (None, False)
    assert sent == {
        "https://huggingface.co": yes,
        "https://hub.example": yes,
        "https://hf.example": no,
        "https://huggingface.co.hf.example": no,
    }


def test_endpoint_and_offline_from_the_environment(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="offline mode is on"):
        weights.fetch_file("owner/name", "net.bin")
    assert hub.ranges == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert weights.fetch_file("owner/name", "net.bin").read_bytes() == BODY
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.fetch_file("owner/name", "net.bin").read_bytes() == BODY  # here already: offline is no hindrance


def test_fetch_by_name(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (weights.HubFile("a.onnx", len(BODY), SHA), weights.HubFile("b.onnx"))
    entry = weights.KnownWeights("demo", "two networks", "owner/name", files, "MIT")
    monkeypatch.setattr(weights, "KNOWN", (entry,))
    assert "not downloaded" in str(entry)
    root = weights.fetch("demo", endpoint=hub.url)
    assert root == tmp_path / "owner--name"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.fetch("demo") == root
    assert str(root) in str(entry)
    assert len(weights.verify("demo")) == 3  # two networks and the record
    (root / "a.onnx").write_bytes(BODY[:-5])
    assert entry.find() is None  # a file of the wrong size does not count
    with pytest.raises(InputError, match=r"one of: demo\n.*did you mean demo"):
        weights.fetch("dem")


def test_truncated_formats_are_found_without_checksums(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    good = tmp_path / "net.safetensors"
    good.write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    ((_, _, how),) = weights.verify(good)
    assert "file is complete" in how
    for cut in (3, 20, len(good.read_bytes()) - 1):
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(good.read_bytes()[:cut])
        with pytest.raises(WeightsError, match="truncated or damaged"):
            weights.verify(bad)
    bad.write_bytes((8).to_bytes(8, "little") + b"nonsense")
    with pytest.raises(WeightsError, match="truncated or damaged"):
        weights.verify(bad)
    pth = tmp_path / "net.pth"
    pth.write_bytes(b"PK\x03\x04 and no end")
    with pytest.raises(WeightsError, match="end of the archive"):
        weights.verify(pth)


def test_assets_have_the_checksums_of_the_package() -> None:
    for name in weights.asset_checksums():
        ((_, _, how),) = weights.verify(weights.find_asset(name))
        assert how == "checksum of the package"
    with pytest.raises(WeightsError, match="no asset"):
        weights.find_asset("nothing.onnx")


def test_known_weights_are_well_formed() -> None:
    names = [w.name for w in weights.KNOWN]
    assert len(set(names)) == len(names)
    for w in weights.KNOWN:
        assert w.name in str(w)
        for f in w.files:
            assert f.sha256 is None or (len(f.sha256) == 64 and f.size)
