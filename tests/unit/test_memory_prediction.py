"""Predicted peaks against what the allocator hands out on a CPU."""

from __future__ import annotations

import pytest
import torch
from mimicmotion.models.vae_tiles import decode_latents
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from micro import UNET, micro_pipeline
from mimicmotion.models.execution import Execution
from mimicmotion.models.memory import LiveBytes, follow, meta_twin, weight_bytes
from mimicmotion.models.unet import UNet, build_unet

PORTIONS = Execution(attention="sdpa", frame_chunk=2, position_chunk=256, feed_forward_chunk=1024)


def allocated(run) -> int:
    """Peak of the bytes that PyTorch's allocator hands out, inside of kernels too."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def call(unet: nn.Module, device: str, frames: int = 6, size: tuple[int, int] = (32, 48)) -> Tensor:
    x = torch.zeros(1, frames, 8, *size, device=device)
    token, ids = torch.zeros(1, 1, 16, device=device), torch.zeros(1, 3, device=device)
    return unet(x, torch.zeros((), device=device), token, ids)


@pytest.fixture(scope="module")
def unet() -> UNet:
    return build_unet(UNET)


@pytest.mark.parametrize("execution", [Execution(), PORTIONS])
def test_prediction_is_what_the_allocator_says(unet: UNet, execution: Execution) -> None:
    twin = meta_twin(unet)
    for net in (unet, twin):
        net.set_execution(execution)
    with follow(twin.parameters()) as live:
        call(twin, "meta")
    real = allocated(lambda: call(unet, "cpu"))
    # the kernels' own scratch memory belongs to the processor and is not predicted
    assert 0.8 * real <= live.peak <= 1.15 * real


def test_portions_of_the_decoder_are_predicted() -> None:
    vae = micro_pipeline().vae
    twin = meta_twin(vae)
    peaks = []
    for portion in (None, 2):
        with follow(twin.parameters()) as live:
            decode_latents(twin, torch.zeros(4, 4, 6, 8, device="meta"), portion=portion)
        real = allocated(lambda p=portion: decode_latents(vae, torch.zeros(4, 4, 6, 8), portion=p))
        assert 0.75 * real <= live.peak <= 1.15 * real
        peaks.append(live.peak)
    assert peaks[1] < 0.75 * peaks[0]


def test_bytes_live_and_die_with_their_tensors() -> None:
    with torch.inference_mode(), LiveBytes() as live:
        a = torch.empty(1000, device="meta")
        b = a.view(10, 100)
        c = a + 1
        assert live.now == 8000
        del c
        assert live.now == 4000
        del a
        assert live.now == 4000  # the view holds it
        del b
    assert (live.now, live.peak) == (0, 8000)


def test_memory_does_not_depend_on_where_the_weights_are(unet: nn.Module) -> None:
    twin = meta_twin(unet)
    assert weight_bytes(twin) == weight_bytes(unet)
    assert next(twin.parameters()).is_meta
