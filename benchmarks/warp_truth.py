"""What true outlines and flow contribute to training: python benchmarks/warp_truth.py [--run DIR] [--set KEY=VALUE].

Trains new warp networks with the recipe tiny-warp, in RUN/truth with its full loss, and in RUN/colours with the L1
error of the colours alone, which needs neither outlines nor flow. Prints one JSON line with the folders of the two
models, which can be compared with `benchmarks/people.py --model`. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from torch import nn

from mimicmotion.data.synthetic import prepare_synthetic
from mimicmotion.runtime.progress import finish
from mimicmotion.settings.synthetic import SyntheticConfig
from mimicmotion.settings.training import load_config
from mimicmotion.training.job import run
from mimicmotion.training.stages.warp import MOVING, WarpBatch, WarpTask
from mimicmotion.training.task import StepResult
from tiny_quality import cpu_name


class ColoursTask(WarpTask):
    """The same network and samples, with a loss on the frames only."""

    def loss(self, model: nn.Module, batch: WarpBatch, step: int) -> StepResult:  # noqa: ARG002
        weight = 1 + (MOVING - 1) * batch.moving.float()
        error = (model(batch.inputs).frames - batch.true).abs().mean(1) * weight
        each = 4 * error.mean((1, 2)) / weight.mean((1, 2))
        return StepResult(each.mean(), {}, batch.keys, each.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/warp-truth"))
    parser.add_argument("--people", type=int, default=400)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--set", action="append", default=[], help="override a setting of the recipe (repeatable)")
    options = parser.parse_args()
    people = options.run / "people"
    finish(
        prepare_synthetic(
            SyntheticConfig(count=options.people, first_seed=7_200_000, held_out=8, frames=4, truth=True, output=people)
        )
    )
    shared = {
        "data.shards": people, "warp.new": "true", "warp.clips": options.people, "warp.perceptual": 0,
        "optim.steps": options.steps, "optim.decay": options.steps, "validation.every": options.steps,
    }  # fmt: skip
    line: dict[str, object] = {"bench": "warp_truth", "people": options.people, "steps": options.steps}
    for name in ("truth", "colours"):
        settings = [f"{k}={v}" for k, v in shared.items()] + [f"run={options.run / name}", *options.set]
        config = load_config("tiny-warp", settings)
        run(config, task=ColoursTask(config) if name == "colours" else None)
        line[name] = str(options.run / name / "best" / "model")
    line |= {"python": platform.python_version(), "torch": torch.__version__, "cpu": cpu_name()}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
