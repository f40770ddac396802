"""Quality of the small model on held-out synthetic people: python benchmarks/tiny_quality.py [--model DIR].

Prints one JSON line. The reference picture is animated with the poses of held-out clips (the exact ones, or with
`--driving found` those that the bundled estimator finds in the true frames, as in practice), and compared with the
clips' frames: PSNR and SSIM of whole frames, PSNR inside the moving region (pixels where the target differs from the
reference picture by more than a tenth of the range) and inside the boxes of reliable hands, and LPIPS of whole frames
if its weights were fetched (`mimicmotion weights fetch lpips-alex`). The result is compared with `copy` (the reference
picture held still), `warp` (a limb warp without learning, cut by the bundled segmentation and colours), `warp_plain`
(the same, cut along capsules), and on every fourth clip `warp_latents` (cells of the latent moved limb by limb,
decoded) and `bound` (the autoencoder alone). `gain` is the result minus each of them, paired by clip. Intervals are 95
% bootstrap intervals over clips.

The bundled estimator finds poses in the result, the true frames (the ceiling), the warp and the copy (the floor), which
are compared with the exact poses: within a tenth of a torso (`poses`), and within a tenth of the longer side of the
person's box (`box`, the first definition of PCK). `same_detector` compares those in the result with those in the true
frames; `patches` instead searches for the surroundings that each point has in the true frame (the true frames score 1).
`--sheet` writes a picture of the clips with the largest, middle and smallest gain (reference and targets; reference and
results; warps).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from latent_warp import warp_latents
from mimicmotion.errors import WeightsError
from mimicmotion.evaluation.metrics.intervals import Interval, mean_interval, ratio_of_sums
from mimicmotion.evaluation.metrics.pixels import hand_psnr, lpips, moving_region, psnr, ssim
from mimicmotion.evaluation.metrics.poses import Fidelity, find_patches, pooled, pose_fidelity, redetect
from mimicmotion.evaluation.networks.features import load_lpips
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.estimators.holistic import HolisticEstimator
from mimicmotion.pose.guidance.limb_warp import limb_warp
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.synth import SynthClip, render_clip

HELD_OUT_SEED = 10_000_000  # as in mimicmotion.settings.synthetic
FIRST = 1000  # held-out clips before this one were used to tune settings
TARGETS = {"gain_over_copy_dB": 4.0, "gain_over_warp_dB": 1.5, "pck": 0.9}
OTHERS = ("copy", "warp", "warp_plain", "warp_latents")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def generate(pipe: MimicMotionPipeline, clip: SynthClip) -> ndarray:
    poses, reference = pipe.guide(clip.reference_frame, clip.reference_pose, clip.poses)
    return np.asarray(pipe(clip.reference_frame, poses, reference).frames)


def reconstruct(pipe: MimicMotionPipeline, frames: ndarray) -> ndarray:
    """Encode and decode frames with the autoencoder: the best that any U-Net could do."""
    from mimicmotion.backbones.svd.backbone import SVDBackbone
    from mimicmotion.backbones.svd.pose_features import to_unit
    from mimicmotion.backbones.svd.vae import encode_mode

    assert isinstance(pipe.backbone, SVDBackbone)
    latents = encode_mode(pipe.backbone.vae, to_unit(frames)) * pipe.backbone.vae.config["scaling_factor"]
    return np.stack(list(pipe.decode(latents)))


@functools.cache
def perception() -> Any:
    """LPIPS's network, if its weights were fetched."""
    try:
        return load_lpips("alex", device="cpu")
    except WeightsError as e:
        print(f"without LPIPS: {e}", file=sys.stderr)
        return None


def pixels(frames: ndarray, clip: SynthClip) -> dict[str, float]:
    mask, network = moving_region(clip.frames, clip.reference_frame), perception()
    seen = {} if network is None else {"lpips": float(lpips(frames, clip.frames, network=network).mean())}
    return seen | {
        "psnr": psnr(frames, clip.frames),
        "psnr_moving": psnr(frames, clip.frames, mask),
        "psnr_hands": hand_psnr(frames, clip.frames, clip.poses),
        "ssim": ssim(frames, clip.frames),
    }


