from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd import pose_features
from mimicmotion.backbones.svd.conditioning import ConditionedUNet, Conditioning
from mimicmotion.backbones.svd.pose_features import RecomputedFeatures, encode_poses, to_unit
from mimicmotion.errors import InputError, PoseError
from mimicmotion.pipeline import MimicMotionPipeline

IMAGE, POSES, REFERENCE = random_frames(0, 32, 48, 3), random_frames(1, 7, 32, 48, 3), random_frames(2, 32, 48, 3)


@pytest.fixture(scope="module")
def pipe() -> MimicMotionPipeline:
    return micro_pipeline()


@pytest.fixture(scope="module")
def conditioning(pipe: MimicMotionPipeline) -> Conditioning:
    return pipe.encode(IMAGE, POSES, REFERENCE)


class Lazy:
    """Pose frames that exist only when a slice is asked for."""

    def __init__(self, frames: ndarray) -> None:
        self.frames, self.asked = frames, []

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: slice) -> ndarray:
        self.asked.append((index.start, index.stop))
        return self.frames[index]


def test_shapes(conditioning: Conditioning) -> None:
    assert conditioning.image_embeddings.shape == (1, 1, 16)
    assert conditioning.image_latents.shape == (1, 1, 4, 4, 6)
    assert conditioning.pose_features.frames(range(7)).shape == (1, 7, 32, 4, 6)
    assert conditioning.reference_pose_features is not None
    assert conditioning.reference_pose_features.shape == (1, 1, 32, 4, 6)
    assert conditioning.added_time_ids.tolist() == [[6, 127, 0]]
    assert conditioning.num_frames == 7


