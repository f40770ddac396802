"""From a folder of videos to a plan of shards: which files are videos, who is in which split, what is stored how."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mimicmotion.data.prepare.analysis import Notebook, Survey, check_same
from mimicmotion.data.prepare.filters import Judgement, judge, judge_length
from mimicmotion.data.prepare.scenes import Scene
from mimicmotion.data.shards.encode import SceneEncoder
from mimicmotion.data.shards.writing import RecordData, ShardPlan, ShardSettings
from mimicmotion.errors import MediaError
from mimicmotion.pose.crop import fit_poses, plan_crop
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.settings.prepare import PrepareConfig
from mimicmotion.video.geometry import Fit
from mimicmotion.video.reader import open_video

WORK = ".work"
"""Folder beside the shards that holds what was measured."""
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .wmv .flv .mpg .mpeg .m2ts .mts .ts .vob .3gp .ogv .mxf .gif .y4m".split()  # noqa: SIM905
)
"""Files that call themselves videos: one that cannot be read is an error, while any other file is only passed over."""
# pictures and what stands beside videos in ordinary data sets; all other files are tried
_OTHER_SUFFIXES = (
    ".png .jpg .jpeg .jpe .bmp .tif .tiff .ppm .pgm .avif .jp2 .webp .txt .md .json .jsonl .csv .tsv .xml .yaml .yml "
    ".srt .vtt .ass .npz .npy .pkl .pt .pth .safetensors .onnx .tar .zip .gz .7z .rar .html .pdf .py .sh .log "
    ".mp3 .wav .m4a .aac .flac .ogg .bvh .part .tmp .crdownload"
)
_NO_VIDEO = frozenset(_OTHER_SUFFIXES.split())


def find_videos(folder: Path, output: Path) -> list[str]:
    """Relative paths (with /) of all files that may be videos, sorted; hidden ones and the output are left out.

    Raises:
        MediaError: it is no folder, or there is no such file.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder} is no folder", "a folder with videos", "name the folder that holds the videos")
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != output.resolve())
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() not in _NO_VIDEO and (here / name).is_file():
                found.append((here / name).relative_to(folder).as_posix())
    if not found:
        raise MediaError(f"{folder} holds no video", "video files, also in folders inside", "check the path")
    return sorted(found)


def looks_like_video(source: str) -> bool:
    """Whether a file calls itself a video."""
    return Path(source).suffix.lower() in VIDEO_SUFFIXES


def video_id(source: str) -> str:
    """Name of a video in the shards: letters, digits, _ and - of its path, and 8 digits that make it unique.

    It depends on the path alone, so it stays the same when other videos come and go.
    """
    plain = unicodedata.normalize("NFKD", re.sub(r"\.[^./]*$", "", source)).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[-48:].strip("_") or "video"
    return f"{slug}-{hashlib.sha256(source.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def split_of(video: str, seed: int, validation: float) -> Literal["train", "val"]:
    """Train or val, from the video's id and the seed alone."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{video}".encode()).digest()[:8], "big")
    return "val" if number < validation * 2**64 else "train"


@dataclass(frozen=True, slots=True)
class SceneReport:
    """One scene and what became of it; `crop` is None where no poses were looked for."""

    number: int
    scene: Scene
    judgement: Judgement
    crop: Fit | None


@dataclass(frozen=True, slots=True)
class VideoReport:
    """One file and what became of it.

    Attributes:
        source: path within the folder of videos.
        sha256: of the file.
        status: used, without scenes (all were left out), duplicate, near-duplicate, unreadable, or no video.
        reason: one sentence; empty if it is used.
        survey: None if the file could not be read.
        scenes: empty unless it was looked for poses.
    """

    source: str
    sha256: str
    status: str
    reason: str = ""
    survey: Survey | None = None
    scenes: tuple[SceneReport, ...] = ()

    @property
    def video(self) -> str:
        """Id of the video."""
        return video_id(self.source)


def judge_video(source: str, sha256: str, survey: Survey, notebook: Notebook, config: PrepareConfig) -> VideoReport:
    """Decide on all scenes of a video that was measured."""
    measured = notebook.load_scenes(sha256) or {}
    enlargement = survey.enlargement(config.size)
    scenes: list[SceneReport] = []
    for number, scene in enumerate(survey.scenes):
        if number not in measured:
            judgement = judge_length(len(scene), survey.fps, enlargement, config)
            scenes.append(SceneReport(number, scene, judgement, None))
            continue
        poses = measured[number].poses
        crop = plan_crop(poses, config.size, config.fit)
        judgement = judge(measured[number], fit_poses(poses, crop), enlargement, config)
        scenes.append(SceneReport(number, scene, judgement, crop))
    if any(s.judgement.accepted for s in scenes):
        return VideoReport(source, sha256, "used", "", survey, tuple(scenes))
    several = f"all {len(scenes)} scenes were left out"
    reason = "; ".join(scenes[0].judgement.reasons) if len(scenes) == 1 else several
    return VideoReport(source, sha256, "without scenes", reason, survey, tuple(scenes))


@dataclass(frozen=True, slots=True)
class StoredScene:
    """Everything that one record is made from."""

    number: int
    start: int
    stop: int
    numbers: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """Scenes of one video that stand in one shard: an item of the plan, and so part of the shard's identity."""

    source: str
    sha256: str
    video: str
    fps: float
    scenes: tuple[StoredScene, ...]


