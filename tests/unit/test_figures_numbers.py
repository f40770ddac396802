"""Fusion diagram and metric bars: their tables contain the numbers of the plan and the report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_figures_clips import rows

from mimicmotion import cli
from mimicmotion.diffusion.fusion import make_plan
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.evaluation.figures import bars, job
from mimicmotion.evaluation.figures.specs import BarsSpec, FusionSpec
from mimicmotion.evaluation.metrics.intervals import mean_interval
from mimicmotion.evaluation.reports.compare import load_results
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import FusionConfig
from mimicmotion.settings.metrics import describe


def weights(path: Path, mode: str, frames: int) -> np.ndarray:
    return np.array([[float(r[f"frame_{t}"]) for t in range(frames)] for r in rows(path) if r["mode"] == mode])


@pytest.mark.whole
def test_weights_of_the_paper(tmp_path: Path) -> None:
    modes = ["progressive", "released", "average", "none"]
    finish(job.make(FusionSpec(output=tmp_path / "f.png", mode=modes)))
    for mode in modes:
        table = weights(tmp_path / "f.csv", mode, 18)
        np.testing.assert_allclose(table.sum(0), 1, atol=1e-12)
        plan = make_plan(18, FusionConfig(mode=mode, segment_frames=8, overlap_frames=3, reference_slot=False))
        np.testing.assert_array_equal(table, plan.weights.numpy()[:, int(plan.reference_slot) :])
    first = weights(tmp_path / "f.csv", "progressive", 18)[0]
    assert first.tolist() == [1] * 5 + [0.75, 0.5, 0.25] + [0] * 10  # 1 - j / (C + 1)
    spans = [(r["first"], r["last"]) for r in rows(tmp_path / "f.csv") if r["mode"] == "progressive"]
    assert spans == [("0", "7"), ("5", "12"), ("10", "17")]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"mode": ["linear"]}, "'linear'"),
        ({"mode": []}, "no mode"),
        ({"overlap_frames": 8}, "overlap_frames=8"),
        ({"frames": 0}, "num_frames=0"),
    ],
)
def test_impossible_plans(settings: dict, found: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, InputError), match=found):
        finish(job.make(FusionSpec(output=tmp_path / "f.png", **settings)))
    assert not list(tmp_path.iterdir())


SUMMARY = {
    "ours": {"ssim": {"mean": 0.8, "low": 0.7, "high": 0.85, "n": 6}, "fvd": {"mean": 600, "low": None, "n": 1}},
    "other $x$": {"ssim": {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 6}, "fvd": {"mean": None, "n": 0}},
}


def test_bars_show_the_summary(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "summary.json").write_text(json.dumps(SUMMARY))
    finish(job.make(BarsSpec(report=tmp_path / "report", output=tmp_path / "b.png")))
    table = {(r["method"], r["metric"]): r for r in rows(tmp_path / "b.csv")}
    assert list(table) == [(m, k) for m in SUMMARY for k in ("ssim", "fvd")]
    for (method, metric), row in table.items():
        for key in ("mean", "low", "high"):
            want = SUMMARY[method][metric].get(key)
            assert float(row[key]) == pytest.approx(math.nan if want is None else want, nan_ok=True)
    finish(job.make(BarsSpec(report=tmp_path / "report" / "summary.json", output=tmp_path / "c.png", metric=["fvd"])))
    assert {r["metric"] for r in rows(tmp_path / "c.csv")} == {"fvd"}


def test_both_forms_of_table_give_bootstrapped_means(tmp_path: Path) -> None:
    values = {"a": [1.0, 2.0, 4.0], "b": [3.0, 3.5, 5.0]}
    wide = "sequence,method,psnr,fvd\n"
    long = "sequence,method,metric,value\n"
    for method, numbers in values.items():
        for i, v in enumerate(numbers):
            wide += f"s{i},{method},{v},\n"
            long += f"s{i},{method},psnr,{v}\n"
    for name, text in (("wide", wide), ("long", long)):
        (tmp_path / f"{name}.csv").write_text(text)
        found, _ = load_results(tmp_path / f"{name}.csv")
        assert {m: of["psnr"] for m, of in found.items()} == {m: mean_interval(v) for m, v in values.items()}
        assert bars.choose_metrics(found) == ["psnr"]
    assert math.isnan(load_results(tmp_path / "wide.csv")[0]["a"]["fvd"].value)


@pytest.mark.parametrize(
    ("metric", "arrow"),
    [("ssim", " ↑"), ("fvd", " ↓"), ("pose_error_face", " ↓"), ("hand_confidence", " ↑"), ("seam", ""), ("motion", "")],
)
def test_arrows(metric: str, arrow: str) -> None:
    assert describe(metric).arrow == arrow


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("summary.json", "{", "summary.json"),
        ("summary.json", "[]", "unexpected JSON structure"),
        ("summary.json", "{}", "no number"),
        ("summary.json", '{"a": {"ssim": 3}}', "a, ssim: 3"),
        ("summary.json", '{"a": {"ssim": {"mean": "x"}}}', "a, ssim, mean: 'x'"),
        ("summary.json", '{"a": {"ssim": {"mean": null}}}', "no number"),
        ("metrics.csv", "sequence,psnr\n1,2,3\n", "line 2"),
        ("metrics.csv", "sequence,method,psnr\n1,a,x\n", "psnr in line 2: 'x'"),
        ("metrics.csv", "", "no rows"),
    ],
)
def test_files_that_are_not_reports(name: str, text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=found):
        finish(job.make(BarsSpec(report=tmp_path, output=tmp_path / "b.png")))
    assert not (tmp_path / "b.png").exists()


def test_unknown_metric_and_missing_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    out = ["-o", str(tmp_path / "b.png")]
    assert cli.main(["figures", "bars", str(tmp_path), "--metric", "psnr", *out]) == 2
    assert "ssim, fvd" in capsys.readouterr().err
    assert cli.main(["figures", "bars", str(tmp_path / "no"), *out]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert cli.main(["figures", "fusion", "--mode", "linear", *out]) == 2
    assert cli.main(["figures", "bars", str(tmp_path), "--metric", "fvd", *out]) == 0
