"""The paper's ablation at small scale: training runs that differ only in hand loss and confidence-aware guidance.

All runs start from one U-Net trained on people, with a fresh PoseNet (the paper's runs start from Stable Video
Diffusion), because a PoseNet trained with one way of drawing poses would favour arms that use it. Runs with the same
seed have the same samples, detector errors and noise.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import logging
import shutil
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from mimicmotion import plot
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.evaluation.metrics.intervals import Interval
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.runtime.files import atomic_path, write_text
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.workers import run_parallel
from mimicmotion.settings import find_recipe, load_yaml, parse
from mimicmotion.settings.ablation import AblationConfig, Condition, TestConfig
from mimicmotion.settings.metrics import Metric
from mimicmotion.settings.training import TrainConfig
from mimicmotion.tables import Table, write_csv
from mimicmotion.training.bundled import BUNDLED
from mimicmotion.training.state import checkpoint_path

logger = logging.getLogger(__name__)


class Arm(NamedTuple):
    """Training options of one arm of the ablation."""

    hand_loss: bool
    confidence: bool


ARMS = {
    "none": Arm(hand_loss=False, confidence=False),
    "hand": Arm(hand_loss=True, confidence=False),
    "confidence": Arm(hand_loss=False, confidence=True),
    "both": Arm(hand_loss=True, confidence=True),
}
HAND_SCALE = 10.0
"""Loss weight of reliable hands in the arms with the hand loss, as in the paper."""
MEASURES: dict[str, Metric] = {
    "psnr_hands": Metric("PSNR hands, dB", "higher", 2),
    "hand_error": Metric("hand error, torso lengths", "lower", 3),
    "psnr_moving": Metric("PSNR moving, dB", "higher", 2),
    "psnr": Metric("PSNR, dB", "higher", 2),
    "ssim": Metric("SSIM", "higher", 4),
    "body_error": Metric("body error, torso lengths", "lower", 3),
    "flicker": Metric("flicker", "lower", 4),
}
EFFECTS = {
    "hand loss": ((("hand", "none"), 1), (("both", "confidence"), 1)),
    "confidence": ((("confidence", "none"), 1), (("both", "hand"), 1)),
    "interaction": ((("both", "confidence"), 1), (("hand", "none"), -1)),
}
"""Differences between two arms and their signs. A main effect is their mean, the interaction is their sum."""
PAPER = """The paper's Table 2 (second-hand; another data set, another model, full size):

| | FID-VID | FVD | SSIM | PSNR, dB |
|---|---|---|---|---|
| none | 14.6 | 776 | .760 | 18.0 |
| + hand | 15.0 | 678 | .758 | 17.9 |
| + hand + confidence | 12.2 | 623 | .787 | 18.4 |
| + progressive fusion | 9.3 | 594 | .795 | 20.1 |
"""


def ablate(config_path: str | Path, *, processes: int = 1) -> Job[Path]:
    """Run an experiment, resuming it if it was interrupted.

    Args:
        config_path: path of an experiment (YAML), or the name of a bundled one, such as ablation-tiny.
        processes: number of training runs in parallel.

    Returns:
        Path of the table (Markdown); results.csv and effects.png are in the same folder.

    Raises:
        ConfigError: a setting is invalid; raised before the first training run starts.
    """
    config = load_ablation(config_path)
    for seed in config.seeds:
        make_start(config, seed)
    cells = runs(config)
    yield Progress("training runs", 0, len(cells))
    with contextlib.closing(run_parallel(functools.partial(_run_cell, config), cells, processes)) as reports:
        for done in itertools.accumulate(r for r in reports if r):
            yield Progress("training runs", done, len(cells))
    return write_report(Path(config.run), [run_one(config, *cell) for cell in cells])


def _run_cell(config: AblationConfig, cell: tuple[str, int]) -> Generator[int, None, None]:
    """Call `run_one` in a worker process, and yield 1 when it is done."""
    run_one(config, *cell)
    yield 1


def load_ablation(path: str | Path) -> AblationConfig:
    """Read an experiment, and check the settings of all its training runs.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    config = parse(AblationConfig, load_yaml(find_recipe(path)))
    for cell in runs(config):
        train_config(config, *cell)
    return config


def runs(config: AblationConfig) -> list[tuple[str, int]]:
    """List the arm and seed of each training run, seed by seed, so that any finished seed has all arms."""
    return [(name, seed) for seed in config.seeds for name in ARMS]


def train_config(config: AblationConfig, name: str, seed: int) -> TrainConfig:
    """Combine the shared settings with those of an arm and seed."""
    data = copy.deepcopy(config.train)
    objective = data.setdefault("objective", {})
    sample = data.setdefault("data", {}).setdefault("sample", {})
    for group, key in ((objective, "hand_scale"), (sample, "guidance")):
        if key in group:
            raise ConfigError(f"{key} in 'train'", "only settings that all arms share", f"leave out {key}")
    objective["hand_scale"] = HAND_SCALE if ARMS[name].hand_loss else 1.0
    sample["guidance"] = "confidence" if ARMS[name].confidence else "threshold"
    model = {"base": str(start_folder(config, seed)), "settings": {"fusion": BUNDLED["fusion"]}}
    return parse(TrainConfig, data | {"run": f"{config.run}/{name}-{seed}", "seed": seed, "model": model})