def plan_set(videos: Sequence[VideoReport], config: PrepareConfig) -> list[ShardPlan]:
    """Which scene goes into which shard: by the order of the paths, a new shard whenever one is full."""
    plans: list[ShardPlan] = []
    for split in ("train", "val"):
        items: list[StoredVideo] = []
        frames = number = 0
        for video in videos:
            if video.survey is None or split_of(video.video, config.seed, config.validation) != split:
                continue
            for chosen in _filled_to([s for s in video.scenes if s.judgement.accepted], frames, config.shard_frames):
                if frames >= config.shard_frames:
                    plans.append(ShardPlan(split, number, tuple(items)))
                    items, frames, number = [], 0, number + 1
                scenes = tuple(
                    StoredScene(s.number, s.scene.start, s.scene.stop, tuple(s.judgement.numbers.items()))
                    for s in chosen
                )
                items.append(StoredVideo(video.source, video.sha256, video.video, video.survey.fps, scenes))
                frames += sum(len(s.scene) for s in chosen)
        if items:
            plans.append(ShardPlan(split, number, tuple(items)))
    return plans


def _filled_to(scenes: Sequence[SceneReport], frames: int, full: int) -> Iterator[list[SceneReport]]:
    """The scenes of a video in groups that fill up a shard which holds `frames` already, and those after it."""
    group: list[SceneReport] = []
    for scene in scenes:
        if group and frames >= full:
            yield group
            group, frames = [], 0
        if not group and frames >= full:
            frames = 0
        group.append(scene)
        frames += len(scene.scene)
    if group:
        yield group


def shard_settings(settings: dict[str, Any], config: PrepareConfig, latents_model: str | None) -> ShardSettings:
    """What all shards have in common; `latents_model` is the identity of the autoencoder, if there are latents."""
    plain = json.loads(json.dumps(settings, default=str))
    return ShardSettings(size=config.size, store=config.store, settings=plain | {"latents_model": latents_model})


def make_records(root: Path, work: Path, config: PrepareConfig, item: StoredVideo) -> Iterator[RecordData]:
    """The records of some scenes of one video, read in one pass (two with latents); a worker of `write_shards`.

    Raises:
        MediaError: the video or the notes on it are no longer what they were.
    """
    path = root / item.source
    measured = Notebook(work, config).load_scenes(item.sha256)
    if measured is None:
        raise MediaError(f"the notes on {item.source} are gone", "an unchanged .work folder", "run prepare again")
    crops = {s.number: plan_crop(measured[s.number].poses, config.size, config.fit) for s in item.scenes}
    encoded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    if config.latents:
        encoder = SceneEncoder.open(config.latents, config.latents_device)
        for scene, frames in _walk(path, item, crops):
            encoded[scene.number] = encoder.encode(frames)
    for scene, frames in _walk(path, item, crops):
        poses = measured[scene.number].poses
        latents, embeddings = encoded.get(scene.number, (None, None))
        yield RecordData(
            key=f"{item.video}-{scene.number:04d}",
            video=item.video,
            frames=frames,
            poses=fit_poses(poses, crops[scene.number]),
            meta=_meta(item, scene, crops[scene.number], poses),
            latents=latents,
            embeddings=embeddings,
        )


def _walk(path: Path, item: StoredVideo, crops: dict[int, Fit]) -> Iterator[tuple[StoredScene, Iterator[np.ndarray]]]:
    """Each scene with its cropped frames, which must be taken before the next scene is asked for."""
    frames, position = open_video(path).frames(fps=item.fps), 0
    for scene in item.scenes:
        for _ in islice(frames, scene.start - position):
            pass
        position = scene.stop
        yield scene, _cropped(path, islice(frames, scene.stop - scene.start), scene, crops[scene.number])


def _cropped(path: Path, frames: Iterator[np.ndarray], scene: StoredScene, fit: Fit) -> Iterator[np.ndarray]:
    count = 0
    for frame in frames:
        count += 1
        yield fit.apply(frame)
    check_same(path, scene.stop - scene.start, count)


def _meta(item: StoredVideo, scene: StoredScene, fit: Fit, poses: PoseSequence) -> dict[str, Any]:
    return {
        "source": item.source,
        "sha256": item.sha256,
        "start_s": round(scene.start / item.fps, 6),
        "crop": crop_facts(fit),
        "statistics": dict(scene.numbers),
        "estimator": poses.source,
    }


def crop_facts(fit: Fit) -> dict[str, Any]:
    """A transform as plain data: stored pixel = scale x source pixel + offset, (y, x)."""
    return {
        "source_size": list(fit.source),
        "scale": [round(s, 9) for s in fit.scale],
        "offset": [round(o, 6) for o in fit.offset],
    }
