"""Prepare the inputs of a job: estimate the poses, and fit the picture and the poses to the size of the result."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy import ndarray

from mimicmotion.arrays import Frame
from mimicmotion.errors import ConfigError, InputError, MediaError, PoseError
from mimicmotion.pose import keypoints as kp
from mimicmotion.pose.align import PAIRS, PROPORTIONS_DIFFER, RIGID, align, part_scales
from mimicmotion.pose.crop import PictureFit, fit_picture, keeps_person
from mimicmotion.pose.estimators.open import find_estimator
from mimicmotion.pose.files import PoseCache, load_openpose, load_poses
from mimicmotion.pose.keypoints import BODY, FACE, NOSE, VISIBLE, PoseSequence
from mimicmotion.pose.smoothing import smooth_poses
from mimicmotion.runtime.files import sha256_file
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.reading import check_limit, is_heif
from mimicmotion.runtime.threads import prefetch
from mimicmotion.settings import DrivingOptions, GenerateConfig, MaskConfig, PoseOptions, PosesConfig
from mimicmotion.settings.parsing import refuse_unused
from mimicmotion.settings.poses import person_choice
from mimicmotion.video.geometry import Fit
from mimicmotion.video.picture import check_picture_size, is_picture, read_picture
from mimicmotion.video.reader import RELEASED_FPS, VideoReader, open_video
from mimicmotion.video.timing import Timed, every, exact_rate, released_stride, resample

if TYPE_CHECKING:
    from mimicmotion.pose.estimators.base import PoseEstimator

logger = logging.getLogger(__name__)

PoseJob = GenerateConfig | PosesConfig | MaskConfig

BONES = {
    "an upper arm": (PAIRS["upper arms"], 0.186),
    "a forearm": (PAIRS["forearms"], 0.146),
    "a thigh": (PAIRS["thighs"], 0.245),
    "a shin": (PAIRS["shanks"], 0.246),
    "the trunk": ([(kp.NECK, kp.R_HIP), (kp.NECK, kp.L_HIP)], 0.3),
}
"""Joints of each bone on both sides, and its length as a fraction of body height (Drillis and Contini, 1966)."""
TOO_LONG = 1.9
"""Length of a bone, relative to what the others suggest, that is implausible (measured on 8 people: at most 1.5)."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of the pipeline. Poses are in pixels of the result unless stated otherwise.

    Attributes:
        picture: the reference picture, fitted to the size of the result.
        fit: transform from the original picture to `picture`.
        reference: pose of the person in the picture, one frame.
        driving: poses of the video in its own pixels, at the frame rate of the result; smoothed if the settings say so.
        aligned: the driving poses, aligned with the person in the picture.
        warnings: notes for the user, one sentence each.
    """

    picture: Frame
    fit: Fit
    reference: PoseSequence
    driving: PoseSequence
    aligned: PoseSequence
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class FoundPoses:
    """Poses of the picture and the video, each in pixels of its source; estimated before the model is loaded.

    Attributes:
        reference: pose of the person in the picture, one frame.
        driving: poses of the video, at the frame rate of the result.
        notes: notes for the user, one sentence each.
    """

    reference: PoseSequence
    driving: PoseSequence
    notes: list[str]


def find_poses(config: GenerateConfig) -> Job[FoundPoses]:
    """Estimate the poses of the picture and the video, or load them from the cache or a file.

    Raises:
        InputError: the picture or video cannot be used; see its subclasses.
    """
    picture = read_picture(config.picture)
    check_picture_size(picture, name=str(config.picture))
    source = open_driving(config)
    estimator = find_estimator(config)
    yield Progress("picture", 0, 1)
    reference = picture_pose(config, estimator, picture)
    yield Progress("picture", 1, 1)
    driving = yield from driving_poses(config, source, estimator)
    if not driving.confidence[:, BODY].any():
        raise PoseError(
            f"no person found in {config.video}",
            "a person in at least one frame",
            "choose a video in which the person is larger and in full view, or another --estimator",
        )
    return FoundPoses(reference, driving, source_notes(config, source))


def prepare(config: GenerateConfig, found: FoundPoses, size: tuple[int, int]) -> Inputs:
    """Fit the picture and the poses to a result of `size` = (height, width).

    Raises:
        InputError: the picture and the video show no joint in common.
    """
    inputs = fit_inputs(config, read_picture(config.picture), found.reference, found.driving, size)
    return dataclasses.replace(inputs, warnings=[*found.notes, *inputs.warnings])


def fit_inputs(
    config: GenerateConfig, picture: Frame, pose: PoseSequence, driving: PoseSequence, size: tuple[int, int]
) -> Inputs:
    """Fit the picture to the size of the result, and align the poses of the video with the person in it.

    Args:
        config: settings of the job.
        picture: the original picture.
        pose: pose of the person in the picture, one frame, in pixels of the picture.
        driving: poses of the video, in pixels of the video.
        size: (height, width) of the result.
    """
    if config.smooth and config.align != "released":
        driving = smooth_poses(driving, config.source_seconds(1))
    fitted, fit = fit_picture(picture, pose, size, config.fit)
    reference = pose.fitted(fit)
    aligned = align(driving, reference, size, method=config.align)
    notes = [*describe_fit(fit, pose, config.fit), *describe_problems(reference, driving, aligned, config.video)]
    if config.align == "weighted":
        notes += describe_build(part_scales(driving, reference))
    if doubts := pose_doubts(pose):
        hint = "the result will follow it; see the overlay of `mimicmotion plan`, try another picture or --estimator"
        notes.insert(0, f"the pose found in the picture looks wrong: {', '.join(doubts)}; {hint}")
        logger.warning(notes[0])
    if (count := pose.people[0]) > 1 and config.picture_person == "largest":
        notes.insert(0, f"the picture shows {count} people; the largest is used, choose another with --picture-person")
    reference, aligned = (keep_face(poses, config.face) for poses in (reference, aligned))
    return Inputs(fitted, fit, reference, driving, aligned, notes)


def input_files(config: PoseJob) -> list[str | Path]:
    """List all files that a job reads, including each file in a folder of frames."""
    names = ("picture", "video", "detector", "pose_model", "model", "checkpoint", "signer")
    files = [path for name in names if (path := getattr(config, name, None))]
    return [*files, *(config.video.iterdir() if config.video.is_dir() else ())]


def open_driving(config: PoseJob) -> VideoReader | PoseSequence:
    """Open the driving video, or read the poses of a pose file.

    Raises:
        InputError: the source cannot be read, or a setting has no effect on it or contradicts it.
    """
    path, fps, unneeded = config.video, config.video_fps, ["video_fps", "video_size"]
    kind = _pose_format(path)
    if kind:
        options = ["estimator", "detector", "pose_model", "pose_device"]
        refuse_unused(config, ["audio"] if isinstance(config, GenerateConfig) else options, "with a pose file")
    if kind == "json":
        return load_openpose(path, config.frame_size, fps=fps or 0.0, person=person_choice(config.person))
    source: VideoReader | PoseSequence
    if kind == "npz":
        source = load_poses(path)
        if not source.fps:
            source = dataclasses.replace(source, fps=fps or 0.0)
            unneeded.remove("video_fps")
        refuse_unused(config, ["person"], "with a pose file of one person")
    else:
        source = open_video(path, folder_fps=fps or RELEASED_FPS)
        if path.is_dir():
            unneeded.remove("video_fps")
    for name in unneeded:
        if getattr(config, name) is not None:
            got, fix = f"{name}={getattr(config, name)} for {path}, which contains its own", f"leave out {name!r}"
            raise ConfigError(got, f"{name} only for a source that does not contain it", fix)
    return source


def _pose_format(path: Path) -> str:
    """Detect the format of a pose file or folder by content or else by name: "npz", "json", or "" for a video."""
    if path.is_dir():
        return "json" if any(path.glob("*.json")) else ""
    head = b""
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            head = file.read(64)
    if head.startswith(b"PK\3\4"):
        return "npz"
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"[")):
        return "json"
    suffix = path.suffix.lower().removeprefix(".")
    return suffix if suffix in ("npz", "json") else ""


def source_notes(config: DrivingOptions, source: VideoReader | PoseSequence) -> list[str]:
    """Return notes for the user on the frame rate and audio of the source, one sentence each."""
    folder = not isinstance(source, PoseSequence) and source.path.is_dir()
    own = source.fps if isinstance(source, PoseSequence) else source.info.fps
    shown = config.fps or own or RELEASED_FPS
    slowed = own * config.source_seconds(1)  # source frames per second of the result
    notes = []
    if (folder or not own) and config.video_fps is None:
        what = "a folder of pictures does" if folder else "the pose file does"
        notes.append(f"{what} not store its frame rate, so {own or shown:g} is assumed; set it with --video-fps")
    elif config.sampling == "time" and slowed < 0.95 * shown:
        notes.append(
            f"the source has {slowed:g} frames per second, the result {shown:g}: frames are repeated; --fps {slowed:g} "
            "gives the same movement with less work"
        )
        if isinstance(config, GenerateConfig):
            notes[-1] += f", --output-fps {shown:g} then repeats frames when they are written"
    if getattr(config, "audio", False) and not isinstance(source, PoseSequence) and not source.info.has_audio:
        notes.append(f"{source.path.name} has no sound, so the result has none")
    return notes


def check_inputs(config: GenerateConfig) -> None:
    """Check the picture and the video as far as possible without estimating poses.

    Raises:
        InputError: as in `find_poses`.
    """
    if config.picture.is_file() and not is_picture(config.picture) and _is_driver(config.picture):
        got = f"the picture {config.picture} is a video or a pose file"
        fix = "swap PICTURE and VIDEO" if is_picture(config.video) else "pass a picture"
        raise MediaError(got, "a picture, followed by a video", fix)
    check_picture_size(read_picture(config.picture), name=str(config.picture))
    source = open_driving(config)
    if isinstance(source, PoseSequence):
        resample_poses(source, config)
    elif config.start:
        next(sampled_frames(config, source))


def _is_driver(path: Path) -> bool:
    """Return whether a file is a pose file or a video."""
    if _pose_format(path):
        return True
    try:
        return not is_heif(path) and open_video(path).info.num_frames > 1
    except MediaError:
        return False


def picture_pose(config: GenerateConfig, estimator: Callable[..., PoseEstimator], picture: Frame) -> PoseSequence:
    """Estimate the pose of the chosen person, in pixels of the picture, or load it from the cache.

    Raises:
        PoseError: nobody is found, or nobody matches `picture_person`.
    """

    def estimate() -> PoseSequence:
        return estimator(static=True).estimate([picture])

    settings = pose_settings(config) | {"person": config.picture_person}
    pose = PoseCache().get(config.picture, settings, estimate) if config.pose_cache else estimate()
    if not (pose.confidence[0, BODY] > VISIBLE).any():
        raise PoseError(
            f"no person found in the picture {config.picture}",
            "one person, at least head and shoulders, clearly visible",
            "choose another picture, or another --estimator",
        )
    return pose


def driving_poses(
    config: PoseJob, source: VideoReader | PoseSequence, estimator: Callable[..., PoseEstimator]
) -> Job[PoseSequence]:
    """Return the poses of the driving video at the frame rate of the result: estimated, cached, or from a pose file."""
    if isinstance(source, PoseSequence):
        return resample_poses(source, config)
    if not (config.pose_cache and config.video.is_file()):
        return (yield from estimate_video(config, source, estimator()))
    cache = PoseCache()
    path = cache.path(config.video, cache_settings(config))
    cached = cache.load(path)
    if cached is not None:
        yield Progress("poses", len(cached), len(cached))
        return cached
    poses = yield from estimate_video(config, source, estimator())
    cache.put(path, poses)
    return poses


def estimate_video(config: DrivingOptions, reader: VideoReader, estimator: PoseEstimator) -> Job[PoseSequence]:
    """Estimate the poses of a video, which is decoded frame by frame and never entirely in memory."""
    found = []
    starts: list[int] = []
    total = expected_frames(config, reader)
    check_limit("frames", total or 0, reader.path, MediaError)
    yield Progress("poses", 0, total)
    with prefetch(sampled_frames(config, reader)) as frames:
        for points in estimator.estimate_stream(_without_repeats(frames, starts)):
            found.append((*points, estimator.people))
            done = starts[len(found) - 1] + 1
            yield Progress("poses", done, max(total or 0, done) if total else None)
    yield Progress("poses", starts[-1], starts[-1])
    xy, confidence, people = (np.array(part).repeat(np.diff(starts), 0) for part in zip(*found, strict=True))
    fps = result_fps(config, reader.info.fps)
    return PoseSequence(xy, confidence, reader.info.size, fps, estimator.source, people)


def _without_repeats(frames: Iterable[Frame], starts: list[int]) -> Iterator[Frame]:
    """Yield only frames that do not repeat the previous one.

    Args:
        frames: result of `VideoReader.frames`, which yields the same array again for a repeated frame.
        starts: list to which the index of each yielded frame is appended, and finally the total number of frames.
    """
    last, i = None, -1
    for i, frame in enumerate(frames):
        if frame is not last:
            last = frame
            starts.append(i)
            yield frame
    starts.append(i + 1)


def sampled_frames(config: DrivingOptions, reader: VideoReader) -> Iterator[Frame]:
    """Yield the frames of a video that the settings select."""
    end = math.inf if config.duration is None else config.start + config.duration
    if config.sampling == "released":
        stride = released_stride(reader.info.fps, config.stride)
        return reader.frames(stride=stride, start=config.start, end=end)
    rate = _source_rate(config, result_fps(config, reader.info.fps))
    return reader.frames(fps=rate, start=config.start, end=end)


def result_fps(config: DrivingOptions, own: float) -> float:
    """Return the frame rate of the result: `fps` if set, else the source's (`own`), or 15 if sampling="released"."""
    return config.fps or (RELEASED_FPS if config.sampling == "released" else own) or RELEASED_FPS


