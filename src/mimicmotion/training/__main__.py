"""`python -m mimicmotion.training RECIPE.yaml`; under torchrun it trains in several processes."""

from __future__ import annotations

import logging
import sys

from mimicmotion.training import run

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(sys.argv[1])
