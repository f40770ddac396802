"""Matplotlib helpers: the style shared by all figures, and reproducible PNG files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy import ndarray

from mimicmotion.errors import OutputError
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.files import atomic_path, check_writable, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_WIDTH = 7.0
"""Text width of a page in inches, so that figures are printed at the intended font size."""
DPI = 150
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colour-blind safe palette of Okabe and Ito (2008)."""
LINES = ("-", "--", "-.", ":")
MARK = "#D55E00"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # bundled with matplotlib, so the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "image.interpolation": "nearest",
    "text.parse_math": False,  # names may contain $
    "text.hinting": "none",
}


def check_plot_output(path: Path) -> Path:
    """Check in advance that a figure can be written to `path` and its data to a CSV file next to it, and return `path`.

    Raises:
        ConfigError: matplotlib is not installed.
        OutputError: the suffix is not .png, or the file cannot be written.
    """
    import_extra("matplotlib", "eval")
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} has the suffix {path.suffix!r}", "a file name ending in .png", "change 'output'")
    for file in (path, path.with_suffix(".csv")):
        if file.is_dir():
            raise OutputError(f"{file} is a folder", "the name of a file", "choose another name")
    return check_writable(path)


@contextlib.contextmanager
def figure(output: Path | BytesIO, height: float, width: float = PAGE_WIDTH) -> Iterator[Figure]:
    """Context manager that yields an empty figure of `width` x `height` inches and saves it to `output` as PNG on exit.

    The file is reproducible for a given matplotlib version: it contains no date or version, and the user's matplotlib
    settings are ignored.

    Raises:
        ConfigError: matplotlib is not installed.
        OutputError: `output` cannot be written.
    """
    mpl = import_extra("matplotlib", "eval")
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # ignore the user's matplotlibrc
        mpl.rcParams.update(STYLE)
        sheet = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield sheet
        png = BytesIO()
        sheet.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    if isinstance(output, BytesIO):
        output.write(png.getvalue())
        return
    with atomic_path(output) as part, writing(output):
        part.write_bytes(png.getvalue())


def colour(i: int) -> str:
    """Return colour `i` of `PALETTE`, starting over after the last one."""
    return PALETTE[i % len(PALETTE)]


def line(i: int) -> dict[str, Any]:
    """Return the keyword arguments of `plot` that give curve `i` its own colour and line style."""
    return {"color": colour(i), "linestyle": LINES[i % len(LINES)]}


def bare(axes: Axes) -> None:
    """Hide the ticks and spines of axes that show a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def picture_grid(
    sheet: Any, rows: Mapping[str, Sequence[ndarray]], titles: Sequence[str], *, coloured: bool = True, **options: Any
) -> Any:
    """Draw a grid of pictures with row and column labels.

    Args:
        sheet: figure or subfigure to draw into.
        rows: mapping from the name of each row to its pictures, one per column.
        titles: column titles.
        coloured: draw the row names in the colours of `PALETTE` instead of black.
        options: keyword arguments of `imshow`.

    Returns:
        Array of axes, (rows, columns).
    """
    grid = sheet.subplots(len(rows), len(titles), squeeze=False)
    for k, (name, pictures) in enumerate(rows.items()):
        for axes, picture in zip(grid[k], pictures, strict=True):
            axes.imshow(picture, **options)
            bare(axes)
        grid[k, 0].set_ylabel(name, color=colour(k) if coloured else "k")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    return grid


def mark_borders(axes: Axes, borders: Sequence[int]) -> None:
    """Draw a triangle above each segment border, at x = border - 0.5; a vertical line would hide the seam."""
    if borders:
        x = [b - 0.5 for b in borders]
        axes.plot(
            x, [1.0] * len(x), "v", ms=4, color=MARK, transform=axes.get_xaxis_transform(), clip_on=False, zorder=5
        )


def curves(axes: Axes, values: Mapping[str, ndarray], label: str, borders: Sequence[int]) -> None:
    """Plot one curve per result over frames 1, 2, ..., with means in the legend and markers at segment borders."""
    from matplotlib.ticker import MaxNLocator

    for k, (name, numbers) in enumerate(values.items()):
        axes.plot(range(1, len(numbers) + 1), numbers, label=f"{name} (mean {numbers.mean():.2f})", **line(k))
    highest = max(float(numbers.max()) for numbers in values.values())
    axes.set_ylim(0, 1.3 * highest or 1.0)  # room for the legend
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("frame" + (" (triangles: a new segment begins)" if borders else ""))
    axes.set_ylabel(label)
    mark_borders(axes, borders)
    axes.legend(ncols=3, loc="upper right")
