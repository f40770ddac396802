"""Read, write and cache poses: a versioned .npz format, and OpenPose JSON."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Float32, Float64
from numpy import ndarray

from mimicmotion.errors import OutputError, PoseError
from mimicmotion.pose.estimators.base import Person, PosePoints, no_person
from mimicmotion.pose.estimators.track import PersonTracker
from mimicmotion.pose.keypoints import BODY, FACE, FEET, LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence
from mimicmotion.runtime.files import atomic_path, sha256_file, writing
from mimicmotion.runtime.reading import check_limit, read_json, reading
from mimicmotion.weights.registry import cache_folder

logger = logging.getLogger(__name__)

FORMAT, VERSION = "mimicmotion.poses", 1
MAX_SIDE = 100_000  # maximum height and width of a frame in pixels
MAKE_POSES = "create it with 'mimicmotion poses VIDEO -o poses.npz'"

# OpenPose's BODY_25 has the mid-hip at index 8; its other 18 body points and 6 foot points are in our order.
BODY_25 = np.array([*range(8), *range(9, 19)])
BODY_25_FEET = np.arange(19, 25)


def save_poses(poses: PoseSequence, path: Path | str) -> None:
    """Write poses to an .npz file of format, version, xy (float64), confidence (float32), size, fps, source and people.

    Raises:
        OutputError: the file cannot be written. No partial file is left behind.
    """
    with atomic_path(path) as part, writing(Path(path)):
        part.write_bytes(dump_poses(poses))


def dump_poses(poses: PoseSequence) -> bytes:
    """Return the contents of a pose file as bytes, which are the same for equal poses."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        format=FORMAT,
        version=VERSION,
        xy=poses.xy,
        confidence=np.asarray(poses.confidence, np.float32),
        size=np.array(poses.size, np.int64),
        fps=np.float64(poses.fps),
        source=poses.source,
        people=poses.people,
    )
    return file.getvalue()


def load_poses(path: Path | str) -> PoseSequence:
    """Read a file written by `save_poses`.

    Raises:
        PoseError: the file is missing, is not a pose file, has a newer format version, or contains NaN, confidences
            outside 0..1 or wrong shapes.
    """
    # opened here because np.load leaves a damaged file open if it opened it itself
    with reading(path, "a pose file", MAKE_POSES, PoseError), Path(path).open("rb") as file:
        return parse_poses(file, path)


def parse_poses(file: IO[bytes], path: Path | str) -> PoseSequence:
    """Read an open pose file; errors refer to it as `path`.

    Raises:
        PoseError: as in `load_poses`.
    """
    with reading(path, "a complete pose file without pickled objects", MAKE_POSES, PoseError):
        with np.load(file, allow_pickle=False) as data:
            check_limit("bytes", sum(member.file_size for member in data.zip.infolist()), path, PoseError)
            if "format" not in data.files or str(data["format"]) != FORMAT:
                raise PoseError(f"{path} contains {', '.join(data.files) or 'nothing'}", "a pose file", MAKE_POSES)
            if int(data["version"]) > VERSION:
                raise PoseError(
                    f"{path} has version {int(data['version'])}", f"version {VERSION} or older", "update mimicmotion"
                )
            xy, confidence = np.asarray(data["xy"], np.float64), np.asarray(data["confidence"], np.float32)
            height, width = (int(v) for v in data["size"])
            fps, source = float(data["fps"]), str(data["source"])
            people = np.asarray(data.get("people", ()), np.int64)
        if not (1 <= min(height, width) <= max(height, width) <= MAX_SIDE and 0 <= fps <= 1000 and len(xy) > 0):
            got = f"{path} contains {len(xy)} frames of height {height} and width {width} at {fps} fps"
            raise PoseError(got, f"at least 1 frame, sides of 1 to {MAX_SIDE:,} pixels, 0 to 1000 fps", MAKE_POSES)
    try:
        return PoseSequence(xy, confidence, (height, width), fps, source, people)
    except PoseError as e:
        raise PoseError(f"{path}: {e.got}", e.expected, e.fix) from e


