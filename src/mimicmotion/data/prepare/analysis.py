"""Analysis of a video: scenes, poses and measurements, all cached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.data.prepare.duplicates import HASH_EVERY, MAX_HASHES, picture_hash
from mimicmotion.data.prepare.filters import judge_length
from mimicmotion.data.prepare.measure import TICK_EVERY, SceneMeasures, measure_scene
from mimicmotion.data.prepare.scenes import CutFinder, SceneRange, plan_scenes
from mimicmotion.errors import InputError, PoseError
from mimicmotion.pose.estimators.base import PoseEstimator
from mimicmotion.pose.files import PoseCache
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.runtime.reading import reading
from mimicmotion.settings.prepare import PrepareConfig, analysis_settings
from mimicmotion.video.reader import open_video

logger = logging.getLogger(__name__)

FORMAT = 2
_MEASURED = ("people", "sharpness", "change")


@dataclass(frozen=True, slots=True)
class Survey:
    """Result of the first pass over a video.

    Attributes:
        size: (height, width) in pixels.
        source_fps: frames per second of the file.
        fps: frames per second after resampling.
        seconds: duration according to the header.
        num_frames: number of frames at `fps`.
        damaged: whether the decoder reported errors, or the end is missing.
        scenes: scenes between the cuts.
        hashes: hashes of frames `HASH_EVERY` seconds apart, for finding duplicates.
    """

    size: tuple[int, int]
    source_fps: float
    fps: float
    seconds: float
    num_frames: int
    damaged: bool
    scenes: list[SceneRange]
    hashes: UInt8[ndarray, "moments 32"]

    def enlargement(self, size: tuple[int, int]) -> float:
        """Factor by which frames must be enlarged to fill `size`."""
        return max(t / s for t, s in zip(size, self.size, strict=True))


def survey(path: Path, config: PrepareConfig) -> Generator[int, None, Survey]:
    """Read a video once; yields 0 from time to time, so that it can be stopped there.

    Raises:
        MediaError: it cannot be read.
    """
    reader = open_video(path)
    info = reader.info
    fps = min(config.fps, info.fps)
    finder = CutFinder(config.cut_ratio, config.cut_change)
    hash_every = max(1, round(HASH_EVERY * fps))
    hashes: list[ndarray] = []
    count = 0
    for frame in reader.frames(fps=fps):
        finder.push(frame)
        if count % hash_every == 0 and len(hashes) < MAX_HASHES:
            hashes.append(picture_hash(frame))
        count += 1
        if count % TICK_EVERY == 0:
            yield 0
    scenes = plan_scenes(count, finder.finish(), max(1, int(config.max_seconds * fps + 1e-6)))
    damaged = bool(reader.damage)
    return Survey(info.size, info.fps, fps, info.duration, count, damaged, scenes, np.stack(hashes))


def usable_scenes(survey: Survey, config: PrepareConfig) -> list[int]:
    """Indices of the scenes worth estimating poses in: long enough, and of large enough frames."""
    enlargement = survey.enlargement(config.size)
    lengths = enumerate(map(len, survey.scenes))
    return [i for i, n in lengths if judge_length(n, survey.fps, enlargement, config).accepted]


def scene_frames(path: Path, fps: float, scenes: Iterable[SceneRange]) -> Iterator[Iterator[Frame]]:
    """The frames of each scene of a video; each scene must be consumed before the next one."""
    frames, position = open_video(path).frames(fps=fps), 0
    for scene in scenes:
        yield islice(frames, scene.start - position, scene.stop - position)
        position = scene.stop


def measure_video(
    path: Path,
    survey: Survey,
    config: PrepareConfig,
    open_estimator: Callable[[], PoseEstimator],
) -> Generator[int, None, dict[int, SceneMeasures]]:
    """Poses and measurements of all usable scenes, by index; yields numbers of further frames done.

    Poses are read from and written to the user's pose cache.

    Raises:
        MediaError: the video can no longer be read.
    """
    chosen = {i: survey.scenes[i] for i in usable_scenes(survey, config)}
    if not chosen:
        return {}
    estimator = open_estimator()
    scale = survey.enlargement(config.size)
    facts = analysis_settings(config) | {"scenes": [dataclasses.astuple(s) for s in chosen.values()]}
    cached = PoseCache().path(path, facts) if config.pose_cache else None
    known = PoseCache().load(cached) if cached else None
    if known is not None and len(known) != sum(map(len, chosen.values())):
        known = None
    found: dict[int, SceneMeasures] = {}
    done = 0
    for (i, scene), frames in zip(chosen.items(), scene_frames(path, survey.fps, chosen.values()), strict=True):
        poses = known[done : done + len(scene)] if known else None
        try:
            found[i] = yield from measure_scene(frames, len(scene), survey.size, survey.fps, scale, estimator, poses)
        except PoseError as e:  # the chosen person is not in this scene
            for _ in frames:
                pass
            found[i] = _nothing(survey, len(scene), e.got)
        done += len(scene)
    if cached and known is None and not any(m.problem for m in found.values()):
        parts = [m.poses for m in found.values()]
        xy, confidence, people = (
            np.concatenate([getattr(p, n) for p in parts]) for n in ("xy", "confidence", "people")
        )
        PoseCache().put(cached, dataclasses.replace(parts[0], xy=xy, confidence=confidence, people=people))
    return found


def _nothing(survey: Survey, count: int, problem: str) -> SceneMeasures:
    xy, confidence = np.zeros((count, NUM_POINTS, 2), np.float32), np.zeros((count, NUM_POINTS), np.float32)
    unknown = np.full(count, np.nan, np.float32)
    poses = PoseSequence(xy, confidence, survey.size, survey.fps)
    return SceneMeasures(poses, np.zeros(0, np.int64), unknown, unknown, problem=problem)


class AnalysisCache:
    """Cached analyses of videos, in files named after the video's content and the relevant settings.

    Args:
        folder: folder of the files, created on first use.
        config: settings; thresholds of filters are not relevant, so changing them costs nothing.
    """

    def __init__(self, folder: Path, config: PrepareConfig) -> None:
        self.folder = folder
        self._facts = json.dumps([FORMAT, analysis_settings(config)], sort_keys=True)

    def path(self, kind: str, sha256: str) -> Path:
        """Path of the survey or the scenes (`kind`) of a video."""
        name = hashlib.sha256(f"{kind} {sha256} {self._facts}".encode()).hexdigest()[:32]
        return self.folder / f"{kind}-{name}.npz"

    def save_survey(self, sha256: str, found: Survey) -> None:
        """Store a survey."""
        facts = dataclasses.asdict(found)
        _save(self.path("survey", sha256), facts, {"hashes": facts.pop("hashes")})

    def load_survey(self, sha256: str) -> Survey | None:
        """The stored survey of the video with this checksum; None if it is missing or damaged."""
        if (loaded := _load(self.path("survey", sha256))) is None:
            return None
        facts, arrays = loaded
        facts |= {"size": tuple(facts["size"]), "scenes": [SceneRange(**s) for s in facts["scenes"]]}
        return Survey(**facts, hashes=arrays["hashes"])

    def save_scenes(self, sha256: str, found: dict[int, SceneMeasures]) -> None:
        """Store the measurements of a video's scenes."""
        arrays: dict[str, ndarray] = {}
        facts: dict[str, Any] = {}
        for i, m in found.items():
            named = {"xy": m.poses.xy, "confidence": m.poses.confidence}
            named |= {name: getattr(m, name) for name in _MEASURED}
            named |= {f"thumb{k}": np.frombuffer(t, np.uint8) for k, t in enumerate(m.thumbs)}
            arrays |= {f"{i}/{name}": array for name, array in named.items()}
            poses = {"size": m.poses.size, "fps": m.poses.fps, "source": m.poses.source}
            facts[str(i)] = poses | {"thumb_frames": m.thumb_frames, "problem": m.problem}
        _save(self.path("scenes", sha256), facts, arrays)

    def load_scenes(self, sha256: str) -> dict[int, SceneMeasures] | None:
        """The stored measurements of the video with this checksum; None if they are missing or damaged."""
        if (loaded := _load(self.path("scenes", sha256))) is None:
            return None
        found = {}
        for i, facts in loaded[0].items():
            mine = {name.partition("/")[2]: a for name, a in loaded[1].items() if name.startswith(f"{i}/")}
            size, fps, source = tuple(facts.pop("size")), facts.pop("fps"), facts.pop("source")
            poses = PoseSequence(mine["xy"], mine["confidence"], size, fps, source)
            thumbs = [mine[f"thumb{k}"].tobytes() for k in range(len(facts["thumb_frames"]))]
            found[int(i)] = SceneMeasures(poses, *(mine[name] for name in _MEASURED), thumbs=thumbs, **facts)
        return found


def _save(path: Path, data: dict[str, Any], arrays: dict[str, ndarray]) -> None:
    with atomic_path(path) as part, writing(path), part.open("wb") as file:
        np.savez(file, json=np.frombuffer(json.dumps(data).encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> tuple[dict[str, Any], dict[str, ndarray]] | None:
    if not path.exists():
        return None
    try:
        with reading(path, "a cached analysis", "it is recomputed"), np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            return json.loads(arrays.pop("json").tobytes()), arrays
    except InputError as e:
        logger.warning("%s; recomputing it", e.got)
        return None
