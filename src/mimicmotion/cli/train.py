"""Train models by recipes."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from mimicmotion.cli.options import app, run_job, say

Recipe = Annotated[str, Parameter(name="--recipe")]


@app.command
def train(
    recipe: Recipe,
    *,
    resume: bool = True,
    allow_changes: bool = False,
    overfit_one_clip: bool = False,
    dry_run: bool = False,
    overrides: Annotated[list[str] | None, Parameter(name="--set")] = None,
) -> None:
    """Train a model by a recipe: settings in a YAML file. A run that was stopped goes on where it was.

    In several processes: accelerate launch -m mimicmotion.training RECIPE [KEY=VALUE ...]

    Args:
        recipe: A YAML file, or a name that `mimicmotion recipes` lists.
        resume: Go on from the run's last checkpoint; --no-resume refuses a run folder that has one.
        allow_changes: Go on although settings differ from the checkpoint's.
        overfit_one_clip: Learn one clip by heart, in a run folder of its own: a model that cannot has a fault.
        dry_run: Load everything, try one forward and backward pass, say what it takes and write nothing.
        overrides: KEY=VALUE, such as optim.lr=1e-4: a setting that wins over the file's. May be given several times.
    """
    from mimicmotion.training.job import train as job

    result = run_job(
        job(
            recipe,
            resume=resume,
            allow_changes=allow_changes,
            overfit_one_clip=overfit_one_clip,
            dry_run=dry_run,
            overrides=overrides or (),
        )
    )
    say(result.summary())


@app.command
def recipes(name: str | None = None, /) -> None:
    """List the training recipes that come with this package, or print one: copy it and change what you like.

    Args:
        name: The recipe to print.
    """
    from mimicmotion.settings import find_recipe
    from mimicmotion.settings import recipes as known

    if name is not None:
        print(find_recipe(name).read_text(encoding="utf-8"), end="")
        return
    for recipe, path in known().items():
        say(f"{recipe:32} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


@app.command
def ablate(recipe: Recipe, *, processes: int = 1) -> None:
    """Train and measure the arms of an ablation (hand loss, confidence-aware guidance).

    Args:
        recipe: A YAML file, or a name that `mimicmotion recipes` lists, such as ablation-tiny.
        processes: Trainings at a time.
    """
    from mimicmotion.training.ablation.job import ablate as job

    say(run_job(job(recipe, processes=processes)))
