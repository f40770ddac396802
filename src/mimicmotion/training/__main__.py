"""`python -m mimicmotion.training RECIPE [KEY=VALUE ...]`, for torchrun and `accelerate launch`."""

from __future__ import annotations

import logging
import os
import sys

from mimicmotion.errors import InputError, MimicMotionError
from mimicmotion.runtime.interrupt import Stopped
from mimicmotion.settings.training import load_config
from mimicmotion.training.job import run


def main(arguments: list[str]) -> int:
    """Train and return the exit code: 0 on success, 1 on failure, 2 for invalid input, 130 if stopped."""
    main_process = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", stream=sys.stderr)
    log = logging.getLogger("mimicmotion.training")
    if not arguments:
        log.error("usage: python -m mimicmotion.training RECIPE [KEY=VALUE ...]")
        return 2
    try:
        path = run(load_config(arguments[0], arguments[1:]))
        log.info("%s", path)
        code = 0
    except (MimicMotionError, Stopped) as e:
        if main_process:
            log.error("%s", e)
        code = 130 if isinstance(e, Stopped) else 2 if isinstance(e, InputError) else 1
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
