"""Evaluate methods on a set of real videos and write the report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from mimicmotion.evaluation.reports.report import FILES, method_table, save_report
from mimicmotion.evaluation.runner import Evaluation, run_evaluation
from mimicmotion.runtime.files import check_not_inputs, check_writable
from mimicmotion.runtime.progress import Job
from mimicmotion.settings.evaluation import EvaluateConfig


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The evaluation, and the folder of its report."""

    evaluation: Evaluation
    output: Path

    @property
    def exit_code(self) -> int:
        """1 if a video could not be measured."""
        return int(bool(self.evaluation.failures))

    def summary(self) -> str:
        """Summary for the user."""
        done = self.evaluation
        (hits, made), table = done.reused, method_table(done)
        lines = [f"note: {n}" for n in done.notes]
        lines += [f"FAILED: {f.method}, {f.sequence}: {f.reason}" for f in done.failures]
        lines += ["", *(table.markdown() if table.rows else ["nothing could be measured"]), ""]
        lines.append(f"{hits} results from the cache, {made} computed")
        lines.append(f"report: {self.output / 'report.md'} (also report.html, metrics.csv, summary.json)")
        return "\n".join(lines)


def evaluate(config: EvaluateConfig) -> Job[EvaluateResult]:
    """Measure and write the report. An interrupted run can be repeated and reuses its measurements.

    Raises:
        InputError: folders, settings or protocol are invalid; with `strict`, also any other problem.
        WeightsError: the network of a requested metric is not installed.
        OutputError: the report cannot be written.
    """
    files = [config.output / name for name in FILES]
    read = [getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "output"]
    check_not_inputs([*config.generated.values(), *(p for p in read if isinstance(p, str | Path))], files)
    for path in files:
        check_writable(path)
    evaluation = yield from run_evaluation(config)
    save_report(config.output, evaluation)
    return EvaluateResult(evaluation, config.output)
