"""Rows of any source in one table, and published numbers labelled as such."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mimicmotion import cli
from mimicmotion.errors import InputError
from mimicmotion.evaluation.reports.compare import PUBLISHED, Comparison, compare, latex, save_comparison

LONG = "sequence,method,metric,value,frames\nx,a_1,psnr,10,8\ny,a_1,psnr,20,8\nx,b,psnr,30,8\nx,b,l1,,8\n"


def report(path: Path, name: str, size: int | None = None, psnr: float = 20.0) -> Path:
    path.mkdir()
    cells = {"psnr": {"mean": psnr, "low": None, "high": None, "n": 1}, "fvd": {"mean": None, "n": 0}}
    data = {"methods": {name: cells}, "protocol": {"size": size}, "settings": {}, "inputs": {"real": {"x": "1"}}}
    (path / "summary.json").write_text(json.dumps(data))
    return path


def written(folder: Path, comparison: Comparison, suffix: str = "md") -> str:
    assert f"written to {folder}" in save_comparison(folder, comparison)
    return (folder / f"compare.{suffix}").read_text()


def test_published_numbers_are_labelled(tmp_path: Path) -> None:
    table = written(tmp_path, compare([]))
    lines = [line for line in table.splitlines() if PUBLISHED in line]
    assert len(lines) == 5
    ours = next(line for line in lines if line.startswith("| MimicMotion"))
    assert [c.strip() for c in ours.split("|")[3:-1]] == ["20.1", "0.795", "594", "9.3"]
    assert "598" in table
    with pytest.raises(InputError, match="nothing to compare"):
        compare([], with_published=False)


def test_long_and_wide_tables_and_reports(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(LONG)
    (tmp_path / "wide.csv").write_text("method,PSNR2,psnr\nc,1.5,25\n")
    (tmp_path / "bare.csv").write_text("psnr\n7\n")
    first = report(tmp_path / "one", "ours")
    paths = [str(tmp_path / n) for n in ("long.csv", "wide.csv")]
    got = compare([*paths, f"theirs={tmp_path / 'bare.csv'}", str(first)], with_published=False)
    rows = {(e.source, e.method): e.cells for e in got.entries}
    assert rows["long", "a_1"]["psnr"].value == 15
    assert set(rows["long", "b"]) == {"psnr"}
    assert rows["wide", "c"]["PSNR2"].value == 1.5
    assert rows["theirs", "theirs"]["psnr"].value == 7
    assert set(rows["one", "ours"]) == {"psnr"}  # null is no number
    assert got.metrics == ["psnr", "PSNR2"]
    text = written(tmp_path / "out", got)
    assert "**30.00**" in text  # best within its source only
    assert "**25.00**" not in text
    assert r"a\_1" in latex(got)
    assert latex(got).count(r"\\") == 1 + len(got.entries)
    with (tmp_path / "out" / "compare.csv").open() as f:
        assert len(list(csv.DictReader(f))) == sum(len(e.cells) for e in got.entries)


def test_reports_of_different_protocols_are_noted(tmp_path: Path) -> None:
    paths = [str(report(tmp_path / f"r{i}", "m", size)) for i, size in enumerate((None, None, 64))]
    assert compare(paths[:2], with_published=False).notes == []
    assert compare(paths, with_published=False).notes == ["r2 and r0 differ in protocol: do not compare their rows"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "", "no rows"),
        ("a.csv", "method,psnr\na,high\n", "psnr in line 2: 'high'"),
        ("a.csv", "method,psnr\na,1,2\n", "line 2"),
        ("a.csv", "method,psnr\na,nan\n", "no number"),
        ("a.json", "{}", "contains no number"),
        ("a.json", "[", "is damaged or truncated"),
        ("a.json", '{"methods": {"a": {"psnr": 3}}}', "a, psnr: 3"),
    ],
)
def test_malformed_sources_are_named(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=why):
        compare([str(tmp_path / name)])


def test_missing_and_doubled_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        compare([str(tmp_path / "none")])
    (tmp_path / "a.csv").write_text("psnr\n7\n")
    with pytest.raises(InputError, match="two sources"):
        compare([str(tmp_path / "a.csv")] * 2)
    with pytest.raises(InputError, match="metric 'ssim2'"):
        compare([str(tmp_path / "a.csv")], metrics=["ssim2"])


def test_names_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('method,psnr\n"<b>&|_%",7\n')
    got = compare([str(tmp_path / "a.csv")])
    page = written(tmp_path / "out", got, "html")
    assert "&lt;b&gt;&amp;|_%" in page
    assert "<b>&" not in page
    assert r"<b>&\|_%" in written(tmp_path / "out", got)
    assert r"<b>\&|\_\%" in latex(got)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("psnr,l1\n7,1\n")
    argv = ["compare", str(tmp_path / "a.csv"), "-o", str(tmp_path / "out"), "--no-published", "--metrics", "l1"]
    assert cli.main(argv) == 0
    assert "| a | a | 1.0000 |" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "compare.csv",
        "compare.html",
        "compare.md",
        "compare.tex",
    ]
    assert cli.main(["compare", str(tmp_path / "none.csv"), "-o", str(tmp_path / "out")]) == 2
