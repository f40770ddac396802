"""What became of every video and every scene, as JSON and as a table; all of it plain, sorted, and without a clock."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimicmotion.data.prepare.plan import SceneReport, VideoReport, crop_facts, split_of
from mimicmotion.settings.prepare import PrepareConfig
from mimicmotion.tables import write_csv, write_text

JSON, TABLE, PAGE = "report.json", "report.csv", "report.html"
NUMBERS = (
    "seconds", "frames", "enlargement", "found", "crowded", "body", "confidence", "sharpness", "static",
    "left_hand", "right_hand", "hands",
)  # fmt: skip
_COLUMNS = ("source", "video", "scene", "split", "start_s", "accepted", "reasons", *NUMBERS)


def count(videos: Sequence[VideoReport], config: PrepareConfig) -> dict[str, Any]:
    """Totals: files by status, scenes, seconds and frames per split, and how often each reason was given."""
    scenes = [(v, s) for v in videos for s in v.scenes]
    used = [(v, s) for v, s in scenes if s.judgement.accepted]
    splits: dict[str, dict[str, float]] = {}
    for name in ("train", "val"):
        mine = [(v, s) for v, s in used if split_of(v.video, config.seed, config.validation) == name]
        splits[name] = {
            "videos": len({v.video for v, _ in mine}),
            "scenes": len(mine),
            "frames": sum(len(s.scene) for _, s in mine),
            "seconds": round(sum(s.judgement.numbers["seconds"] for _, s in mine), 2),
        }
    reasons = Counter(_kind(r) for _, s in scenes for r in s.judgement.reasons)
    return {
        "files": dict(sorted(Counter(v.status for v in videos).items())),
        "damaged": sum(v.survey is not None and v.survey.damaged for v in videos),
        "scenes": len(scenes),
        "used": len(used),
        "left_out": dict(sorted(reasons.items())),
        "splits": splits,
    }


def save_report(folder: Path, videos: Sequence[VideoReport], config: PrepareConfig, settings: dict[str, Any]) -> None:
    """Write report.json and report.csv.

    Raises:
        OutputError: the folder cannot be written.
    """
    plain = json.loads(json.dumps(settings, default=str))
    data = {
        "settings": plain,
        "summary": count(videos, config),
        "videos": [_video(v, config) for v in videos],
    }
    write_text(folder / JSON, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    write_csv(folder / TABLE, _COLUMNS, [[row.get(c) for c in _COLUMNS] for v in videos for row in _rows(v, config)])


def _video(video: VideoReport, config: PrepareConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "source": video.source,
        "video": video.video,
        "sha256": video.sha256,
        "status": video.status,
        "reason": video.reason,
    }
    if video.survey is not None:
        s = video.survey
        facts |= {
            "split": split_of(video.video, config.seed, config.validation),
            "size": list(s.size),
            "source_fps": round(s.source_fps, 4),
            "fps": round(s.fps, 4),
            "frames": s.num_frames,
            "seconds": round(s.num_frames / s.fps, 3),
            "damaged": s.damaged,
        }
    return facts | {"scenes": [_scene(video, s) for s in video.scenes]}


def _scene(video: VideoReport, scene: SceneReport) -> dict[str, Any]:
    fps = video.survey.fps if video.survey else 1.0
    return {
        "key": f"{video.video}-{scene.number:04d}",
        "start_s": round(scene.scene.start / fps, 4),
        "accepted": scene.judgement.accepted,
        "reasons": scene.judgement.reasons,
        "numbers": scene.judgement.numbers,
        "crop": crop_facts(scene.crop) if scene.crop else None,
    }


def _rows(video: VideoReport, config: PrepareConfig) -> list[dict[str, Any]]:
    if not video.scenes:
        reason = f"{video.status}: {video.reason}"
        return [{"source": video.source, "video": video.video, "accepted": "no", "reasons": reason}]
    rows = []
    for scene in video.scenes:
        facts = _scene(video, scene)
        rows.append(
            {
                "source": video.source,
                "video": video.video,
                "scene": scene.number,
                "split": split_of(video.video, config.seed, config.validation),
                "start_s": facts["start_s"],
                "accepted": "yes" if facts["accepted"] else "no",
                "reasons": "; ".join(facts["reasons"]),
                **{n: facts["numbers"].get(n, "") for n in NUMBERS},
            }
        )
    return rows


def _kind(reason: str) -> str:
    """The threshold that a reason names, which is how reasons are counted."""
    return reason.rsplit(", ", 1)[1].split(" is ", maxsplit=1)[0] if ", " in reason and " is " in reason else "person"
