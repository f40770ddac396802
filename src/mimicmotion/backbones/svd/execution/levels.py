"""Fallback levels, from the fastest way to run to the smallest, and the first of them that fits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch

from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.execution.plan import GIB, ExecutionPlan, Peaks
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
from mimicmotion.errors import ConfigError
from mimicmotion.settings.execution import ExecutionOptions

OFFLOAD: tuple[Literal["none", "modules", "blocks"], ...] = ("none", "modules", "blocks")
LEVELS: tuple[tuple[int, str], ...] = ((1, "none"), (1, "modules"), (4, "modules"), (8, "modules"), (8, "blocks"))
"""Chunks that a segment is computed in, and weights that wait on the host, where guidance's passes come one by one.

More chunks save little: at 576x1024 in float16, 72 frames of SVD's U-Net take 8.7 GiB of working space at once, 4.1 in
4 chunks and 3.3 in 8."""
DECODE_CHUNKS, TILES = (4, 2, 1), (512, 384, 256)
TOKENS_PER_THREAD = 2048
"""Of a feed-forward at once on a CPU: what its two wide layers hand over stays in the caches (3 % of a pass in
bfloat16, 0 to 4 % in float32), and is less."""


def fallback_levels(plan: ExecutionPlan, frames: int, positions: int, device: torch.device) -> Iterator[ExecutionPlan]:
    """Ways to denoise with less memory than a plan's, each with less than the one before.

    Args:
        plan: what is too much.
        frames: of a pass, all videos of the batch.
        positions: latents of a frame.
        device: where it runs; on a CPU no weights are moved.
    """
    for chunks, least in LEVELS:
        unet = in_chunks(plan.unet, chunks, frames, positions)
        offload = plan.offload if device.type == "cpu" else OFFLOAD[max(map(OFFLOAD.index, (least, plan.offload)))]
        if offload == "blocks":
            unet = replace(unet, compile=False)
        level = replace(plan, unet=unet, offload=offload, guidance_in_one_batch=False)
        if level != plan:
            yield level
        plan = level


def in_chunks(unet: Execution, count: int, frames: int, positions: int) -> Execution:
    """The same in at least so many chunks of about equal size in all kinds of layers; one changes nothing."""
    if count == 1:
        return unet
    # Deeper layers have up to four times the channels at a quarter of the positions.
    positions_at_once = math.ceil(positions / (4 * count))
    frames_at_once, tokens = math.ceil(frames / count), math.ceil(frames * positions / (2 * count))
    return replace(
        unet,
        frame_chunk=min(frames_at_once, unet.frame_chunk or frames_at_once),
        position_chunk=min(positions_at_once, unet.position_chunk or positions_at_once),
        feed_forward_chunk=min(tokens, unet.feed_forward_chunk or tokens),
    )


def decode_levels(plan: ExecutionPlan, frames: int, side: int, tiles: bool = True) -> Iterator[ExecutionPlan]:
    """Ways to decode with less memory than a plan's: the frames of a clip in chunks, then in tiles (not exact).

    Args:
        plan: what is too much.
        frames: of a clip.
        side: of a frame, the longer one in pixels.
        tiles: whether tiles may be taken.
    """
    for chunk in DECODE_CHUNKS:
        if chunk < min(plan.decode_chunk or frames, frames):
            yield (plan := replace(plan, decode_chunk=chunk))
    for tile in TILES if tiles else ():
        if tile < min(plan.decode_tile or side, side):
            yield (plan := replace(plan, decode_tile=tile))


def plan_execution(
    backbone: Any,
    work: Workload,
    budget: int | None,
    options: ExecutionOptions | None = None,
    *,
    device: torch.device | None = None,
    predictor: Predictor | None = None,
) -> ExecutionPlan:
    """The fastest way that is predicted to fit. Segments are never shortened.

    Args:
        backbone: its networks may lie anywhere.
        work: what is to be computed.
        budget: bytes that may be used, weights included (`free_memory`); None takes the fastest way, unpredicted.
        options: what the user has set; None leaves all to the plan.
        device: where it will run; None is the backbone's.
        predictor: of this backbone, if there is one already.

    Raises:
        ConfigError: nothing fits; says how much is missing and what would help.
    """
    options, device = options or ExecutionOptions(), device or backbone.device
    plans = _levels(work, backbone.downscale, options, device)
    if budget is None:
        return plans[0]
    predictor, found = predictor or Predictor(backbone, device), []
    for tiles in (False, True):
        for level in plans:
            for plan in (level, *decode_levels(level, min(work.decode_chunk, work.num_frames), max(work.size), tiles)):
                peaks = predictor.peaks(plan, work)
                if peaks.most <= budget:
                    return replace(plan, peaks=peaks, budget=budget)
                found.append(peaks)
                if max(peaks.denoise, peaks.encode) > budget:
                    break  # another way to decode does not help
    raise _too_little(min(found, key=lambda peaks: peaks.most), budget, work, options)


def _levels(work: Workload, downscale: int, options: ExecutionOptions, device: torch.device) -> list[ExecutionPlan]:
    """The fastest way to denoise that the options allow, and its fallback levels."""
    cpu, positions = device.type == "cpu", work.size[0] * work.size[1] // downscale**2
    unet = Execution(
        attention=options.attention,
        channels_last=device.type in ("cpu", "cuda") if options.channels_last is None else options.channels_last,
        compile=options.compile,
        feed_forward_chunk=TOKENS_PER_THREAD * torch.get_num_threads() if cpu and not options.compile else None,
    )
    if options.frame_chunk is not None:
        unet = in_chunks(unet, math.ceil(work.segment_frames / options.frame_chunk), work.segment_frames, positions)
    first = ExecutionPlan(
        unet=unet,
        # A GPU is used better by one batch, a CPU is not (measured: `benchmarks/memory_prediction.py --repeats`).
        guidance_in_one_batch=not cpu or not work.guided,
        offload="none" if cpu or options.offload == "auto" else options.offload,
        decode_tile=options.decode_tile,
    )
    plans = [first, *fallback_levels(first, work.segment_frames, positions, device)]
    if options.frame_chunk is not None:
        plans = [replace(p, unet=replace(p.unet, frame_chunk=options.frame_chunk)) for p in plans]
    return plans if options.offload == "auto" else [replace(p, offload=first.offload) for p in plans]


def _too_little(peaks: Peaks, budget: int, work: Workload, options: ExecutionOptions) -> ConfigError:
    """The error of a plan that nothing fits."""
    stage = max(("encode", "denoise", "decode"), key=lambda s: getattr(peaks, s))
    size = f"{work.size[1]}x{work.size[0]}"
    fixes = {
        f"make the result smaller (now {size})": True,
        f"lower segment_frames (now {work.segment_frames})": stage == "denoise" and work.segment_frames > 8,
        "set offload to auto": options.offload not in ("auto", "blocks"),
        "leave frame_chunk empty": options.frame_chunk is not None,
        "allow more memory": options.memory is not None,
    }
    return ConfigError(
        f"{budget / GIB:.2f} GiB of memory for stage {stage} at {size}, {work.segment_frames} frames a segment",
        f"at least {peaks.most / GIB:.2f} GiB (predicted for the smallest way to run)",
        ", or ".join(fix for fix, helps in fixes.items() if helps),
    )