def _source_rate(config: DrivingOptions, fps: float) -> Fraction:
    """Return the rate at which to sample the source for a result at `fps`, which differs from `fps` in slow motion."""
    return exact_rate(fps) / Fraction(config.source_seconds(1)).limit_denominator(10_000)


def expected_frames(config: DrivingOptions, reader: VideoReader) -> int | None:
    """Estimate the number of frames of the result; return None if the file does not specify its duration."""
    seconds, own = reader.info.duration, reader.info.fps
    if not seconds:
        return None
    seconds = max(0.0, min(seconds - config.start, config.duration or seconds))
    if config.sampling == "released":
        return max(1, round(seconds * own / released_stride(own, config.stride)))
    return max(1, round(seconds * _source_rate(config, result_fps(config, own))))


def resample_poses(poses: PoseSequence, config: DrivingOptions) -> PoseSequence:
    """Sample the poses of a pose file as `sampled_frames` samples a video."""
    own = poses.fps or config.fps or RELEASED_FPS
    seconds = min(len(poses) / own - config.start, config.duration or math.inf)
    if config.start and seconds <= 0:
        length = f"less than the duration of the poses, {len(poses) / own:g} seconds"
        raise InputError(f"start={config.start}", length, "lower 'start'")
    fps = result_fps(config, own)
    rate = _source_rate(config, fps)
    check_limit("frames", round(seconds * rate), "the selected part of the poses")
    frame = 1 / exact_rate(own)
    frames = [Timed(k * frame, frame, k) for k in range(len(poses))]
    end = math.inf if config.duration is None else config.start + config.duration
    if config.sampling == "released":
        index = every(frames, released_stride(own, config.stride), config.start, end)
    else:
        index = resample(frames, rate, config.start, end)
    return dataclasses.replace(poses[list(index)], fps=fps)


