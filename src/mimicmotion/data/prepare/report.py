"""The report on all videos and scenes as JSON, sorted and without timestamps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimicmotion.data.prepare.plan import VideoReport, crop_facts, scene_key, split_of
from mimicmotion.runtime.files import write_json
from mimicmotion.settings.prepare import PrepareConfig, result_settings

JSON, PAGE = "report.json", "report.html"


def count(videos: Sequence[VideoReport], config: PrepareConfig) -> dict[str, Any]:
    """Totals: files by status; scenes, seconds and frames per split; and counts of the reasons for leaving out."""
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