def test_latent_is_the_unscaled_mode(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    with torch.inference_mode():
        mode = pipe.backbone.vae(to_unit(IMAGE[None]))
    torch.testing.assert_close(conditioning.image_latents[0], mode)


def test_pose_slots(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    features, reference = conditioning.pose_features.frames(range(7)), conditioning.reference_pose_features
    rows = conditioning.pose_slots([0, 3, 4], True)
    assert reference is not None
    assert torch.equal(rows, torch.cat([reference, features[:, 2:4]], dim=1))
    assert torch.equal(conditioning.pose_slots([0, 3], False), features[:, [0, 3]])
    bare = pipe.encode(IMAGE, POSES)
    with pytest.raises(InputError, match="no reference pose"):
        bare.pose_slots([0, 1], True)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_pose_frames_are_taken_in_chunks_each_once(
    pipe: MimicMotionPipeline, conditioning: Conditioning, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(pose_features, "POSE_CHUNK", chunk)
    lazy = Lazy(POSES)
    with torch.inference_mode():
        features, _ = encode_poses(pipe.backbone.pose_net, lazy, REFERENCE, (32, 48))
    everything = features.frames(range(7))
    torch.testing.assert_close(everything, conditioning.pose_features.frames(range(7)), rtol=0, atol=1e-6)
    assert [f for a, b in lazy.asked for f in range(a, b)] == list(range(7))
    assert max(b - a for a, b in lazy.asked) <= chunk


def test_frames_of_a_list_and_the_first_frames_alone(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    with torch.inference_mode():
        features, reference = encode_poses(pipe.backbone.pose_net, list(POSES), None, (32, 48), num_frames=3)
    assert reference is None
    assert len(features) == 3
    want = conditioning.pose_features.frames(range(3))
    torch.testing.assert_close(features.frames(range(3)), want, rtol=0, atol=1e-6)


def test_features_that_do_not_fit_are_made_again(
    pipe: MimicMotionPipeline, conditioning: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pose_features, "POSE_CHUNK", 3)
    lazy = Lazy(POSES)
    features, slot = encode_poses(pipe.backbone.pose_net, lazy, REFERENCE, (32, 48), budget=1000)
    assert isinstance(features, RecomputedFeatures)
    assert len(features) == 7
    index = [6, 0, 3, 3]
    torch.testing.assert_close(features.frames(index), conditioning.pose_features.frames(index), rtol=0, atol=1e-6)
    assert slot is not None
    assert conditioning.reference_pose_features is not None
    torch.testing.assert_close(slot, conditioning.reference_pose_features)
    assert lazy.asked == [(i, i + 1) for i in index], "only these are drawn"


def test_pose_net_of_two_poses_sees_the_reference_pose() -> None:
    net = micro_pipeline(reference_pose_input=True).backbone.pose_net
    with torch.inference_mode():
        features, slot = encode_poses(net, POSES, REFERENCE, (32, 48))
        other, _ = encode_poses(net, POSES, REFERENCE[::-1].copy(), (32, 48))
        by_hand = net(torch.cat([to_unit(POSES[2:3]), to_unit(REFERENCE[None])], dim=1)[None])
        own = net(torch.cat([to_unit(REFERENCE[None])] * 2, dim=1)[None])
    torch.testing.assert_close(features.frames([2]), by_hand)
    torch.testing.assert_close(slot, own)
    assert not torch.allclose(features.frames([2]), other.frames([2]))
    with pytest.raises(PoseError, match="which this model needs"):
        micro_pipeline(reference_pose_input=True).encode(IMAGE, POSES)


@pytest.mark.parametrize(
    "poses",
    [POSES[:, :16], POSES.astype(np.float32), POSES[..., :2], POSES[:0], np.zeros((7, 32, 48), np.uint8)],
    ids=["size", "float", "channels", "empty", "grey"],
)
def test_wrong_pose_frames_are_refused(pipe: MimicMotionPipeline, poses: ndarray) -> None:
    with pytest.raises(PoseError):
        encode_poses(pipe.backbone.pose_net, poses, REFERENCE, (32, 48))


def test_augmentation_noise_enters_in_pixel_space_and_is_told(pipe: MimicMotionPipeline) -> None:
    noise = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    c = pipe.encode(IMAGE, POSES, noise_aug_strength=0.3, image_noise=noise)
    with torch.inference_mode():
        want = pipe.backbone.vae(to_unit(IMAGE[None]) + 0.3 * noise)
    torch.testing.assert_close(c.image_latents[0], want)
    assert float(c.added_time_ids[0, 2]) == pytest.approx(0.3)
    torch.testing.assert_close(c.image_embeddings, pipe.encode(IMAGE, POSES).image_embeddings)
    with pytest.raises(InputError, match="image_noise"):
        pipe.encode(IMAGE, POSES, noise_aug_strength=0.3)


def _spy(pipe: MimicMotionPipeline, call: Any) -> list[tuple[Any, ...]]:
    """The U-Net's arguments but the noise level: sample, token, micro-conditioning, pose."""
    seen = []
    hook = pipe.backbone.unet.register_forward_pre_hook(lambda m, args: seen.append((args[0], *args[2:5])))
    with torch.inference_mode():
        call()
    hook.remove()
    return seen


def test_unconditional_pass_has_no_picture_and_no_pose(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    x, time = torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    two = ConditionedUNet(pipe.backbone.unet, conditioning, True, one_batch=False)
    (sample, tokens, ids, pose), (cond_sample, cond_tokens, _, cond_pose) = _spy(
        pipe, lambda: two.pair(x, time, [0, 4, 5])
    )
    assert pose is None, "no pose features at all, not those of a black pose frame"
    assert torch.equal(sample[:, :, :4], x)
    assert not sample[:, :, 4:].any()
    assert not tokens.any()
    assert torch.equal(ids, conditioning.added_time_ids), "the micro-conditioning stays"
    assert torch.equal(cond_pose, conditioning.pose_slots([0, 4, 5], reference_slot=True))
    assert torch.equal(cond_sample[0, :, 4:], conditioning.image_latents[0].expand(3, -1, -1, -1))
    assert torch.equal(cond_tokens, conditioning.image_embeddings)


def test_one_batch_of_two_equals_two_passes(pipe: MimicMotionPipeline, conditioning: Conditioning) -> None:
    x, time = torch.randn(1, 3, 4, 4, 6, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
    with torch.inference_mode():
        one = ConditionedUNet(pipe.backbone.unet, conditioning, True, one_batch=True).pair(x, time, [0, 4, 5])
        two = ConditionedUNet(pipe.backbone.unet, conditioning, True, one_batch=False).pair(x, time, [0, 4, 5])
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert not torch.allclose(one[0], one[1], atol=0.01)
