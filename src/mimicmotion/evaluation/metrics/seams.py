"""Where the segments of a result meet: from the settings, or from the OUTPUT.json that `generate` writes beside it."""

from __future__ import annotations

from pathlib import Path

from mimicmotion.errors import InputError
from mimicmotion.runtime.reading import read_json
from mimicmotion.settings import FusionConfig, parse


def segment_borders(frames: int, config: FusionConfig) -> list[int]:
    """Frames at which the mixture of segments changes: b lies between the frames b - 1 and b.

    With overlaps these are the first frame of every overlap and the first one behind it; with hard cuts (mode "none")
    the first frames of segments, where the last one, which is moved back, leaves what it shares to the one before.
    """
    from mimicmotion.diffusion.fusion import plan_segments

    segments = plan_segments(frames, config)
    if config.mode == "none":
        edges = {s.start if i < len(segments) - 1 else segments[i - 1].stop for i, s in enumerate(segments) if i}
    else:
        edges = {s.start for s in segments[1:]} | {s.stop for s in segments[:-1]}
    return sorted(e for e in edges if 0 < e < frames)


def sidecar_of(video: Path) -> Path:
    """The file of settings that `generate` writes beside a video or a folder of frames."""
    return video.with_name(f"{video.name}.json")


def has_sidecars(folder: Path) -> bool:
    """Whether any result of a folder has a record of its settings."""
    return folder.is_dir() and any(p.with_suffix("").exists() for p in folder.glob("*.json"))


def sidecar_fusion(video: Path) -> FusionConfig | None:
    """How the segments of a result were cut and joined; None if no readable sidecar says so, or frames are repeated."""
    try:
        facts = read_json(sidecar_of(video), "a sidecar", "make it anew")
        repeated = facts.get("settings", {}).get("output_fps")
        return None if repeated else parse(FusionConfig, facts["fusion"])
    except (AttributeError, InputError, KeyError, TypeError):
        return None
