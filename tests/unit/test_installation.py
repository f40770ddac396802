"""What make installs, and the lines that errors and `doctor` tell users to type."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mimicmotion.cli import main
from mimicmotion.errors import ConfigError
from mimicmotion.pose.estimators import session
from mimicmotion.runtime.extras import import_extra, install_command

ROOT = Path(__file__).parents[2]
INDEX = "https://download.pytorch.org/whl/cpu"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Programs of a Linux machine without GPU, uv and pip settings."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    program(tmp_path, "uname", "echo Linux")
    program(tmp_path, "python3", "")
    return tmp_path


def program(folder: Path, name: str, does: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{does}\n")
    (folder / name).chmod(0o755)


def commands(machine: Path, target: str, *settings: str) -> list[str]:
    """Commands that make would run on that machine, in a new folder."""
    make = [
        shutil.which("make") or "make",
        "-n",
        target,
        f"VENV={machine}/venv",
        f"NVIDIA={machine}/nvidia0",
        *settings,
    ]
    done = subprocess.run(make, cwd=ROOT, env={"PATH": str(machine)}, capture_output=True, text=True, check=True)
    return done.stdout.replace("\\\n", "").splitlines()


def installs_cpu(lines: list[str], index: str = INDEX) -> bool:
    return any(f"--index-url {index} torch" in line and f"{index}/torch/" in line for line in lines)


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_installs_the_cpu_build_without_a_gpu(machine: Path, target: str) -> None:
    lines = commands(machine, target)
    cpu = next(i for i, line in enumerate(lines) if "--index-url" in line)
    package = next(i for i, line in enumerate(lines) if " -e " in line)
    assert installs_cpu(lines)
    assert cpu < package  # which keeps the torch that is there
    assert installs_cpu(commands(machine, target, "LOCKED=1"))


def test_make_takes_another_index_of_cpu_builds(machine: Path) -> None:
    assert installs_cpu(commands(machine, "demo", "TORCH_INDEX=http://mirror/cpu"), "http://mirror/cpu")


def test_make_installs_the_usual_build_with_a_gpu_or_on_request(machine: Path) -> None:
    assert "--index-url" not in str(commands(machine, "demo", "TORCH=cuda"))
    (machine / "nvidia0").touch()
    assert "--index-url" not in str(commands(machine, "demo"))
    (machine / "nvidia0").unlink()
    program(machine, "nvidia-smi", "")
    assert "--index-url" not in str(commands(machine, "demo"))
    assert installs_cpu(commands(machine, "demo", "TORCH=cpu"))
    (machine / "nvidia-smi").unlink()
    program(machine, "uname", "echo Darwin")  # whose usual build is the one for the CPU
    assert "--index-url" not in str(commands(machine, "demo"))


def test_make_uses_uv_unless_pip_has_settings_that_uv_does_not_see(machine: Path) -> None:
    assert not any("uv pip install" in line for line in commands(machine, "demo"))
    program(machine, "uv", "")
    assert sum("uv pip install" in line for line in commands(machine, "demo")) == 2  # torch, and the package
    program(machine, "python3", "echo global.index-url=https://mirror/simple")
    assert not any("uv pip install" in line for line in commands(machine, "demo"))


def test_an_index_out_of_reach_leaves_torch_to_the_usual_one(machine: Path, tmp_path: Path) -> None:
    """Run the line itself: it succeeds and installs nothing."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    program(tmp_path / "venv/bin", "python", 'case "$1" in -c) exit 1;; *) echo installed;; esac')
    line = next(line for line in commands(machine, "demo") if "--index-url" in line)
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == f"installing torch from the default index: {INDEX} cannot be reached or lacks this version\n"
    program(tmp_path / "venv/bin", "python", 'case "$1" in -c) ;; *) echo installed;; esac')
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "installed\n"


ORIGINS = [
    ({"url": "file:///home/me/a%20clone", "dir_info": {"editable": True}}, "pip install -e '/home/me/a clone[eval]'"),
    ({"url": "file:///home/me/clone", "dir_info": {}}, "pip install '/home/me/clone[eval]'"),
    (
        {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
        "pip install 'mimicmotion[eval] @ git+https://host/x.git@abc'",
    ),
    ({"url": "file:///x/m.whl", "archive_info": {}}, "pip install 'mimicmotion[eval] @ file:///x/m.whl'"),
    (None, "pip install 'mimicmotion[eval]'"),  # from an index, which has it
]


@pytest.mark.parametrize(("origin", "line"), ORIGINS)
def test_the_line_for_an_extra_names_where_the_package_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, line: str
) -> None:
    if origin:
        (tmp_path / "direct_url.json").write_text(json.dumps(origin))
    found = importlib.metadata.PathDistribution(tmp_path)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: found)
    assert install_command("eval") == line
    with pytest.raises(ConfigError) as e:
        import_extra("mimicmotion_needs_this", "eval")
    assert e.value.fix == line


def test_the_line_for_an_extra_in_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert install_command("train") == "pip install '.[train]' in the checkout"


def lines_of_doctor(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["doctor"]) == 0
    return [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]


def test_doctor_prints_the_lines_for_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine")
    use = "mimicmotion generate person.png dance.mp4 -o result.mp4 --model svd-xt-1.1 --checkpoint mimicmotion-1.1"
    fetch = "mimicmotion weights fetch svd-xt-1.1 mimicmotion-1.1 dwpose"
    monkeypatch.setattr(session, "gpu_present", lambda: False)
    assert lines_of_doctor(capsys) == [fetch, use]
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(session, "gpu_present", lambda: True)
    monkeypatch.setattr("mimicmotion.cli.doctor.choose_device", lambda _: __import__("torch").device("cpu"))
    monkeypatch.setattr("mimicmotion.cli.doctor.sys.platform", "linux")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    torch, *rest = lines_of_doctor(capsys)
    assert torch == "pip install --force-reinstall torch"
    assert rest == [*session.cuda_lines(), "hf auth login", fetch, use]
    assert rest[:3] == [install_command("gpu"), *rest[1:3]]
    assert rest[2].endswith("onnxruntime-gpu")
