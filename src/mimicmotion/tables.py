"""Format tables as Markdown, HTML, LaTeX and CSV, and pages of tables as Markdown and HTML."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicmotion.runtime.files import atomic_path, writing

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1540px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em;display:block;overflow-x:auto;font-variant-numeric:tabular-nums}
th,td{padding:.2em .9em .2em 0;text-align:left;vertical-align:top;border-bottom:1px solid #eee;overflow-wrap:anywhere}
th{border-color:#aaa}h2{margin-top:1.6em}img{max-width:100%}"""
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """A table. Headings and cells may have any type; they are converted with `str`.

    Attributes:
        head: column headings.
        rows: rows of cells, one cell per column.
        bold: (row, column) indices of cells in bold.
    """

    head: Sequence[object]
    rows: Sequence[Sequence[object]]
    bold: Collection[tuple[int, int]] = ()

    def markdown(self) -> list[str]:
        """Return the table as lines of Markdown."""

        def cell(value: object) -> str:
            return str(value).replace("|", "\\|").replace("\n", " ")

        lines = [map(cell, self.head), ["---"] * len(self.head), *self._cells(cell, "**{}**")]
        return ["| " + " | ".join(line) + " |" for line in lines]

    def html(self) -> str:
        """Return the table as an HTML <table> element."""

        def line(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in cells) + "</tr>"

        head = line([_escaped(h) for h in self.head], "th")
        return f"<table>{head}{''.join(line(r, 'td') for r in self._cells(_escaped, '<b>{}</b>'))}</table>"

    def latex(self, align: str, headings: Mapping[int, str] | None = None) -> str:
        """Return the table as a LaTeX tabular, which needs the booktabs package.

        Args:
            align: column specification, one letter per column.
            headings: mapping from a row index to a heading, placed on a separate line above that row.
        """
        out = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", " & ".join(map(_tex, self.head)) + r" \\", r"\midrule"]
        for k, cells in enumerate(self._cells(_tex, r"\textbf{{{}}}")):
            if headings and k in headings:
                out += [r"\midrule"] if k else []
                out.append(rf"\multicolumn{{{len(align)}}}{{l}}{{\emph{{{_tex(headings[k])}}}}} \\")
            out.append(" & ".join(cells) + r" \\")
        return "\n".join([*out, r"\bottomrule", r"\end{tabular}", ""])

    def _cells(self, render: Callable[[object], str], bold: str) -> list[list[str]]:
        return [
            [bold.format(render(c)) if (i, j) in self.bold else render(c) for j, c in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page: paragraphs, then a table, then pictures.

    Attributes:
        heading: heading; "" for none.
        text: paragraphs; those that begin with "- " are list items.
        table: table; omitted if it has no rows.
        pictures: mapping from alt text to the contents of a PNG file, shown in HTML only.
    """

    heading: str
    text: Sequence[str] = ()
    table: Table = Table((), ())
    pictures: Mapping[str, bytes] | None = None

    def markdown(self) -> str:
        """Return the section in Markdown."""
        blocks = [f"## {self.heading}"] if self.heading else []
        listed = [t for t in self.text if t.startswith("- ")]
        blocks += [t for t in self.text if not t.startswith("- ")]
        blocks += ["\n".join(listed)] if listed else []
        if self.table.rows:
            blocks.append("\n".join(self.table.markdown()))
        return "\n\n".join(blocks)

    def html(self) -> str:
        """Return the section in HTML."""
        parts = [f"<h2>{_escaped(self.heading)}</h2>"] if self.heading else []
        parts += [f"<p>{_escaped(t.removeprefix('- '))}</p>" for t in self.text]
        if self.table.rows:
            parts.append(self.table.html())
        for name, png in (self.pictures or {}).items():
            data = base64.b64encode(png).decode()
            parts.append(f'<img alt="{_escaped(name)}" src="data:image/png;base64,{data}">')
        return "\n".join(parts)


def markdown_page(title: str, sections: Sequence[Section]) -> str:
    """Format sections as a Markdown document."""
    return "\n\n".join([f"# {title}", *(s.markdown() for s in sections)]) + "\n"


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Format sections as a self-contained HTML document."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{_escaped(title)}</title><style>{_STYLE}</style>"
    return "\n".join([head, f"<h1>{_escaped(title)}</h1>", *(s.html() for s in sections)]) + "\n"


def write_csv(path: Path, head: Sequence[object], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV file and return `path`. None is written as an empty cell, floats with full precision.

    Raises:
        OutputError: the file cannot be written.
    """
    with (
        atomic_path(path) as part,
        writing(path),
        part.open("w", encoding="utf-8", errors="replace", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        table.writerows(rows)
    return path


def _escaped(value: object) -> str:
    return html.escape(str(value))


def _tex(value: object) -> str:
    return "".join(_TEX.get(ch, ch) for ch in str(value))
