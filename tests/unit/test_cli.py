from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from mimicmotion import cli
from mimicmotion.settings import GenerateConfig

HEAVY = ("torch", "cv2", "diffusers", "transformers", "onnxruntime", "av", "PIL")


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


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--help"]) == 0
    text = capsys.readouterr().out
    for name in (f.name for f in dataclasses.fields(GenerateConfig)):
        if name not in ("picture", "video"):
            assert f"--{name.replace('_', '-')}" in text


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("picture: a.png\nvideo: b.mp4\noutput: c.mp4\nseed: 3\nfps: 10\n")
    options = cli.GenerateOptions(seed=5)
    merged = cli._merge(GenerateConfig, file, options, picture=None, video=Path("d.mp4"))
    assert (merged.seed, merged.fps, merged.video, merged.picture) == (5, 10, Path("d.mp4"), Path("a.png"))


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


def test_ctrl_c_ends_with_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_merge", interrupted)
    assert cli.main(["generate", "a", "b", "-o", "c"]) == 130
    assert "interrupted" in capsys.readouterr().err