def cache_settings(config: PoseJob) -> dict[str, Any]:
    """Return all settings that affect the poses of a video, as JSON data."""
    return pose_settings(config) | {f.name: getattr(config, f.name) for f in dataclasses.fields(DrivingOptions)}


def pose_settings(config: PoseOptions) -> dict[str, Any]:
    """Return the settings that affect an estimator's result, with checksums of model files, and the package version."""
    from mimicmotion import __version__

    without_effect = {"pose_cache", "pose_device"}
    facts = {f.name: getattr(config, f.name) for f in dataclasses.fields(PoseOptions) if f.name not in without_effect}
    for name in ("detector", "pose_model"):
        facts[name] = sha256_file(facts[name]) if facts[name] else None
    return facts | {"version": __version__}


def keep_face(poses: PoseSequence, part: Literal["all", "eyes-mouth", "none"]) -> PoseSequence:
    """Set the confidence of all face points except those in `part` to 0; the body's nose, eyes and ears are kept."""
    dropped = {"all": 0, "eyes-mouth": 36, "none": 68}[part]  # outline, brows and nose come first
    confidence = poses.confidence.copy()
    confidence[:, FACE][:, :dropped] = 0
    return dataclasses.replace(poses, confidence=confidence)


def describe_fit(fit: Fit, pose: PoseSequence, mode: PictureFit) -> list[str]:
    """Return a note if a crop cuts off part of the person, or if bars are added to avoid that."""
    if mode == "auto" and (np.multiply(fit.source, fit.scale) < np.subtract(fit.target, 0.5)).any():
        size = f"{fit.target[1]}x{fit.target[0]}"
        return [f"a crop to {size} would lose part of the person, so bars are added; --fit crop fills the frame"]
    if keeps_person(fit, pose):
        return []
    lost = (pose.confidence[0] > VISIBLE) & (pose.fitted(fit).confidence[0] <= VISIBLE)
    parts = {"head": [NOSE, *range(14, 18)], "hands": [kp.R_WRIST, kp.L_WRIST], "feet": [kp.R_ANKLE, kp.L_ANKLE]}
    names = " and ".join(name for name, points in parts.items() if lost[points].any()) or "edge"
    return [f"the crop cuts off the {names} of the person in the picture; --fit letterbox keeps the whole picture"]


