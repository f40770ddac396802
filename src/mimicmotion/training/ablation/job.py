"""Train and measure the arms of an ablation, several at a time."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from mimicmotion.runtime.progress import Job, Progress


def ablate(config_path: str | Path, *, processes: int = 1) -> Job[Path]:
    """Run the experiment of a file, resuming an interrupted one.

    Args:
        config_path: a YAML file, or the name of a recipe such as ablation-tiny.
        processes: number of trainings at a time.

    Returns:
        The table (Markdown), with results.csv and effects.png in the same folder.

    Raises:
        ConfigError: a setting is wrong; raised before the first training.
    """
    from mimicmotion.training.ablation.report import write_report
    from mimicmotion.training.ablation.run import load_ablation, make_start, run_one, runs

    config = load_ablation(config_path)
    cells = [(arm.name, seed) for arm, seed in runs(config)]
    for seed in config.seeds:
        make_start(config, seed)
    yield Progress("trainings", 0, len(cells))
    if processes == 1:
        scores = []
        for name, seed in cells:
            scores.append(run_one(config, name, seed))
            yield Progress("trainings", len(scores), len(cells))
        return write_report(Path(config.run), scores)
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        futures = [pool.submit(run_one, config, name, seed) for name, seed in cells]
        for count, future in enumerate(as_completed(futures), 1):
            future.result()
            yield Progress("trainings", count, len(cells))
        return write_report(Path(config.run), [f.result() for f in futures])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
