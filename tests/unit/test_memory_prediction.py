"""Predicted peaks against what the allocator hands out on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from micro import UNET, micro_pipeline
from mimicmotion.backbones.svd.attention import choose_kernel, scratch_bytes
from mimicmotion.backbones.svd.decode import decode_frames
from mimicmotion.backbones.svd.execution.memory import LiveBytes, tensors_of, weight_bytes
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload, shape_copy
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import build_unet

CHUNKS = Execution(frame_chunk=2, position_chunk=256, feed_forward_chunk=1024)
CPU = torch.device("cpu")


def allocated(run: Callable[[], object]) -> int:
    """Peak of the bytes that PyTorch's allocator hands out, inside of kernels too."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def predicted(copy: nn.Module, run: Callable[[Any], object], kernel: str = "sdpa") -> int:
    live = LiveBytes(True, tensors_of(copy), lambda query, key: scratch_bytes(kernel, query, key))
    with torch.inference_mode(), live:
        run(copy)
    return live.peaks[0]


@pytest.mark.parametrize(
    ("dtype", "chunks", "channels_last"),
    [
        (torch.float32, False, False),
        (torch.bfloat16, True, True),
        pytest.param(torch.float32, True, False, marks=pytest.mark.slow),
        pytest.param(torch.float32, False, True, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, False, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_prediction_is_what_the_allocator_says(dtype: torch.dtype, chunks: bool, channels_last: bool) -> None:
    execution = dataclasses.replace(CHUNKS if chunks else Execution(), channels_last=channels_last)
    unet = build_unet(UNET, dtype=dtype)
    copy = shape_copy(unet, cpu=True)
    unet.set_execution(execution)
    copy.set_execution(execution)

    def run(unet: Any) -> None:
        x, token = torch.zeros(1, 6, 8, 32, 48, dtype=dtype), torch.zeros(1, 1, 16, dtype=dtype)
        unet(x, torch.zeros(()), token, torch.zeros(1, 3))

    with torch.inference_mode():
        kernel = choose_kernel(True, dtype)
    # the kernels' own scratch memory belongs to the processor and is not predicted
    assert predicted(copy, run, kernel) == pytest.approx(allocated(lambda: run(unet)), rel=0.15)


def test_chunks_of_the_decoder_are_predicted() -> None:
    vae = micro_pipeline().backbone.vae
    copy, peaks = shape_copy(vae, cpu=True), []
    for chunk in (None, 2):
        run = lambda vae, chunk=chunk: decode_frames(vae, torch.zeros(4, 4, 12, 16), frame_chunk=chunk)  # noqa: E731
        peaks.append(predicted(copy, run))
        assert peaks[-1] == pytest.approx(allocated(lambda run=run: run(vae)), rel=0.15)
    assert peaks[1] < 0.9 * peaks[0]


@pytest.mark.usefixtures("one_thread")  # without AVX2, oneDNN unfolds the input once per thread: scratch memory
def test_convolutions_of_few_channels_are_predicted() -> None:
    net = PoseNet(32, (3, 4, 8, 8)).eval()
    copy = shape_copy(net, cpu=True)
    run = lambda net: net(torch.zeros(1, 4, 3, 128, 64))  # noqa: E731
    assert predicted(copy, run) == pytest.approx(allocated(lambda: run(net)), rel=0.15)


@pytest.mark.parametrize("cpu", [False, True])
def test_bytes_live_and_die_with_their_tensors(cpu: bool) -> None:
    with torch.inference_mode(), LiveBytes(cpu, [], lambda _q, _k: 0) as live:
        a = torch.empty(1000, device="cpu" if cpu else "meta")
        assert a.device.type == ("cpu" if cpu else "meta")
        b = a.view(10, 100)
        b += 1
        c = a + 1
        assert live.now == 8000
        del c
        assert live.now == 4000
        del a
        assert live.now == 4000  # the view holds it
        del b
    assert (live.now, live.peaks) == (0, [8000])


def test_a_copy_on_shapes_has_the_weights_sizes_and_no_data() -> None:
    unet = build_unet(UNET, dtype=torch.bfloat16)
    copy = shape_copy(unet, cpu=True)
    assert weight_bytes(copy) == weight_bytes(unet)
    for t in tensors_of(copy):
        assert t.device == CPU
        assert t.is_meta


def test_weights_of_two_blocks_count_where_blocks_come_and_go() -> None:
    pipe = micro_pipeline()
    predictor, work = (
        Predictor(pipe.backbone, torch.device("cuda")),
        Workload(size=(64, 64), segment_frames=3, num_frames=3),
    )
    whole = predictor.denoise_bytes(ExecutionPlan(offload="modules"), work)
    blocks = predictor.denoise_bytes(ExecutionPlan(offload="blocks"), work)
    assert whole < blocks < whole + weight_bytes(pipe.backbone.unet)
