"""The commands train, recipes and ablate."""

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
    overrides: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
) -> None:
    """Train a model from a recipe (a YAML file of settings). An interrupted run resumes.

    For several GPUs or machines: accelerate launch -m mimicmotion.training RECIPE [KEY=VALUE ...]

    Args:
        recipe: A YAML file, or a name listed by `mimicmotion recipes`.
        resume: Resume from the run's last checkpoint; --no-resume fails if the run folder has one.
        allow_changes: Resume even if settings have changed since the checkpoint.
        overfit_one_clip: Overfit a single clip, in a run folder of its own, as a sanity check.
        dry_run: Load everything, run one forward and backward pass, and report its cost without writing files.
        overrides: Override a setting of the recipe: KEY=VALUE, such as optim.lr=1e-4; may be given several times.
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
    """List the bundled training recipes, or print one as a starting point for your own.

    Args:
        name: Recipe to print; default: list all.
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
    """Train and evaluate the arms of an ablation (hand loss, confidence-aware guidance).

    Args:
        recipe: A YAML file, or a name listed by `mimicmotion recipes`, such as ablation-tiny.
        processes: Number of runs to train in parallel.
    """
    from mimicmotion.training.ablation import ablate as job

    say(run_job(job(recipe, processes=processes)))
