"""Find videos in a folder, assign them to splits, distribute their scenes over shards, and make the records."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mimicmotion.data.prepare.analysis import AnalysisCache, Survey, scene_frames
from mimicmotion.data.prepare.crop import plan_crop
from mimicmotion.data.prepare.filters import Judgement, judge, judge_length
from mimicmotion.data.shards.writing import RecordData, ShardPlan
from mimicmotion.errors import MediaError
from mimicmotion.settings.prepare import PrepareConfig
from mimicmotion.video.geometry import Fit

WORK = ".work"
"""Folder beside the shards that caches the analyses."""
# pictures and other common files of data sets; all other files are tried as videos
_OTHER_SUFFIXES = (
    ".png .jpg .jpeg .jpe .bmp .tif .tiff .ppm .pgm .avif .jp2 .webp .txt .md .json .jsonl .csv .tsv .xml .yaml .yml "
    ".srt .vtt .ass .npz .npy .pkl .pt .pth .safetensors .onnx .tar .zip .gz .7z .rar .html .pdf .py .sh .log "
    ".mp3 .wav .m4a .aac .flac .ogg .bvh .part .tmp .crdownload"
)
_NO_VIDEO = frozenset(_OTHER_SUFFIXES.split())


def find_videos(folder: Path, output: Path) -> list[str]:
    """List relative paths (with /) of all files that may be videos, sorted; skip hidden files and the output folder.

    Raises:
        MediaError: `folder` is not a folder, or contains no such files.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder", "a folder with videos", "pass the folder with the videos")
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != output.resolve())
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() not in _NO_VIDEO and (here / name).is_file():
                found.append((here / name).relative_to(folder).as_posix())
    if not found:
        raise MediaError(f"{folder} contains no video", "video files, possibly in subfolders", "check the path")
    return sorted(found)


def video_id(source: str) -> str:
    """Return a video's id in the shards: its path reduced to letters, digits and _, plus 8 hex digits of its hash.

    It depends only on the path, so adding or removing other videos does not change it.
    """
    plain = unicodedata.normalize("NFKD", re.sub(r"\.[^./]*$", "", source)).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[-48:].strip("_") or "video"
    return f"{slug}-{hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def split_of(video: str, seed: int, validation: float) -> Literal["train", "val"]:
    """Choose train or val from a hash of the video's id and the seed; `validation` is the fraction for val."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{video}".encode()).digest()[:8], "big")
    return "val" if number < validation * 2**64 else "train"


@dataclass(frozen=True, slots=True)
class SceneReport:
    """One scene (a range of frames) and the decision about it; `crop` is None if no poses were estimated."""

    number: int
    scene: range
    judgement: Judgement
    crop: Fit | None


@dataclass(frozen=True, slots=True)
class VideoReport:
    """One file and the decision about it.

    Attributes:
        source: path within the folder of videos.
        sha256: checksum of the file.
        status: used, without scenes (all were rejected), duplicate, near-duplicate, unreadable, or no video.
        reason: why it is not used; empty if it is.
        survey: None if the file was not or could not be read.
        scenes: all scenes; empty unless the status is "used" or "without scenes".
    """

    source: str
    sha256: str
    status: str
    reason: str = ""
    survey: Survey | None = None
    scenes: tuple[SceneReport, ...] = ()

    @property
    def video(self) -> str:
        """Id of the video in the shards."""
        return video_id(self.source)


def judge_video(source: str, sha256: str, survey: Survey, cache: AnalysisCache, config: PrepareConfig) -> VideoReport:
    """Decide which scenes of a surveyed video to use, from its cached measurements."""
    measured = cache.load_scenes(sha256) or {}
    enlargement = survey.enlargement(config.size)
    scenes: list[SceneReport] = []
    for number, scene in enumerate(survey.scenes):
        if number not in measured:
            judgement = judge_length(len(scene), survey.fps, enlargement, config)
            scenes.append(SceneReport(number, scene, judgement, None))
            continue
        poses = measured[number].poses
        crop = plan_crop(poses, config.size, config.fit)
        judgement = judge(measured[number], poses.fitted(crop), enlargement, config)
        scenes.append(SceneReport(number, scene, judgement, crop))
    if any(s.judgement.accepted for s in scenes):
        return VideoReport(source, sha256, "used", "", survey, tuple(scenes))
    several = f"all {len(scenes)} scenes were left out"
    reason = "; ".join(scenes[0].judgement.reasons.values()) if len(scenes) == 1 else several
    return VideoReport(source, sha256, "without scenes", reason, survey, tuple(scenes))


@dataclass(frozen=True, slots=True)
class StoredScene:
    """A scene that becomes a record: its frames from `start` to `stop`, and its measurements."""

    number: int
    start: int
    stop: int
    numbers: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """Scenes of one video in one shard: an item of the plan, and therefore part of the shard's identity."""

    source: str
    sha256: str
    video: str
    fps: float
    scenes: tuple[StoredScene, ...]


