"""The paper's figures, made from results: each a PNG file and the numbers it shows as CSV."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mimicmotion.config import FusionConfig, GenerateConfig, PoseOptions, parse
from mimicmotion.errors import ConfigError, InputError, PoseError
from mimicmotion.evaluation.figures.clips import (
    Clip,
    check_frames,
    open_clips,
    parse_names,
    planned_borders,
    spaced,
)
from mimicmotion.evaluation.results import load_results
from mimicmotion.jobs import inputs
from mimicmotion.jobs.progress import Job, Progress
from mimicmotion.plot import check_output

if TYPE_CHECKING:
    from mimicmotion.arrays import Frame
    from mimicmotion.pose.keypoints import PoseSequence

POSE_FRAMES = 4
HAND_CANDIDATES = 12


@dataclass(frozen=True, slots=True)
class FigureResult:
    """The files made, and what to know about them.

    Attributes:
        files: the figure first, then its tables.
        notes: a sentence each.
    """

    files: list[Path]
    notes: list[str]

    def summary(self) -> str:
        """A few lines for a person to read."""
        return "\n".join([*self.notes, f"figure: {self.files[0]}", *(f"numbers: {p}" for p in self.files[1:])])


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """How results are read and where their segments begin.

    Attributes:
        max_frames: take only so many frames of each from the beginning.
        resize: scale results to the size of the first.
        borders: first frames of new segments.
        segment_frames: frames per segment (N), to find the borders by the plan of sampling instead.
        overlap_frames: frames shared by neighbours (C).
        reference_slot: whether the reference picture takes one of these frames, as in sampling.
    """

    max_frames: int | None = None
    resize: bool = False
    borders: Sequence[int] = ()
    segment_frames: int | None = None
    overlap_frames: int = 6
    reference_slot: bool = True

    def __post_init__(self) -> None:
        if self.borders and self.segment_frames is not None:
            raise ConfigError("both borders and segment_frames", "one of them", "leave one out")
        self.fusion()

    def fusion(self) -> FusionConfig | None:
        """The plan's settings; None if borders are given or there are none."""
        if self.segment_frames is None:
            return None
        return FusionConfig(
            segment_frames=self.segment_frames,
            overlap_frames=self.overlap_frames,
            reference_slot=self.reference_slot,
        )

    def find_borders(self, clip: Clip) -> list[int]:
        """First frames of new segments in a clip."""
        fusion = self.fusion()
        return list(self.borders) if fusion is None else planned_borders(clip.count(), fusion)


def yt(results: Sequence[str], output: Path, options: ClipOptions, column: int | None = None) -> Job[FigureResult]:
    """y-t slice of results, given as NAME=PATH.

    Raises:
        InputError: the results do not fit together or cannot be read.
        OutputError: the figure cannot be written.
    """
    from mimicmotion.evaluation.figures import yt as part

    check_output(output)
    clips = open_clips(parse_names(results), resize=options.resize, max_frames=options.max_frames)
    yield Progress("read", 0, 1)
    data = part.measure(clips, column=column, borders=options.find_borders(clips[0]))
    yield Progress("read", 1, 1)
    means = ", ".join(f"{name} {jumps.mean():.2f}" for name, jumps in data.jumps().items())
    return FigureResult(part.save(data, output), [f"column {data.column}; mean jump in grey levels: {means}"])


def diff(results: Sequence[str], output: Path, options: ClipOptions, frames: Sequence[int] = ()) -> Job[FigureResult]:
    """Rows of |frame_t - frame_t-1| of results, given as NAME=PATH.

    Raises:
        InputError: the results do not fit together or cannot be read.
        OutputError: the figure cannot be written.
    """
    from mimicmotion.evaluation.figures import diff as part

    check_output(output)
    clips = open_clips(parse_names(results), resize=options.resize, max_frames=options.max_frames)
    yield Progress("read", 0, 1)
    data = part.measure(clips, frames=frames, borders=options.find_borders(clips[0]))
    yield Progress("read", 1, 1)
    means = ", ".join(f"{name} {values.mean():.2f}" for name, values in data.curves.items())
    return FigureResult(part.save(data, output), [f"mean difference in grey levels: {means}"])


def poses(
    video: Path, output: Path, *, poses: Path | None = None, frames: Sequence[int] = (), whole: bool = False
) -> Job[FigureResult]:
    """Pose maps with and without confidence for some frames of a video.

    Args:
        video: the driving video.
        output: the PNG file.
        poses: its pose file; without one the poses of the shown frames are found, each by itself.
        frames: which frames; four by default, evenly spaced.
        whole: show whole frames, not only where the person is.

    Raises:
        InputError: video, poses and frames do not fit together, or nobody is found.
        OutputError: the figure cannot be written.
    """
    from mimicmotion.evaluation.figures import poses as part

    check_output(output)
    known = _load_poses(poses) if poses else None
    clip = open_clips([("video", video)])[0]
    count = clip.count()
    shown = check_frames(frames, 0, count) or spaced(0, count - 1, POSE_FRAMES)
    pictures = clip.chosen(shown)
    if known is None:
        found = yield from _estimate(list(pictures.values()))
    else:
        if len(known) != count:
            got = f"{poses} has {len(known)} poses, {video} has {count} frames"
            raise InputError(got, "a pose for each frame", f"make it with 'mimicmotion poses {video}' without --fps")
        _check_aspect(known, clip, poses)
        found = dataclasses.replace(known, xy=known.xy[shown], confidence=known.confidence[shown]).scaled(clip.size)
    data = part.make_maps(pictures, found, whole=whole)
    seen = found.confidence[found.confidence > 0]
    dim = float((seen < 0.5).mean()) if len(seen) else 0.0
    note = f"frames {', '.join(map(str, shown))} by {found.source or poses}; {dim:.0%} of the seen points are below 0.5"
    return FigureResult(part.save(data, output), [note])


