"""Predicted and measured peaks of every execution plan, on a CPU: `python benchmarks/memory_prediction.py`.

A model of SVD's classes with random weights generates a video of a few segments in one step, once for each plan. The
measured peak of a stage is that of all live bytes: the weights, and what PyTorch's allocator hands out, also inside
kernels (from the profiler's records). Memory that libraries such as oneDNN allocate themselves, and the allocator's
gaps, only show in the resident size of the process and are counted on neither side. Prints one JSON line; `--table
FILE` writes the table of docs/lab/memory.md. Takes a few minutes on one core (--quick: a smaller model).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from drawing import cpu_model
from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.checkpoint import Components
from mimicmotion.backbones.svd.execution.levels import TOKENS_PER_THREAD, in_chunks
from mimicmotion.backbones.svd.execution.memory import weight_bytes
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.settings import FusionConfig

MARK = "stage:"
STAGES = ("encode", "denoise", "decode")


class Recorder:
    """Bytes that PyTorch's allocator handed out to this thread, from the profiler's records."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Mark a stage within the block."""
        return record_function(MARK + name)

    @contextmanager
    def stages(self) -> Iterator[None]:
        """Record the allocations of a block."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            yield
        events = sorted(found.profiler.kineto_results.events(), key=lambda e: e.start_ns())  # pyrefly: ignore[missing-attribute]
        stages = [(e.duration_ns(), e.start_ns(), e.name()) for e in events if e.name().startswith(MARK)]
        stages.sort()  # if stages are nested, the inner one counts
        now = 0
        for event in events:
            if event.name() != "[memory]":
                continue
            now += event.nbytes()
            inside = (n for length, start, n in stages if start <= event.start_ns() <= start + length)
            name = next(inside, MARK).removeprefix(MARK)
            self.peaks[name] = max(self.peaks.get(name, 0), now)


def ways(frames: int, positions: int) -> dict[str, ExecutionPlan]:
    """The kinds of plans that the planner chooses from on a CPU, by name."""
    plain = Execution(channels_last=True, feed_forward_chunk=TOKENS_PER_THREAD)

    def two_passes(count: int, decode_chunk: int | None) -> ExecutionPlan:
        unet = plain if count == 1 else in_chunks(plain, count, frames, positions)
        return ExecutionPlan(unet=unet, guidance_in_one_batch=False, decode_chunk=decode_chunk)

    return {
        "one batch": ExecutionPlan(unet=plain),
        "two passes": two_passes(1, None),
        "two passes, 4 chunks": two_passes(4, 2),
        "two passes, 8 chunks": two_passes(8, 1),
        "one batch, channels first": ExecutionPlan(),
    }


def measure(pipe: MimicMotionPipeline, plan: ExecutionPlan, work: Workload, segments: int) -> dict[str, int]:
    """Run all stages as a job does (in place), and return the measured bytes of each."""
    assert isinstance(pipe.backbone, SVDBackbone)
    pipe.backbone.configure(plan)
    generator = np.random.default_rng(1)
    picture = generator.integers(0, 256, (*work.size, 3), dtype=np.uint8)
    poses = generator.integers(0, 256, (work.num_frames, *work.size, 3), dtype=np.uint8)
    overlap = max(1, work.segment_frames - 1 - (work.num_frames - work.segment_frames + 1) // max(1, segments - 1))
    fusion = FusionConfig(segment_frames=work.segment_frames, overlap_frames=overlap + 1)
    recipe = pipe.recipe(
        work.num_frames,
        reference_slot=True,
        fusion=fusion,
        sigmas=(10.0, 0.0),
        guidance_scale=2.0 if work.guided else 1.0,
        decode_chunk_size=work.clip_frames,
    )
    recorder = Recorder()
    with recorder.stages():
        noise = pipe.draw_noise(recipe, work.size).latents
        with recorder.stage("encode"):
            conditioning = pipe.encode(picture, poses, poses[0])
        with recorder.stage("denoise"):
            states = pipe.denoise(conditioning, noise, recipe, keep_x0=False, in_place=True)
            del conditioning, noise
            *_, state = states
        with recorder.stage("decode"):
            for _ in pipe.decode_step(state, recipe):
                pass
    found = recorder.peaks
    weights = weight_bytes(pipe.backbone.unet, pipe.backbone.vae, pipe.backbone.image_encoder, pipe.backbone.pose_net)
    return {stage: found[stage] + weights for stage in STAGES}


def compare(
    pipe: MimicMotionPipeline, work: Workload, segments: int, only: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of predicted and measured bytes for each plan (`only` those names) and stage."""
    assert isinstance(pipe.backbone, SVDBackbone)
    predictor = Predictor(pipe.backbone)
    rows = []
    cells = (work.size[0] // pipe.backbone.downscale) * (work.size[1] // pipe.backbone.downscale)
    for name, plan in ways(work.segment_frames, cells).items():
        if only is not None and name not in only:
            continue
        said, found = predictor.peaks(plan, work), measure(pipe, plan, work, segments)
        for stage in STAGES:
            rows.append({"way": name, "stage": stage, "predicted": said[stage], "measured": found[stage]})
    return rows


def build_pipeline(quick: bool = False, dtype: torch.dtype = torch.float32) -> MimicMotionPipeline:
    """Build SVD's classes at a fifth of their width (quick: a tenth), with random weights."""
    from mimicmotion.backbones.svd.image_encoder import ImageEncoder
    from mimicmotion.backbones.svd.posenet import PoseNet
    from mimicmotion.backbones.svd.unet import build_unet
    from mimicmotion.backbones.svd.vae import Autoencoder

    width = 32 if quick else 64
    down, up = "CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"
    unet = build_unet(
        {
            "in_channels": 8,
            "out_channels": 4,
            "block_out_channels": [width, 2 * width, 4 * width, 4 * width],
            "down_block_types": [down, down, down, "DownBlockSpatioTemporal"],
            "up_block_types": ["UpBlockSpatioTemporal", up, up, up],
            "layers_per_block": 1 if quick else 2,
            "cross_attention_dim": 64,
            "num_attention_heads": [1, 2, 4, 4],
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 96,
            "num_frames": 16,
        }
    )
    vae = Autoencoder({"block_out_channels": [32, 32, 64, 64] if quick else [32, 64, 128, 128], "layers_per_block": 1})
    encoder = ImageEncoder(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "projection_dim": 64,
        }
    )
    pose_net = PoseNet(width, (3, 4, 8, 16))
    parts = Components(unet.eval(), vae.eval(), encoder.eval(), pose_net.eval())
    pipe = MimicMotionPipeline(SVDBackbone(parts)).to(dtype=dtype)
    for network in (unet, vae, encoder, pose_net):
        for p in network.parameters():
            p.requires_grad_(False)
    return pipe


