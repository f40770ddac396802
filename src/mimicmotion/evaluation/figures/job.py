"""The paper's figures, made from results: each a PNG file and the numbers it shows as CSV."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimicmotion.errors import ConfigError, InputError, PoseError
from mimicmotion.evaluation.figures.clips import (
    Clip,
    check_frames,
    open_clips,
    parse_names,
    planned_borders,
    spaced,
)
from mimicmotion.evaluation.figures.specs import (
    BarsSpec,
    DiffSpec,
    FigureSpec,
    FusionSpec,
    HandsSpec,
    PosesSpec,
    YtSpec,
)
from mimicmotion.evaluation.results import load_results
from mimicmotion.generate import inputs
from mimicmotion.plot import check_output
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.settings import GenerateConfig, PoseOptions, parse

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


def make(spec: FigureSpec) -> Job[FigureResult]:
    """Make the figure that a spec describes.

    Raises:
        InputError: what it is made from does not fit together, cannot be read, or shows nothing.
        OutputError: the figure cannot be written.
    """
    check_output(spec.output)
    return (yield from _MAKERS[type(spec)](spec))


def _yt(spec: YtSpec) -> Job[FigureResult]:
    from mimicmotion.evaluation.figures import yt as part

    clips = open_clips(parse_names(spec.results), resize=spec.resize, max_frames=spec.max_frames)
    yield Progress("read", 0, 1)
    data = part.cut_slices(clips, column=spec.column, borders=_borders(spec, clips[0]))
    yield Progress("read", 1, 1)
    means = ", ".join(f"{name} {jumps.mean():.2f}" for name, jumps in data.jumps().items())
    return FigureResult(part.save(data, spec.output), [f"column {data.column}; mean jump in grey levels: {means}"])


def _diff(spec: DiffSpec) -> Job[FigureResult]:
    from mimicmotion.evaluation.figures import diff as part

    clips = open_clips(parse_names(spec.results), resize=spec.resize, max_frames=spec.max_frames)
    yield Progress("read", 0, 1)
    data = part.compare_frames(clips, frames=spec.frames or (), borders=_borders(spec, clips[0]))
    yield Progress("read", 1, 1)
    means = ", ".join(f"{name} {values.mean():.2f}" for name, values in data.curves.items())
    return FigureResult(part.save(data, spec.output), [f"mean difference in grey levels: {means}"])


def _poses(spec: PosesSpec) -> Job[FigureResult]:
    from mimicmotion.evaluation.figures import poses as part

    known = _load_poses(spec.poses) if spec.poses else None
    clip = open_clips([("video", spec.video)])[0]
    count = clip.count()
    shown = check_frames(spec.frames or (), 0, count) or spaced(0, count - 1, POSE_FRAMES)
    pictures = clip.chosen(shown)
    if known is None:
        found = yield from _estimate(list(pictures.values()))
    else:
        if len(known) != count:
            got = f"{spec.poses} has {len(known)} poses, {spec.video} has {count} frames"
            fix = f"make it with 'mimicmotion poses {spec.video}' without --fps"
            raise InputError(got, "a pose for each frame", fix)
        _check_aspect(known, clip, spec.poses)
        found = dataclasses.replace(known, xy=known.xy[shown], confidence=known.confidence[shown]).scaled(clip.size)
    data = part.make_maps(pictures, found, whole=spec.whole)
    seen = found.confidence[found.confidence > 0]
    dim = float((seen < 0.5).mean()) if len(seen) else 0.0
    source = found.source or spec.poses
    note = f"frames {', '.join(map(str, shown))} by {source}; {dim:.0%} of the seen points are below 0.5"
    return FigureResult(part.save(data, spec.output), [note])


def _hands(spec: HandsSpec) -> Job[FigureResult]:
    from mimicmotion.evaluation.figures import hands as part

    clips = open_clips(parse_names(spec.results), same_size=False, max_frames=spec.max_frames)
    numbers, frames = None, spec.frames or ()
    if spec.poses is None:
        count = clips[0].count()
        numbers = check_frames(frames, 0, count) or spaced(0, count - 1, HAND_CANDIDATES)
        known = yield from _estimate(list(clips[0].chosen(numbers).values()))
    elif spec.poses.suffix.lower() == ".json" and (sidecar := _sidecar(spec.poses)):
        known = yield from _aligned(*sidecar)
    else:
        known = _load_poses(spec.poses)
    if spec.poses is not None and spec.max_frames is not None:
        known = known[: spec.max_frames]
    data = part.cut_hands(clips, known, numbers=numbers, frames=frames, threshold=spec.threshold)
    note = f"{len(data)} hands in frames {', '.join(map(str, sorted({h.frame for h in data})))}"
    return FigureResult(part.save(data, spec.output), [note])


def _fusion(spec: FusionSpec) -> Job[FigureResult]:
    from mimicmotion.evaluation.figures import fusion as part

    yield from ()
    modes = ["progressive"] if spec.mode is None else list(dict.fromkeys(spec.mode))
    if not modes:
        raise ConfigError("no mode", ", ".join(part.MODES), "name at least one")
    plan = spec.frames, spec.segment_frames, spec.overlap_frames
    made = [part.plan(*plan, mode, reference_slot=spec.reference_slot) for mode in modes]
    notes = [f"{w.config.mode}: {len(w.segments)} segments for {spec.frames} frames" for w in made]
    return FigureResult(part.save(made, spec.output), notes)


def _bars(spec: BarsSpec) -> Job[FigureResult]:
    from mimicmotion.evaluation.figures import bars as part

    yield from ()
    results, _ = load_results(spec.report)
    shown = part.choose_metrics(results, spec.metric or ())
    notes = [f"{len(shown)} metrics of {len(results)} methods"]
    return FigureResult(part.save(results, spec.output, shown), notes)


_MAKERS: dict[type[FigureSpec], Callable[[Any], Job[FigureResult]]] = {
    YtSpec: _yt,
    DiffSpec: _diff,
    PosesSpec: _poses,
    HandsSpec: _hands,
    FusionSpec: _fusion,
    BarsSpec: _bars,
}


def _borders(spec: YtSpec | DiffSpec, clip: Clip) -> list[int]:
    """First frames of new segments in a clip."""
    fusion = spec.fusion()
    return list(spec.borders or ()) if fusion is None else planned_borders(clip.count(), fusion)


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
