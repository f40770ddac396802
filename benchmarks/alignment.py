"""How far aligned poses lie from the truth: python benchmarks/alignment.py [--pairs N] [--noise S] [--bvh FILE ...].

Prints one JSON line. Two synthetic bodies make the same movement in front of two cameras that differ in zoom and
position. One is the driver; the other is shown standing (or sitting) in a picture. The aligned driver (smoothed as in
`generate`, except for `released`) is compared with the true points of the other body: mean distance over body and feet,
if all are in the frame, in torso lengths of the person in the picture. Each pair differs in one respect (`equal` in
none), in both directions. Intervals (95%) are bootstrapped over pairs; `ratio` is the error divided by that of
`released`, paired. `jitter` is the mean error of the driver's acceleration, before and after smoothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy import ndarray

from mimicmotion.pose.align import align
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.pose.smoothing import smooth_poses
from mimicmotion.synth import figure as fig
from mimicmotion.synth.assets import load_assets
from mimicmotion.synth.body import Body, Genes, shape_vertices, skin
from mimicmotion.synth.keypoints import confidences, keypoints
from mimicmotion.synth.motion import MOTIONS, motion_params
from mimicmotion.synth.noise import perturb_poses, torso
from mimicmotion.synth.recordings import Mocap, load_bvh
from mimicmotion.synth.rig import pose_bones
from mimicmotion.synth.view import View, choose_view

METHODS = ("released", "weighted", "limbs")
SIZE, FPS, POINTS = (1024, 576), 15.0, 24
ADULT = Genes(0.5, 28.0, (0.2, 0.3, 0.5), 0.5, 0.5, 0.0)
LEGS = ("legs/measure-upperleg-height", "legs/measure-lowerleg-height")
SHOULDERS = ("torso/measure-shoulder-dist",)
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what differs between the two bodies
    "equal": ({}, {}),
    "child, adult": ({"age": 4.0}, {}),
    "short legs, long legs": ({"decr": LEGS}, {"incr": LEGS}),
    "narrow shoulders, wide shoulders": ({"decr": SHOULDERS}, {"incr": SHOULDERS}),
    "sitting, standing": ({"sits": True}, {}),
}


@cache
def person(age: float = 28.0, decr: tuple[str, ...] = (), incr: tuple[str, ...] = ()) -> Any:
    """A body without clothes."""
    assets = load_assets()
    details = {f"{name}-{end}": 1.0 for names, end in ((decr, "decr"), (incr, "incr")) for name in names}
    assert all(name in assets.targets for name in details)
    vertices = shape_vertices(assets, dataclasses.replace(ADULT, age=age, details=details))
    body = Body(assets, vertices)
    body.trunk = (1.5, 1.2)
    height = body.level["crown"] - body.floor
    return SimpleNamespace(body=body, height=height, vertex_of=np.arange(len(vertices)))


def watch(rng: np.random.Generator, view: View, q: ndarray, **of_body: Any) -> PoseSequence:
    """Keypoints of a body that moves with the parameters `q`, as seen by a camera."""
    assets, figure = load_assets(), person(**of_body)
    pose = pose_bones(figure.body, q)
    rest = figure.body.vertices.astype(np.float32)
    points, moved = [], np.empty_like(rest)
    for k in range(len(q)):
        skin(
            rest,
            assets.weight_bone.astype(np.int32),
            assets.weight.astype(np.float32),
            pose.rot[k],
            pose.shift[k],
            moved,
        )
        points.append(view.project(keypoints(figure, pose, k, moved))[:, :2])
    xy = np.array(points)
    unit = float(np.ptp(xy[0, :POINTS, 1]))
    sure = confidences(rng, xy, np.zeros(xy.shape[:2], bool), SIZE, unit, FPS)
    return PoseSequence(xy.astype(np.float32), sure.astype(np.float32), SIZE, FPS)


def seated(q: ndarray) -> ndarray:
    """The same motion, with the body sitting on a chair."""
    q = q.copy()
    q[:, 1], q[:, 2], q[:, [fig.PITCH, fig.ROLL]] = -0.48, -0.1, 0.0
    for k in fig.LEG:
        q[:, k : k + 5] = 0.1, 0.0, 0.45, 0.0, 0.1
    return q


def film(
    rng: np.random.Generator, kind: str, swap: bool, frames: int, recordings: list[Mocap]
) -> tuple[PoseSequence, PoseSequence, PoseSequence]:
    """The driver, the picture of the other body, and the truth: the other body making the driver's movement."""
    sides = [dict(side) for side in PAIRS[kind]]
    driver, target = sides[::-1] if swap else sides
    times = np.arange(frames) / FPS
    choice = int(rng.integers(len(MOTIONS) + len(recordings)))
    if choice < len(MOTIONS):
        q = motion_params(list(MOTIONS)[choice], rng, times)
    else:
        q = recordings[choice - len(MOTIONS)].window(rng, times)
    own = motion_params("idle", rng, times)[:1]
    q, own = (seated(x) if side.pop("sits", False) else x for x, side in ((q, driver), (own, target)))
    camera = int(rng.integers(1 << 30))
    views = [choose_view(np.random.default_rng(camera), SIZE, person(**s).height, "full") for s in (driver, target)]
    driving, picture = watch(rng, views[0], q, **driver), watch(rng, views[1], own, **target)
    moved = driving.xy * rng.uniform(0.6, 1.2) + rng.uniform(-60, 60, 2)
    driving = dataclasses.replace(driving, xy=moved.astype(np.float32))
    return driving, picture, watch(rng, views[1], q, **target)