def hands(
    results: Sequence[str],
    output: Path,
    *,
    poses: Path | None = None,
    frames: Sequence[int] = (),
    threshold: float | None = None,
    max_frames: int | None = None,
) -> Job[FigureResult]:
    """Hand crops of results, given as NAME=PATH, at the same frames and places.

    Args:
        results: videos of one length and shape.
        output: the PNG file.
        poses: where the hands are: a pose file in the frame of the results, or the RESULT.json that `generate` wrote
            (the driving poses as they were fitted to the picture). Without it the hands are looked for in the first
            result, which should be the real video.
        frames: which frames; by default four in which a hand is seen.
        threshold: a hand is shown if all its points exceed this confidence.
        max_frames: take only so many frames of each.

    Raises:
        InputError: results, poses and frames do not fit together, or no hand is seen.
        OutputError: the figure cannot be written.
    """
    from mimicmotion.evaluation.figures import hands as part
    from mimicmotion.pose.keypoints import VISIBLE

    check_output(output)
    clips = open_clips(parse_names(results), same_size=False, max_frames=max_frames)
    limit = VISIBLE if threshold is None else threshold
    if not 0 <= limit <= 1:
        raise ConfigError(f"threshold={limit}", "0 to 1", "correct 'threshold'")
    numbers: list[int] | None = None
    if poses is None:
        count = clips[0].count()
        numbers = check_frames(frames, 0, count) or spaced(0, count - 1, HAND_CANDIDATES)
        known = yield from _estimate(list(clips[0].chosen(numbers).values()))
    elif poses.suffix.lower() == ".json" and (sidecar := _sidecar(poses)):
        known = yield from _aligned(*sidecar)
    else:
        known = _load_poses(poses)
    if poses is not None and max_frames is not None:
        known = known[:max_frames]
    data = part.measure(clips, known, numbers=numbers, frames=frames, threshold=limit)
    note = f"{len(data)} hands in frames {', '.join(map(str, sorted({h.frame for h in data})))}"
    return FigureResult(part.save(data, output), [note])


def fusion(
    output: Path,
    *,
    segment_frames: int = 8,
    overlap_frames: int = 3,
    frames: int = 18,
    modes: Sequence[str] = ("progressive",),
    reference_slot: bool = False,
) -> FigureResult:
    """Diagram of the weights of fusion; the defaults are the paper's N and C.

    Raises:
        InputError: the numbers make no plan, or a mode is unknown.
        OutputError: the figure cannot be written.
    """
    from mimicmotion.evaluation.figures import fusion as part

    check_output(output)
    made = [
        part.plan(frames, segment_frames, overlap_frames, mode, reference_slot=reference_slot)
        for mode in dict.fromkeys(modes)
    ]
    if not made:
        raise ConfigError("no mode", ", ".join(part.MODES), "name at least one")
    notes = [f"{w.config.mode}: {len(w.segments)} segments for {frames} frames" for w in made]
    return FigureResult(part.save(made, output), notes)


def bars(report: Path, output: Path, metrics: Sequence[str] = ()) -> FigureResult:
    """Bars of a report's metrics with their intervals.

    Args:
        report: the report's folder, its summary.json or its metrics.csv.
        output: the PNG file.
        metrics: which to show; all by default.

    Raises:
        InputError: no report, or an unknown metric.
        OutputError: the figure cannot be written.
    """
    from mimicmotion.evaluation.figures import bars as part

    check_output(output)
    results, _ = load_results(report)
    shown = part.choose(results, metrics)
    return FigureResult(part.save(results, output, shown), [f"{len(shown)} metrics of {len(results)} methods"])


def _load_poses(path: Path) -> PoseSequence:
    from mimicmotion.pose.files import open_poses

    return open_poses(path)


def _estimate(frames: Sequence[Frame]) -> Job[PoseSequence]:
    """Poses by the bundled estimator, each frame by itself: the frames are not consecutive."""
    from mimicmotion.pose.keypoints import PoseSequence

    estimator = inputs.find_estimator(PoseOptions())(static=True)
    found = []
    for i, frame in enumerate(frames):
        yield Progress("poses", i, len(frames))
        found.append(estimator.estimate([frame]))
    yield Progress("poses", len(frames), len(frames))
    xy, confidence = np.concatenate([f.xy for f in found]), np.concatenate([f.confidence for f in found])
    return PoseSequence(xy, confidence, found[0].size, source=found[0].source)


def _check_aspect(poses: PoseSequence, clip: Clip, path: Path | None) -> None:
    mine, own = poses.size[1] / poses.size[0], clip.size[1] / clip.size[0]
    if abs(mine / own - 1) > 0.02:
        height, width = poses.size
        got = f"{path} is of frames {width} x {height}, {clip.reader.path} has {clip.size[1]} x {clip.size[0]}"
        raise PoseError(got, "the poses of this video", f"make them with 'mimicmotion poses {clip.reader.path}'")


def _sidecar(path: Path) -> tuple[GenerateConfig, tuple[int, int]] | None:
    """Settings and size (height, width) of a result, if this is what `generate` wrote beside it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: {e}", "a pose file or RESULT.json", "check the path") from e
    if not (isinstance(data, dict) and isinstance(data.get("settings"), dict) and "size" in data):
        return None
    return parse(GenerateConfig, data["settings"]), (int(data["size"][0]), int(data["size"][1]))


def _aligned(config: GenerateConfig, size: tuple[int, int]) -> Job[PoseSequence]:
    """The driving poses in pixels of a result, found and fitted as they were when it was made."""
    made = yield from inputs.prepare(config, size, 1)
    return made.aligned
