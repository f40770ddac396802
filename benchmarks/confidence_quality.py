"""Does confidence-aware drawing of poses protect against errors? python benchmarks/confidence_quality.py [--clips 20].

Prints one JSON line. Held-out synthetic people are animated with poses that have planted errors (paper, figure 8): a
hand detected twice, swapped hands, or a wrong elbow whose confidence is above the usual threshold. Each clip is
generated twice with the same noise: with poses drawn with their confidence (`on`), or with only the points above 0.3,
at full brightness (`off`). Results are compared with the true frames: PSNR and SSIM of whole frames, PSNR near the
points that the error moved (`psnr_near`), and the distance of the true points' surroundings from where they belong
(`point_error`, torso lengths). `difference` is on minus off, paired by clip, with 95% bootstrap intervals over clips.

For a model that takes a warped picture, it is warped with the same wrong poses (`found`), as usual, and also with the
exact poses (`exact`), so that only the pose map is wrong. With the error `none`, poses are exact, which shows what the
drawing costs.

    python benchmarks/confidence_quality.py --log run.jsonl --sheet docs/images/confidence.png > confidence.json
    python benchmarks/confidence_quality.py --tables confidence.json --page docs/lab/confidence.md

The second command inserts the numbers between the two markers of the page.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray

from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.evaluation.metrics.intervals import mean_interval
from mimicmotion.evaluation.metrics.pixels import psnr, ssim
from mimicmotion.evaluation.metrics.poses import TRULY_VISIBLE, find_patches, torso_length
from mimicmotion.evaluation.planted_errors import PLANTED, plant_error
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import WarpedPicture, WarpedPoses
from mimicmotion.pose.guidance.skeleton import DrawnPoses, PoseDrawer
from mimicmotion.pose.keypoints import L_ELBOW, LEFT_HAND, R_ELBOW, RIGHT_HAND, PoseSequence
from mimicmotion.runtime.files import atomic_path
from mimicmotion.settings.synthetic import HELD_OUT_SEED
from mimicmotion.synth import SynthClip, render_clip
from mimicmotion.video.picture import write_picture

FIRST = 6000
ERRORS = ("none", *PLANTED)
TITLES = {"none": "exact poses", "duplicate_detection": "duplicate detection"}
TITLES |= {"hand_on_wrong_hand": "swapped hands", "occluded_elbow": "occluded elbow"}
MEASURES = {"psnr_near": ("PSNR near, dB ↑", 2), "point_error": ("point error ↓", 4)}
MEASURES |= {"psnr": ("PSNR, dB ↑", 2), "ssim": ("SSIM ↑", 4)}
NEAR = 0.25  # torso lengths around the points that the error moved
MARKS = ("<!-- tables -->", "<!-- end of tables -->")

Versions = dict[tuple[str, str], ndarray]


def pose_maps(pipe: MimicMotionPipeline, poses: PoseSequence, *, aware: bool) -> ndarray:
    look = dict(pipe.backbone.settings.get("pose_drawing", {})) | {"confidence_aware": aware}
    return DrawnPoses(poses, PoseDrawer(poses.size, **look))[:]


class Warps:
    """The picture of a clip, cut once, to be warped to any poses."""

    def __init__(self, clip: SynthClip) -> None:
        self.cut = WarpedPicture(clip.reference_frame, clip.reference_pose, clip.poses)

    def to(self, poses: PoseSequence) -> WarpedPicture:
        out = copy.copy(self.cut)
        out.poses = poses
        return out


def animate(
    pipe: MimicMotionPipeline, clip: SynthClip, poses: PoseSequence, warped: Any, *, aware: bool, seed: int
) -> ndarray:
    maps, reference = (pose_maps(pipe, p, aware=aware) for p in (poses, clip.reference_pose))
    guides = maps if warped is None else WarpedPoses(maps, warped)
    return np.asarray(pipe(clip.reference_frame, guides, reference[0], seed=seed).frames)


def moved_points(clip: SynthClip, poses: PoseSequence) -> ndarray:
    """Points that an error moved or made uncertain; for exact poses, all points on which errors are planted."""
    moved = (poses.xy != clip.poses.xy).any(-1) | (poses.confidence != clip.poses.confidence)
    if not moved.any():
        for part in (LEFT_HAND, RIGHT_HAND, L_ELBOW, R_ELBOW):
            moved[:, part] = True
    return moved


def near(clip: SynthClip, poses: PoseSequence, moved: ndarray) -> ndarray:
    """Pixels near the true and the wrong positions of the moved points."""
    radius = max(round(NEAR * torso_length(clip.poses)), 1)
    mask = np.zeros((len(poses), *poses.size), np.uint8)
    for i, points in enumerate(moved):
        for xy in (clip.poses.xy[i, points], poses.xy[i, points]):
            for x, y in np.floor(xy).astype(int):
                cv2.circle(mask[i], (int(x), int(y)), radius, 1, -1)
    return mask.astype(bool)


def point_error(frames: ndarray, clip: SynthClip, moved: ndarray) -> float:
    """Mean distance at which the surroundings of the visible moved points are found, in torso lengths."""
    confidence = np.where(
        moved, clip.poses.confidence, np.minimum(clip.poses.confidence, np.float32(TRULY_VISIBLE / 2))
    )
    truth = PoseSequence(clip.poses.xy, confidence, clip.poses.size)
    found = find_patches(frames, clip.frames, truth)
    seen = found.confidence > 0
    if not seen.any():
        return float("nan")
    return float(np.hypot(*(found.xy - truth.xy)[seen].T).mean() / torso_length(truth))


def warps(pipe: MimicMotionPipeline, error: str) -> tuple[str, ...]:
    assert isinstance(pipe.backbone, SVDBackbone)
    return ("found", "exact") if pipe.backbone.warps and error != "none" else ("found",)


def measure(
    pipe: MimicMotionPipeline, clip: SynthClip, made: Warps | None, error: str, index: int
) -> tuple[dict[str, Any], Versions]:
    """Measure one clip with one error; returns numbers (warp -> on/off -> measure) and frames."""
    poses = clip.poses if error == "none" else plant_error(clip.poses, error, index)
    moved = moved_points(clip, poses)
    mask = near(clip, poses, moved)
    record: dict[str, Any] = {}
    versions: Versions = {}
    for warp in warps(pipe, error):
        for arm in ("on", "off"):
            warped = made.to(poses if warp == "found" else clip.poses) if made else None
            frames = animate(pipe, clip, poses, warped, aware=arm == "on", seed=index)
            versions[warp, arm] = frames
            record.setdefault(warp, {})[arm] = {
                "psnr_near": psnr(frames, clip.frames, mask),
                "point_error": point_error(frames, clip, moved),
                "psnr": psnr(frames, clip.frames),
                "ssim": ssim(frames, clip.frames),
            }
    return record, versions


class Sheet:
    """For each error, the frame whose two pose maps differ most, regardless of the results."""

    def __init__(self, pipe: MimicMotionPipeline) -> None:
        self.pipe, self.rows = pipe, {}

    def add(self, clip: SynthClip, error: str, index: int, versions: Versions) -> None:
        if error == "none":
            return
        poses = plant_error(clip.poses, error, index)
        off, on = (pose_maps(self.pipe, poses, aware=aware) for aware in (False, True))
        difference = np.abs(off.astype(float) - on).mean((1, 2, 3))
        t = int(difference.argmax())
        if error not in self.rows or difference[t] > self.rows[error][0]:
            result = {arm: versions["found", arm][t] for arm in ("on", "off")}
            self.rows[error] = difference[t], [clip.frames[t], off[t], result["off"], on[t], result["on"]]

    def save(self, path: Path, zoom: int = 2) -> None:
        heads = ("true frame", "threshold: pose", "result", "confidence: pose", "result")
        lines = []
        for error, (_, pictures) in self.rows.items():
            large = [cv2.resize(p, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST) for p in pictures]
            row = np.concatenate([np.pad(p, ((24, 4), (2, 2), (0, 0)), constant_values=255) for p in large], 1)
            step = row.shape[1] // len(large)
            for i, head in enumerate(heads):
                text = head if i else TITLES[error]
                cv2.putText(row, text, (4 + i * step, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
            lines.append(row)
        write_picture(path, np.concatenate(lines))


def rounded(interval: Any) -> list[float | None]:
    values = [float(getattr(interval, k)) for k in ("value", "low", "high")]
    return [round(v, 4) if math.isfinite(v) else None for v in values]


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """error -> warp -> on, off, difference -> measure -> mean, low, high."""
    out: dict[str, Any] = {}
    for error in ERRORS:
        for warp in records[0][error]:
            cells = out.setdefault(error, {})[warp] = {"on": {}, "off": {}, "difference": {}}
            for name in MEASURES:
                both = [(r[error][warp]["on"][name], r[error][warp]["off"][name]) for r in records]
                both = [(a, b) for a, b in both if a is not None and b is not None and math.isfinite(a - b)]
                if both:
                    on, off = zip(*both, strict=True)
                    cells["on"][name], cells["off"][name] = rounded(mean_interval(on)), rounded(mean_interval(off))
                    cells["difference"][name] = rounded(mean_interval(np.subtract(on, off)))
    return out


def tables(data: dict[str, Any]) -> str:
    """The page's tables."""
    heads = [title for title, _ in MEASURES.values()]

    def cell(numbers: list[float | None] | None, digits: int, *, bold: bool) -> str:
        if not numbers or numbers[0] is None:
            return "–"
        value, low, high = numbers
        if low is None or high is None:
            return f"{value:.{digits}f}"
        text = f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        return f"**{text}**" if bold and (low > 0 or high < 0) else text

    lines = []
    for warp, what in (("found", "in normal use"), ("exact", "the warped picture made from exact poses")):
        if not any(warp in data["errors"][e] for e in ERRORS):
            continue
        lines += ["", f"{data['n']} clips of {data['frames']} frames, {what}:", ""]
        lines += ["| poses | drawn | " + " | ".join(heads) + " |", "|" + "---|" * (2 + len(heads))]
        for error in ERRORS:
            arms = data["errors"][error].get(warp, {})
            for arm, name in (("off", "threshold"), ("on", "confidence"), ("difference", "confidence − threshold")):
                if arms:
                    cells = [cell(arms[arm].get(m), d, bold=arm == "difference") for m, (_, d) in MEASURES.items()]
                    lines.append("| " + " | ".join([TITLES[error], name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def write_tables(data: Path, page: Path) -> None:
    """Insert the tables of a run between the markers of the page."""
    text = page.read_text(encoding="utf-8")
    start, end = (text.index(mark) for mark in MARKS)
    made = tables(json.loads(data.read_text(encoding="utf-8").strip().splitlines()[-1]))
    with atomic_path(page) as part:
        part.write_text(text[: start + len(MARKS[0])] + "\n" + made + "\n" + text[end:], encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder; default: the bundled model")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--log", type=Path, help="log of finished clips, from which a second run continues")
    parser.add_argument("--sheet", type=Path, help="PNG: pose maps and results side by side")
    parser.add_argument("--tables", type=Path, help="JSON of a run: insert it into --page and stop")
    parser.add_argument("--page", type=Path, default=Path("docs/lab/confidence.md"))
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, Any]:
    pipe = MimicMotionPipeline.from_pretrained(options.model)
    assert isinstance(pipe.backbone, SVDBackbone)
    size = (pipe.backbone.settings["height"], pipe.backbone.settings["width"])
    lines = options.log.read_text().splitlines() if options.log and options.log.exists() else []
    records = {r["index"]: r for r in map(json.loads, lines)}
    sheet = Sheet(pipe)
    start = time.perf_counter()
    for index in range(options.clips):
        known = records.get(index)
        if known and not options.sheet:
            continue
        clip = render_clip(HELD_OUT_SEED + FIRST + index, options.frames, size)
        made = Warps(clip) if pipe.backbone.warps else None
        record: dict[str, Any] = {"index": index}
        for error in ERRORS:
            record[error], versions = measure(pipe, clip, made, error, index)
            if options.sheet:
                sheet.add(clip, error, index, versions)
        records[index] = record
        if options.log and not known:
            with options.log.open("a") as file:
                file.write(json.dumps(record) + "\n")
        print(f"{index + 1} of {options.clips} clips, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if options.sheet:
        sheet.save(options.sheet)
    return {
        "bench": "confidence_quality",
        "n": options.clips,
        "frames": options.frames,
        "first_seed": HELD_OUT_SEED + FIRST,
        "sigmas": pipe.backbone.settings.get("sigmas"),
        "pose_drawing": pipe.backbone.settings.get("pose_drawing"),
        "warped_picture": pipe.backbone.warps,
        "errors": summary([records[i] for i in range(options.clips)]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": 1,
    }


def main() -> None:
    options = arguments()
    if options.tables:
        write_tables(options.tables, options.page)
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(json.dumps(run(options)))


if __name__ == "__main__":
    main()
