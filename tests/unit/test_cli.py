from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cyclopts import App

from mimicmotion import cli
from mimicmotion.cli import options
from mimicmotion.cli.options import HEADINGS
from mimicmotion.errors import WeightsError, printable
from mimicmotion.runtime.progress import Job
from mimicmotion.settings import GenerateConfig

HEAVY = ("torch", "numpy", "scipy", "pydantic", "cv2", "diffusers", "transformers", "onnxruntime", "av", "PIL")


@pytest.mark.parametrize("code", ["import mimicmotion", "from mimicmotion.cli import main; main(['--help'])"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    look = f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    check = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\n{look}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_public_names_are_there() -> None:
    import mimicmotion

    for name in mimicmotion.__all__:
        assert getattr(mimicmotion, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mimicmotion.nothing  # noqa: B018


def test_full_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--help-all"]) == 0
    text = capsys.readouterr().out
    for name in (f.name for f in dataclasses.fields(GenerateConfig)):
        if name not in ("picture", "video"):
            assert f"--{name.replace('_', '-')}" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("╭")] == ["Arguments", *HEADINGS]


def test_short_help_fits_a_screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["generate", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50
    options = ["--output", "--model", "--checkpoint", "--height", "--fps", "--duration", "--speed", "--seed"]
    for option in ["PICTURE", "VIDEO", *options, "--config", "--help-all"]:
        assert any(line.split()[1:2] == [option] for line in lines), option
    assert not any("--block-cache" in line for line in lines)


def commands(group: App) -> Iterator[App]:
    for name in group:
        if not name.startswith("-"):
            yield group[name]
            yield from commands(group[name])


def test_every_argument_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(commands(options.app))
    assert len(found) > 25
    for command in found:
        command.help_print([])
        text = capsys.readouterr().out
        bare = [line for line in text.splitlines() if re.fullmatch(r"│ (\*  )?[A-Z-]+( --?[\w-]+)*( [A-Z]+)? *│", line)]
        assert not bare, (command.name, bare)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("picture: a.png\nvideo: b.mp4\noutput: c.mp4\nseed: 3\nfps: 10\n")
    seen: list[GenerateConfig] = []
    group = App(name="group")
    options.settings_command(group, GenerateConfig, "picture", "video", name="one")(seen.append)
    group(["one", "--config", str(file), "--seed", "5"], result_action="return_value")
    group(["one", "e.png", "d.mp4", "--config", str(file)], result_action="return_value")
    assert [(c.seed, c.fps, c.video, c.picture) for c in seen] == [
        (5, 10, Path("b.mp4"), Path("a.png")),
        (3, 10, Path("d.mp4"), Path("e.png")),
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "missing.png", "missing.mp4", "-o", "out.mp4"],
        ["generate", "only.png"],
        ["poses", "missing.mp4", "-o", "p.npz"],
        ["plan", "missing.png", "missing.mp4"],
        ["generate", "a.png", "b.mp4", "-o", "c.mp4", "--config", "missing.yaml"],
    ],
)
def test_wrong_input_ends_with_code_2(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert "error:" in said
    assert "fix:" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.png", "b.mp4"], "with -o"),
        (["a.png", "b.mp4", "-o", ""], "the name of a file or folder"),
        (["https://example.com/a.png", "b.mp4", "-o", "c.mp4"], "https://example.com/a.png is a URL"),
        (["n" * 300, "b.mp4", "-o", "c.mp4"], "check the path, its length"),
        (["a.png", "b.mp4", "-o", "c.mp4", "--seed", "1.5"], "'1.5' is not an integer"),
        (["a.png", "b.mp4", "-o", "c.mp4", "--person", "nan,1"], "person='nan,1'"),
        (["a.png", "b.mp4", "-o", "c.mp4", "--duration", "1e-300"], "at least 0.001"),
    ],
)
def test_messages_name_what_helps(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        assert cli.main(["generate", *arguments]) == 2
    said = capsys.readouterr()
    assert says in said.err + said.out
    assert "bug" not in said.err


def test_a_working_directory_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    (tmp_path / "a.npz").write_bytes(b"PK")
    assert cli.main(["poses", str(tmp_path / "a.npz"), "-o", "b.npz"]) == 2
    assert "the working directory: No such file" in capsys.readouterr().err


def test_ctrl_c_ends_with_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "parse", interrupted)
    assert cli.main(["generate", "a", "b", "-o", "c"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_control_characters_of_names_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[2Jreset\x07\u202egnp\udcff.png"
    assert cli.main(["generate", str(tmp_path / name), "no.mp4", "-o", str(tmp_path / "o.mp4")]) == 2
    options.say(Path(name))
    shown = capsys.readouterr()
    logged = cli._Formatter("%(message)s").format(logging.makeLogRecord({"msg": name}))
    for text in (shown.out, shown.err, logged):
        assert r"\x1b[2Jreset\x07\u202egnp\udcff.png" in text
        assert not set(name) & set("\x1b\x07\u202e\udcff") & set(text)


def test_a_message_keeps_its_lines_and_letters() -> None:
    text = "größe 高さ 👩‍🎨\tof\nnaïve.png"
    assert printable(text) == text


@pytest.mark.parametrize(
    ("alike", "said"), [(None, ""), (0.97, "0.97 (1: identical)\n"), (0.8, "a different person"), ("broken", "")]
)
def test_generate_says_how_like_the_face_is(
    alike: Any, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def job(settings: GenerateConfig) -> Job[SimpleNamespace]:
        yield from ()
        return SimpleNamespace(summary=lambda: "made", frames=iter(range(90)), num_frames=90)

    def likeness(picture: Path, frames: Iterable[int], person: str) -> float | None:
        if alike == "broken":
            raise WeightsError("faces.safetensors is damaged", "the fetched file", "fetch it again")
        assert list(frames) == list(range(0, 90, 3))
        return alike

    monkeypatch.setattr("mimicmotion.generate.job.generate", job)
    monkeypatch.setattr("mimicmotion.evaluation.metrics.identity.likeness", likeness)
    assert cli.main(["generate", "person.png", "dance.mp4", "-o", "out.mp4"]) == 0
    out = capsys.readouterr().out
    assert "made" in out
    assert ("face similarity" in out) == isinstance(alike, float)
    assert said in out
