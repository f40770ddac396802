"""Cost or gain of each way to execute the U-Net: `python benchmarks/execution.py [--dtype bfloat16] [--quick]`.

Runs one pass of SVD's classes at a fifth of their width, with random weights, on 16 frames of a 256x384 video. The ways
alternate, and each is compared with diffusers' network in the same run; ratios above 1 are faster than that. Seconds
are processor time of one thread on a CPU, which depends less on other load than wall-clock time, and wall-clock time on
a GPU. Prints one JSON line. Takes about 4 minutes per dtype on an idle core (--quick: 1); --compile adds minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drawing import cpu_model
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.unet import build_unet
from released import diffusers_unet  # in this folder

CONFIG: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [64, 128, 256, 256],
    "num_attention_heads": [1, 2, 4, 4],
    "cross_attention_dim": 256,
    "layers_per_block": 2,
    "addition_time_embed_dim": 64,
    "projection_class_embeddings_input_dim": 192,
    "num_frames": 16,
}

WAYS = {
    "ours": Execution(),
    "channels last": Execution(channels_last=True),
    "4 frames at once": Execution(channels_last=True, frame_chunk=4),
    "4 frames, quarter of the places": Execution(
        channels_last=True, frame_chunk=4, position_chunk=384, feed_forward_chunk=4096
    ),
}


def seconds(run: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    """Time of one pass, and its result."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    out = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=4, help="rounds, after one that is not counted")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--quick", action="store_true", help="one layer per block, a smaller picture, two rounds")
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = (16, 24) if args.quick else (32, 48)
    unet: Any = build_unet(CONFIG | ({"layers_per_block": 1} if args.quick else {}), device=device, dtype=dtype)
    plain = diffusers_unet(unet)
    sample = torch.randn(1, 16, 8, *size).to(device, dtype)
    context = torch.randn(1, 1, 256).to(device, dtype)
    ids = torch.tensor([[6.0, 127.0, 0.02]], device=device)
    ways = dict(WAYS)
    if args.compile:
        ways["compiled"] = Execution(channels_last=True, compile=True)
    times: dict[str, list[float]] = {name: [] for name in ("diffusers", *ways)}
    difference: dict[str, float] = {}
    with torch.inference_mode():
        want = None
        for turn in range(1 + (2 if args.quick else args.repeats)):
            for name, spent_so_far in times.items():
                if execution := ways.get(name):
                    unet.set_execution(execution)
                network = unet if execution else lambda *args: plain(*args).sample
                spent, out = seconds(lambda: network(sample, torch.tensor(0.3), context, ids), device)  # noqa: B023
                want = out if want is None else want
                difference[name] = float((out - want).abs().max() / want.abs().max())
                if turn:
                    spent_so_far.append(spent)
    middle = {name: statistics.median(t) for name, t in times.items()}
    row = {
        "bench": "execution",
        "dtype": args.dtype,
        "latents": [16, *size],
        "layers_per_block": unet.config.layers_per_block,
        "seconds": {k: round(v, 3) for k, v in middle.items()},
        "faster_than_diffusers": {k: round(middle["diffusers"] / v, 2) for k, v in middle.items()},
        "difference": {k: float(f"{v:.1e}") for k, v in difference.items()},
        "turns": len(times["diffusers"]),
        "cpu": cpu_model(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
