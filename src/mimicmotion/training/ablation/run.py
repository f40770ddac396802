"""The paper's ablation at small scale: training runs that differ only in hand loss and confidence-aware guidance.

All runs start from one U-Net trained on people, with a fresh PoseNet (the paper's runs start from Stable Video
Diffusion), because a PoseNet trained with one way of drawing poses would favour that arm. Runs with the same seed have
the same samples, detector errors and noise.
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
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimicmotion.errors import ConfigError
from mimicmotion.runtime.files import atomic_path
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.workers import run_parallel
from mimicmotion.settings import find_recipe, load_yaml, parse
from mimicmotion.settings.ablation import AblationConfig, Condition, TestConfig
from mimicmotion.settings.training import TrainConfig
from mimicmotion.training.bundled import BUNDLED
from mimicmotion.training.state import checkpoint_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of the ablation."""

    name: str
    hand_loss: bool
    confidence: bool


HAND_SCALE = 10.0
"""Loss weight of reliable hands in the arms with the hand loss, as in the paper."""
ARMS = {
    "none": Arm("none", hand_loss=False, confidence=False),
    "hand": Arm("hand", hand_loss=True, confidence=False),
    "confidence": Arm("confidence", hand_loss=False, confidence=True),
    "both": Arm("both", hand_loss=True, confidence=True),
}


def ablate(config_path: str | Path, *, processes: int = 1) -> Job[Path]:
    """Run the experiment of a file, resuming an interrupted one.

    Args:
        config_path: a YAML file, or the name of a recipe such as ablation-tiny.
        processes: number of training runs in parallel.

    Returns:
        The table (Markdown), with results.csv and effects.png in the same folder.

    Raises:
        ConfigError: a setting is wrong; raised before the first training run starts.
    """
    from mimicmotion.training.ablation.report import write_report

    config = load_ablation(config_path)
    cells = [(arm.name, seed) for arm, seed in runs(config)]
    for seed in config.seeds:
        make_start(config, seed)
    yield Progress("training runs", 0, len(cells))
    with contextlib.closing(run_parallel(functools.partial(_run_cell, config), cells, processes)) as reports:
        for done in itertools.accumulate(r for r in reports if r):
            yield Progress("training runs", done, len(cells))
    return write_report(Path(config.run), [run_one(config, *cell) for cell in cells])


def _run_cell(config: AblationConfig, cell: tuple[str, int]) -> Generator[int, None, None]:
    """`run_one` in a worker process; yields 1 at the end."""
    run_one(config, *cell)
    yield 1