class PoseScores:
    """Pose fidelity of several versions of a clip."""

    def __init__(self) -> None:
        self.estimator = HolisticEstimator(threads=1, device="cpu")

    def find(self, frames: ndarray) -> PoseSequence:
        if (frames == frames[:1]).all():  # a still picture is analysed once
            one = redetect(frames[:1], self.estimator)
            return PoseSequence(one.xy.repeat(len(frames), 0), one.confidence.repeat(len(frames), 0), one.size)
        return redetect(frames, self.estimator)

    def __call__(self, clip: SynthClip, versions: dict[str, ndarray]) -> dict[str, dict[str, Fidelity]]:
        true = self.find(clip.frames)
        found = {name: self.find(frames) for name, frames in versions.items()}
        patches = {f"patches {n}": find_patches(f, clip.frames, clip.poses) for n, f in versions.items()}
        named = {"true": true} | found | patches
        out = {name: pose_fidelity(poses, clip.poses) for name, poses in named.items()}
        for name, poses in ({"true": true} | found).items():
            out[f"box {name}"] = {"body": pose_fidelity(poses, clip.poses, unit="box")["body"]}
        if (true.confidence[:, :18] > 0).any():  # a person was seen
            out["same_detector result"] = pose_fidelity(found["result"], true, visible=0.5)
        return out


def pose_table(records: list[dict[str, dict[str, Fidelity]]]) -> dict[str, Any]:
    """PCK with its interval, mean error, missing share and number of points: way -> version -> part."""
    out: dict[str, Any] = {}
    for name in dict.fromkeys(name for r in records for name in r):
        clips = [r[name] for r in records if name in r]
        parts: dict[str, Any] = {}
        for part, total in pooled(clips).items():
            points = [c[part].points for c in clips]
            met = [c[part].pck * c[part].points if c[part].points else 0.0 for c in clips]
            parts[part] = {
                "pck": rounded(ratio_of_sums(met, points)) if total.points else None,
                "error": number(total.error),
                "missing": number(total.missing),
                "points": total.points,
            }
        way, _, what = name.rpartition(" ")
        out.setdefault(way or "poses", {})[what] = parts
    return out


def number(x: float) -> float | None:
    return round(x, 4) if math.isfinite(x) else None  # JSON has no NaN


def rounded(interval: Interval) -> list[float | None]:
    return [number(x) for x in (interval.value, interval.low, interval.high)]


