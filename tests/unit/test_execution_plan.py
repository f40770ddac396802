"""The planner, running with a plan, and recovery when memory is full."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd.execution.levels import fallback_levels, plan_execution
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.execution.plan import ExecutionPlan
from mimicmotion.backbones.svd.execution.predict import Predictor, Workload
from mimicmotion.errors import ConfigError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.runtime.device import host_free
from mimicmotion.settings import ExecutionOptions

pytestmark = pytest.mark.whole

SIZE, FRAMES = (32, 32), 8
IMAGE, POSES = random_frames(1, *SIZE, 3), random_frames(2, FRAMES, *SIZE, 3)
REFERENCE = random_frames(3, *SIZE, 3)
CHUNKS = Execution(frame_chunk=2, position_chunk=3, feed_forward_chunk=7)
CUDA = torch.device("cuda")
WORK = Workload(size=(64, 64), segment_frames=7, num_frames=20)


def latents(pipe: MimicMotionPipeline) -> torch.Tensor:
    return pipe(IMAGE, POSES, reference_pose=REFERENCE, output_type="latent", seed=1, num_inference_steps=2).frames


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return latents(micro_pipeline())


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < 1e-5


def test_a_plan_changes_nothing(plain: torch.Tensor) -> None:
    pipe = micro_pipeline()
    pipe.backbone.configure(ExecutionPlan(unet=CHUNKS, guidance_in_one_batch=False))
    close(latents(pipe), plain)
    pipe.backbone.configure(ExecutionPlan())
    assert torch.equal(latents(pipe), plain)


@settings(max_examples=4)
@given(
    frames=st.integers(1, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    one_batch=st.booleans(),
    chunk=st.sampled_from([None, 1, 3]),
    channels_last=st.booleans(),
    on_host=st.booleans(),
)
def test_no_plan_changes_anything_at_any_length(
    frames: int, dtype: torch.dtype, one_batch: bool, chunk: int | None, channels_last: bool, on_host: bool
) -> None:
    pipe, poses = micro_pipeline().to(dtype=dtype), random_frames(2, frames, *SIZE, 3)

    def run() -> torch.Tensor:
        return pipe(IMAGE, poses, reference_pose=REFERENCE, output_type="latent", seed=1, sigmas=(2.0, 0.0)).frames

    plain = run()
    chunks = {"frame_chunk": chunk, "position_chunk": chunk, "feed_forward_chunk": chunk}
    plan = ExecutionPlan(
        unet=Execution(channels_last=channels_last, **chunks),
        guidance_in_one_batch=one_batch,
        offload="modules" if on_host else "none",
    )
    pipe.backbone.configure(plan)
    found = run()
    # With a network in float64 only what happens to the latents outside of it is rounded to float32. One in float32 is
    # off by 2.9e-6 from that (AVX-512, AVX2 and SSE4.1), so two ways through it may differ by twice as much.
    assert float((found - plain).abs().max() / plain.abs().max()) < (1e-5 if dtype == torch.float32 else 3e-6)


@pytest.mark.parametrize("failures", [[0], [0, 3, 4]])
def test_out_of_memory_continues_with_the_same_pass(plain: torch.Tensor, failures: list[int]) -> None:
    pipe = micro_pipeline()
    calls: list[int] = []

    def full(*_: object) -> None:
        calls.append(len(calls))
        if calls[-1] in failures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    pipe.backbone.unet.mid_block.register_forward_pre_hook(full)
    close(latents(pipe), plain)
    assert not pipe.backbone.plan.guidance_in_one_batch
    assert (pipe.backbone.plan.unet.frame_chunk is None) == (len(failures) == 1)


def test_out_of_memory_at_the_last_level_says_what_to_do() -> None:
    pipe = micro_pipeline()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.backbone.unet.mid_block.register_forward_pre_hook(full)
    with pytest.raises(ConfigError, match="lower segment_frames"):
        latents(pipe)


def test_other_errors_are_not_taken_for_low_memory() -> None:
    pipe = micro_pipeline()

    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    pipe.backbone.unet.mid_block.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="mat1"):
        latents(pipe)


def test_decoding_continues_in_chunks() -> None:
    pipe = micro_pipeline()
    z = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = list(pipe.decode(z, decode_chunk_size=4))
    failed = []

    def full(*_: object) -> None:
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.backbone.vae.decoder.conv_out.register_forward_pre_hook(full)
    found = list(pipe.decode(z, decode_chunk_size=4))
    assert pipe.backbone.plan.decode_chunk == 2
    assert max(abs(a.astype(int) - b.astype(int)).max() for a, b in zip(found, wanted, strict=True)) <= 1


@pytest.mark.parametrize("offload", ["modules", "blocks"])
def test_offloaded_weights_change_nothing(offload: Any, plain: torch.Tensor) -> None:
    pipe = micro_pipeline()
    pipe.backbone.configure(ExecutionPlan(offload=offload))
    assert torch.equal(latents(pipe), plain)
    pipe.backbone.configure(ExecutionPlan(unet=CHUNKS, offload=offload))
    torch.testing.assert_close(latents(pipe), plain, rtol=1e-5, atol=1e-5)
    pipe.backbone.configure(ExecutionPlan())
    assert torch.equal(latents(pipe), plain)


def test_planner_takes_the_fastest_that_fits() -> None:
    pipe = micro_pipeline()
    predictor = Predictor(pipe.backbone, CUDA)

    def plan(budget: int | None, **options: object) -> ExecutionPlan:
        return plan_execution(predictor, WORK, budget, ExecutionOptions(**options))

    easy = plan(1 << 34)
    assert (easy.guidance_in_one_batch, easy.unet.frame_chunk, easy.offload) == (True, None, "none")
    allowed = int(max(easy.peaks.values()) * 0.8)
    assert max(plan(allowed).peaks.values()) <= allowed
    with pytest.raises(ConfigError, match="at least"):
        plan(1 << 16)
    assert plan(1 << 34, offload="modules").offload == "modules"
    assert plan(None).guidance_in_one_batch
    predictor = Predictor(pipe.backbone, torch.device("cpu"))  # weights are on the host already
    assert plan(1 << 34, offload="none").offload == plan(1 << 34).offload == "none"
    for offload in ("modules", "blocks"):
        with pytest.raises(ConfigError, match=f"offload={offload} on a CPU, where it has no effect"):
            plan(1 << 34, offload=offload)


def test_each_fallback_level_takes_less() -> None:
    pipe = micro_pipeline()
    predictor, work = Predictor(pipe.backbone, CUDA), Workload(size=(256, 256), segment_frames=8, num_frames=20)
    first = ExecutionPlan()
    plans = [first, *fallback_levels(first, "denoise", (8, 32, 32), may_offload=True)]
    peaks = [predictor.peaks(plan, work)["denoise"] for plan in plans]
    assert len(plans) == 6
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)
    clips = [first, *fallback_levels(first, "decode", (8, 32, 32), may_offload=True)]
    peaks = [predictor.peaks(plan, work)["decode"] for plan in clips]
    found = [(p.decode_chunk, p.offload) for p in clips]
    assert found == [(None, "none"), (4, "none"), (2, "none"), (1, "none"), (1, "modules")]
    assert peaks == sorted(peaks, reverse=True)
    assert [p.offload for p in fallback_levels(first, "encode", (1, 0, 0), may_offload=True)] == ["modules"]
    assert not list(fallback_levels(first, "encode", (1, 0, 0), may_offload=False))


def test_on_a_cpu_two_passes_come_first() -> None:
    pipe = micro_pipeline()
    alone = dataclasses.replace(WORK, guided=False)
    here, there = Predictor(pipe.backbone), Predictor(pipe.backbone, CUDA)
    assert not plan_execution(here, WORK, None, ExecutionOptions()).guidance_in_one_batch
    assert plan_execution(there, WORK, None, ExecutionOptions()).guidance_in_one_batch
    assert plan_execution(here, alone, None, ExecutionOptions()).guidance_in_one_batch  # there is one pass alone


def test_limit_of_a_container_counts(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "job").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 80 kB\n")
    (proc / "self" / "cgroup").write_text("0::/job\n")
    assert host_free(proc, groups) == 80 * 1024
    (groups / "job" / "memory.max").write_text("50000\n")
    (groups / "job" / "memory.current").write_text("30000\n")
    (groups / "job" / "memory.stat").write_text("anon 10\ninactive_file 4000\n")
    assert host_free(proc, groups) == 24000
    (groups / "job" / "memory.max").write_text("max\n")
    assert host_free(proc, groups) == 80 * 1024


def test_plans_are_plain_data() -> None:
    plan = ExecutionPlan(unet=CHUNKS, offload="blocks", decode_chunk=1, peaks={"denoise": 2**30}, budget=2**31)
    facts = dataclasses.asdict(plan)
    assert facts["unet"]["frame_chunk"] == 2
    assert micro_pipeline().backbone.read_plan(facts) == plan
    assert plan.describe() == (
        "both passes in one batch, 2 frames at once, weights on the host, loaded block by block, "
        "decoder 1 frame at once"
    )
    assert plan.describe_peaks() == "1.00 of 2.00 GiB predicted (denoise 1.00)"
    assert ExecutionPlan().describe_peaks() == "not predicted"
