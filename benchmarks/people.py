"""Do generated people look like people? python benchmarks/people.py [--clips N] [--model DIR] [--sheet FILE].

Prints one JSON line. The 200 clips of people.json (seeds of held-out people, places and movements) are animated with
their exact poses and with those that the bundled estimator finds (`--poses`), in four ways: copying the picture
(`copy`), the limb warp (`warp`), the model (`model`), and the model's warp network alone, if it has one (`learned`).
Means over clips:

- `moving`, `background`, `head`: PSNR in dB where the target differs from the reference picture, outside the person,
  and around the head; `ssim`; `lpips` (AlexNet), if its weights were fetched;
- `outline`: intersection over union of the person's pixels. A pixel inside the true outline counts as the person's if
  the result is closer to the true frame than to the empty scene; one outside counts if it differs visibly from the
  empty scene;
- `torn`: fraction of frames with a gap between chest and chin, where the result shows the empty scene;
- `faces`, `hands`, `body`, `jitter`: results of the estimator, relative to those in the true frames (faces found;
  points within a tenth of a torso; jerkiness);
- `gain`: difference from `warp`, paired by clip, with half the width of its 95% interval.

`--without` leaves out a part of the model: its warp network (the limb warp is used), the mask of the person (the cut
follows capsules around the limbs), or the detail network (decoded frames are left unchanged).
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from mimicmotion.arrays import Frames
from mimicmotion.evaluation.metrics.pixels import lpips, moving_region, psnr, ssim
from mimicmotion.evaluation.metrics.poses import PARTS, TRULY_VISIBLE, Fidelity, pooled, pose_fidelity, torso_length
from mimicmotion.evaluation.metrics.temporal import jerkiness
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import cut, limb_warp
from mimicmotion.pose.guidance.limbs import body_unit, has_face, part_region
from mimicmotion.pose.keypoints import FACE, NECK, NOSE
from mimicmotion.synth import SynthClip, render_clip
from mimicmotion.training.bundled import contact_sheet
from tiny_quality import PoseScores, cpu_name, found, generate, perception

SPEC = Path(__file__).with_name("people.json")
VISIBLE = 24
"""Difference in grey levels at which a pixel differs visibly from the empty scene."""


def held_out(index: int, size: tuple[int, int], frames: int) -> SynthClip:
    """A clip of the list."""
    spec = json.loads(SPEC.read_text())
    seed, motion, framing = spec["clips"][index]
    return render_clip(seed, frames, size, fps=spec["fps"], motion=motion, framing=framing)


def shown(frames: Frames, clip: SynthClip) -> Bool[ndarray, "frames height width"]:
    """Pixels that count as the person's; see the top of this file."""
    person, empty = clip.truth.mask > 127, clip.truth.background
    away, off = (np.abs(frames.astype(int) - x).max(-1) for x in (empty, clip.frames))
    alike = np.abs(clip.frames.astype(int) - empty).max(-1) <= VISIBLE
    return np.where(person, alike | (off < away), away > VISIBLE)


def torn(seen: Bool[ndarray, "height width"], xy: ndarray) -> bool:
    """Whether two neighbouring points between neck and nose do not show the person."""
    line = xy[NECK] + np.linspace(0, 0.9, 24)[:, None] * (xy[NOSE] - xy[NECK])
    column, row = np.clip(line.astype(int), 0, [seen.shape[1] - 1, seen.shape[0] - 1]).T
    # a gap extends sideways: the person is not seen to the left and right either
    gone = ~np.any([seen[row, np.clip(column + k, 0, seen.shape[1] - 1)] for k in (-1, 0, 1)], 0)
    return bool((gone[1:] & gone[:-1]).any())


def pixels(frames: Frames, clip: SynthClip) -> dict[str, float]:
    """Pixel metrics of one version of a clip's frames."""
    target, truth, size = clip.frames, clip.truth, clip.frames.shape[1:3]
    person, seen = truth.mask > 127, shown(frames, clip)
    exact = zip(clip.poses.xy.astype(np.float64), clip.poses.confidence, strict=True)
    head = np.stack([part_region(xy, "head", body_unit(xy), size, face=has_face(c)) for xy, c in exact])
    whole = [i for i, c in enumerate(clip.poses.confidence) if min(c[NECK], c[NOSE]) >= TRULY_VISIBLE]
    out = {
        "moving": psnr(frames, target, moving_region(target, clip.reference_frame)),
        "ssim": ssim(frames, target),
        "background": psnr(frames, target, truth.mask < 5),
        "head": psnr(frames, target, head),
        "outline": float((seen & person).sum() / (seen | person).sum()),
        "torn": float(np.mean([torn(seen[i], clip.poses.xy[i]) for i in whole])) if whole else float("nan"),
    }
    if (network := perception()) is not None:
        out["lpips"] = float(lpips(frames, target, network=network).mean())
    return out


