"""The published code's procedure, as rebuilt by the benchmark, and our exact tier give the same video."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from micro import micro_pipeline
from mimicmotion.pose.guidance.skeleton import DrawnPoses, PoseDrawer
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.settings import FusionConfig
from scripts_of_repository import load

SIZE, FRAMES, STEPS = (64, 48), 9, 3


@pytest.fixture(scope="module")
def released() -> ModuleType:
    return load("benchmarks/released.py")


@pytest.mark.slow  # guards the benchmark; the pipeline is held to the released code's own results in tests/parity
def test_the_published_order_of_work_gives_our_latents(released: ModuleType) -> None:
    xy, confidence = released.dancer(FRAMES, SIZE)
    poses = PoseSequence(xy.astype(np.float32), confidence.astype(np.float32), SIZE, 15.0, "planted")
    image = np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    pipe = micro_pipeline()
    theirs = released.released_latents(pipe, image, poses[:1], poses, STEPS, 5, released.Watch(), (6, 3))

    drawer = PoseDrawer(SIZE)
    recipe = pipe.recipe(
        FRAMES,
        reference_slot=True,
        fusion=FusionConfig(mode="released", segment_frames=6, overlap_frames=3),
        num_inference_steps=STEPS,
    )
    assert len(recipe.plan.segments) > 1
    reference = drawer.draw(poses.xy[0], poses.confidence[0])
    conditioning = pipe.encode(image, DrawnPoses(poses, drawer), reference)
    noise = pipe.draw_noise(recipe, SIZE, seed=5)
    *_, state = pipe.denoise(conditioning, noise.latents, recipe)

    largest = float(theirs.abs().max())
    torch.testing.assert_close(state.latents / largest, theirs / largest, rtol=0, atol=1e-5)
    without = np.zeros((FRAMES, *SIZE, 3), np.uint8)  # the comparison would notice poses that are not used
    *_, other = pipe.denoise(pipe.encode(image, without, reference), noise.latents, recipe)
    assert float((other.latents - theirs).abs().max()) > 1e-3 * largest
