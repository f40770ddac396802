"""Draw the curves of a run: python scripts/plot_training.py RUN OUT.png [STEP=DB ...].

The left panel shows the training error per band of noise levels (windowed means; for the autoencoder, the PSNR of the
reconstruction), the right one the validation results and, with STEP=DB pairs, a gain on held-out clips that was
measured elsewhere. RUN is a run folder or its log.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

BANDS = {"v_3": "sigma > 8", "v_2": "2 to 8", "v_1": "0.5 to 2", "psnr": "dB, training clips"}
VALIDATED = {
    "validation/gain_moving": "gain over copying, moving region, dB",
    "validation/psnr_moving": "moving region, dB",
    "validation/psnr": "whole frames, dB",
}

Curve = tuple[np.ndarray, np.ndarray]


def read(path: Path) -> dict[str, Curve]:
    """Steps and values of each number; if a resumed run repeated a step, its last value."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (path / "log.jsonl" if path.is_dir() else path).read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        step = int(values.pop("step"))
        for key, value in values.items():
            found[key][step] = value
    return {k: (np.array(sorted(v)), np.array([v[s] for s in sorted(v)])) for k, v in found.items()}


def smooth(curve: Curve, points: int = 60) -> Curve:
    """Average neighbours, so that at most `2 * points` values are left."""
    window = max(1, len(curve[0]) // points)
    n = len(curve[0]) // window * window
    steps, values = (x[:n].reshape(-1, window).mean(1) for x in curve)
    return steps, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("gains", nargs="*", help="STEP=DB")
    arguments = parser.parse_args()
    log = read(arguments.run)
    validated = {label: log[key] for key, label in VALIDATED.items() if key in log}
    if arguments.gains:
        pairs = np.array([[float(x) for x in g.split("=")] for g in arguments.gains])
        validated["gain over copying, held out, dB"] = (pairs[:, 0], pairs[:, 1])
    figure, axes = plt.subplots(1, 2 if validated else 1, figsize=(9, 3.2), squeeze=False)
    left = axes[0, 0]
    for key, label in BANDS.items():
        if key in log:
            left.plot(*smooth(log[key]), label=label)
    left.set(xlabel="step", title="training")
    if "psnr" not in log:
        left.set(ylabel="mean (F - v)²", ylim=(0, None), title="training error by noise level")
    left.legend()
    for label, curve in validated.items():
        axes[0, 1].plot(*curve, "o-", ms=3, label=label)
    if validated:
        axes[0, 1].set(xlabel="step", title="held-out clips")
        axes[0, 1].legend()
    figure.tight_layout()
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