def pose_doubts(pose: PoseSequence) -> list[str]:
    """Return reasons to doubt the pose that was found in a picture; empty if it is plausible.

    Poses of drawn figures are often wrong. Foreshortening can shorten bones, but never lengthen them.
    """
    xy, seen, found = pose.xy[0], pose.confidence[0] > VISIBLE, []

    def vector(a: int, b: int) -> ndarray:
        return xy[b] - xy[a] if seen[[a, b]].all() else np.zeros(2)

    heights = {name: max(np.hypot(*vector(*side)) for side in sides) / ratio for name, (sides, ratio) in BONES.items()}
    tall = np.median([h for h in heights.values() if h] or [0.0])
    longest = max(heights, key=lambda name: heights[name])
    if heights[longest] > TOO_LONG * tall:
        found.append(f"{longest} is {heights[longest] / tall:.1f} times as long as the other bones suggest")
    trunk = seen[[kp.R_HIP, kp.L_HIP]].all()
    up = vector(kp.R_HIP, kp.NECK) + vector(kp.L_HIP, kp.NECK) if trunk else np.array([0.0, -1.0])
    up = up / max(np.hypot(*up), 1e-9)
    if vector(kp.NECK, NOSE) @ up < -0.03 * tall:
        found.append("the head is below the shoulders")
    shoulders, hips, eyes = (
        float(vector(*pair) @ (-up[1], up[0])) / max(tall, 1e-9)
        for pair in ((kp.R_SHOULDER, kp.L_SHOULDER), (kp.R_HIP, kp.L_HIP), (kp.R_EYE, kp.L_EYE))
    )
    for name, others, least in (("hips", hips, 0.04), ("eyes", eyes, 0.012)):  # a third of their widths in front view
        if shoulders * others < 0 and abs(shoulders) > 0.07 and abs(others) > least:
            found.append(f"left and right are swapped between shoulders and {name}")
    face = xy[FACE][seen[FACE]]
    if len(face) and seen[NOSE] and np.hypot(*(face.mean(0) - xy[NOSE])) > 0.6 * np.ptp(face, axis=0).max():
        found.append("the face is not on the head")
    return found


