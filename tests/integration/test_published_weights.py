"""The documented commands that fetch and use the published weights, on an empty machine, against a small hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from http_server import serving
from micro import micro_pipeline
from mimicmotion import cli
from mimicmotion.generate import inputs
from mimicmotion.weights import registry
from planted_job import FRAMES, dancing, make_job, planted, standing

ROOT = Path(__file__).parents[2]
LINES = [
    line[2:]
    for block in re.findall(r"^```console\n(.*?)^```", (ROOT / "docs/guide/weights.md").read_text(), re.M | re.S)
    for line in block.splitlines()
]
SMALL = shlex.split("--height 32 --width 32 --num-inference-steps 1 --duration 0.2 --segment-frames 8")


class Hub(ThreadingHTTPServer):
    """Serves files by their repository and path, as Hugging Face does."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.served = files, list[str]()


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        name = self.answer()
        if "/resolve/" in self.path:  # its library asks for other things, too
            self.server.served.append(name)

    def answer(self) -> str:
        repo, _, path = self.path[1:].partition("/resolve/")
        name = f"{repo}/{path.partition('/')[2]}"
        body = self.server.files.get(name)
        self.send_response(404 if body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(body or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")
        return name


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files under the published names: a micro model, and no networks of DWPose."""
    folder = tmp_path_factory.mktemp("published")
    pipe = micro_pipeline()
    pipe.save_pretrained(folder / "model")
    weights = {f"unet.{k}": v for k, v in pipe.backbone.unet.state_dict().items()}
    torch.save(weights | {f"pose_net.{k}": v for k, v in pipe.backbone.pose_net.state_dict().items()}, folder / "w.pth")
    svd, files = registry.known("svd-xt-1.1"), {}
    for file in svd.files:
        path = folder / "model" / file.path.replace(".fp16", "")
        files[f"{svd.repo}/{file.path}"] = path.read_bytes() if path.exists() else b"{}"
    files["tencent/MimicMotion/MimicMotion_1-1.pth"] = (folder / "w.pth").read_bytes()
    dwpose = registry.known("dwpose")
    return files | {f"{dwpose.repo}/{file.path}": b"a network" for file in dwpose.files}


@pytest.fixture
def hub(published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub, and an empty machine with a picture and a video."""
    with serving(Hub(dict(published))) as server:
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path / "cache"))
        for place, known in enumerate(registry.KNOWN):  # the stand-ins have other sizes and checksums
            if known.repo and not known.sdist:
                files = tuple(registry.HubFile(f.path) for f in known.files)
                entry = dataclasses.replace(known, files=files, revision=None)
                every = (*registry.KNOWN[:place], entry, *registry.KNOWN[place + 1 :])
                monkeypatch.setattr(registry, "KNOWN", every)
        job = make_job(tmp_path, tmp_path)
        job.picture.rename(tmp_path / "person.png")
        job.video.rename(tmp_path / "dance.mp4")
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the estimators that jobs open; poses are planted."""
    names: list[str] = []

    def find(options: Any) -> Callable[..., Any]:
        names.append(options.estimator)
        return planted(standing(1), dancing(FRAMES))(options)

    monkeypatch.setattr(inputs, "find_estimator", find)
    return names


def run(line: str, output: str = "result.mp4") -> dict[str, Any]:
    argv = shlex.split(line)[1:]
    assert cli.main([*argv, *SMALL] if argv[0] == "generate" else argv) == 0, line
    return json.loads(Path(f"{output}.json").read_text()) if argv[0] == "generate" else {}


def test_the_lines_of_the_page_work_on_an_empty_machine(hub: Hub, asked: list[str]) -> None:
    fetched = [line for line in LINES if line.startswith("mimicmotion weights fetch")]
    used = [line for line in LINES if line.startswith(("mimicmotion generate", "mimicmotion weights convert"))]
    assert (len(fetched), len(used)) == (1, 4)
    run(fetched[0])
    assert sorted(hub.served) == sorted(hub.files)  # all of it, once
    for line in used:
        made = run(line)
        if made:
            assert made["settings"]["estimator"] == "dwpose", line
            assert made["fusion"]["overlap_frames"] == 6
            Path("result.mp4").unlink()
    assert sorted(hub.served) == sorted(hub.files)
    assert asked
    assert set(asked) == {"dwpose"}


def test_generate_fetches_what_is_missing(hub: Hub, asked: list[str]) -> None:
    run(next(line for line in LINES if line.startswith("mimicmotion generate")))
    assert sorted(hub.served) == sorted(hub.files)
    assert set(asked) == {"dwpose"}


def test_without_dwpose_holistic_takes_its_place_and_a_note_says_so(
    hub: Hub, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in hub.files if n.endswith(".onnx")]:
        del hub.files[name]
    line = next(line for line in LINES if line.startswith("mimicmotion generate"))
    made = run(line)
    assert (made["settings"]["estimator"], set(asked)) == ("holistic", {"holistic"})
    assert any("dwpose, which is not available" in w and "HTTP 404" in w for w in made["warnings"])
    assert cli.main([*shlex.split(line.replace("generate", "plan", 1).replace("result.mp4", "p.png"))[1:], *SMALL]) == 0
    assert "note      the model was trained with poses by dwpose, which is not available" in capsys.readouterr().out