def seconds(pipe: MimicMotionPipeline, work: Workload, repeats: int) -> dict[str, float]:
    """Median seconds of one guided step of a segment as one batch and as two passes, measured alternately."""
    assert isinstance(pipe.backbone, SVDBackbone)
    recipe = pipe.recipe(work.segment_frames - 1, reference_slot=True, sigmas=(10.0, 0.0), guidance_scale=2.0)
    poses = np.zeros((work.segment_frames - 1, *work.size, 3), np.uint8)
    conditioning, noise = pipe.encode(poses[0], poses, poses[0]), pipe.draw_noise(recipe, work.size).latents
    cells = (work.size[0] // pipe.backbone.downscale) * (work.size[1] // pipe.backbone.downscale)
    whole = ("one batch", "two passes")
    orders = {name: way for name, way in ways(work.segment_frames, cells).items() if name in whole}
    taken: dict[str, list[float]] = {name: [] for name in orders}
    for _ in range(repeats + 1):
        for name, plan in orders.items():
            pipe.backbone.configure(plan)
            start = time.perf_counter()
            list(pipe.denoise(conditioning, noise, recipe, keep_x0=False))
            taken[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(t[1:]), 3) for name, t in taken.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of predicted MiB / measured MiB = ratio, for each plan and stage."""
    lines = ["| way to run | encode | denoise | decode |", "|---|---|---|---|"]
    for way in dict.fromkeys(r["way"] for r in rows):
        cells = [
            f"{r['predicted'] / 2**20:.0f} / {r['measured'] / 2**20:.0f} = {r['predicted'] / r['measured']:.2f}"
            for r in rows
            if r["way"] == way
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller model and smaller pictures")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=0, help="also time both ways to run guidance, this many times")
    parser.add_argument("--table", type=Path, help="file to write the table to")
    args = parser.parse_args()
    pipe = build_pipeline(args.quick, getattr(torch, args.dtype))
    size, frames = ((128, 128), 21) if args.quick else ((384, 256), 25)
    work = Workload(size=size, segment_frames=16, num_frames=frames, latent_copies=2)
    rows = compare(pipe, work, segments=2)
    if args.table:
        args.table.write_text(table(rows), encoding="utf-8")
    ratios = [r["predicted"] / r["measured"] for r in rows]
    facts = {
        "benchmark": "memory_prediction",
        "dtype": args.dtype,
        "size": size,
        "frames": frames,
        "seconds": seconds(pipe, work, args.repeats) if args.repeats else None,
        "rows": rows,
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
