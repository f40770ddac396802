"""Put methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicmotion.evaluation.reports.compare import FILES, Comparison, markdown, save_comparison
from mimicmotion.evaluation.reports.compare import compare as read
from mimicmotion.runtime.files import check_writable


@dataclass(frozen=True, slots=True)
class CompareResult:
    """What is compared, and where it was written."""

    comparison: Comparison
    output: Path

    def summary(self) -> str:
        """The table as Markdown."""
        return f"{markdown(self.comparison)}\nwritten to {self.output}: {', '.join(FILES)}"


def compare(
    sources: Sequence[str], output: Path, *, published: bool = True, metrics: Sequence[str] = ()
) -> CompareResult:
    """Write the comparison as Markdown, LaTeX, HTML and CSV.

    Raises:
        InputError: a source cannot be read; see `mimicmotion.evaluation.reports.compare.compare`.
        OutputError: the tables cannot be written.
    """
    for name in FILES:
        check_writable(output / name)
    comparison = read(sources, with_published=published, metrics=metrics)
    return CompareResult(comparison, save_comparison(output, comparison))
