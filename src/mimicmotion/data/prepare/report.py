"""Report on all videos and scenes, as JSON and as a web page with totals, contact sheets and histograms."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.data.prepare.analysis import AnalysisCache, SceneMeasures
from mimicmotion.data.prepare.crop import plan_crop
from mimicmotion.data.prepare.plan import SceneReport, VideoReport, crop_facts, scene_key, split_of
from mimicmotion.data.shards.frames import encode_picture
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.runtime.files import atomic_path, write_json, write_text, writing
from mimicmotion.settings.prepare import PrepareConfig, result_settings
from mimicmotion.tables import Section, Table, html_page

JSON, PAGE = "report.json", "report.html"
PICTURES = "report"
"""Folder of the page's pictures as PNG files."""
SHOWN, SHOWN_LEFT_OUT, MAX_ROWS = 36, 12, 500  # limits of used scenes, other scenes and table rows on the page
Chosen = list[tuple[VideoReport, SceneReport]]
_TALL, _GAP, _LINE, _SHEET = 224, 6, 15, 1500
_GREEN, _RED, _GREY = (31, 122, 66), (178, 48, 48), (90, 90, 90)


def count(videos: Sequence[VideoReport], config: PrepareConfig) -> dict[str, Any]:
    """Count files by status; scenes, seconds and frames by split; and how often each reason for rejection occurred."""
    scenes = [(v, s) for v in videos for s in v.scenes]
    used = [(v, s) for v, s in scenes if s.judgement.accepted]
    splits: dict[str, dict[str, float]] = {}
    for name in ("train", "val"):
        chosen = [(v, s) for v, s in used if split_of(v.video, config.seed, config.validation) == name]
        splits[name] = {
            "videos": len({v.video for v, _ in chosen}),
            "scenes": len(chosen),
            "frames": sum(len(s.scene) for _, s in chosen),
            "seconds": round(sum(s.judgement.numbers["seconds"] for _, s in chosen), 2),
        }
    reasons = Counter(threshold for _, s in scenes for threshold in s.judgement.reasons)
    return {
        "files": dict(sorted(Counter(v.status for v in videos).items())),
        "damaged": sum(v.survey is not None and v.survey.damaged for v in videos),
        "scenes": len(scenes),
        "used": len(used),
        "left_out": dict(sorted(reasons.items())),
        "splits": splits,
    }


def save_report(folder: Path, videos: Sequence[VideoReport], config: PrepareConfig) -> None:
    """Write report.json.

    Raises:
        OutputError: the folder cannot be written.
    """
    facts = [_video(v, config) for v in videos]
    data = {"settings": result_settings(config), "summary": count(videos, config), "videos": facts}
    write_json(folder / JSON, data)


def _video(video: VideoReport, config: PrepareConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "source": video.source,
        "video": video.video,
        "sha256": video.sha256,
        "status": video.status,
        "reason": video.reason,
    }
    if (survey := video.survey) is None:
        return facts | {"scenes": []}
    scenes = [
        {
            "key": scene_key(video.video, scene.number),
            "start_s": round(scene.scene.start / survey.fps, 4),
            "accepted": scene.judgement.accepted,
            "reasons": list(scene.judgement.reasons.values()),
            "numbers": scene.judgement.numbers,
            "crop": crop_facts(scene.crop) if scene.crop else None,
        }
        for scene in video.scenes
    ]
    return facts | {
        "split": split_of(video.video, config.seed, config.validation),
        "size": list(survey.size),
        "source_fps": round(survey.source_fps, 4),
        "fps": round(survey.fps, 4),
        "frames": survey.num_frames,
        "seconds": round(survey.num_frames / survey.fps, 3),
        "damaged": survey.damaged,
        "scenes": scenes,
    }


