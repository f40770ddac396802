"""Segment borders of a result, from the settings or from the OUTPUT.json that `generate` writes next to it."""

from __future__ import annotations

from pathlib import Path

from mimicmotion.errors import InputError
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import FusionConfig, parse


def segment_borders(frames: int, config: FusionConfig) -> list[int]:
    """Frames at which the blend of segments changes: border b lies between frames b - 1 and b.

    With overlaps, these are the first frame of every overlap and the first one after it. With hard cuts (mode "none"),
    they are the first frames of segments; the last segment starts early to have full length, and frames that it shares
    with the previous segment belong to the latter.
    """
    from mimicmotion.diffusion.fusion import plan_segments

    segments = plan_segments(frames, config)
    if config.mode == "none":
        edges = {s.start if i < len(segments) - 1 else segments[i - 1].stop for i, s in enumerate(segments) if i}
    else:
        edges = {s.start for s in segments[1:]} | {s.stop for s in segments[:-1]}
    return sorted(e for e in edges if 0 < e < frames)


def has_sidecars(folder: Path) -> bool:
    """Whether any result in a folder has the OUTPUT.json that `generate` writes."""
    return folder.is_dir() and any(p.with_suffix("").exists() for p in folder.glob("*.json"))


def sidecar_fusion(video: Path) -> FusionConfig | None:
    """Read the fusion settings of a result from its OUTPUT.json; None if there is none, or it is unreadable.

    Also None if frames are repeated, because the segments then start at other frames of the file.
    """
    try:
        data = read_json(video.with_name(f"{video.name}.json"), "the OUTPUT.json of `generate`", "generate again")
        repeated = data.get("settings", {}).get("output_fps")
        return None if repeated else parse(FusionConfig, data["fusion"])
    except (AttributeError, InputError, KeyError, TypeError):
        return None
