"""The report as a page to look at: totals, a contact sheet of clips with their poses, and histograms."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.data.analysis import Notebook
from mimicmotion.data.crop import fit_poses
from mimicmotion.data.measure import SceneMeasures
from mimicmotion.data.prepare import SceneReport, VideoReport
from mimicmotion.data.report import PAGE, count
from mimicmotion.data.settings_prepare import PrepareConfig
from mimicmotion.errors import ConfigError
from mimicmotion.files import atomic_path, writing
from mimicmotion.pose.draw import PoseDrawer
from mimicmotion.video.geometry import Fit, plan_fit
from mimicmotion.video.picture import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.ImageFont import FreeTypeFont, ImageFont

PICTURES = "report"
"""Folder of the page's pictures as PNG files."""
SHOWN = {"used": 36, "left out": 12}
MAX_ROWS = 500
_TALL, _GAP, _LINE, _SHEET = 224, 6, 15, 1500
_GREEN, _RED, _GREY, _BLUE = (31, 122, 66), (178, 48, 48), (90, 90, 90), "#2b6cb0"


def save_page(folder: Path, videos: Sequence[VideoReport], notebook: Notebook, config: PrepareConfig) -> Path:
    """Write report.html, which needs no other file, and its pictures as PNG files beside it.

    Raises:
        OutputError: the folder cannot be written.
        ConfigError: matplotlib is not installed.
    """
    pictures = {
        "clips": contact_sheet(_chosen(videos, True), notebook, config),
        "left_out": contact_sheet(_chosen(videos, False), notebook, config),
        "confidence": _confidence(videos, config),
        "hands": _hands(videos),
    }
    for name, picture in pictures.items():
        path = folder / PICTURES / f"{name}.png"
        if picture is not None:
            write_picture(path, picture)
        else:
            path.unlink(missing_ok=True)
    with atomic_path(folder / PAGE) as part, writing(folder / PAGE):
        part.write_text(_page(videos, config, pictures), encoding="utf-8", errors="replace")
    return folder / PAGE


Chosen = list[tuple[VideoReport, SceneReport]]


def _chosen(videos: Sequence[VideoReport], accepted: bool) -> Chosen:
    """Some of the scenes that were looked at, spread evenly."""
    every = [(v, s) for v in videos for s in v.scenes if s.crop and s.judgement.accepted is accepted]
    limit = SHOWN["used" if accepted else "left out"]
    picked = np.unique(np.linspace(0, len(every) - 1, min(limit, len(every))).round().astype(int))
    return [every[i] for i in picked]