def save_page(folder: Path, videos: Sequence[VideoReport], cache: AnalysisCache, config: PrepareConfig) -> Path:
    """Write report.html, which is self-contained, and its pictures as PNG files; return the path of the page.

    Raises:
        OutputError: the folder cannot be written.
        ConfigError: matplotlib is not installed.
    """
    sheets = {n: contact_sheet(_chosen(videos, n == "clips"), cache, config) for n in ("clips", "left_out")}
    pngs = {n: None if sheet is None else encode_picture(sheet, "png") for n, sheet in sheets.items()}
    pngs |= _histograms(videos, config)
    for name, png in pngs.items():
        path = folder / PICTURES / f"{name}.png"
        if png is None:
            path.unlink(missing_ok=True)
            continue
        with atomic_path(path) as part, writing(path):
            part.write_bytes(png)
    return write_text(folder / PAGE, html_page("Prepared videos", _sections(videos, config, pngs)))


def _chosen(videos: Sequence[VideoReport], accepted: bool) -> Chosen:
    """Select measured scenes that were accepted (or rejected), at even intervals."""
    every = [(v, s) for v in videos for s in v.scenes if s.crop and s.judgement.accepted is accepted]
    limit = SHOWN if accepted else SHOWN_LEFT_OUT
    picked = np.unique(np.linspace(0, len(every) - 1, min(limit, len(every))).round().astype(int))
    return [every[i] for i in picked]


