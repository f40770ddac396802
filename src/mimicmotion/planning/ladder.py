"""The ladder of ways to run, from the fastest to the smallest, and the first of them that fits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from mimicmotion.config.execution import ExecutionOptions
from mimicmotion.errors import ConfigError
from mimicmotion.models.execution import AttentionKernel, Execution
from mimicmotion.planning.plan import GIB, ExecutionPlan, Peaks
from mimicmotion.planning.predict import Predictor, Task

PORTIONS: dict[int | None, float] = {None: 1.0, 16: 1.01, 8: 1.03, 4: 1.06, 2: 1.15, 1: 1.3}
"""Frames at once, and what that costs in time; guesses that order the ladder, not promises."""
TWO_PASSES_ON_CPU, TWO_PASSES_ON_GPU = 0.99, 1.02
"""What guidance's two passes cost in time against one batch of both: a GPU is used better by the batch, a CPU is not
(measured: `benchmarks/memory_prediction.py --repeats`)."""
OFFLOAD = {"none": 1.0, "modules": 1.005, "blocks": 1.25}
DECODE_PORTIONS: tuple[int | None, ...] = (None, 4, 2, 1)
TILES = (512, 384, 256)
TOKENS_PER_THREAD = 2048
"""Of a feed-forward at once on a CPU: what its two wide layers hand over stays in the caches (3 % of a pass in
bfloat16, 0 to 4 % in float32), and is less."""


def execution(
    portion: int | None, rows: int, cells: int, options: ExecutionOptions, last: bool, tokens: int | None = None
) -> Execution:
    """Portions of about equal size in all kinds of layers.

    Args:
        portion: frames at once; None is all.
        rows: frames in a call of the network, of all passes.
        cells: places of a frame at full size.
        options: kernel and memory format.
        last: whether this kind of device is faster with channels last in memory.
        tokens: of a feed-forward at once at most; None is all.
    """
    last = last if options.channels_last is None else options.channels_last
    kernel: AttentionKernel = options.attention
    common: dict[str, Any] = {"attention": kernel, "channels_last": last, "compile": options.compile}
    if portion is None or portion >= rows:
        return Execution(feed_forward_chunk=tokens, **common)
    # Deeper layers have up to four times the channels at a quarter of the places: a quarter of the places at once.
    places = max(1, cells * portion // (4 * rows))
    some = max(1, cells * portion // 2)
    some = some if tokens is None else min(some, tokens)
    return Execution(frame_chunk=portion, position_chunk=places, feed_forward_chunk=some, **common)


def rungs(task: Task, cells: int, options: ExecutionOptions, device: torch.device) -> Iterator[ExecutionPlan]:
    """Ways to denoise, the fastest first; nothing is said of decoding."""
    last = device.type in ("cpu", "cuda")
    offloads = (options.offload,) if options.offload != "auto" else ("none", "modules", "blocks")
    if options.compile and options.offload == "auto":
        offloads = ("none", "modules")  # compiled blocks hold their weights
    if device.type == "cpu":
        offloads = ("none",)  # host and device are one
    portions = PORTIONS if options.frame_chunk is None else {options.frame_chunk: 1.0}
    passes = {True: 1.0}
    if task.guided:
        passes[False] = TWO_PASSES_ON_CPU if device.type == "cpu" else TWO_PASSES_ON_GPU
    ways = []
    for offload, (portion, slow), (batch, cost) in itertools.product(offloads, portions.items(), passes.items()):
        if portion is not None and portion >= task.segment_rows and options.frame_chunk is None:
            continue
        ways.append((slow * OFFLOAD[offload] * cost, offload, portion, batch))
    tokens = TOKENS_PER_THREAD * torch.get_num_threads() if device.type == "cpu" and not options.compile else None
    for _, offload, portion, batch in sorted(ways, key=lambda w: w[0]):
        rows = task.segment_rows * (1 + (batch and task.guided))
        yield ExecutionPlan(
            unet=execution(portion, rows, cells, options, last, tokens),
            guidance_in_one_batch=batch,
            offload=offload,  # type: ignore[arg-type]
            latents_on_host=offload != "none",
        )


def decode_rungs(options: ExecutionOptions, tiles: bool) -> Iterator[dict[str, int | None]]:
    """Ways to decode, the fastest first; tiles are not exact and come only where they are asked for, or last."""
    whole: list[tuple[int | None, int | None]] = [(p, options.decode_tile) for p in DECODE_PORTIONS]
    small = [(1, t) for t in TILES] if tiles and options.decode_tile is None else []
    for portion, tile in [*whole, *small]:
        yield {"decode_portion": portion, "decode_tile": tile}


def plan_execution(
    pipe: Any,
    size: tuple[int, int],
    segment_frames: int,
    num_frames: int,
    budget_bytes: int | None,
    options: ExecutionOptions | None = None,
    *,
    device: torch.device | None = None,
    predictor: Predictor | None = None,
    always_predict: bool = False,
    **task: Any,
) -> ExecutionPlan:
    """The fastest way that is predicted to fit. Segments are never shortened.

    Args:
        pipe: the pipeline; its networks may lie anywhere.
        size: (height, width) in pixels.
        segment_frames: frames of a segment, the reference slot counted.
        num_frames: of the video.
        budget_bytes: what may be used, weights included (`free_memory`); None takes the fastest.
        options: what the user has set; None leaves all to the plan.
        device: where it will run; None is the pipeline's.
        predictor: of this pipeline, if there is one already.
        always_predict: work out the peaks also where a coarse upper bound says that there is enough.
        task: further fields of `Task`, such as `guided`, `chunk` and `warped`.

    Raises:
        ConfigError: nothing fits; says how much is missing and what would help.
    """
    options = options or ExecutionOptions()
    device = device or pipe.device
    rows = min(segment_frames, num_frames + 1)
    job = Task(size=size, segment_rows=rows, num_frames=num_frames, **task)
    predictor = predictor or Predictor(pipe, device)
    cells = (size[0] // pipe.downscale) * (size[1] // pipe.downscale)
    ways = list(rungs(job, cells, options, device))
    first = dataclasses.replace(ways[0], **next(iter(decode_rungs(options, False))))  # type: ignore[arg-type]
    if budget_bytes is None or (not always_predict and predictor.upper_bound(job) <= budget_bytes):
        if always_predict:
            first = dataclasses.replace(first, peaks=predictor.peaks(first, job))
        return dataclasses.replace(first, budget=budget_bytes)
    smallest: Peaks | None = None
    for tiles in (False, True):
        for way in _worth_trying(ways, predictor, job, budget_bytes):
            for decode in decode_rungs(options, tiles):
                plan = dataclasses.replace(way, **decode)  # type: ignore[arg-type]
                peaks = predictor.peaks(plan, job)
                if peaks.most <= budget_bytes:
                    return dataclasses.replace(plan, peaks=peaks, budget=budget_bytes)
                smallest = peaks if smallest is None or peaks.most < smallest.most else smallest
                if max(peaks.denoise, peaks.encode) > budget_bytes:
                    break  # another way to decode does not help
    raise too_little(smallest or predictor.peaks(ways[-1], job), budget_bytes, job, options)


def _worth_trying(ways: list[ExecutionPlan], predictor: Predictor, job: Task, budget: int) -> Iterator[ExecutionPlan]:
    """Skip what needs at least as much as something that was too much, without working it out."""
    too_much: list[tuple[bool, int, int]] = []
    order = {"none": False, "modules": True, "blocks": True}
    for way in ways:
        portion = way.unet.frame_chunk or 1 << 30
        mine = (order[way.offload], portion, way.guidance_in_one_batch)
        if any(mine[0] <= o and mine[1] >= p and mine[2] >= b for o, p, b in too_much) and way.offload != "blocks":
            continue
        yield way
        if predictor.peaks(way, job).denoise > budget and way.offload != "blocks":
            too_much.append(mine)


def too_little(peaks: Peaks, budget: int, job: Task, options: ExecutionOptions) -> ConfigError:
    """The error of a plan that nothing fits."""
    stage = max(("encode", "denoise", "decode"), key=lambda s: getattr(peaks, s))
    fixes = [f"make the result smaller (now {job.size[1]}x{job.size[0]})"]
    if stage == "denoise" and job.segment_rows > 8:
        fixes.append(f"lower segment_frames (now {job.segment_rows})")
    if options.offload not in ("auto", "blocks"):
        fixes.append("set offload to auto")
    if options.frame_chunk is not None:
        fixes.append("leave frame_chunk empty")
    if options.memory is not None:
        fixes.append("allow more memory")
    return ConfigError(
        f"{budget / GIB:.2f} GiB of memory for stage {stage} at {job.size[1]}x{job.size[0]}, "
        f"{job.segment_rows} frames a segment",
        f"at least {peaks.most / GIB:.2f} GiB (predicted for the smallest way to run)",
        ", or ".join(fixes),
    )


def next_rung(plan: ExecutionPlan, device: torch.device, rows: int, cells: int) -> ExecutionPlan | None:
    """One step down from a plan that was too much for denoising; None where there is none.

    Without a prediction, so the order is fixed: two passes one after the other, idle networks away, smaller portions,
    blocks of weights away. The U-Net keeps an execution of its own kind, so that the step can be made between two
    passes.

    Args:
        plan: what was too much.
        device: where it runs.
        rows: frames in a call of the network.
        cells: places of a frame.
    """
    if plan.guidance_in_one_batch:
        return dataclasses.replace(plan, guidance_in_one_batch=False)
    if device.type != "cpu" and plan.offload == "none":
        return dataclasses.replace(plan, offload="modules", latents_on_host=True)
    portion = min(plan.unet.frame_chunk or rows, rows)
    if portion > 1:
        tokens = plan.unet.feed_forward_chunk if plan.unet.frame_chunk is None else None
        smaller = execution(16 if portion > 32 else portion // 2, rows, cells, ExecutionOptions(), False, tokens)
        names = ("frame_chunk", "position_chunk", "feed_forward_chunk")
        chunks = {name: getattr(smaller, name) for name in names}
        return dataclasses.replace(plan, unet=dataclasses.replace(plan.unet, **chunks))
    if device.type != "cpu" and plan.offload == "modules":
        return dataclasses.replace(plan, offload="blocks", unet=dataclasses.replace(plan.unet, compile=False))
    return None


def next_decode_rung(plan: ExecutionPlan, clip: int, side: int, device: torch.device) -> ExecutionPlan | None:
    """One step down in decoding: idle networks away, then in smaller portions, then in tiles (not exact).

    Args:
        plan: what was too much.
        clip: frames that are decoded as one.
        side: of a frame, the shorter one in pixels.
        device: where it runs.
    """
    if device.type != "cpu" and plan.offload == "none":
        return dataclasses.replace(plan, offload="modules", latents_on_host=True)
    portion, tile = min(plan.decode_portion or clip, clip), plan.decode_tile
    if portion > 1:
        return dataclasses.replace(plan, decode_portion=portion // 2)
    smaller = next((t for t in TILES if t < (tile or side)), None)
    return None if smaller is None else dataclasses.replace(plan, decode_tile=smaller)
