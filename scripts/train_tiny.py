"""Retrain the bundled small model from scratch: render people, train stage by stage, copy the result.

    python scripts/train_tiny.py [--processes 2] [--clips 1400] [--output runs/tiny/model] [--set KEY=VALUE ...]

It can be stopped at any time and resumes from there. See docs/lab/tiny-training.md for what it costs. `--set` changes a
setting of all stages, `--set-autoencoder`, `--set-denoiser`, `--set-detail`, `--set-detail-2` and `--set-warp` one of a
single stage. The detail network needs LPIPS (`mimicmotion weights fetch lpips-alex`), which is downloaded first.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import torch

from mimicmotion.backbones.svd.checkpoint import load_components, save_components
from mimicmotion.settings.training import TrainConfig, load_config
from mimicmotion.training.state import checkpoints

SIZE = ["--height", "320", "--width", "192"]
"""Size of the model's frames. The networks before the warp network are trained at the default size, which is faster."""
LATER = {
    "tiny-detail": ["--first-seed", "5000000"],
    "tiny-warp": ["--first-seed", "7000000", "--frames", "3", "--truth", *SIZE],
    "tiny-detail-continue": ["--first-seed", "6000000", "--frames", "3", *SIZE],
}
"""Recipes of the networks trained after the U-Net, and the people they are trained on, whom the U-Net never saw."""
logger = logging.getLogger("train_tiny")


def command(*arguments: str) -> None:
    """Run the interpreter. After a failure, exit without a message, since the command printed one."""
    done = subprocess.run([sys.executable, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def train(recipe: str, changes: list[str], processes: int) -> Path:
    """Train a stage to completion; returns its run folder."""
    config: TrainConfig = load_config(recipe, changes)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command(*launch, "-m", "mimicmotion.training", recipe, *changes)
    return Path(config.run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="for rendering and for stage 2, one CPU core each")
    parser.add_argument("--clips", type=int, default=1400, help="people to train on")
    parser.add_argument("--detail-clips", type=int, nargs=2, default=[2000, 1600], help="other people, for stages 3, 5")
    parser.add_argument("--warp-clips", type=int, default=800, help="other people, for stage 4")
    parser.add_argument("--held-out", type=int, default=64, help="people to validate on")
    parser.add_argument("--recipe", default="tiny-denoiser", help="of stage 2")
    parser.add_argument("--output", type=Path, default=Path("runs/tiny/model"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-autoencoder", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-denoiser", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-detail", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-detail-2", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-warp", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    changes = [*arguments.set, *arguments.set_denoiser]
    held_out = ["--held-out", str(arguments.held_out), "--processes", str(arguments.processes)]

    def render(people: str, clips: int, *more: str) -> None:
        command("-m", "mimicmotion.cli", "prepare", "synthetic", str(clips), "-o", people, *held_out, *more)

    each = (arguments.set_detail, arguments.set_warp, arguments.set_detail_2)
    later = [load_config(recipe, [*arguments.set, *own]) for recipe, own in zip(LATER, each, strict=True)]
    if any(getattr(config, config.stage).perceptual for config in later):
        command("-m", "mimicmotion.cli", "weights", "fetch", "lpips-alex")
    render(load_config(arguments.recipe, changes).data.shards, arguments.clips)
    train("tiny-autoencoder", [*arguments.set, *arguments.set_autoencoder], 1)
    run = train(arguments.recipe, changes, arguments.processes)
    first, last = arguments.detail_clips
    for (recipe, people), clips, own in zip(LATER.items(), (first, arguments.warp_clips, last), each, strict=True):
        changes = [f"model.checkpoint={checkpoints(run)[-1] / 'model'}", *arguments.set, *own]
        config = load_config(recipe, changes)
        render(config.data.shards, clips, *people)
        run = train(recipe, changes, 1)
    model = load_components(checkpoints(run)[-1] / "model")
    logger.info("%s", save_components(model, arguments.output, dtype=torch.float16))


if __name__ == "__main__":
    main()
