"""Retrain the bundled small model from nothing: render people, train both stages, export.

    python scripts/train_tiny.py [--processes 2] [--output runs/tiny/model]

Stopped at any moment, it goes on where it was. See docs/model-card.md for what it costs.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from pathlib import Path

from mimicmotion.training import run
from mimicmotion.training.settings import load_config
from mimicmotion.training.state import checkpoints
from mimicmotion.training.validation import BUNDLED, export

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="processes of stage 2, one CPU core each")
    parser.add_argument("--output", type=Path, default=Path("runs/tiny/model"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    autoencoder = run(CONFIGS / "tiny-autoencoder.yaml")
    recipe = CONFIGS / "tiny-denoiser.yaml"
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(arguments.processes)]
    subprocess.run([sys.executable, *launch, "-m", "mimicmotion.training", str(recipe)], check=True)
    denoiser = checkpoints(Path(load_config(recipe).run))[-1]
    print(export(denoiser, autoencoder, BUNDLED, arguments.output))


if __name__ == "__main__":
    main()