def table(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Mean and interval of each column over the clips that have a value, as [mean, low, high]."""
    known = {k: [r[k] for r in rows if math.isfinite(r[k])] for k in rows[0]}
    return {k: rounded(mean_interval(v)) for k, v in known.items() if v}


def gains(result: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, list[float | None]]:
    return table([{k: a[k] - b[k] for k in a} for a, b in zip(result, other, strict=True)])


def sheet(rows: Iterable[Iterable[ndarray]]) -> ndarray:
    lines = [np.concatenate(list(row), 1) for row in rows]
    gap = np.full((4, lines[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([x for line in lines for x in (line, gap)][:-1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder; default: the bundled model")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--pose-clips", type=int, help="estimate poses in only the first clips (this takes longest)")
    parser.add_argument("--driving", choices=["exact", "found"], default="exact", help="poses of model and warp")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", type=Path, help="log of finished clips, from which a second run continues")
    parser.add_argument("--sheet", type=Path, help="PNG or JPEG")
    return parser.parse_args()


def held_out(index: int, frames: int, size: tuple[int, int]) -> SynthClip:
    return render_clip(HELD_OUT_SEED + FIRST + index, frames, size)


def warp(clip: SynthClip, *, segmented: bool = True) -> ndarray:
    return limb_warp(clip.reference_frame, clip.reference_pose, clip.poses, segmented=segmented)


def found(clip: SynthClip, scorer: PoseScores) -> SynthClip:
    """The clip with the poses that the bundled estimator finds in its frames."""
    reference = scorer.find(clip.reference_frame[None])
    return dataclasses.replace(clip, poses=scorer.find(clip.frames), reference_pose=reference)


def measure(
    pipe: MimicMotionPipeline, clip: SynthClip, driving: SynthClip, *, poses: PoseScores | None, bound: bool
) -> dict[str, Any]:
    """Measure one clip; `driving` is the clip with the poses that the model and the warp get."""
    start = time.perf_counter()
    versions = {"result": generate(pipe, driving)}
    record: dict[str, Any] = {"seconds": time.perf_counter() - start}
    versions["copy"] = np.repeat(clip.reference_frame[None], len(clip.frames), 0)
    versions |= {"warp": warp(driving), "warp_plain": warp(driving, segmented=False)}
    if poses:
        record["poses"] = poses(clip, {k: versions[k] for k in ("result", "copy", "warp")})
    if bound:
        versions["bound"] = reconstruct(pipe, clip.frames)
        versions["warp_latents"] = warp_latents(pipe, driving.reference_frame, driving.reference_pose, driving.poses)
    return record | {"pixels": {name: pixels(frames, clip) for name, frames in versions.items()}}


def read_log(path: Path | None) -> dict[int, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    records = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "poses" in record:
            record["poses"] = {n: {p: Fidelity(*v) for p, v in r.items()} for n, r in record["poses"].items()}
        records[record["index"]] = record
    return records


def write_log(path: Path | None, record: dict[str, Any]) -> None:
    if path:
        poses = {n: {p: dataclasses.astuple(v) for p, v in r.items()} for n, r in record.get("poses", {}).items()}
        with path.open("a") as file:
            file.write(json.dumps(record | ({"poses": poses} if poses else {})) + "\n")


def write_sheet(path: Path, pipe: MimicMotionPipeline, gain: list[float], frames: int, size: tuple[int, int]) -> None:
    """Write the best, middle and worst clips: reference and targets; reference and results; reference and warps."""
    order = sorted(range(len(gain)), key=lambda i: -gain[i])
    middle = len(order) // 2
    chosen = np.linspace(0, frames - 1, 4).astype(int)
    lines = []
    for index in dict.fromkeys([*order[:2], *order[middle : middle + 2], *order[-2:]]):
        clip = held_out(index, frames, size)
        lines += [[clip.reference_frame, *f[chosen]] for f in (clip.frames, generate(pipe, clip), warp(clip))]
    Image.fromarray(sheet(lines)).save(path)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    pipe = MimicMotionPipeline.from_pretrained(options.model)
    size = (pipe.backbone.settings.get("height", 224), pipe.backbone.settings.get("width", 128))
    scorer = PoseScores()
    records = read_log(options.log)
    for index in range(options.clips):
        wanted = options.pose_clips is None or index < options.pose_clips
        if index not in records or (wanted and "poses" not in records[index]):
            clip = held_out(index, options.frames, size)
            driving = found(clip, scorer) if options.driving == "found" else clip
            record = measure(pipe, clip, driving, poses=scorer if wanted else None, bound=index % 4 == 0)
            records[index] = {"index": index, **record}
            write_log(options.log, records[index])
    measured = [records[i] for i in range(options.clips)]
    columns = {n: [r["pixels"][n] for r in measured if n in r["pixels"]] for n in ("result", *OTHERS, "bound")}
    compared = {n: [r["pixels"] for r in measured if n in r["pixels"]] for n in OTHERS}
    posed = [r["poses"] for r in measured if "poses" in r]
    if options.sheet:
        pairs = zip(columns["result"], columns["warp"], strict=True)
        write_sheet(options.sheet, pipe, [a["psnr_moving"] - b["psnr_moving"] for a, b in pairs], options.frames, size)
    line: dict[str, Any] = {
        "bench": "tiny_quality",
        "n": options.clips,
        "frames": options.frames,
        "size": list(size),
        "model": str(options.model or "bundled"),
        "driving": options.driving,
        "settings": pipe.backbone.settings,
        **{name: table(rows) for name, rows in columns.items()},
        "gain": {name: gains([r["result"] for r in both], [r[name] for r in both]) for name, both in compared.items()},
        "n_poses": len(posed),
        **pose_table(posed),
        "ms_per_frame": round(sum(r["seconds"] for r in measured) / options.clips / options.frames * 1e3, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "threads": options.threads,
    }
    line["targets"] = verdict(line)
    print(json.dumps(line, allow_nan=False))


def verdict(line: dict[str, Any]) -> dict[str, Any]:
    """The targets of the model, and whether it meets them."""
    numbers: dict[str, float] = {
        "gain_over_copy_dB": line["gain"]["copy"]["psnr_moving"][0],
        "gain_over_warp_dB": line["gain"]["warp"]["psnr_moving"][0],
    }
    if line["n_poses"]:
        numbers["pck"] = line["poses"]["result"]["body"]["pck"][0]
    return {k: {"target": TARGETS[k], "value": v, "met": v >= TARGETS[k]} for k, v in numbers.items()}


if __name__ == "__main__":
    main()
