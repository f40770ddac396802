"""Fetching and verifying weights, against a small hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mimicmotion.errors import OutputError, WeightsError
from mimicmotion.weights import registry as weights

BODY = bytes(range(256)) * 64
SHA = hashlib.sha256(BODY).hexdigest()


class FakeHub(ThreadingHTTPServer):
    """Serves BODY for every known path; `mode` says how it misbehaves; `ranges` collects the Range headers of GETs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.etag, self.ranges = "ok", SHA, list[str | None]()
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
        if self.server.mode in refusals:
            self._refuse(*refusals[self.server.mode])
            return
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
        self.server.ranges.append(self.headers.get("Range"))
        self._answer(b"x" * len(BODY) if self.server.mode == "corrupt" else BODY)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


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
    ((checked, sha, how),) = weights.verify(path).files
    assert (checked, sha) == (path, SHA)
    assert "recorded" in how
    path.write_bytes(BODY[:-1] + b"!")
    with pytest.raises(WeightsError, match="delete the file"):
        weights.verify(path)


@pytest.mark.parametrize("mode", ["ok", "no_range"])
def test_broken_download_goes_on(hub: FakeHub, tmp_path: Path, mode: str) -> None:
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
        ("ill", ["answered HTTP 500", "another endpoint"]),
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
    with pytest.raises(WeightsError, match=f"expected: {SHA} .told by"):
        fetch(hub)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    hub.mode = "ok"
    file = weights.HubFile("sub/net.bin", len(BODY), "0" * 64)
    with pytest.raises(WeightsError, match="known to this package"):
        weights.fetch_file("owner/name", file, endpoint=hub.url)


def test_endpoint_and_offline_from_the_environment(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="offline mode is on"):
        weights.fetch_file("owner/name", "net.bin")
    assert hub.ranges == []
    assert weights.fetch_file("owner/name", "net.bin", offline=False).read_bytes() == BODY
    assert weights.fetch_file("owner/name", "net.bin").read_bytes() == BODY  # here already: offline is no hindrance


def test_fetch_by_name(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (weights.HubFile("a.onnx", len(BODY), SHA), weights.HubFile("b.onnx"))
    entry = weights.KnownWeights("demo", "two networks", "owner/name", files, "MIT")
    monkeypatch.setattr(weights, "KNOWN", (entry,))
    assert "not here" in str(entry)
    root = weights.fetch("demo", endpoint=hub.url)
    assert root == tmp_path / "owner--name"
    assert weights.fetch("demo", offline=True) == root
    assert str(root) in str(entry)
    assert len(weights.verify("demo").files) == 3  # two networks and the record
    (root / "a.onnx").write_bytes(BODY[:-5])
    assert entry.find() is None  # a file of the wrong size does not count
    with pytest.raises(WeightsError, match="one of: demo"):
        weights.fetch("nonsense")


def test_truncated_formats_are_found_without_checksums(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    good = tmp_path / "net.safetensors"
    good.write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    ((_, _, how),) = weights.verify(good).files
    assert "format is complete" in how
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
        ((_, _, how),) = weights.verify(weights.find_asset(name)).files
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