def load_ablation(path: str | Path) -> AblationConfig:
    """Read an experiment, and check the settings of all its training runs.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    config = parse(AblationConfig, load_yaml(find_recipe(path)))
    for arm, seed in runs(config):
        train_config(config, arm, seed)
    return config


def runs(config: AblationConfig) -> Iterator[tuple[Arm, int]]:
    """All training runs, seed by seed, so that a stopped experiment has complete rows."""
    for seed in config.seeds:
        for arm in ARMS.values():
            yield arm, seed


def train_config(config: AblationConfig, arm: Arm, seed: int) -> TrainConfig:
    """Settings of one training run: the shared ones and those of the arm."""
    data = copy.deepcopy(config.train)
    objective = data.setdefault("objective", {})
    sample = data.setdefault("data", {}).setdefault("sample", {})
    for group, key in ((objective, "hand_scale"), (sample, "guidance")):
        if key in group:
            raise ConfigError(f"train sets {key}", "a setting that the arms decide", f"leave {key} out")
    objective["hand_scale"] = HAND_SCALE if arm.hand_loss else 1.0
    sample["guidance"] = "confidence" if arm.confidence else "threshold"
    model = {"base": str(start_folder(config, seed)), "settings": {"fusion": BUNDLED["fusion"]}}
    return parse(TrainConfig, data | {"run": f"{config.run}/{arm.name}-{seed}", "seed": seed, "model": model})


def start_folder(config: AblationConfig, seed: int) -> Path:
    """Folder of the initial model for a seed."""
    return Path(config.run) / f"start-{seed}"


def make_start(config: AblationConfig, seed: int) -> Path:
    """Write the initial model for a seed, if it does not exist."""
    import torch

    from mimicmotion.backbones.svd.checkpoint import load_components, save_components
    from mimicmotion.backbones.svd.posenet import PoseNet
    from mimicmotion.backbones.tiny.build import build_tiny_posenet
    from mimicmotion.weights.registry import find_asset

    folder = start_folder(config, seed)
    if folder.exists():
        return folder
    parts = load_components(find_asset("tiny") if config.start == "tiny" else config.start)
    parts = dataclasses.replace(parts, detail=None, warp=None)  # what is trained here would hardly be seen behind them
    old: PoseNet = parts.pose_net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = build_tiny_posenet(old.final_proj.out_channels, reference_pose=old.widths[0] == 6)
    parts = dataclasses.replace(parts, pose_net=new)
    return save_components(parts, folder)


def run_one(config: AblationConfig, name: str, seed: int) -> Path:
    """Train and evaluate one arm with one seed, reusing existing results. Returns its scores.json."""
    from mimicmotion.training import run

    arm = ARMS[name]
    settings = train_config(config, arm, seed)
    scores = Path(settings.run) / "scores.json"
    if scores.exists():
        return scores
    make_start(config, seed)
    checkpoint = checkpoint_path(Path(settings.run), settings.optim.steps)
    if not (checkpoint / "model").is_dir():
        checkpoint = run(settings)
    rows = measure(checkpoint / "model", arm, config.test)
    with atomic_path(scores) as part:
        part.write_text(json.dumps([{"arm": arm.name, "seed": seed, **r} for r in rows], indent=0), encoding="utf-8")
    shutil.rmtree(checkpoint / "state", ignore_errors=True)  # hundreds of megabytes that are no longer needed
    return scores


def measure(model: Path, arm: Arm, test: TestConfig) -> list[dict[str, Any]]:
    """Scores of a trained model on held-out clips, one row per clip and condition."""
    from mimicmotion.pipeline import MimicMotionPipeline
    from mimicmotion.training.bundled import held_out_clip

    pipe = MimicMotionPipeline.from_pretrained(model)
    own = pipe.backbone.settings
    size = (own.get("height", BUNDLED["height"]), own.get("width", BUNDLED["width"]))
    rows = []
    for index in range(test.first, test.first + test.clips):
        clip = held_out_clip(index, test.frames, size)
        for condition in test.conditions:
            frames = _animate(pipe, clip, condition, arm, index)
            rows.append({"clip": index, "condition": condition, **_scores(frames, clip)})
        logger.info("%s: measured %d of %d clips", model, index - test.first + 1, test.clips)
    return rows


def _animate(pipe: Any, clip: Any, condition: Condition, arm: Arm, seed: int) -> np.ndarray:
    """Animate the clip's reference picture with poses under a condition."""
    from mimicmotion.evaluation.planted_errors import plant_errors
    from mimicmotion.synth.noise import perturb_poses

    driving, reference = clip.poses, clip.reference_pose
    if condition == "detector":
        driving, reference = perturb_poses(driving, seed), perturb_poses(reference, seed + 1)
    elif condition == "planted":
        driving = plant_errors(driving, seed)
    poses, own = pipe.guide(clip.reference_frame, reference, driving, confidence_aware=arm.confidence)
    return np.asarray(pipe(clip.reference_frame, poses, own).frames)


def _scores(frames: np.ndarray, clip: Any) -> dict[str, float]:
    from mimicmotion.evaluation.metrics import pixels, poses, temporal

    moved = pixels.moving_region(clip.frames, clip.reference_frame)
    # all hands count, even those with low confidence, because their true positions are known
    sure = dataclasses.replace(clip.poses, confidence=(clip.poses.confidence > 0).astype(np.float32))
    found = poses.patch_errors(frames, clip.frames, clip.poses)
    return {
        "psnr": pixels.psnr(frames, clip.frames),
        "ssim": pixels.ssim(frames, clip.frames),
        "psnr_moving": pixels.psnr(frames, clip.frames, moved) if moved.any() else float("nan"),
        "psnr_hands": pixels.hand_psnr(frames, clip.frames, sure),
        "hand_error": found.hands,
        "body_error": found.body,
        "flicker": temporal.background_flicker(frames, clip.frames),
    }