def describe_problems(reference: PoseSequence, driving: PoseSequence, aligned: PoseSequence, video: Path) -> list[str]:
    """Return notes on frames without a person, legs missing from picture or video, and movement out of the frame."""
    found = []
    if missing := int((~driving.confidence.any(1)).sum()):
        frames = f"{missing} of {len(driving)} frames of {video.name}"
        found.append(f"no person was found in {frames}: they are drawn without a pose")
    legs = [9, 10, 12, 13]
    in_picture, in_video = ((p.confidence[:, legs] > VISIBLE).mean() > 0.25 for p in (reference, aligned))
    if in_video and not in_picture:
        found.append("the video shows legs but the picture does not: they will be cut off or invented by the model")
    if in_picture and not in_video:
        found.append("the picture shows legs but the video does not: they will be invented by the model")
    height, width = aligned.size
    xy, seen = aligned.xy[:, BODY], aligned.confidence[:, BODY] > VISIBLE
    outside = ((xy < 0) | (xy > (width, height))).any(-1) & seen
    if seen.any() and (fraction := outside.sum() / seen.sum()) > 0.1:
        found.append(
            f"{fraction:.0%} of the driving body points are outside the frame after alignment: use a picture with more "
            "room around the person, or a larger --height and --width with --fit letterbox"
        )
    return found


def describe_build(parts: dict[str, float]) -> list[str]:
    """Return a note if the two bodies have different proportions, judging by the scales of their rigid parts.

    Args:
        parts: result of `part_scales`.
    """
    rigid = {p: parts[p] for p in RIGID if p in parts}
    if not rigid or max(rigid.values()) < PROPORTIONS_DIFFER * min(rigid.values()):
        return []
    scales = ", ".join(f"{p} {s:.2f}" for p, s in rigid.items())
    return [f"the people in the picture and the video differ in build (scales: {scales}); --align limbs fits each part"]