def compare(seed: int, kind: str, swap: bool, frames: int, noise: float, recordings: list[Mocap]) -> dict[str, float]:
    """Errors of each method on one pair."""
    for attempt in itertools.count():
        rng = np.random.default_rng([seed, list(PAIRS).index(kind), swap, attempt])
        driving, picture, truth = film(rng, kind, swap, frames, recordings)
        if all(poses.confidence[:, :POINTS].all() for poses in (driving, picture, truth)):
            break
    exact = driving
    if noise:
        driving, picture = perturb_poses(driving, seed, noise), perturb_poses(picture, seed + 1, noise)
    unit = torso(truth.xy)
    errors = {"found": jitter(driving, exact), "smoothed": jitter(smooth_poses(driving), exact)}
    for method in METHODS:
        poses = align(driving if method == "released" else smooth_poses(driving), picture, SIZE, method)
        apart = np.hypot(*np.moveaxis(poses.xy[:, :POINTS].astype(float) - truth.xy[:, :POINTS], -1, 0))
        errors[method] = float(apart.mean() / unit)
    return errors


def jitter(poses: PoseSequence, exact: PoseSequence) -> float:
    """Mean error of the acceleration (per frame squared) of all points found in three frames, in torso lengths."""
    seen = poses.confidence > 0
    error = poses.xy.astype(float) - exact.xy
    change = np.hypot(*np.moveaxis(error[2:] - 2 * error[1:-1] + error[:-2], -1, 0))
    return float(change[seen[2:] & seen[1:-1] & seen[:-2]].mean() / torso(exact.xy))


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, list[float]]]:
    """Mean and 95% interval of each method's error, and of its ratio to `released`."""
    values = np.array([[row[m] for m in METHODS] for row in rows])
    draws = values[np.random.default_rng(0).integers(len(values), size=(2000, len(values)))].mean(1)
    out = {}
    for name, mean, drawn in (
        ("error", values.mean(0), draws),
        ("ratio", values.mean(0) / values.mean(0)[0], draws / draws[:, :1]),
    ):
        ends = np.quantile(drawn, (0.025, 0.975), axis=0)
        out[name] = {m: [round(float(x), 4) for x in (mean[i], *ends[:, i])] for i, m in enumerate(METHODS)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of each kind, half in each direction")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--noise", type=float, default=0.0, help="strength of the detector's noise")
    parser.add_argument("--bvh", nargs="*", default=[], help="recordings to use in addition to the procedural motions")
    arguments = parser.parse_args()
    recordings = [load_bvh(path) for path in arguments.bvh]
    rows = {
        kind: [
            compare(seed, kind, bool(seed % 2), arguments.frames, arguments.noise, recordings)
            for seed in range(arguments.pairs)
        ]
        for kind in PAIRS
    }
    rows["all but equal"] = [row for kind in PAIRS if kind != "equal" for row in rows[kind]]
    result = {kind: summary(found) for kind, found in rows.items()}
    every = [row for kind in PAIRS for row in rows[kind]]
    shaken = {name: round(float(np.mean([row[name] for row in every])), 5) for name in ("found", "smoothed")}
    row = {"bench": "alignment", "pairs": arguments.pairs, "frames": arguments.frames, "noise": arguments.noise}
    print(
        json.dumps(
            row | {"kinds": result, "jitter": shaken, "python": platform.python_version(), "numpy": np.__version__}
        )
    )


if __name__ == "__main__":
    main()
