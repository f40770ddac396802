"""Frames that are decoded during the last step are the same, and come before it is complete."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from micro import micro_pipeline, random_frames
from mimicmotion.config import FusionConfig
from mimicmotion.models.vae import decode_chunks, frames_within
from mimicmotion.pipeline import MimicMotionPipeline, StepState
from mimicmotion.planning import ExecutionPlan

SIZE, FRAMES = (32, 16), 14
IMAGE, POSES = random_frames(1, *SIZE, 3), random_frames(2, FRAMES, *SIZE, 3)
REFERENCE = random_frames(3, *SIZE, 3)


@pytest.fixture(scope="module")
def pipe() -> MimicMotionPipeline:
    return micro_pipeline()


def states_of(pipe: MimicMotionPipeline, recipe: Any, frames: int, reference: bool = True, **how: Any) -> Iterator[Any]:
    conditioning = pipe.encode(IMAGE, POSES[:frames], REFERENCE if reference else None)
    return pipe.denoise(conditioning, pipe.draw_noise(recipe, SIZE).latents, recipe, **how)


def last_step(states: Iterator[StepState]) -> Iterator[StepState]:
    return (s for s in states if s.index == s.total - 1)


@settings(max_examples=12)
@given(
    mode=st.sampled_from(["progressive", "released", "average", "none"]),
    reference=st.booleans(),
    frames=st.integers(1, FRAMES),
    overlap=st.integers(1, 4),
    chunk=st.integers(1, 6),
    steps=st.integers(1, 2),
    sampler=st.sampled_from(["euler", "dpmpp-2m"]),
    in_place=st.booleans(),
)
def test_the_same_frames(
    pipe: MimicMotionPipeline,
    mode: Any,
    reference: bool,
    frames: int,
    overlap: int,
    chunk: int,
    steps: int,
    sampler: Any,
    in_place: bool,
) -> None:
    reference = reference or mode == "released"
    fusion = FusionConfig(mode=mode, segment_frames=5, overlap_frames=overlap)
    recipe = pipe.recipe(
        frames, reference_slot=reference, fusion=fusion, num_inference_steps=steps, guidance_scale=1.0, sampler=sampler
    )
    *_, state = states_of(pipe, recipe, frames, reference)
    want = list(pipe.decode_state(state, recipe, chunk))
    parts = last_step(states_of(pipe, recipe, frames, reference, in_place=in_place, last_in_parts=True))
    got, seen = [], []
    for item in pipe.decode_meanwhile(parts, recipe, chunk):
        (seen if isinstance(item, StepState) else got).append(item)
    assert np.array_equal(np.stack(got), np.stack(want))
    assert [s.is_complete for s in seen] == [False] * (len(seen) - 1) + [True]
    ready = [s.ready for s in seen]
    assert ready == sorted(ready)
    assert ready[-1] == frames


def test_frames_come_before_the_last_segment(pipe: MimicMotionPipeline) -> None:
    recipe = pipe.recipe(FRAMES, reference_slot=True, num_inference_steps=2, guidance_scale=1.0)
    segments = len(recipe.plan.segments)
    assert segments > 3
    happened: list[str] = []
    hooks = [
        pipe.unet.register_forward_pre_hook(lambda *_: happened.append("segment")),
        pipe.vae.decoder.register_forward_pre_hook(lambda *_: happened.append("clip")),
    ]
    stream = pipe(
        IMAGE, POSES, REFERENCE, num_inference_steps=2, guidance_scale=1.0, decode_chunk_size=2, output_type="stream"
    )
    assert happened == ["segment"] * segments  # the first step
    next(stream)
    assert happened == ["segment"] * (segments + 1) + ["clip"]
    assert len(list(stream)) == FRAMES - 1
    for hook in hooks:
        hook.remove()
    assert happened.count("segment") == 2 * segments
    assert "clip" in happened[happened.index("clip") : -1 - happened[::-1].index("segment")]


def test_a_state_of_a_part_says_what_is_final(pipe: MimicMotionPipeline) -> None:
    recipe = pipe.recipe(FRAMES, reference_slot=True, num_inference_steps=1, guidance_scale=1.0)
    *parts, whole = states_of(pipe, recipe, FRAMES, last_in_parts=True)
    *_, plain = states_of(pipe, recipe, FRAMES)
    assert len(parts) > 1
    assert all(p.step.latents is whole.step.latents for p in parts)  # one set of latents
    assert torch.equal(whole.latents, plain.latents)
    assert not whole.step.open_rows
    assert [len(p.step.open_rows) for p in parts] == sorted((len(p.step.open_rows) for p in parts), reverse=True)
    assert all(0 in p.step.open_rows for p in parts)  # the reference slot is in all segments
    seen = []
    for state in states_of(pipe, recipe, FRAMES, last_in_parts=True):
        seen.append((state.ready, state.latents[:, : state.ready].clone()))
    assert all(torch.equal(latents, plain.latents[:, :ready]) for ready, latents in seen)


def test_callback_sees_whole_steps_alone(pipe: MimicMotionPipeline) -> None:
    seen: list[int] = []
    stream = pipe(
        IMAGE,
        POSES,
        REFERENCE,
        num_inference_steps=2,
        guidance_scale=1.0,
        decode_chunk_size=2,
        output_type="stream",
        callback_on_step_end=lambda _pipe, step, _sigma, _tensors: seen.append(step),
    )
    assert seen == [0]
    next(stream)
    assert seen == [0]
    list(stream)
    assert seen == [0, 1]


def test_not_where_networks_make_room_for_each_other(pipe: MimicMotionPipeline) -> None:
    recipe = pipe.recipe(FRAMES, reference_slot=True)
    assert pipe.can_decode_meanwhile(recipe)
    assert not pipe.can_decode_meanwhile(dataclasses.replace(recipe, block_cache=0.5))
    other = micro_pipeline().configure(ExecutionPlan(offload="modules", latents_on_host=True))
    assert not other.can_decode_meanwhile(recipe)


def test_a_step_that_fails_gives_no_further_frames(pipe: MimicMotionPipeline) -> None:
    recipe = pipe.recipe(FRAMES, reference_slot=True, num_inference_steps=1, guidance_scale=1.0)
    parts = list(states_of(pipe, recipe, FRAMES, last_in_parts=True))
    items = list(pipe.decode_meanwhile(iter(parts[:-1]), recipe, 2))
    frames = len(items) - (len(parts) - 1)
    assert frames == frames_within(decode_chunks(FRAMES, 2), parts[-2].ready)
    assert 0 < frames < FRAMES


@given(st.integers(0, 40), st.integers(1, 9), st.data())
def test_frames_within(frames: int, chunk: int, data: st.DataObject) -> None:
    known = data.draw(st.integers(0, frames))
    chunks = decode_chunks(frames, chunk, overlap=data.draw(st.integers(0, chunk - 1)))
    count = frames_within(chunks, known)
    # a frame is final when no chunk that holds it needs more than what is known
    final = [f for f in range(frames) if all(c.stop <= known for c in chunks if f in c)]
    assert list(range(count)) == final


@pytest.mark.parametrize("full", [{"clip": [0]}, {"segment": [7]}, {"segment": [6, 8], "clip": [0]}])
def test_memory_that_is_full_in_between_loses_nothing(full: dict[str, list[int]]) -> None:
    pipe = micro_pipeline()
    how: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "decode_chunk_size": 2}
    want = list(pipe(IMAGE, POSES, REFERENCE, output_type="stream", **how))
    calls = {"segment": 0, "clip": 0}
    failed: list[str] = []

    def fails(what: str) -> None:
        number = calls[what]
        calls[what] += 1
        if number in full.get(what, []):
            failed.append(what)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    pipe.unet.mid_block.register_forward_pre_hook(lambda *_: fails("segment"))
    pipe.vae.decoder.mid_block.register_forward_pre_hook(lambda *_: fails("clip"))
    got = list(pipe(IMAGE, POSES, REFERENCE, output_type="stream", **how))
    assert len(failed) == sum(map(len, full.values()))
    assert pipe.plan != ExecutionPlan()
    assert len(got) == len(want) == FRAMES
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(got, want, strict=True)) <= 1
