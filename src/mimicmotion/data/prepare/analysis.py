"""One video, looked at: scenes, poses and measures, kept on disk so that nothing is computed twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from mimicmotion.data.prepare.duplicates import HASH_EVERY, MAX_HASHES, Fingerprint, picture_hash
from mimicmotion.data.prepare.measure import SceneMeasures, SceneMeter
from mimicmotion.data.prepare.scenes import CutFinder, Scene, plan_scenes
from mimicmotion.errors import MediaError, PoseError
from mimicmotion.pose.cache import PoseCache
from mimicmotion.pose.estimators.base import PoseEstimator
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.settings.prepare import PrepareConfig, analysis_settings
from mimicmotion.video.reader import open_video

logger = logging.getLogger(__name__)

FORMAT = 1
_DAMAGED = 0.9  # of the frames that the header promises
TICK_EVERY = 10  # frames between two reports


@dataclass(frozen=True, slots=True)
class Survey:
    """The first look at a video: what it is and where it is cut.

    Attributes:
        size: (height, width) in pixels.
        source_fps: frames per second of the file.
        fps: frames per second that are taken.
        seconds: duration by its header.
        num_frames: at `fps`.
        damaged: fewer frames could be decoded than the header promises.
        scenes: between the cuts.
        fingerprint: for the search for duplicates.
    """

    size: tuple[int, int]
    source_fps: float
    fps: float
    seconds: float
    num_frames: int
    damaged: bool
    scenes: list[Scene]
    fingerprint: Fingerprint

    def enlargement(self, size: tuple[int, int]) -> float:
        """How many times the frames have to be enlarged to fill `size`."""
        return max(t / s for t, s in zip(size, self.size, strict=True))


def survey(path: Path, config: PrepareConfig) -> Generator[int, None, Survey]:
    """Walk through a video once; yields the number of further frames now and then.

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
            yield TICK_EVERY
    scenes = plan_scenes(count, finder.finish(), max(1, int(config.max_seconds * fps + 1e-6)))
    fingerprint = Fingerprint(count / fps, np.stack(hashes))
    damaged = count < _DAMAGED * info.duration * fps - 1
    return Survey(info.size, info.fps, fps, info.duration, count, damaged, scenes, fingerprint)


def usable_scenes(survey: Survey, config: PrepareConfig) -> list[int]:
    """Numbers of the scenes that are worth looking for poses: long enough, and not of a picture far too small."""
    if survey.enlargement(config.size) > config.max_enlargement:
        return []
    return [i for i, s in enumerate(survey.scenes) if len(s) / survey.fps >= config.min_seconds - 1e-6]


def measure_video(
    path: Path,
    survey: Survey,
    config: PrepareConfig,
    open_estimator: Callable[[], PoseEstimator],
) -> Generator[int, None, dict[int, SceneMeasures]]:
    """Poses and measures of all usable scenes, by number; yields the number of further frames now and then.

    Poses are taken from the user's pose cache where it has them, and put there.

    Raises:
        MediaError: the video cannot be read any more.
    """
    chosen = usable_scenes(survey, config)
    if not chosen:
        return {}
    estimator = open_estimator()
    facts = analysis_settings(config) | {"scenes": [dataclasses.astuple(survey.scenes[i]) for i in chosen]}
    cache = PoseCache() if config.pose_cache and path.is_file() else None
    place = cache.path(path, facts) if cache else None
    known = _split(cache.load(place), [len(survey.scenes[i]) for i in chosen]) if cache and place else None
    source = getattr(estimator, "source", type(estimator).__name__)
    frames, position = open_video(path).frames(fps=survey.fps), 0
    found: dict[int, SceneMeasures] = {}
    for k, i in enumerate(chosen):
        scene = survey.scenes[i]
        for _ in islice(frames, scene.start - position):
            pass
        position = scene.stop
        meter = SceneMeter(len(scene), survey.fps, survey.enlargement(config.size))
        try:
            for done in meter.measure(islice(frames, len(scene)), estimator, known[k] if known else None):
                if done % TICK_EVERY == 0:
                    yield TICK_EVERY
            found[i] = meter.result(survey.size, survey.fps, known[k].source if known else source)
        except PoseError as e:  # the person asked for is not in this scene
            for _ in islice(frames, len(scene) - meter.taken):
                pass
            found[i] = _nothing(survey, len(scene), e.got)
    if cache and place and known is None and not any(m.problem for m in found.values()):
        cache.put(place, _joined([m.poses for m in found.values()]))
    return found


def _split(poses: PoseSequence | None, lengths: list[int]) -> list[PoseSequence] | None:
    if poses is None or len(poses) != sum(lengths):
        return None
    ends = np.cumsum(lengths)
    return [poses[int(e) - n : int(e)] for e, n in zip(ends, lengths, strict=True)]


