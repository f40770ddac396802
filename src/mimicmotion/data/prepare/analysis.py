"""Analysis of a video, cached on disk: its scenes, and the poses and measurements of their frames."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.data.prepare.crop import person_boxes
from mimicmotion.data.prepare.duplicates import HASH_EVERY, MAX_HASHES, picture_hash
from mimicmotion.data.prepare.scenes import CutFinder, plan_scenes, shrink
from mimicmotion.data.shards.frames import encode_picture
from mimicmotion.errors import InputError, PoseError
from mimicmotion.pose.estimators.base import PoseEstimator, PosePoints
from mimicmotion.pose.files import PoseCache
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.runtime.reading import reading
from mimicmotion.settings.prepare import PrepareConfig, analysis_settings
from mimicmotion.video.reader import open_video

logger = logging.getLogger(__name__)

COUNT_EVERY = 0.5
"""Seconds between two frames in which people are counted."""
CHANGE_OVER = 0.2
"""Seconds between a frame and the earlier one that it is compared with."""
TICK_EVERY = 10  # frames between two reports
THUMB_SIDE = 256
FORMAT = 2  # of cached analyses
_CHANGE_SIDE = 96
_MARGIN = 0.1
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
        damaged: whether the decoder reported errors or the end is missing.
        scenes: frames of each scene.
        hashes: hashes of frames `HASH_EVERY` seconds apart, for finding duplicates.
    """

    size: tuple[int, int]
    source_fps: float
    fps: float
    seconds: float
    num_frames: int
    damaged: bool
    scenes: list[range]
    hashes: UInt8[ndarray, "moments 32"]

    def enlargement(self, size: tuple[int, int]) -> float:
        """Return the factor by which frames must be enlarged to fill `size`."""
        return max(t / s for t, s in zip(size, self.size, strict=True))


@dataclass(frozen=True, eq=False)
class SceneMeasures:
    """Measurements of one scene; positions in pixels of the video.

    Attributes:
        poses: poses of the tracked person, one per frame.
        people: number of people in frames `COUNT_EVERY` seconds apart.
        sharpness: variance of the Laplacian of the person's brightness (0..255) at the stored size; NaN if no person.
        change: mean difference (0..255) from `CHANGE_OVER` seconds earlier, around the person; NaN at the start.
        thumbs: small JPEG pictures of the frames `thumb_frames`.
        thumb_frames: indices of these frames within the scene.
        problem: why there are no measurements; "" if there are.
    """

    poses: PoseSequence
    people: Int[ndarray, " looks"]
    sharpness: Float32[ndarray, " frames"]
    change: Float32[ndarray, " frames"]
    thumbs: list[bytes] = field(repr=False, default_factory=list)
    thumb_frames: list[int] = field(default_factory=list)
    problem: str = ""


def measure_scene(
    frames: Iterable[Frame],
    count: int,
    survey: Survey,
    size: tuple[int, int],
    estimator: PoseEstimator,
    known: PoseSequence | None,
) -> Generator[int, None, SceneMeasures]:
    """Estimate the poses in a scene's frames (unless they are known), and measure each frame.

    Args:
        frames: RGB frames of the scene.
        count: number of frames.
        survey: survey of the video.
        size: (height, width) of the stored frames, at which sharpness is measured.
        estimator: estimates poses and counts people.
        known: poses to use instead of estimating them.

    Yields:
        Approximate number of frames since the last yield.

    Raises:
        PoseError: the chosen person is not in this scene.
    """
    fps, scale = survey.fps, survey.enlargement(size)
    current: deque[Frame] = deque(maxlen=1)

    def remembered() -> Iterator[Frame]:
        for frame in frames:
            current.append(frame)
            yield frame

    count_every = max(1, round(COUNT_EVERY * fps))
    before: deque[ndarray] = deque(maxlen=max(1, round(CHANGE_OVER * fps)))
    thumb_frames = sorted({int(count * part) for part in (1 / 6, 1 / 2, 5 / 6)})
    people, sharp, change, thumbs = [], [], [], []
    points: list[PosePoints] = []
    if known:
        poses: Iterator[PosePoints] = ((known.xy[i], known.confidence[i]) for i, _ in enumerate(remembered()))
    else:
        poses = estimator.estimate_stream(remembered())
    for number, found in enumerate(poses):
        frame = current[0]
        points.append(found)
        if number % count_every == 0:
            people.append(estimator.count_people(frame))
        box = person_boxes(PoseSequence(found[0][None], found[1][None], survey.size))[0]
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        person = _cut(grey, box)
        sharp.append(float("nan") if person is None else sharpness(person, scale))
        small = shrink(grey, _CHANGE_SIDE)
        change.append(_change(small, before, box * min(small.shape) / min(grey.shape)))
        before.append(small)
        if number in thumb_frames:
            thumbs.append(encode_picture(shrink(frame, THUMB_SIDE), "jpeg", quality=85))
        if number % TICK_EVERY == 0:
            yield TICK_EVERY
    xy, confidence = map(np.stack, zip(*points, strict=True))
    source = known.source if known else getattr(estimator, "source", type(estimator).__name__)
    return SceneMeasures(
        PoseSequence(xy, confidence, survey.size, fps, source),
        np.array(people, np.int64),
        np.array(sharp, np.float32),
        np.array(change, np.float32),
        thumbs,
        thumb_frames[: len(thumbs)],
    )


