"""The warp network: its initial state, its possible outputs, and their use in the small model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from micro import one_step_pipeline
from mimicmotion.backbones.tiny.detail import DetailNet
from mimicmotion.backbones.tiny.warp import (
    BODY,
    HEAD,
    PARTS,
    RIGID,
    MovedPicture,
    Warped,
    WarpInput,
    WarpNet,
    displacements,
    show_moved,
    warp_input,
)
from mimicmotion.errors import ConfigError, InputError
from mimicmotion.evaluation.metrics.pixels import psnr
from mimicmotion.pose.guidance.limb_warp import WarpedPoses, cut
from mimicmotion.pose.guidance.skeleton import PoseDrawer
from mimicmotion.pose.keypoints import FACE
from mimicmotion.synth import SynthClip, render_clip

SIZE = (128, 64)


@pytest.fixture(scope="module")
def clip() -> SynthClip:
    return render_clip(10_000_002, 2, SIZE)


@pytest.fixture(scope="module")
def given(clip: SynthClip) -> WarpInput:
    puppet = cut(clip.reference_frame, clip.reference_pose)
    return warp_input(puppet, clip.reference_frame, clip.reference_pose, clip.poses, PoseDrawer(SIZE))


def test_it_starts_as_the_limb_warp(clip: SynthClip, given: WarpInput) -> None:
    with torch.no_grad():
        made = WarpNet((8, 8, 8, 8)).eval()(given)
    torch.testing.assert_close(made.outline, given.outline.logit(0.02))
    assert psnr(*(np.asarray(x.movedim(1, -1) / 2 + 0.5).clip(0, 1) for x in (made.frames, given.picture))) > 20
    # where a piece lies, its own map says where its pixels come from
    top = given.top[0].long()
    inside = (given.outline[0] > 0.99) & (top >= 0)
    y, x = torch.nonzero(inside, as_tuple=True)
    maps = given.maps[0][top[y, x]]
    want = torch.einsum("nij,nj->ni", maps, torch.stack([x, y, torch.ones_like(x)], -1).float())
    away = (made.place[0][:, y, x].T - want).norm(dim=-1)
    assert away.median() < 2


def test_a_pose_that_stays_shows_the_person_as_it_is(clip: SynthClip) -> None:
    puppet = cut(clip.reference_frame, clip.reference_pose)
    still = warp_input(puppet, clip.reference_frame, clip.reference_pose, clip.reference_pose, PoseDrawer(SIZE))
    with torch.no_grad():
        made = WarpNet((8, 8, 8, 8)).eval()(still)
    mask = torch.from_numpy(clip.truth.reference_mask > 250)
    shown = made.frames[0].movedim(0, -1)[mask] * 127.5 + 127.5
    assert (shown - torch.from_numpy(clip.reference_frame)[mask]).abs().median() < 8


def test_a_harder_outline_is_harder_only_in_use(given: WarpInput) -> None:
    soft, hard = WarpNet((8, 8, 8, 8)), WarpNet((8, 8, 8, 8), decided=4.0)
    hard.load_state_dict(soft.state_dict())
    with torch.no_grad():
        assert torch.equal(soft(given).frames, hard(given).frames)
        a, b = soft.eval()(given), hard.eval()(given)
    assert torch.equal(a.outline, b.outline)
    outside = given.outline < 0.1  # nearer to the background there
    away = [(m.frames - given.background).abs().mean(1)[outside].mean() for m in (a, b)]
    assert away[1] < 0.7 * away[0]


def test_every_weight_learns(given: WarpInput) -> None:
    torch.manual_seed(0)
    net = WarpNet((8, 8, 8, 8))
    torch.nn.init.normal_(net.out.weight, std=0.1)
    made = net(given)
    (made.frames.square().mean() + made.place.square().mean() + made.visible.square().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())


def test_head_and_hands_are_moved_as_wholes(given: WarpInput) -> None:
    y, x = (np.mgrid[: SIZE[0], : SIZE[1]] + 0.5) / 4 - 0.5  # in cells
    tilted = torch.tensor(np.stack([0.2 * x + 1, 0.1 * y - 0.3 * x]), dtype=torch.float32)
    cells = torch.nn.functional.avg_pool2d(tilted, 4).expand(len(given.top), -1, -1, -1)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[4:-4, 4:-4] = True
    for noise in (0.0, 1.0):
        made = displacements(cells + noise * torch.randn(cells.shape, generator=torch.manual_seed(0)), given)
        for frame, top in zip(made, given.top, strict=True):
            for piece in (*RIGID, BODY[0]):
                here = inside & (top == piece)
                at = np.column_stack([x[here], y[here], np.ones(int(here.sum()))])
                left = np.linalg.lstsq(at, frame[:, here].numpy().T)[1]
                assert (left < 1e-4).all() == (noise == 0 or piece in RIGID)
            if noise == 0:  # drawn towards a mere shift, so that a few cells cannot turn a hand
                torch.testing.assert_close(frame[:, inside & (top == BODY[0])], tilted[:, inside & (top == BODY[0])])


def test_without_the_drivers_face_the_head_stays_as_the_limb_warp_has_it(clip: SynthClip, given: WarpInput) -> None:
    torch.manual_seed(0)
    net = WarpNet((8, 8, 8, 8)).eval()
    first = net(given)
    torch.nn.init.normal_(net.out.weight, std=0.3)
    everything = torch.ones_like(given.found)
    but_head = everything.clone()
    but_head[:, HEAD] = False
    with torch.no_grad():
        hidden, seen = (net(given._replace(found=found)) for found in (but_head, everything))
    head, rim = given.top == HEAD, (given.outline - 0.5).abs() < 0.4
    near = F.max_pool2d(head[:, None].float(), 33, 1, 16)[:, 0] > 0
    assert torch.equal(hidden.outline[head], first.outline[head])
    for made in (hidden, seen):
        assert torch.equal(made.outline[~near], seen.outline[~near])
        assert not torch.equal(made.outline[rim & ~near], first.outline[rim & ~near])
    assert not torch.equal(seen.outline[head], first.outline[head])
    poses = dataclasses.replace(clip.poses, confidence=clip.poses.confidence.copy())
    poses.confidence[0, FACE], poses.confidence[1, FACE] = 0, 1
    puppet = cut(clip.reference_frame, clip.reference_pose)
    told = warp_input(puppet, clip.reference_frame, clip.reference_pose, poses, PoseDrawer(SIZE))
    assert told.found[:, HEAD].tolist() == [False, True]


def test_islands_beside_the_person_are_not_shown(clip: SynthClip, monkeypatch: pytest.MonkeyPatch) -> None:
    net = WarpNet((8, 8, 8, 8)).eval()
    moved = MovedPicture(net, clip.reference_frame, clip.reference_pose, clip.poses, PoseDrawer(SIZE))
    want, sure = moved._frame(0)
    forward = WarpNet.forward

    def with_island(self: WarpNet, given: WarpInput) -> Warped:
        out = forward(self, given)
        assert given.outline[0, :8, :8].max() == 0  # nobody is here
        out.outline[0, 2:6, 2:6] = 9
        out.frames[0, :, 2:6, 2:6] = 1
        return out

    monkeypatch.setattr(WarpNet, "forward", with_island)
    frame, visible = moved._frame(0)
    assert np.abs(frame.astype(int) - want).max() <= 5  # without an island, the person's opacity is 2% here
    torch.testing.assert_close(visible[:8, :8], torch.ones(8, 8), rtol=0, atol=0.02)
    assert sure.shape == visible.shape


def test_nobody_in_the_picture_leaves_it_as_it_is(clip: SynthClip) -> None:
    blind = dataclasses.replace(clip.reference_pose, confidence=np.zeros_like(clip.reference_pose.confidence))
    moved = MovedPicture(WarpNet((8, 8, 8, 8)).eval(), clip.reference_frame, blind, clip.poses, PoseDrawer(SIZE))
    assert np.abs(moved[:].astype(int) - clip.reference_frame).max() <= 1


def test_the_model_shows_the_moved_picture_where_it_is_sure(clip: SynthClip) -> None:
    pipe = one_step_pipeline()
    parts = dataclasses.replace(pipe.backbone.parts, detail=DetailNet((8,) * 4, (1, 0, 0, 1)).eval())
    from mimicmotion.backbones.tiny.backbone import TinyBackbone

    net = WarpNet((8, 8, 8, 8)).eval()
    backbone = TinyBackbone(dataclasses.replace(parts, warp=net))
    decoded = [torch.zeros(3, *SIZE), torch.ones(3, *SIZE)]
    for sure in (False, True):
        with torch.no_grad():
            net.out.bias[-1] = 40.0 if sure else -40.0
        poses, own = backbone.guide(clip.reference_frame, clip.reference_pose, clip.poses)
        assert isinstance(poses, WarpedPoses)
        moved = poses.warped
        assert isinstance(moved, MovedPicture)
        assert (len(moved), moved[0:1].shape) == (2, (1, *SIZE, 3))
        first, *shown = show_moved(moved, (frame for frame in [decoded[0], *decoded]), -1)
        assert torch.equal(first, decoded[0])  # a reference slot stays as it is
        for number, (frame, before) in enumerate(zip(shown, decoded, strict=True)):
            picture, seen = moved.frame(number)
            person = moved.puppet.arrange(clip.poses.xy[number], clip.poses.confidence[number]).outline > 0.5
            assert sure <= bool((seen == 1).all())
            assert (seen[~person] >= 0.5).all()  # the still background
            assert sure or 0 < (seen[person] > 0.5).float().mean() < 0.5  # head and hands
            want = torch.lerp(before, torch.from_numpy(picture[0]).movedim(-1, 0) / 127.5 - 1, seen)
            torch.testing.assert_close(frame, want, atol=1e-5, rtol=0)
        assert own.shape == (*SIZE, 3)


def test_bad_sizes_and_poses_are_refused(clip: SynthClip) -> None:
    for wrong in ({"widths": (8, 8, 8)}, {"widths": (8, 8, 8, 12)}, {"decided": 0.0}):
        with pytest.raises(ConfigError, match="widths="):
            WarpNet(**wrong)
    with pytest.raises(InputError, match="one size"):
        MovedPicture(
            WarpNet(), clip.reference_frame, clip.reference_pose, clip.poses.scaled((50, 50)), PoseDrawer(SIZE)
        )
    assert PARTS == 14