def start_folder(config: AblationConfig, seed: int) -> Path:
    """Return the folder of the initial model for a seed."""
    return Path(config.run) / f"start-{seed}"


def make_start(config: AblationConfig, seed: int) -> Path:
    """Write the initial model for a seed if it does not exist, and return its folder."""
    import torch

    from mimicmotion.backbones.svd.checkpoint import load_components, save_components
    from mimicmotion.backbones.svd.posenet import PoseNet
    from mimicmotion.backbones.tiny.build import build_tiny_posenet
    from mimicmotion.weights.registry import find_asset

    folder = start_folder(config, seed)
    if folder.exists():
        return folder
    parts = load_components(find_asset("tiny") if config.start == "tiny" else config.start)
    parts = dataclasses.replace(parts, detail=None, warp=None)  # they would mask the differences between arms
    old: PoseNet = parts.pose_net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = build_tiny_posenet(old.final_proj.out_channels, reference_pose=old.widths[0] == 6)
    return save_components(dataclasses.replace(parts, pose_net=new), folder)


def run_one(config: AblationConfig, name: str, seed: int) -> Path:
    """Train and evaluate one arm with one seed, reusing existing results, and return the path of its scores.json."""
    from mimicmotion.training.job import run

    settings = train_config(config, name, seed)
    scores = Path(settings.run) / "scores.json"
    if scores.exists():
        return scores
    make_start(config, seed)
    checkpoint = checkpoint_path(Path(settings.run), settings.optim.steps)
    if not (checkpoint / "model").is_dir():
        checkpoint = run(settings)
    rows = measure(checkpoint / "model", config.test, confidence_aware=ARMS[name].confidence)
    with atomic_path(scores) as part:
        part.write_text(json.dumps([{"arm": name, "seed": seed, **r} for r in rows], indent=0), encoding="utf-8")
    shutil.rmtree(checkpoint / "state", ignore_errors=True)  # hundreds of megabytes that are no longer needed
    return scores


def measure(model: Path, test: TestConfig, *, confidence_aware: bool) -> list[dict[str, Any]]:
    """Evaluate a trained model on held-out clips, and return a row of scores per clip and condition."""
    from mimicmotion.pipeline import MimicMotionPipeline
    from mimicmotion.training.bundled import held_out_clip

    pipe = MimicMotionPipeline.from_pretrained(model)
    settings = pipe.backbone.settings
    size = (settings.get("height", BUNDLED["height"]), settings.get("width", BUNDLED["width"]))
    rows = []
    for index in range(test.first, test.first + test.clips):
        clip = held_out_clip(index, test.frames, size)
        for condition in test.conditions:
            driving, reference = _poses(clip, condition, index)
            poses, drawn = pipe.guide(clip.reference_frame, reference, driving, confidence_aware=confidence_aware)
            frames = np.asarray(pipe(clip.reference_frame, poses, drawn).frames)
            rows.append({"clip": index, "condition": condition, **_scores(frames, clip)})
        logger.info("%s: measured %d of %d clips", model, index - test.first + 1, test.clips)
    return rows


def _poses(clip: Any, condition: Condition, seed: int) -> tuple[PoseSequence, PoseSequence]:
    """Return the driving poses of a clip and the pose of its reference picture under a condition."""
    from mimicmotion.evaluation.planted_errors import plant_errors
    from mimicmotion.synth.noise import perturb_poses

    if condition == "detector":
        return perturb_poses(clip.poses, seed), perturb_poses(clip.reference_pose, seed + 1)
    return plant_errors(clip.poses, seed) if condition == "planted" else clip.poses, clip.reference_pose


def _scores(frames: np.ndarray, clip: Any) -> dict[str, float]:
    from mimicmotion.evaluation.metrics import pixels, poses, temporal

    moved = pixels.moving_region(clip.frames, clip.reference_frame)
    # all hands count, even those with low confidence, because their true positions are known
    sure = dataclasses.replace(clip.poses, confidence=(clip.poses.confidence > 0).astype(np.float32))
    return {
        "psnr": pixels.psnr(frames, clip.frames),
        "ssim": pixels.ssim(frames, clip.frames),
        "psnr_moving": pixels.psnr(frames, clip.frames, moved) if moved.any() else float("nan"),
        "psnr_hands": pixels.hand_psnr(frames, clip.frames, sure),
        **poses.patch_errors(frames, clip.frames, clip.poses),
        "flicker": temporal.background_flicker(frames, clip.frames),
    }