def sharpness(grey: UInt8[ndarray, "height width"], scale: float) -> float:
    """Compute the variance of the Laplacian of a scaled picture, which is low if edges are soft.

    At the stored size, enlarged and out-of-focus pictures score low, and sharp ones about the same whatever their
    original size.

    Args:
        grey: brightness, 0..255.
        scale: stored pixels per pixel.
    """
    size = tuple(max(1, round(n * scale)) for n in grey.shape[::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(grey, size, interpolation=method)
    return float(cv2.Laplacian(scaled, cv2.CV_32F).var())


def _change(small: ndarray, before: deque[ndarray], box: ndarray) -> float:
    if len(before) < (before.maxlen or 1):
        return float("nan")
    now, then = _cut(small, box), _cut(before[0], box)
    if now is None or then is None:
        now, then = small, before[0]
    return float(np.abs(now.astype(np.float32) - then).mean())


def _cut(grey: ndarray, box: ndarray) -> ndarray | None:
    """Cut a box with a margin out of a picture; return None if the box is NaN or (almost) outside the picture."""
    if np.isnan(box).any():
        return None
    margin = _MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, top = np.floor(box[:2] - margin).clip(0).astype(int)
    right, bottom = np.ceil(box[2:] + margin).astype(int)
    part = grey[top : max(bottom, 0), left : max(right, 0)]
    return part if min(part.shape) >= 4 else None


def survey(path: Path, config: PrepareConfig) -> Generator[int, None, Survey]:
    """Find the scenes of a video and hash its frames; yield 0 every few frames so that the caller can stop.

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


def scene_frames(path: Path, fps: float, scenes: Iterable[range]) -> Iterator[Iterator[Frame]]:
    """Yield the frames of each scene of a video; each scene must be consumed before the next one."""
    frames, position = open_video(path).frames(fps=fps), 0
    for scene in scenes:
        yield islice(frames, scene.start - position, scene.stop - position)
        position = scene.stop


def measure_video(
    path: Path,
    survey: Survey,
    scenes: Sequence[int],
    config: PrepareConfig,
    open_estimator: Callable[[], PoseEstimator],
) -> Generator[int, None, dict[int, SceneMeasures]]:
    """Measure the given scenes and return the results by index; yield the number of frames since the last yield.

    Poses are read from and written to the user's pose cache.

    Raises:
        MediaError: the video can no longer be read.
    """
    if not scenes:
        return {}
    chosen = {i: survey.scenes[i] for i in scenes}
    estimator = open_estimator()
    facts = analysis_settings(config) | {"scenes": [(s.start, s.stop) for s in chosen.values()]}
    cached = PoseCache().path(path, facts) if config.pose_cache else None
    known = PoseCache().load(cached) if cached else None
    if known is not None and len(known) != sum(map(len, chosen.values())):
        known = None
    found: dict[int, SceneMeasures] = {}
    done = 0
    for (i, scene), frames in zip(chosen.items(), scene_frames(path, survey.fps, chosen.values()), strict=True):
        poses = known[done : done + len(scene)] if known else None
        try:
            found[i] = yield from measure_scene(frames, len(scene), survey, config.size, estimator, poses)
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
        config: settings; only those in `analysis_settings` are relevant, so most thresholds can change at no cost.
    """

    def __init__(self, folder: Path, config: PrepareConfig) -> None:
        self.folder = folder
        self._facts = json.dumps([FORMAT, analysis_settings(config)], sort_keys=True)

    def path(self, kind: str, sha256: str) -> Path:
        """Return the file path of the stored survey or scenes (`kind`) of the video with this checksum."""
        name = hashlib.sha256(f"{kind} {sha256} {self._facts}".encode()).hexdigest()[:32]
        return self.folder / f"{kind}-{name}.npz"

    def save_survey(self, sha256: str, found: Survey) -> None:
        """Store the survey of the video with this checksum."""
        facts: dict[str, Any] = dataclasses.asdict(found)
        facts["scenes"] = [{"start": s.start, "stop": s.stop} for s in found.scenes]
        _save(self.path("survey", sha256), facts, {"hashes": facts.pop("hashes")})

    def load_survey(self, sha256: str) -> Survey | None:
        """Load the survey of the video with this checksum; return None if it is missing or damaged."""
        if (loaded := _load(self.path("survey", sha256))) is None:
            return None
        facts, arrays = loaded
        facts |= {"size": tuple(facts["size"]), "scenes": [range(s["start"], s["stop"]) for s in facts["scenes"]]}
        return Survey(**facts, hashes=arrays["hashes"])

    def save_scenes(self, sha256: str, found: dict[int, SceneMeasures]) -> None:
        """Store the measurements of the scenes of the video with this checksum."""
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
        """Load the measurements of the video with this checksum; return None if they are missing or damaged."""
        if (loaded := _load(self.path("scenes", sha256))) is None:
            return None
        found = {}
        for i, facts in loaded[0].items():
            arrays = {name.partition("/")[2]: a for name, a in loaded[1].items() if name.startswith(f"{i}/")}
            size, fps, source = tuple(facts.pop("size")), facts.pop("fps"), facts.pop("source")
            poses = PoseSequence(arrays["xy"], arrays["confidence"], size, fps, source)
            thumbs = [arrays[f"thumb{k}"].tobytes() for k in range(len(facts["thumb_frames"]))]
            found[int(i)] = SceneMeasures(poses, *(arrays[name] for name in _MEASURED), thumbs=thumbs, **facts)
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