def load_openpose(
    path: Path | str, size: tuple[int, int] | None = None, *, fps: float = 0.0, person: Person = "largest"
) -> PoseSequence:
    """Read OpenPose JSON: a folder with one *.json per frame, or a single file.

    Supports 18 or 25 body points, 21 points per hand, and 68 or 70 face points (the pupils are dropped). If all
    coordinates are within 0..1, they are interpreted as fractions of the frame. Confidences up to 1.2, which OpenPose's
    heat maps reach, are clipped to 1.

    Args:
        path: folder or file. Frames are ordered by the last number in the file names that differs between all files;
            the numbers must be consecutive. A file may also contain a list of frames, as written by ComfyUI nodes.
        size: (height, width) of the video; optional if the files contain canvas_height and canvas_width.
        fps: frames per second; 0 (default) uses the frame rate in the files, if `save_openpose` wrote them.
        person: person to follow if there are several.

    Raises:
        PoseError: there are no files, a frame is missing, a file is malformed, or the chosen person never appears.
    """
    files = _openpose_files(Path(path))
    tracker = PersonTracker(person)
    points: list[PosePoints] = []
    counts = []
    for file, data in ((path, frame) for path in files for frame in _read_json(path)):
        with reading(file, "OpenPose JSON", "export the poses again", PoseError):
            people = [_parse_person(p, file) for p in data["people"]]
            size = size or _canvas(data, file)
            rate = data.get("fps")
            fps = fps or (float(rate) if isinstance(rate, int | float) and 0 < rate <= 1000 else 0.0)
        check_limit("frames", len(points) + 1, path, PoseError)
        xy = np.array([p[0] for p in people]).reshape(-1, NUM_POINTS, 2)
        chosen = tracker.choose(xy, np.array([p[1] for p in people]).reshape(-1, NUM_POINTS))
        points.append(no_person() if chosen is None else people[chosen])
        counts.append(len(people))
    tracker.check_found()
    if size is None:
        raise PoseError(
            f"{path} does not contain the size of the frames",
            "canvas_height and canvas_width",
            "pass the size of the video, e.g. --video-size 1280x720",
        )
    xy, confidence = np.stack([p[0] for p in points]), np.stack([p[1] for p in points])
    if (confidence > 0).any() and np.abs(xy[confidence > 0]).max() <= 1:
        logger.info("%s: coordinates within 0..1 are interpreted as fractions of the frame", path)
        xy *= size[::-1]
    return PoseSequence(xy, confidence, size, fps, source=f"openpose json {Path(path).name}", people=np.array(counts))


def save_openpose(poses: PoseSequence, folder: Path | str) -> None:
    """Write one FOLDER_%012d_keypoints.json per frame, like OpenPose with BODY_25, hands and face.

    Points that our layout lacks, the mid-hip and the pupils, are interpolated.

    Raises:
        OutputError: a file cannot be written, or the folder contains JSON files that would be read as more frames.
    """
    folder = Path(folder)
    names = [f"{folder.name}_{i:012d}_keypoints.json" for i in range(len(poses))]
    if others := {p.name for p in folder.glob("*.json")} - set(names):
        raise OutputError(
            f"{folder} contains {len(others)} other JSON files, such as {min(others)}",
            "a new folder, or one that contains only these frames",
            "choose another folder, or delete the files",
        )
    for i, (xy, confidence) in enumerate(zip(poses.xy, poses.confidence, strict=True)):
        people = [_format_person(xy, confidence)] if confidence.any() else []
        data = {"version": 1.3, "people": people, "canvas_height": poses.size[0], "canvas_width": poses.size[1]}
        data |= {"fps": poses.fps} if poses.fps else {}
        with atomic_path(folder / names[i]) as part:
            part.write_text(json.dumps(data), encoding="utf-8")