def cube(rows: Sequence[Mapping[str, Any]], arm: str, condition: str, measure: str) -> Float64[ndarray, "seeds clips"]:
    """Arrange one score of one arm under one condition by seed and clip; NaN if undefined, as for clips without hands.

    Raises:
        InputError: a seed or clip is missing.
    """
    chosen = {(r["seed"], r["clip"]): r[measure] for r in rows if (r["arm"], r["condition"]) == (arm, condition)}
    seeds, clips = sorted({s for s, _ in chosen}), sorted({c for _, c in chosen})
    if not chosen or len(chosen) != len(seeds) * len(clips):
        got = f"{len(chosen)} scores of arm {arm}, condition {condition}"
        raise InputError(got, f"{len(seeds)} seeds x {len(clips)} clips", "finish the ablation")
    return np.array([[chosen[s, c] for c in clips] for s in seeds], np.float64)


def interval(values: Float64[ndarray, "seeds clips"], seed: int = 0, draws: int = 4000) -> Interval:
    """Compute the mean over seeds and clips with a 95% bootstrap interval.

    With three seeds the interval is rough: one that barely excludes zero is weak evidence.
    """
    values = values[:, ~np.isnan(values).all(0)]
    if not values.size:
        return Interval(float("nan"))
    rng = np.random.default_rng(seed)
    s = rng.integers(values.shape[0], size=(draws, values.shape[0], 1))
    c = rng.integers(values.shape[1], size=(draws, 1, values.shape[1]))
    means = np.nanmean(values[s, c], axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(np.nanmean(values)), float(low), float(high), values.shape[1])


def effect(rows: Sequence[Mapping[str, Any]], name: str, condition: str, measure: str) -> Interval:
    """Estimate a main effect or the interaction (see `EFFECTS`) from differences paired by seed and clip."""
    parts = [
        sign * (cube(rows, a, condition, measure) - cube(rows, b, condition, measure)) for (a, b), sign in EFFECTS[name]
    ]
    total = np.sum(parts, 0)
    return interval(total if name == "interaction" else total / len(parts))


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format Markdown tables of the arms and the effects for each condition."""
    arms = list(dict.fromkeys(r["arm"] for r in rows))
    out = []
    for condition in dict.fromkeys(r["condition"] for r in rows):
        seeds = len({r["seed"] for r in rows})
        clips = len({r["clip"] for r in rows if r["condition"] == condition})
        out += [f"Poses: {condition}; {seeds} seeds x {clips} clips, mean with 95% interval", ""]
        out += _table("arm", {arm: [interval(cube(rows, arm, condition, m)) for m in MEASURES] for arm in arms})
        out += ["Effects (paired differences):", ""]
        out += _table("effect", {e: [effect(rows, e, condition, m) for m in MEASURES] for e in EFFECTS}, mark=True)
    return "\n".join([*out, PAPER])


def _table(head: str, cells: Mapping[str, Sequence[Interval]], *, mark: bool = False) -> list[str]:
    """Format a row per name and a column per score; with `mark`, intervals that exclude zero are bold."""
    bold = {(i, j + 1) for i, row in enumerate(cells.values()) for j, v in enumerate(row) if mark and v.excludes_zero}
    digits = [m.digits for m in MEASURES.values()]
    rows = [[name, *(v.text(d) for v, d in zip(row, digits, strict=True))] for name, row in cells.items()]
    return [*Table([head, *(m.title + m.arrow for m in MEASURES.values())], rows, bold).markdown(), ""]


def figure(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the effects with their intervals, one panel per score, as a PNG file."""
    conditions = list(dict.fromkeys(r["condition"] for r in rows))
    with plot.figure(path, height=4.6, width=11) as sheet:
        for k, (measure, info) in enumerate(MEASURES.items()):
            axis = sheet.add_subplot(2, 4, k + 1)
            axis.axhline(0, color="0.6", lw=0.8)
            for j, condition in enumerate(conditions):
                effects = [effect(rows, e, condition, measure) for e in EFFECTS]
                mean = np.array([e.value for e in effects])
                bars = np.abs(np.array([[e.low, e.high] for e in effects]).T - mean)
                axis.errorbar(np.arange(3) + 0.15 * j, mean, yerr=bars, fmt="o", ms=4, capsize=3, label=condition)
            axis.set_xticks(range(3), list(EFFECTS))
            axis.set_title(f"{info.title} ({info.better} is better)")
            if not k:
                axis.legend()
        sheet.suptitle("Effect of each switch, paired by seed and clip, 95% intervals")


def write_report(folder: Path, scores: Sequence[Path]) -> Path:
    """Write results.csv, table.md and effects.png from the scores of all runs, and return the path of table.md.

    Raises:
        InputError: scores are missing.
    """
    rows = [row for path in scores for row in json.loads(path.read_text(encoding="utf-8"))]
    if not rows:
        raise InputError("no scores", "scores.json of at least one run", "run the ablation first")
    write_csv(folder / "results.csv", list(rows[0]), [list(row.values()) for row in rows])
    figure(rows, folder / "effects.png")
    return write_text(folder / "table.md", tables(rows))