def points(frames: Frames, clip: SynthClip, scorer: PoseScores) -> dict[str, Any]:
    """Pose metrics of the estimator's results: faces, points within the radius, jerkiness."""
    poses = scorer.find(frames)
    faces = clip.poses.confidence[:, FACE].mean(1) >= TRULY_VISIBLE
    return {
        "fidelity": pose_fidelity(poses, clip.poses),
        "faces": (poses.confidence[:, FACE].mean(1) >= 0.5)[faces].tolist(),
        "jitter": jerkiness(poses, torso_length(clip.poses)),
    }


def found_again(rows: list[dict[str, Any]], true: list[dict[str, Any]]) -> dict[str, float]:
    """Rates in the results divided by those in the true frames."""

    def rates(of: list[dict[str, Any]]) -> dict[str, float]:
        total: dict[str, Fidelity] = pooled([r["fidelity"] for r in of])
        hands = [total[p] for p in PARTS if "hand" in p]
        met = sum(h.pck * h.points for h in hands if h.points) / max(sum(h.points for h in hands), 1)
        jitter = [r["jitter"] for r in of if np.isfinite(r["jitter"])]
        return {
            "faces": float(np.mean([f for r in of for f in r["faces"]] or [np.nan])),
            "hands": float(met),
            "body": total["body"].pck,
            "jitter": float(np.mean(jitter)) if jitter else float("nan"),
        }

    best = rates(true)
    return {name: value / best[name] if best[name] else float("nan") for name, value in rates(rows).items()}


def gain(rows: list[dict[str, float]], warp: list[dict[str, float]]) -> dict[str, list[float]]:
    """Mean difference from the limb warp, and half the width of its 95% interval over clips."""
    out = {}
    for name in rows[0]:
        apart = np.array([r[name] - w[name] for r, w in zip(rows, warp, strict=True)])
        apart = apart[np.isfinite(apart)]
        out[name] = [round(float(v), 4) for v in (apart.mean(), 1.96 * apart.std() / len(apart) ** 0.5)]
    return out


def ways(pipe: MimicMotionPipeline, clip: SynthClip) -> dict[str, Frames]:
    """Frames of the clip made in each way, with the poses of `clip`."""
    reference, own, poses = clip.reference_frame, clip.reference_pose, clip.poses
    out = {
        "copy": np.repeat(reference[None], len(clip.frames), 0),
        "warp": limb_warp(reference, own, poses),
        "model": generate(pipe, clip),
    }
    if getattr(pipe.backbone, "warp", None) is not None:
        guide: Any = pipe.guide(reference, own, poses)[0]
        out["learned"] = guide.warped[: len(clip.frames)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder instead of the bundled one")
    parser.add_argument("--first", type=int, default=0, help="first clip of the list")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--without", choices=["warp", "mask", "detail"])
    parser.add_argument("--frames", type=int, default=6, help="frames of a clip")
    parser.add_argument("--poses", choices=["exact", "found"], nargs="+", default=["exact", "found"])
    parser.add_argument("--sheet", type=Path, help="write a picture: reference and true frames, then each way's")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    pipe = MimicMotionPipeline.from_pretrained(options.model)
    size = (pipe.backbone.settings.get("height", 224), pipe.backbone.settings.get("width", 128))
    if options.without == "mask":
        cut.__kwdefaults__["segmented"] = False  # pyrefly: ignore[unsupported-operation]  # the default
    elif options.without:
        setattr(pipe.backbone, options.without, None)
    scorer = PoseScores()
    line: dict[str, Any] = {
        "bench": "people", "n": options.clips, "frames": options.frames, "size": list(size),
        "model": str(options.model or "bundled"), "without": options.without, "lpips": perception() is not None,
    }  # fmt: skip
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {p: {} for p in options.poses}
    again: dict[str, dict[str, list[dict[str, Any]]]] = {p: {} for p in options.poses}
    true: list[dict[str, Any]] = []
    pictures: list[list[ndarray]] = []
    for index in range(options.first, options.first + options.clips):
        clip = held_out(index, size, options.frames)
        true.append(points(clip.frames, clip, scorer))
        chosen = np.linspace(0, options.frames - 1, 4).astype(int)
        pictures.append([clip.reference_frame, *clip.frames[chosen]])
        for poses in options.poses:
            made = ways(pipe, found(clip, scorer) if poses == "found" else clip)
            for way, frames in made.items():
                rows[poses].setdefault(way, []).append(pixels(frames, clip))
                again[poses].setdefault(way, []).append(points(frames, clip, scorer))
                if way != "copy":
                    pictures.append([clip.reference_frame, *frames[chosen]])
    for poses, each in rows.items():
        line[poses] = {
            way: {
                name: round(float(v), 4) if np.isfinite(v) else None
                for name, v in (
                    {k: np.nanmean([r[k] for r in of]) for k in of[0]} | found_again(again[poses][way], true)
                ).items()
            }
            for way, of in each.items()
        }
        line[poses]["gain"] = {way: gain(of, each["warp"]) for way, of in each.items() if way not in ("copy", "warp")}
    if options.sheet:
        Image.fromarray(contact_sheet(pictures)).save(options.sheet)
    line |= {"python": platform.python_version(), "torch": torch.__version__, "cpu": cpu_name()}
    print(json.dumps(line, allow_nan=False))


if __name__ == "__main__":
    main()
