"""Two computations at the same time, and guidance's two passes so."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import threading

import pytest
import torch

from micro import micro_pipeline, random_frames
from mimicmotion.config.execution import ExecutionOptions
from mimicmotion.models.execution import UNetExecution
from mimicmotion.models.side_by_side import side_by_side
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.planning import ExecutionPlan, Predictor, Task, plan_execution
from mimicmotion.planning.ladder import rungs

SIZE, FRAMES = (32, 32), 9
IMAGE, POSES = random_frames(1, *SIZE, 3), random_frames(2, FRAMES, *SIZE, 3)
REFERENCE = random_frames(3, *SIZE, 3)
BESIDE = ExecutionPlan(
    unet=UNetExecution(attention="auto", channels_last=True), guidance_in_one_batch=False, side_by_side=True
)

pytestmark = pytest.mark.usefixtures("two_threads")


def latents(pipe: MimicMotionPipeline) -> torch.Tensor:
    return pipe(IMAGE, POSES, reference_pose=REFERENCE, output_type="latent", seed=1, sigmas=(2.0, 0.0))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Of a step by a network in float64; only what happens to the latents outside of it is rounded to float32."""
    assert float((a - b).abs().max() / b.abs().max()) < 3e-6


def pipeline() -> MimicMotionPipeline:
    return micro_pipeline().to(dtype=torch.float64)


def test_both_are_at_work_at_the_same_time_on_half_of_the_threads() -> None:
    torch.set_num_threads(4)
    meet = threading.Barrier(2, timeout=30)

    def work(name: str) -> tuple[str, int, bool, bool, int]:
        meet.wait()  # breaks if the other has not begun
        inside = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        return name, torch.get_num_threads(), *inside, threading.get_ident()

    with torch.inference_mode():
        first, second = side_by_side(lambda: work("first"), lambda: work("second"))
    assert first[:4] == ("first", 2, True, False)
    assert second[:4] == ("second", 2, True, False)
    assert first[4] == threading.get_ident() != second[4]
    assert torch.get_num_threads() == 4
    with torch.no_grad():
        grad = side_by_side(torch.is_grad_enabled, torch.is_grad_enabled)
    assert grad == (False, False)
    assert side_by_side(torch.is_grad_enabled, torch.is_grad_enabled) == (True, True)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_odd_number_of_threads_is_not_shared(threads: int) -> None:
    torch.set_num_threads(threads)
    seen = []
    both = side_by_side(lambda: seen.append(threading.get_ident()), lambda: seen.append(torch.get_num_threads()))
    assert both == (None, None)
    assert seen == [threading.get_ident(), threads]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_either_comes_when_both_have_ended(failing: int) -> None:
    ended = []

    def work(number: int) -> None:
        try:
            if failing in (number, 2):
                raise MemoryError(f"of {number}")
        finally:
            ended.append(number)

    with pytest.raises(MemoryError, match="of 1" if failing == 1 else "of 0"):
        side_by_side(lambda: work(0), lambda: work(1))
    assert sorted(ended) == [0, 1]
    assert torch.get_num_threads() == 2


def _in_child() -> None:
    found = side_by_side(lambda: "mine", lambda: threading.current_thread().name)
    sys.exit(0 if found[0] == "mine" and found[1].startswith("side-by-side") else 1)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_a_neighbour_of_its_own() -> None:
    side_by_side(lambda: None, lambda: None)  # the parent's thread is there, and not in the child
    child = multiprocessing.get_context("fork").Process(target=_in_child)
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive, "waits for a thread that the fork did not take along"
    assert child.exitcode == 0


def test_passes_side_by_side_change_nothing() -> None:
    wanted = latents(pipeline().configure(dataclasses.replace(BESIDE, side_by_side=False)))
    pipe = pipeline().configure(BESIDE)
    workers = set()
    pipe.unet.mid_block.register_forward_pre_hook(lambda *_: workers.add(threading.get_ident()))
    found = latents(pipe)
    close(found, wanted)
    assert len(workers) == 2
    assert torch.equal(latents(pipe), found)
    torch.set_num_threads(1)
    close(latents(pipe), wanted)


@pytest.mark.parametrize("failing", [0, 1])
def test_full_memory_in_either_pass_goes_on_with_one_after_the_other(failing: int) -> None:
    wanted = latents(pipeline())
    pipe = pipeline().configure(BESIDE)
    main, failed = threading.get_ident(), []

    def full(*_: object) -> None:
        if not failed and (threading.get_ident() == main) == (failing == 0):
            failed.append(1)
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    pipe.unet.mid_block.register_forward_pre_hook(full)
    close(latents(pipe), wanted)
    assert failed
    assert (pipe.plan.side_by_side, pipe.plan.guidance_in_one_batch) == (False, False)
    assert pipe.plan.unet.frame_chunk is None  # one step, not two


def test_the_planner_takes_it_where_it_is_faster_and_fits() -> None:
    pipe = micro_pipeline()

    def plan(budget: int | None = None, options: ExecutionOptions | None = None, **task: object) -> ExecutionPlan:
        return plan_execution(pipe, (64, 64), 7, 20, budget, options, **task)

    assert plan().side_by_side
    assert "side by side" in plan().describe()
    assert not plan(guided=False).side_by_side
    assert not plan(block_cache=True).side_by_side
    assert not plan(options=ExecutionOptions(compile=True)).side_by_side
    assert not plan_execution(pipe, (64, 64), 7, 20, None, device=torch.device("cuda")).side_by_side
    torch.set_num_threads(3)
    assert not plan().side_by_side
    torch.set_num_threads(2)
    task = Task(size=(64, 64), segment_rows=7, num_frames=20)
    first, *others = rungs(task, 64, ExecutionOptions(), torch.device("cpu"))
    predictor = Predictor(pipe)
    smaller = next(way for way in others if predictor.peaks(way, task).denoise < predictor.peaks(first, task).denoise)
    assert not smaller.side_by_side or smaller.unet.frame_chunk is not None


def test_two_passes_at_once_are_predicted_to_take_twice_the_room() -> None:
    predictor, task = Predictor(micro_pipeline()), Task(size=(64, 64), segment_rows=7, num_frames=20)
    after = ExecutionPlan(unet=BESIDE.unet, guidance_in_one_batch=False)
    assert predictor.denoise_bytes(BESIDE, task) == 2 * predictor.denoise_bytes(after, task)
