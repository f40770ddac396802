"""The warped picture as a condition: what is painted, and that training and inference give the network the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.svd.conditioning import ConditionedUNet
from mimicmotion.backbones.svd.pose_features import DiskFeatures, StoredFeatures
from mimicmotion.backbones.svd.vae import encode_mode
from mimicmotion.diffusion.denoiser import shift
from mimicmotion.errors import InputError
from mimicmotion.pose.guidance.limb_warp import WarpedPicture, WarpedPoses, cut, limb_warp
from mimicmotion.pose.keypoints import FACE, LEFT_HAND, NUM_POINTS, PoseSequence
from mimicmotion.synth import render_clip

SIZE = (96, 64)


@pytest.fixture(scope="module")
def clip():
    return render_clip(5, 4, SIZE)


def test_slices_are_the_frames_of_the_whole(clip) -> None:
    whole = limb_warp(clip.reference_frame, clip.reference_pose, clip.poses)
    lazy = WarpedPicture(clip.reference_frame, clip.reference_pose, clip.poses)
    assert len(lazy) == 4
    np.testing.assert_array_equal(lazy[1:3], whole[1:3])
    np.testing.assert_array_equal(lazy[3:9], whole[3:])


def test_a_picture_without_a_seen_person_stays_as_it_is(clip) -> None:
    blind = dataclasses.replace(clip.reference_pose, confidence=np.zeros((1, NUM_POINTS), np.float32))
    out = limb_warp(clip.reference_frame, blind, clip.poses)
    np.testing.assert_array_equal(out, np.broadcast_to(clip.reference_frame, out.shape))


def test_parts_without_a_position_are_not_painted(clip) -> None:
    pose = clip.reference_pose
    confidence = np.ones((1, NUM_POINTS), np.float32)
    seen = dataclasses.replace(pose, confidence=confidence)
    lost = dataclasses.replace(pose, confidence=confidence.copy())
    lost.confidence[:, LEFT_HAND] = 0
    puppet = cut(clip.reference_frame, seen)
    assert "left hand" in puppet.layers
    nowhere = pose.xy[0].copy()
    nowhere[LEFT_HAND] += np.array(SIZE)[::-1] / 2 - nowhere[LEFT_HAND].mean(0)  # in the middle of the picture
    with_hand, without = (puppet.paint(nowhere, c) for c in (seen.confidence[0], lost.confidence[0]))
    assert (with_hand != without).any()
    # its place in a reference that does not show it says nothing: the other side's hand is used
    assert cut(clip.reference_frame, lost).sources["left hand"] == "right hand"


def warped_pipeline():
    return micro_pipeline(warp="limbs")


def test_the_network_sees_the_picture_in_slot_0_and_warped_ones_elsewhere() -> None:
    pipe = warped_pipeline()
    image, poses, reference = random_frames(1, 32, 32, 3), random_frames(2, 3, 32, 32, 3), random_frames(3, 32, 32, 3)
    moved = random_frames(4, 3, 32, 32, 3)
    c = pipe.encode(image, WarpedPoses(poses, moved), reference)
    rows = c.latent_slots([0, 1, 3], True)
    unit = torch.from_numpy(moved).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.testing.assert_close(rows[:, 0], c.image_latents[:, 0])
    torch.testing.assert_close(rows[0, 1:], encode_mode(pipe.backbone.vae, unit)[[0, 2]])
    torch.testing.assert_close(c.latent_slots([0, 2], False)[0], encode_mode(pipe.backbone.vae, unit)[[0, 2]])
    seen = []

    def unet(sample, *args, **kwargs):
        seen.append(sample)
        return torch.zeros(sample.shape[0], sample.shape[1], 4, 4, 4)

    unet.dtype = torch.float32
    x = torch.randn(1, 3, 4, 4, 4)
    ConditionedUNet(unet, c, True).pair(x, torch.zeros(1), [0, 1, 3])
    torch.testing.assert_close(seen[0][1, :, 4:8], rows[0])
    assert not seen[0][0, :, 4:8].any()


def test_warped_frames_steer_the_result() -> None:
    pipe = warped_pipeline()
    image, poses, reference = random_frames(1, 32, 32, 3), random_frames(2, 2, 32, 32, 3), random_frames(3, 32, 32, 3)
    a, b = random_frames(4, 2, 32, 32, 3), random_frames(5, 2, 32, 32, 3)
    one, two = (pipe(image, WarpedPoses(poses, w), reference, num_inference_steps=1).frames for w in (a, b))
    assert (one != two).any()
    both = pipe([image] * 2, [WarpedPoses(poses, w) for w in (a, b)], [reference] * 2, num_inference_steps=1).frames
    np.testing.assert_array_equal(both, np.stack([one, two]))


def test_warped_latents_that_do_not_fit_are_kept_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = warped_pipeline()
    image, poses, reference = random_frames(1, 32, 32, 3), random_frames(2, 20, 32, 32, 3), random_frames(3, 32, 32, 3)
    kept = pipe.encode(image, WarpedPoses(poses, poses), reference)
    monkeypatch.setattr("mimicmotion.backbones.svd.conditioning.feature_budget", lambda device: 0)
    spooled = pipe.encode(image, WarpedPoses(poses, poses), reference)
    assert isinstance(kept.warped_latents, StoredFeatures)
    assert isinstance(spooled.warped_latents, DiskFeatures)
    for rows in ([0, 1, 20], [0, 17, 5, 16]):
        assert torch.equal(spooled.latent_slots(rows, True), kept.latent_slots(rows, True))


def test_missing_and_mismatched_warped_frames_are_refused() -> None:
    pipe = warped_pipeline()
    image, poses, reference = random_frames(1, 32, 32, 3), random_frames(2, 3, 32, 32, 3), random_frames(3, 32, 32, 3)
    with pytest.raises(InputError, match="without the warped picture"):
        pipe(image, poses, reference)
    with pytest.raises(InputError, match="2 warped frames"):
        WarpedPoses(poses, poses[:2])
    with pytest.raises(InputError, match="shape"):
        pipe(image, WarpedPoses(poses, random_frames(4, 3, 16, 32, 3)), reference)


def test_poses_of_another_size_are_refused(clip) -> None:
    other = PoseSequence(clip.poses.xy, clip.poses.confidence, (10, 10))
    with pytest.raises(InputError, match="one size"):
        WarpedPicture(clip.reference_frame, clip.reference_pose, other)


def test_a_silent_network_that_denoises_the_difference_gives_the_warped_picture() -> None:
    pipe = micro_pipeline(warp="residual")
    torch.nn.init.zeros_(pipe.backbone.unet.conv_out.weight)
    torch.nn.init.zeros_(pipe.backbone.unet.conv_out.bias)
    image, poses, reference = random_frames(1, 32, 32, 3), random_frames(2, 9, 32, 32, 3), random_frames(3, 32, 32, 3)
    moved = random_frames(4, 9, 32, 32, 3)
    options = {"sigmas": [1000.0, 0.0], "output_type": "latent"}
    latents = pipe(image, WarpedPoses(poses, moved), reference, **options).frames
    unit = torch.from_numpy(moved).permute(0, 3, 1, 2).float() / 127.5 - 1
    want = encode_mode(pipe.backbone.vae, unit) * pipe.backbone.vae.config.scaling_factor
    torch.testing.assert_close(latents[0], want, rtol=0, atol=2e-2)  # what is left of the noise
    pipe.backbone.settings["reference_warp"] = "limbs"
    assert pipe(image, WarpedPoses(poses, moved), reference, **options).frames.abs().max() < 2e-2


def test_shifting_moves_a_denoiser_along_with_its_data() -> None:
    offset = torch.randn(1, 5, 2, 3, 3, dtype=torch.float64)

    def inner(x, sigma, frames):
        return torch.tanh(x) + float(sigma) + len(frames)

    x, sigma = torch.randn(1, 2, 2, 3, 3, dtype=torch.float64), torch.tensor(2.0)
    moved = shift(inner, lambda rows: offset[:, list(rows)])
    known = offset[:, [1, 4]]
    torch.testing.assert_close(moved(x + known, sigma, [1, 4]), known + inner(x, sigma, [1, 4]))


def test_points_that_were_not_found_have_no_influence(clip) -> None:
    """Estimators give them zeros: a lost hand goes with its forearm, a head without face points with eyes and ears."""
    puppet = cut(clip.reference_frame, clip.reference_pose)
    xy, confidence = clip.poses.xy[0], np.ones(NUM_POINTS, np.float32)
    lost = confidence.copy()
    lost[LEFT_HAND] = lost[FACE] = 0
    nowhere = xy.copy()
    nowhere[LEFT_HAND] = nowhere[FACE] = 0
    np.testing.assert_array_equal(puppet.paint(nowhere, lost), puppet.paint(xy, lost))
    assert (puppet.paint(nowhere, confidence) != puppet.paint(xy, confidence)).any()
    # and neither in the reference
    blank = clip.reference_pose.confidence.copy()
    blank[:, FACE] = 0
    gone = clip.reference_pose.xy.copy()
    gone[:, FACE] = 0
    pictures = [
        cut(clip.reference_frame, dataclasses.replace(clip.reference_pose, confidence=blank, xy=points)).paint(xy, lost)
        for points in (clip.reference_pose.xy, gone)
    ]
    np.testing.assert_array_equal(*pictures)
    assert (pictures[0] != puppet.background.astype(np.uint8)).any()