def plan_set(videos: Sequence[VideoReport], config: PrepareConfig) -> list[ShardPlan]:
    """Distribute scenes over shards in the order of the paths, starting a new shard whenever one is full."""
    plans: list[ShardPlan] = []
    for split in ("train", "val"):
        shards: list[dict[str, StoredVideo]] = []
        frames = config.shard_frames
        for video in videos:
            if video.survey is None or split_of(video.video, config.seed, config.validation) != split:
                continue
            for s in (s for s in video.scenes if s.judgement.accepted):
                if frames >= config.shard_frames:
                    shards.append({})
                    frames = 0
                empty = StoredVideo(video.source, video.sha256, video.video, video.survey.fps, ())
                item = shards[-1].get(video.source, empty)
                stored = StoredScene(s.number, s.scene.start, s.scene.stop, tuple(s.judgement.numbers.items()))
                shards[-1][video.source] = replace(item, scenes=(*item.scenes, stored))
                frames += len(s.scene)
        plans += [ShardPlan(split, number, tuple(shard.values())) for number, shard in enumerate(shards)]
    return plans


def make_records(config: PrepareConfig, item: StoredVideo) -> Iterator[RecordData]:
    """Yield the records of the given scenes of a video, reading it once; `write_shards` calls this in its workers.

    Raises:
        MediaError: the video has changed, or its analysis is missing.
    """
    path = config.videos / item.source
    measured = AnalysisCache(config.output / WORK, config).load_scenes(item.sha256)
    if measured is None:
        raise MediaError(f"the poses of {item.source} are missing", f"an unchanged {WORK} folder", "run prepare again")
    scenes = [range(s.start, s.stop) for s in item.scenes]
    crops = [plan_crop(measured[s.number].poses, config.size, config.fit) for s in item.scenes]
    for scene, fit, frames in zip(item.scenes, crops, scene_frames(path, item.fps, scenes), strict=True):
        poses = measured[scene.number].poses
        meta = {
            "source": item.source,
            "sha256": item.sha256,
            "start_s": round(scene.start / item.fps, 6),
            "crop": crop_facts(fit),
            "statistics": dict(scene.numbers),
            "estimator": poses.source,
        }
        yield RecordData(
            key=scene_key(item.video, scene.number),
            video=item.video,
            frames=_cropped(path, frames, scene.stop - scene.start, fit),
            poses=poses.fitted(fit),
            meta=meta,
        )


def _cropped(path: Path, frames: Iterator[np.ndarray], expected: int, fit: Fit) -> Iterator[np.ndarray]:
    count = 0
    for frame in frames:
        count += 1
        yield fit.apply(frame)
    if count != expected:
        got = f"{path} now has {count} frames, but had {expected} when it was measured"
        raise MediaError(got, "an unchanged file", "run prepare again")


def scene_key(video: str, number: int) -> str:
    """Return the key of a scene's record."""
    return f"{video}-{number:04d}"


def crop_facts(fit: Fit) -> dict[str, Any]:
    """Describe a transform as plain data, (y, x): stored pixel = scale x source pixel + offset."""
    return {
        "source_size": list(fit.source),
        "scale": [round(s, 9) for s in fit.scale],
        "offset": [round(o, 6) for o in fit.offset],
    }