def contact_sheet(
    scenes: Chosen, cache: AnalysisCache, config: PrepareConfig
) -> UInt8[ndarray, "height width 3"] | None:
    """Draw three frames of each scene as stored, with their poses; return None if there is no scene to show."""
    wide = max(48, round(_TALL * config.width / config.height))
    cells = [cell for v, s in scenes if (cell := _cell(v, s, cache, config, (_TALL, wide))) is not None]
    if not cells:
        return None
    per_row = min(len(cells), max(1, _SHEET // (cells[0].shape[1] + 2 * _GAP)))
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % per_row)
    rows = [np.concatenate(cells[i : i + per_row], 1) for i in range(0, len(cells), per_row)]
    return np.concatenate(rows)


def _cell(
    video: VideoReport, scene: SceneReport, cache: AnalysisCache, config: PrepareConfig, size: tuple[int, int]
) -> ndarray | None:
    from PIL import Image, ImageDraw, ImageFont

    measures = (cache.load_scenes(video.sha256) or {}).get(scene.number)
    if measures is None or not measures.thumbs:
        return None
    pictures = [_drawn(measures, k, config, size) for k in range(len(measures.thumbs))]
    pictures += [np.full((*size, 3), 235, np.uint8)] * (3 - len(pictures))
    width = 3 * size[1] + 2
    cell = Image.new("RGB", (width + 2 * _GAP, size[0] + 3 * _LINE + 2 * _GAP), "white")
    for k, picture in enumerate(pictures):
        cell.paste(Image.fromarray(picture), (_GAP + k * (size[1] + 1), _GAP))
    numbers = scene.judgement.numbers
    facts = f"{numbers['seconds']:.1f} s, confidence {numbers.get('confidence', 0):.2f}, hands {numbers['hands']:.0%}, "
    facts += f"sharpness {numbers.get('sharpness', 0):.0f}"
    verdict = "used" if scene.judgement.accepted else "; ".join(scene.judgement.reasons.values())
    colours = _GREY, _GREY, _GREEN if scene.judgement.accepted else _RED
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(11)
    name = f"{video.source} #{scene.number}".encode("utf-8", "replace").decode()
    for line, (text, colour) in enumerate(zip((name, facts, verdict), colours, strict=True)):
        corner = (_GAP, size[0] + _GAP + 2 + line * _LINE)
        draw.text(corner, _shortened(text, font, width, keep_end=line == 0), fill=colour, font=font)
    return np.asarray(cell)


def _drawn(measures: SceneMeasures, k: int, config: PrepareConfig, size: tuple[int, int]) -> ndarray:
    """Draw the pose over a small frame, which is cropped like the scene and darkened."""
    from PIL import Image

    thumb = np.asarray(Image.open(io.BytesIO(measures.thumbs[k])).convert("RGB"))
    poses = measures.poses.scaled((thumb.shape[0], thumb.shape[1]))
    crop, frame = plan_crop(poses, size, config.fit), measures.thumb_frames[k]
    shown = poses[frame : frame + 1].fitted(crop)
    pose = PoseDrawer(size, canvas_short_side=None, stroke=2.6).draw(shown.xy[0], shown.confidence[0])
    # drawing dims limbs to 0.6; brighten them again over a darkened picture
    cover = np.clip(pose.max(-1, keepdims=True) / 100, 0, 1)
    bright = np.clip(pose / 0.6, 0, 255)
    return (bright * cover + crop.apply(thumb) * 0.7 * (1 - cover)).astype(np.uint8)


def _shortened(text: str, font: Any, width: int, *, keep_end: bool) -> str:
    short = text
    while len(text) > 1 and font.getlength(short) > width:
        text = text[1:] if keep_end else text[:-1]
        short = f"…{text}" if keep_end else f"{text}…"
    return short


def _histograms(videos: Sequence[VideoReport], config: PrepareConfig) -> dict[str, bytes | None]:
    """Plot the confidence of visible body points in all scenes, and the visibility of hands in used ones, as PNG."""
    judged = [s.judgement for v in videos for s in v.scenes if "confidence" in s.judgement.numbers]
    sure = {
        name: [j.numbers["confidence"] for j in judged if j.accepted is accepted]
        for name, accepted in (("used", True), ("left out", False))
    }
    used = [s.judgement.numbers for v in videos for s in v.scenes if s.judgement.accepted]
    names = {"either hand": "hands", "left hand": "left_hand", "right hand": "right_hand"}
    hands = {shown: [numbers[name] for numbers in used] for shown, name in names.items()}
    body_label = "mean confidence of the visible body points of a scene"
    hands_label = "share of a scene's frames in which all 21 points of the hand are reliable"
    limit = {"min_confidence": config.min_confidence}
    return {
        "confidence": _histogram(sure, body_label, limit) if judged else None,
        "hands": _histogram(hands, hands_label) if used else None,
    }


def _histogram(groups: dict[str, list[float]], label: str, marks: Mapping[str, float] | None = None) -> bytes:
    from matplotlib.ticker import MaxNLocator

    png = io.BytesIO()
    with plot.figure(png, height=3) as sheet:
        axes = sheet.subplots()
        axes.hist(
            list(groups.values()),
            bins=np.linspace(0, 1, 21).tolist(),
            color=[plot.colour(i) for i in range(len(groups))],
            label=[f"{name} ({len(values)})" for name, values in groups.items()],
        )
        for name, x in (marks or {}).items():
            axes.axvline(x, color="black", lw=1, ls=":", label=name)
        axes.set_xlim(0, 1)
        axes.set_xlabel(label)
        axes.set_ylabel("scenes")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return png.getvalue()


def _sections(videos: Sequence[VideoReport], config: PrepareConfig, pngs: Mapping[str, bytes | None]) -> list[Section]:
    total = count(videos, config)
    summary = (
        f"{total['used']} of {total['scenes']} scenes of {len(videos)} files are used, stored at "
        f"{config.height} x {config.width} (height x width)."
    )
    splits = [[name, *numbers.values()] for name, numbers in total["splits"].items()]
    scenes = [(v.source, s.number, s.judgement) for v in videos for s in v.scenes]
    rejected = [[source, number, "; ".join(j.reasons.values())] for source, number, j in scenes if not j.accepted]
    unused = [[v.source, v.status, v.reason] for v in videos if v.status not in ("used", "without scenes")]

    def section(
        heading: str, picture: str = "", head: Sequence[str] = (), rows: Sequence[Sequence[Any]] = ()
    ) -> Section:
        png = pngs.get(picture)
        note = f"The first {MAX_ROWS} of {len(rows)} rows; all are in report.json."
        text = [note] if len(rows) > MAX_ROWS else [] if rows or png else ["none"]
        return Section(heading, text, Table(head, rows[:MAX_ROWS]), {heading: png} if png else {})

    return [
        Section("", [summary], Table(["split", "videos", "scenes", "frames", "seconds"], splits)),
        section("Why scenes were left out", "", ["threshold", "scenes"], list(total["left_out"].items())),
        section("Clips with poses", "clips"),
        section("Confidence", "confidence"),
        section("Hand visibility", "hands"),
        section("Scenes that were left out", "left_out", ["file", "scene", "reasons"], rejected),
        section("Files that were not used", "", ["file", "status", "reason"], unused),
    ]
