"""Train a model by the settings of a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.runtime.progress import Job, Progress


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where a training ended.

    Attributes:
        checkpoint: the last one; its folder `model` is what inference loads. None after a dry run.
        best: the folder of the best validated weights, where a validation was made.
        loss: of the last step, None if there was none left to do.
        plan: of a dry run.
    """

    checkpoint: Path | None
    best: Path | None = None
    loss: float | None = None
    plan: dict[str, Any] | None = None

    def summary(self) -> str:
        """A few lines for a person to read."""
        if self.plan is not None:
            return "\n".join(f"{k}: {v}" for k, v in self.plan.items())
        lines = [f"loss of the last step: {self.loss:.4f}"] if self.loss is not None else ["nothing was left to do"]
        lines.append(f"checkpoint: {self.checkpoint}")
        lines.append(f"model: {self.checkpoint / 'model' if self.checkpoint else None}")
        if self.best is not None:
            score = json.loads((self.best / "score.json").read_text(encoding="utf-8"))
            lines.append(f"best: {self.best / 'model'} (step {score['step']}, {score['name']} {score['score']:.4g})")
        return "\n".join(lines)


def train(
    config: str | Path,
    *,
    resume: bool = True,
    allow_changes: bool = False,
    overfit_one_clip: bool = False,
    dry_run: bool = False,
    overrides: Sequence[str] = (),
) -> Job[TrainResult]:
    """Run a training to its end.

    Args:
        config: recipe: a YAML file, or the name of one of this package.
        resume: go on from the last checkpoint; False refuses a run folder that has one.
        allow_changes: go on although settings differ from the checkpoint's.
        overfit_one_clip: learn one clip by heart, in a run folder of its own.
        dry_run: one forward and backward pass, no file written.
        overrides: settings that win over the recipe's, such as "optim.lr=1e-4".

    Raises:
        ConfigError: a setting is wrong, or does not fit the run folder.
        TrainingError: loss or gradient is not a number.
        Stopped: SIGTERM or Ctrl-C came; the run is saved.
    """
    from mimicmotion.settings.training import load_config
    from mimicmotion.training import open_trainer

    settings = load_config(config, overrides)
    if overfit_one_clip:
        # never into the folder of the real run
        settings = dataclasses.replace(settings, overfit_one_clip=True, run=f"{settings.run}-overfit-one-clip")
    yield Progress("load", 0, 1)
    trainer = open_trainer(settings, resume=resume, allow_changes=allow_changes)
    yield Progress("load", 1, 1)
    if dry_run:
        return TrainResult(None, plan=trainer.dry_run())
    checkpoint = yield from trainer.steps()
    best = trainer.run / "best"
    return TrainResult(checkpoint, best if best.exists() else None, trainer.loss)