def _joined(parts: list[PoseSequence]) -> PoseSequence:
    xy, confidence = np.concatenate([p.xy for p in parts]), np.concatenate([p.confidence for p in parts])
    return dataclasses.replace(parts[0], xy=xy, confidence=confidence)


def _nothing(survey: Survey, count: int, problem: str) -> SceneMeasures:
    poses = PoseSequence(
        np.zeros((count, NUM_POINTS, 2), np.float32), np.zeros((count, NUM_POINTS), np.float32), survey.size, survey.fps
    )
    empty = np.full(count, np.nan, np.float32)
    return SceneMeasures(poses, np.zeros(0, np.int64), empty, empty.copy(), problem=problem)


class Notebook:
    """What was found out about each video, in files named by its content and the settings that matter.

    Args:
        folder: where the files lie; made when first needed.
        config: settings; thresholds of filters do not matter here, so that they can be changed at no cost.
    """

    def __init__(self, folder: Path, config: PrepareConfig) -> None:
        self.folder = folder
        self._facts = json.dumps([FORMAT, analysis_settings(config)], sort_keys=True)

    def path(self, kind: str, sha256: str) -> Path:
        """Where the `kind` (survey or scenes) of notes on a video is or would be."""
        name = hashlib.sha256(f"{kind} {sha256} {self._facts}".encode()).hexdigest()[:32]
        return self.folder / f"{kind}-{name}.npz"

    def save_survey(self, sha256: str, found: Survey) -> None:
        """Keep a survey."""
        text = dataclasses.asdict(found)
        hashes = text.pop("fingerprint")["hashes"]
        _save(self.path("survey", sha256), text, {"hashes": hashes})

    def load_survey(self, sha256: str) -> Survey | None:
        """The survey of the video with this content; None if it was not made, or is damaged."""
        loaded = _load(self.path("survey", sha256))
        if loaded is None:
            return None
        data, arrays = loaded
        scenes = [Scene(**s) for s in data.pop("scenes")]
        data["size"] = tuple(data["size"])
        seconds = data["num_frames"] / data["fps"]
        return Survey(**data, scenes=scenes, fingerprint=Fingerprint(seconds, arrays["hashes"]))

    def save_scenes(self, sha256: str, found: dict[int, SceneMeasures]) -> None:
        """Keep the measures of a video's scenes."""
        arrays: dict[str, ndarray] = {}
        data: dict[str, Any] = {}
        for i, m in found.items():
            named = {"xy": m.poses.xy, "confidence": m.poses.confidence, "people": m.people}
            named |= {"sharpness": m.sharpness, "change": m.change}
            named |= {f"thumb{k}": np.frombuffer(t, np.uint8) for k, t in enumerate(m.thumbs)}
            arrays |= {f"{i}/{name}": array for name, array in named.items()}
            poses = {"size": m.poses.size, "fps": m.poses.fps, "source": m.poses.source}
            data[str(i)] = poses | {"thumb_frames": m.thumb_frames, "problem": m.problem}
        _save(self.path("scenes", sha256), data, arrays)

    def load_scenes(self, sha256: str) -> dict[int, SceneMeasures] | None:
        """The measures of the video with this content; None if they were not made, or are damaged."""
        loaded = _load(self.path("scenes", sha256))
        if loaded is None:
            return None
        data, arrays = loaded
        return {int(i): _measures(facts, arrays, i) for i, facts in data.items()}


def _measures(facts: dict[str, Any], arrays: dict[str, ndarray], i: str) -> SceneMeasures:
    xy, confidence = arrays[f"{i}/xy"], arrays[f"{i}/confidence"]
    poses = PoseSequence(xy, confidence, tuple(facts["size"]), facts["fps"], facts["source"])
    thumbs = [arrays[f"{i}/thumb{k}"].tobytes() for k in range(len(facts["thumb_frames"]))]
    named = {name: arrays[f"{i}/{name}"] for name in ("people", "sharpness", "change")}
    return SceneMeasures(poses, **named, thumbs=thumbs, thumb_frames=facts["thumb_frames"], problem=facts["problem"])


def _save(path: Path, data: dict[str, Any], arrays: dict[str, ndarray]) -> None:
    with atomic_path(path) as part, writing(path), part.open("wb") as file:
        np.savez(file, json=np.frombuffer(json.dumps(data).encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> tuple[dict[str, Any], dict[str, ndarray]] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(arrays.pop("json").tobytes()), arrays
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        logger.warning("%s is damaged (%s) and made again", path, e)
        return None


def check_same(path: Path, expected: int, got: int) -> None:
    """Raise MediaError if a video no longer gives the frames that were measured."""
    if got != expected:
        raise MediaError(
            f"{path} gave {got} frames where {expected} were measured", "an unchanged file", "run prepare again"
        )
