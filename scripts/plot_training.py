"""Draw the curves of a training log: python scripts/plot_training.py RUN/log.jsonl OUT.png [STEP=DB ...].

Error of v per band of noise levels (mean over a window), learning rate, and with STEP=DB pairs the measured gain on
held-out clips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

BANDS = {"v_3": "sigma > 8", "v_2": "2 to 8", "v_1": "0.5 to 2"}


def read(path: Path) -> dict[int, dict[str, float]]:
    """Last line written for each step: a resumed run repeats some."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {int(line["step"]): line for line in lines}


def smooth(steps: list[int], values: list[float], window: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of `window` neighbours."""
    n = len(values) // window * window
    return tuple(np.array(x[:n]).reshape(-1, window).mean(1) for x in (steps, values))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("gains", nargs="*", help="STEP=DB")
    arguments = parser.parse_args()
    log = dict(sorted(read(arguments.log).items()))
    figure, axes = plt.subplots(1, 2 if arguments.gains else 1, figsize=(9, 3.2), squeeze=False)
    left = axes[0, 0]
    for key, label in BANDS.items():
        steps = [s for s, line in log.items() if key in line]
        left.plot(*smooth(steps, [log[s][key] for s in steps], 10), label=label)
    left.set(xlabel="step", ylabel="mean (F - v)²", ylim=(0, 1.3), title="training error by noise level")
    left.legend()
    if arguments.gains:
        pairs = [tuple(map(float, g.split("="))) for g in arguments.gains]
        axes[0, 1].plot(*zip(*pairs, strict=True), "o-")
        axes[0, 1].axhline(0, color="grey", lw=0.8)
        axes[0, 1].set(xlabel="step", ylabel="dB", title="gain over copying, moving region, held out")
    figure.tight_layout()
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