def contact_sheet(scenes: Chosen, notebook: Notebook, config: PrepareConfig) -> UInt8[ndarray, "height width 3"] | None:
    """Three frames of each scene, as they are stored, with their poses; None without scenes."""
    wide = max(48, round(_TALL * config.width / config.height))
    cells = [cell for v, s in scenes if (cell := _cell(v, s, notebook, (_TALL, wide))) is not None]
    if not cells:
        return None
    per_row = min(len(cells), max(1, _SHEET // (cells[0].shape[1] + 2 * _GAP)))
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % per_row)
    rows = [np.concatenate(cells[i : i + per_row], 1) for i in range(0, len(cells), per_row)]
    return np.concatenate(rows)


def _cell(video: VideoReport, scene: SceneReport, notebook: Notebook, size: tuple[int, int]) -> ndarray | None:
    from PIL import Image, ImageDraw

    measures = (notebook.load_scenes(video.sha256) or {}).get(scene.number)
    if measures is None or scene.crop is None or not measures.thumbs:
        return None
    pictures = [_drawn(measures, k, scene.crop, size) for k in range(len(measures.thumbs))]
    pictures += [np.full((*size, 3), 235, np.uint8)] * (3 - len(pictures))
    width = 3 * size[1] + 2
    cell = Image.new("RGB", (width + 2 * _GAP, size[0] + 3 * _LINE + 2 * _GAP), "white")
    for k, picture in enumerate(pictures):
        cell.paste(Image.fromarray(picture), (_GAP + k * (size[1] + 1), _GAP))
    numbers = scene.judgement.numbers
    facts = f"{numbers['seconds']:.1f} s, confidence {numbers.get('confidence', 0):.2f}, hands {numbers['hands']:.0%}, "
    facts += f"sharpness {numbers.get('sharpness', 0):.0f}"
    verdict = "used" if scene.judgement.accepted else "; ".join(scene.judgement.reasons)
    colours = _GREY, _GREY, _GREEN if scene.judgement.accepted else _RED
    draw, font = ImageDraw.Draw(cell), _font()
    name = f"{video.source} #{scene.number}".encode("utf-8", "replace").decode()
    for line, (text, colour) in enumerate(zip((name, facts, verdict), colours, strict=True)):
        place = (_GAP, size[0] + _GAP + 2 + line * _LINE)
        draw.text(place, _shortened(text, font, width, keep_end=line == 0), fill=colour, font=font)
    return np.asarray(cell)


def _drawn(measures: SceneMeasures, k: int, crop: Fit, size: tuple[int, int]) -> ndarray:
    """One small frame under the scene's crop, darkened, with the pose over it."""
    from PIL import Image

    thumb = np.asarray(Image.open(io.BytesIO(measures.thumbs[k])).convert("RGB"))
    frame = measures.thumb_frames[k]
    small = _small_crop(crop, (thumb.shape[0], thumb.shape[1]), size)
    poses = measures.poses[frame : frame + 1]
    stored = fit_poses(poses, crop).scaled(size)
    pose = PoseDrawer(size, canvas_short_side=None, stroke=2.6).draw(stored.xy[0], stored.confidence[0])
    # the drawing dims limbs to 0.6; here they are brightened again, over a darker picture
    cover = np.clip(pose.max(-1, keepdims=True) / 100, 0, 1)
    bright = np.clip(pose / 0.6, 0, 255)
    return (bright * cover + small.apply(thumb) * 0.7 * (1 - cover)).astype(np.uint8)


def _small_crop(crop: Fit, thumb: tuple[int, int], size: tuple[int, int]) -> Fit:
    """The same crop from a thumbnail to a small picture."""
    shrunk = [n / t for n, t in zip(size, crop.target, strict=True)]
    scale = [crop.scale[a] * crop.source[a] / thumb[a] * shrunk[a] for a in (0, 1)]
    offset = [crop.offset[a] * shrunk[a] for a in (0, 1)]
    plain = plan_fit(thumb, size, "stretch", resample="bilinear")
    return Fit(plain.source, plain.target, (scale[0], scale[1]), (offset[0], offset[1]), plain.resample)


def _font() -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(11)


def _shortened(text: str, font: Any, width: int, *, keep_end: bool) -> str:
    short = text
    while len(text) > 1 and font.getlength(short) > width:
        text = text[1:] if keep_end else text[:-1]
        short = f"…{text}" if keep_end else f"{text}…"
    return short


def _confidence(videos: Sequence[VideoReport], config: PrepareConfig) -> ndarray | None:
    """Histogram of the mean confidence of the seen body points, one value a scene."""
    judged = [s.judgement for v in videos for s in v.scenes if "confidence" in s.judgement.numbers]
    groups = {
        name: [j.numbers["confidence"] for j in judged if j.accepted is accepted]
        for name, accepted in (("used", True), ("left out", False))
    }

    def paint(axes: Axes) -> None:
        _histogram(axes, groups, (_BLUE, "#c9a27e"))
        axes.axvline(config.min_confidence, color="black", lw=1, ls=":", label="min_confidence")
        axes.set_xlabel("mean confidence of the body points seen in a scene")

    return _figure(paint) if judged else None


def _hands(videos: Sequence[VideoReport]) -> ndarray | None:
    """Histogram of the share of frames with a reliable hand, one value a used scene."""
    used = [s.judgement.numbers for v in videos for s in v.scenes if s.judgement.accepted]
    names = {"either hand": "hands", "left hand": "left_hand", "right hand": "right_hand"}

    def paint(axes: Axes) -> None:
        _histogram(axes, {k: [n[v] for n in used] for k, v in names.items()}, (_BLUE, "#c9a27e", "#7aa37a"))
        axes.set_xlabel("share of a scene's frames in which all 21 points of the hand are sure")

    return _figure(paint) if used else None


def _histogram(axes: Axes, groups: dict[str, list[float]], colours: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.hist(
        list(groups.values()),
        bins=np.linspace(0, 1, 21).tolist(),
        color=list(colours),
        label=[f"{name} ({len(values)})" for name, values in groups.items()],
    )
    axes.set_xlim(0, 1)
    axes.set_ylabel("scenes")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _figure(paint: Any) -> ndarray:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        fix = "pip install 'mimicmotion[train]'"
        raise ConfigError("matplotlib is not installed", "the packages for training", fix) from e
    figure = Figure(figsize=(7, 3), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    paint(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1540px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top}
th{border-bottom:1px solid #aaa}td{border-bottom:1px solid #eee}img{max-width:100%}h2{margin-top:1.6em}"""


def _page(videos: Sequence[VideoReport], config: PrepareConfig, pictures: dict[str, ndarray | None]) -> str:
    total = count(videos, config)
    unused = [v for v in videos if v.status not in ("used", "without scenes")]
    splits = [[name, *numbers.values()] for name, numbers in total["splits"].items()]
    scenes = [(v.source, s.number, s.judgement) for v in videos for s in v.scenes]
    rejected = [[source, number, "; ".join(j.reasons)] for source, number, j in scenes if not j.accepted]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Prepared videos</title><style>{_STYLE}</style>",
        "<h1>Prepared videos</h1>",
        f"<p>{total['used']} of {total['scenes']} scenes of {len(videos)} files are used, stored at "
        f"{config.height} x {config.width} (height x width).</p>",
        _table(["split", "videos", "scenes", "frames", "seconds"], splits),
        "<h2>Why scenes were left out</h2>",
        _table(["threshold", "scenes"], [[k, v] for k, v in total["left_out"].items()]),
        _image("Clips with poses", pictures["clips"]),
        _image("Confidence", pictures["confidence"]),
        _image("Hand visibility", pictures["hands"]),
        _image("Scenes that were left out", pictures["left_out"]),
        _table(["file", "scene", "reasons"], rejected),
        "<h2>Files that were not used</h2>",
        _table(["file", "status", "reason"], [[v.source, v.status, v.reason] for v in unused]),
    ]
    return "\n".join(p for p in parts if p) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "<p>none</p>"
    lines = ["".join(f"<td>{html.escape(str(v))}</td>" for v in row) for row in rows[:MAX_ROWS]]
    more = f"<p>and {len(rows) - MAX_ROWS} more, see report.csv</p>" if len(rows) > MAX_ROWS else ""
    top = "".join(f"<th>{h}</th>" for h in head)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>{more}"


def _image(title: str, picture: ndarray | None) -> str:
    from PIL import Image

    if picture is None:
        return f"<h2>{title}</h2><p>none</p>"
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">'