def open_poses(path: Path | str) -> PoseSequence:
    """Read poses from .npz or OpenPose JSON (a folder or a file).

    Raises:
        PoseError: as in `load_poses` and `load_openpose`.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() == ".json":
        return load_openpose(path)
    return load_poses(path)


def _openpose_files(path: Path) -> list[Path]:
    fix = "pass the folder that OpenPose wrote with --write_json"
    if path.is_file():
        return [path]
    files = [p for p in path.glob("*.json") if not p.name.startswith(".")] if path.is_dir() else []
    if not files:
        raise PoseError(f"{path} contains no *.json", "a folder of OpenPose JSON files", fix)
    digits = {file: [int(n[-18:]) for n in re.findall(r"\d+", file.stem)][::-1] for file in files}
    for k in range(min(map(len, digits.values()))):  # from the last number of a name to its first
        numbered = {numbers[k]: file for file, numbers in digits.items()}
        if len(numbered) == len(files):
            break
    else:
        file = min(files)
        got = f"{file} has no frame number in its name that differs from those of the other files"
        raise PoseError(got, "names like video_000000000012_keypoints.json", fix)
    first, missing = min(numbered), max(numbered) - min(numbered) + 1 - len(numbered)
    if missing:
        gap = next(n for n in itertools.count(first) if n not in numbered)
        raise PoseError(f"{path} has no file for frame {gap} (missing files: {missing})", "one file per frame", fix)
    return [numbered[k] for k in sorted(numbered)]


def _read_json(file: Path) -> list[dict[str, Any]]:
    """Read the frames of a file. Most tools write one frame per file; some write a list of frames."""
    data = read_json(file, "a readable JSON file", "export the poses again", PoseError)
    frames = data if isinstance(data, list) and data else [data]
    if not all(isinstance(frame, dict) and isinstance(frame.get("people"), list) for frame in frames):
        raise PoseError(f"{file} has no list 'people'", "OpenPose JSON", "write the poses with OpenPose's --write_json")
    return frames


def _canvas(data: dict[str, Any], file: Path) -> tuple[int, int] | None:
    sides: tuple[Any, Any] = (data.get("canvas_height"), data.get("canvas_width"))
    if not all(sides):
        return None
    if not all(isinstance(side, int | float) and 1 <= side <= MAX_SIDE for side in sides):
        got = f"{file}: canvas_height and canvas_width are {sides!r:.60}"
        raise PoseError(got, f"numbers of pixels, 1 to {MAX_SIDE:,}", "correct the file")
    return int(sides[0]), int(sides[1])


def _parse_person(person: Any, file: Path) -> PosePoints:
    if not isinstance(person, dict):
        got = f"{file}: an entry of 'people' is {person!r:.60}"
        raise PoseError(got, "a mapping with pose_keypoints_2d", "export the poses again")

    def part(name: str, *counts: int) -> Float64[ndarray, "points 3"]:
        values = person.get(name) or []
        try:
            numbers = np.asarray(values, np.float64).reshape(-1, 3)
        except (TypeError, ValueError, OverflowError) as e:
            got, expected = f"{file}: {name} is {values!r:.60}", "x, y and confidence of each point"
            raise PoseError(got, expected, "correct the file") from e
        if len(numbers) not in (0, *counts):
            expected = f"{' or '.join(map(str, counts))} points"
            raise PoseError(f"{file}: {name} has {len(numbers)} points", expected, "use the COCO or BODY_25 model")
        if not np.isfinite(numbers).all() or (numbers[:, 2] < 0).any() or (numbers[:, 2] > 1.2).any():
            got = f"{file}: {name} contains NaN, infinity or a confidence outside 0..1"
            raise PoseError(got, "finite numbers and confidences in 0..1", "correct the file")
        return numbers

    points = np.zeros((NUM_POINTS, 3))
    body = part("pose_keypoints_2d", 18, 25)
    if len(body) == 25:
        points[BODY], points[FEET] = body[BODY_25], body[BODY_25_FEET]
    elif len(body):
        points[BODY] = body
    face = part("face_keypoints_2d", 68, 70)
    for indices, values in (
        (FACE, face[:68]),
        (LEFT_HAND, part("hand_left_keypoints_2d", 21)),
        (RIGHT_HAND, part("hand_right_keypoints_2d", 21)),
    ):
        if len(values):
            points[indices] = values
    return points[:, :2], np.minimum(points[:, 2], 1).astype(np.float32)


def _format_person(xy: Float[ndarray, "134 2"], confidence: Float32[ndarray, " 134"]) -> dict[str, Any]:
    points = np.concatenate([xy, confidence[:, None]], 1)

    def centre(points: ndarray) -> ndarray:
        return np.append(points[:, :2].mean(0), points[:, 2].min())

    body = np.zeros((25, 3))
    body[BODY_25], body[BODY_25_FEET], body[8] = points[BODY], points[FEET], centre(points[[8, 11]])
    face = points[FACE]
    face = np.concatenate([face, centre(face[36:42])[None], centre(face[42:48])[None]])
    parts = {"pose": body, "face": face, "hand_left": points[LEFT_HAND], "hand_right": points[RIGHT_HAND]}
    return {"person_id": [-1]} | {f"{name}_keypoints_2d": p.round(4).ravel().tolist() for name, p in parts.items()}


class PoseCache:
    """On-disk cache of poses, keyed by video content and settings.

    Args:
        folder: folder of pose files, created on first use; default: `cache_folder() / "poses"`.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "poses"

    def path(self, video: Path | str, settings: Mapping[str, Any]) -> Path:
        """Return the path of the cache entry for a video and settings.

        Args:
            video: path of the video, which is identified by its content.
            settings: everything that affects the poses, as JSON data: estimator and its version, model checksums (not
                paths), person, frame rate.
        """
        key = {"video": sha256_file(video), "settings": dict(settings), "format": VERSION}
        name = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.npz"

    def get(self, video: Path | str, settings: Mapping[str, Any], estimate: Callable[[], PoseSequence]) -> PoseSequence:
        """Return the cached poses, or call `estimate` and cache the result.

        A damaged entry is replaced. If the cache cannot be written, a warning is logged.

        Raises:
            InputError: the video cannot be read.
        """
        path = self.path(video, settings)
        poses = self.load(path)
        if poses is None:
            poses = estimate()
            self.put(path, poses)
        return poses

    def load(self, path: Path) -> PoseSequence | None:
        """Load the poses at a path returned by `path()`; return None if they are missing or damaged."""
        if not path.exists():
            return None
        try:
            return load_poses(path)
        except PoseError as e:
            logger.warning("the cached poses %s are damaged; estimating them again: %s", path, e.got)
            return None

    def put(self, path: Path, poses: PoseSequence) -> None:
        """Store poses at a path returned by `path()`. If that fails, a warning is logged."""
        try:
            save_poses(poses, path)
        except OutputError as e:
            logger.warning("the poses cannot be cached: %s", e.got)
