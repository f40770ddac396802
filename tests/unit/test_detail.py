"""The detail network: its initial state, its possible results, and its use in pipeline and files."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from micro import micro_pipeline, random_frames
from mimicmotion.backbones.base import Request
from mimicmotion.backbones.svd.backbone import SVDBackbone
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.tiny.detail import BLURS, CANDIDATES, DetailNet, add_detail, blurred, moved
from mimicmotion.errors import ConfigError, InputError, WeightsError
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.guidance.limb_warp import WarpedPoses
from mimicmotion.runtime.files import sha256_file
from mimicmotion.settings import FusionConfig

SIZE = (32, 48)
SMALL = {"widths": (8, 8, 8, 8), "blocks": (1, 0, 0, 1)}
PAINTED = CANDIDATES.index("painted")


def small(seed: int = 0, *, silent: bool = False) -> DetailNet:
    """A small network; unless `silent`, its last layer is not zero."""
    torch.manual_seed(seed)
    net = DetailNet(**SMALL).eval()
    if not silent:
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3 if p.ndim > 1 else 1.0)
    return net


def pictures(seed: int, n: int = 2) -> tuple[torch.Tensor, ...]:
    """Decoded, warped, reference, pose, reference pose."""
    return tuple(to_unit(random_frames(seed + k, n, *SIZE, 3)) for k in range(5))


def request(frames: int = 3, **changes: Any) -> Request:
    moving = {"warped": random_frames(4, frames, *SIZE, 3), "poses": random_frames(2, frames, *SIZE, 3)} | changes
    poses = WarpedPoses(**moving)
    return Request(random_frames(1, *SIZE, 3), poses, random_frames(3, *SIZE, 3), len(poses))


def detailed_pipeline(net: DetailNet | None) -> MimicMotionPipeline:
    return micro_pipeline(warp="residual", detail=net)


def inputs(frames: int = 5) -> dict:
    return {
        "image": random_frames(1, *SIZE, 3),
        "poses": WarpedPoses(random_frames(2, frames, *SIZE, 3), random_frames(4, frames, *SIZE, 3)),
        "reference_pose": random_frames(3, *SIZE, 3),
        "num_inference_steps": 1,
    }


def choose(net: DetailNet, candidate: int) -> None:
    """Make the network choose this candidate everywhere."""
    with torch.no_grad():
        net.out.weight.zero_()
        net.out.bias.zero_()
        net.out.bias[4 * candidate : 4 * candidate + 4] = 40.0  # four places of a cell


def test_it_starts_with_the_mean_and_can_choose_any_candidate() -> None:
    net, (decoded, warped, reference, *poses) = small(silent=True), pictures(0)
    net.requires_grad_(False)
    start = net(decoded, warped, reference, *poses)
    assert float((start - (decoded + warped) / 2).abs().mean()) < 0.2 * float((decoded - warped).abs().mean())
    net.displace.weight.zero_()
    soft = [blurred(p, s) for p in (decoded, warped) for s in BLURS]
    candidates = (decoded, *soft[:2], warped, *soft[2:], reference, warped, decoded, soft[1])
    assert len(candidates) == len(CANDIDATES)
    for k, want in enumerate(candidates):
        choose(net, k)
        torch.testing.assert_close(net(decoded, warped, reference, *poses), want, rtol=0, atol=1e-5)


def test_corrections_at_whole_pixels_start_at_nothing_and_see_each_pixel() -> None:
    plain, finer = small(), DetailNet(**SMALL, fine=8).eval()
    assert set(finer.load_state_dict(plain.state_dict(), strict=False).missing_keys) == {
        f"fine.{layer}.{what}" for layer in (0, 2) for what in ("weight", "bias")
    }
    given = pictures(5, 1)
    with torch.no_grad():
        assert torch.equal(plain(*given), finer(*given))
        for p in finer.fine.parameters():  # type: ignore[union-attr]
            torch.nn.init.normal_(p)
        before = finer(*given)
        assert not torch.equal(plain(*given), before)
    assert DetailNet(**finer.config).fine is not None


def test_it_moves_pictures_by_pixels_and_paints_on_the_softest() -> None:
    net, (decoded, warped, *others) = small(silent=True), pictures(0)
    net.requires_grad_(False)
    net.displace.weight.zero_()
    net.displace.bias.copy_(2 * torch.atanh(torch.tensor([1.0, 2.0, -3.0, 0.0]) / 8))
    choose(net, CANDIDATES.index("warped, moved"))
    got = net(decoded, warped, *others)
    torch.testing.assert_close(got[..., :-2, :-1], warped[..., 2:, 1:], rtol=0, atol=1e-4)
    choose(net, CANDIDATES.index("decoded, moved"))
    torch.testing.assert_close(net(decoded, warped, *others)[..., 3:], decoded[..., :-3], rtol=0, atol=1e-4)
    choose(net, PAINTED)
    net.out.bias[4 * len(CANDIDATES) :] = torch.arange(12) / 10  # red, green, blue of the four places of a cell
    colour = (net(decoded, warped, *others) - blurred(decoded, BLURS[-1]))[0, :, :2, :2]
    torch.testing.assert_close(colour.reshape(12), torch.arange(12) / 10, rtol=0, atol=1e-5)


@given(x=st.floats(-9, 9), y=st.floats(-9, 9))
def test_moved_takes_each_pixel_from_where_it_is_told(x: float, y: float) -> None:
    ramp = torch.stack([torch.arange(24.0).expand(16, 24), torch.arange(16.0)[:, None].expand(16, 24)])
    by = torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, 16, 24)
    got = moved(ramp[None], by)[0]
    torch.testing.assert_close(got[0], (ramp[0] + x).clamp(0, 23), rtol=0, atol=1e-3)
    torch.testing.assert_close(got[1], (ramp[1] + y).clamp(0, 15), rtol=0, atol=1e-3)


def test_a_lean_applies_in_use_but_not_in_training() -> None:
    shown, still = pictures(0), SMALL | {"dropout": 0.0}
    plain, leaning = small(silent=True), DetailNet(**still, sharp_lean=60.0)
    with torch.no_grad():
        plain.displace.weight.zero_()
    leaning.load_state_dict(plain.state_dict())
    torch.testing.assert_close(leaning.train()(*shown), plain(*shown))
    torch.testing.assert_close(leaning.eval()(*shown), shown[1], rtol=0, atol=1e-5)
    leaning = DetailNet(**still, sharp_lean=60.0, blurred_lean=120.0).eval()
    leaning.load_state_dict(plain.state_dict())
    soft = torch.stack([blurred(p, s) for p in shown[:2] for s in BLURS]).mean(0)
    torch.testing.assert_close(leaning(*shown), soft, rtol=0, atol=1e-5)


def test_what_it_does_not_paint_is_in_its_pictures() -> None:
    net, shown = small(), pictures(0)
    with torch.no_grad():
        net.out.weight[4 * PAINTED : 4 * PAINTED + 4] = 0
        net.out.bias[4 * PAINTED : 4 * PAINTED + 4] = -1e4
    got, near = net(*shown), torch.cat(shown[:3])
    reach = {"kernel_size": 19, "stride": 1, "padding": 9}  # pixels that are moved, or blurred
    highest = F.max_pool2d(near.amax(0, keepdim=True), **reach)
    lowest = -F.max_pool2d(-near.amin(0, keepdim=True), **reach)
    assert (got <= highest + 1e-5).all()
    assert (got >= lowest - 1e-5).all()


@pytest.mark.parametrize("place", range(5))
def test_it_looks_at_each_of_its_pictures(place: int) -> None:
    net, shown = small(), list(pictures(0))
    before = net(*shown)
    shown[place] = -shown[place]
    assert float((net(*shown) - before).detach().abs().mean()) > 0.01


@given(sigma=st.floats(0.5, 3.0), height=st.integers(4, 20), width=st.integers(4, 20), level=st.floats(-1, 1))
def test_blurring_keeps_even_areas_and_spreads_a_dot_as_a_gaussian(
    sigma: float, height: int, width: int, level: float
) -> None:
    even = torch.full((1, 3, height, width), level)
    torch.testing.assert_close(blurred(even, sigma), even)
    dot = torch.zeros(1, 3, 41, 41)
    dot[..., 20, 20] = 1
    spread = blurred(dot, sigma)[0, 1]
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert float(spread[20, 21] / spread[20, 20]) == pytest.approx(np.exp(-0.5 / sigma**2), rel=1e-4)
    torch.testing.assert_close(spread, spread.T)


def test_a_frame_depends_on_itself_alone_and_slots_before_the_first_stay() -> None:
    net, shown = small(), request(4)
    decoded = to_unit(random_frames(9, 5, *SIZE, 3))
    got = torch.stack(list(add_detail(net, (f for f in decoded), shown, first=-1)))
    assert torch.equal(got[0], decoded[0])
    picture, pose = (to_unit(p[None]).expand(4, -1, -1, -1) for p in (shown.image, shown.reference_pose))
    with torch.no_grad():
        want = net(decoded[1:], to_unit(shown.poses.warped), picture, to_unit(shown.poses.poses), pose)
    torch.testing.assert_close(got[1:], want, rtol=1e-3, atol=1e-3)
    assert float((got[1:] - decoded[1:]).abs().mean()) > 0.02


def test_warped_frames_and_poses_are_taken_one_by_one_when_they_are_needed() -> None:
    taken: list[int] = []

    class Lazy:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: slice) -> np.ndarray:
            taken.extend(range(*index.indices(100)))
            return random_frames(0, len(range(*index.indices(100))), *SIZE, 3)

    lazy = request(warped=Lazy(), poses=Lazy())
    stream = add_detail(small(), (to_unit(random_frames(1, *SIZE, 3)[None])[0] for _ in range(100)), lazy)
    next(stream), next(stream)
    assert taken == [0, 0, 1, 1]
    stream.close()


def test_streamed_frames_are_those_of_the_whole_and_show_the_warped_picture() -> None:
    pipe = detailed_pipeline(small())
    whole = pipe(**inputs(), output_type="np", decode_chunk_size=5).frames
    stream = np.stack(list(pipe(**inputs(), output_type="stream", decode_chunk_size=5).frames))
    assert np.array_equal(whole, stream)
    plain = detailed_pipeline(None)(**inputs(), decode_chunk_size=5).frames
    assert (whole != plain).mean() > 0.5
    # what is decoded is the same; the detail comes on top of it
    latents = pipe(**inputs(), output_type="latent").frames[0]
    assert np.array_equal(np.stack(list(pipe.decode(latents, decode_chunk_size=5))), plain)


def test_the_published_decoding_leaves_the_reference_slot_alone() -> None:
    pipe = detailed_pipeline(small())
    fusion = FusionConfig(mode="released", segment_frames=6, overlap_frames=3)
    given_inputs = inputs(8)
    got = pipe(**given_inputs, fusion=fusion).frames
    assert got.shape[0] == 8
    pipe.backbone.detail = small(silent=True)
    choose(pipe.backbone.detail, 3)  # the warped pictures themselves, in their order
    got = pipe(**given_inputs, fusion=fusion).frames
    assert np.abs(got.astype(int) - given_inputs["poses"].warped).max() <= 1


def test_each_video_of_a_list_gets_its_own_picture() -> None:
    pipe, one = detailed_pipeline(small()), inputs()
    other = WarpedPoses(one["poses"].poses, random_frames(14, 5, *SIZE, 3))
    two = one | {"image": random_frames(11, *SIZE, 3), "poses": other}
    names = ("image", "poses", "reference_pose")
    both = pipe(**{k: [one[k], two[k]] for k in names}, num_inference_steps=1).frames
    for k, alone in enumerate((one, two)):
        assert np.array_equal(both[k], pipe(**alone).frames)


def test_a_model_with_a_detail_network_survives_its_folder(tmp_path: Path) -> None:
    pipe = detailed_pipeline(small())
    pipe.save_pretrained(tmp_path / "model")
    again = MimicMotionPipeline.from_pretrained(tmp_path / "model")
    assert again.backbone.detail is not None
    assert again.backbone.detail.config == pipe.backbone.detail.config
    assert any(f.parent.name == "detail" for f in again.backbone.files)
    shown = pictures(0)
    assert torch.equal(again.backbone.detail(*shown), pipe.backbone.detail(*shown))
    # loaded models compute with faster kernels, the same up to rounding
    assert np.abs(again(**inputs()).frames.astype(int) - pipe(**inputs()).frames).max() <= 1
    again.to(dtype=torch.float64)
    assert next(again.backbone.detail.parameters()).dtype == torch.float64


def test_a_folder_without_its_detail_file_or_with_a_wrong_config_is_refused(tmp_path: Path) -> None:
    detailed_pipeline(small()).save_pretrained(tmp_path / "model")
    config, about = (tmp_path / "model" / name for name in ("detail/config.json", "mimicmotion.json"))
    text, facts, recorded = config.read_text(), about.read_text(), sha256_file(config)
    config.write_text(re.sub(r'("blocks": \[\s*)1', r"\g<1>2", text))
    with pytest.raises(WeightsError, match="sha256"):
        MimicMotionPipeline.from_pretrained(tmp_path / "model")
    about.write_text(facts.replace(recorded, sha256_file(config)))
    with pytest.raises(WeightsError, match="blocks"):
        MimicMotionPipeline.from_pretrained(tmp_path / "model")
    config.write_text(text)
    about.write_text(facts)
    (tmp_path / "model" / "detail" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="detail"):
        MimicMotionPipeline.from_pretrained(tmp_path / "model")


def test_wrong_settings_and_missing_pictures_are_refused() -> None:
    for wrong in (
        {"widths": (8, 8, 8, 12)},
        {"blocks": (1, 1, 1)},
        {"blocks": (1, 1, 1, -1)},
        {"dropout": 1.0},
        {"fine": -1},
    ):
        with pytest.raises(ConfigError):
            DetailNet(**(SMALL | wrong))
    with pytest.raises(ConfigError, match="detail network"):
        SVDBackbone(replace(micro_pipeline().backbone.parts, detail=small()))
    pipe = detailed_pipeline(small())
    latents = torch.zeros(3, 4, SIZE[0] // 8, SIZE[1] // 8)
    with pytest.raises(InputError, match="2 frames"):
        pipe.decode(latents, request=request(2))
    for name in ("warped", "poses"):
        with pytest.raises(InputError, match="pixels"):
            next(pipe.decode(latents, request=request(**{name: random_frames(0, 3, 16, 32, 3)})))


def test_components_carry_the_network(tmp_path: Path) -> None:
    from mimicmotion.backbones.svd.checkpoint import load_components, save_components

    pipe = detailed_pipeline(small())
    pipe.save_pretrained(tmp_path / "with")
    parts = load_components(tmp_path / "with")
    save_components(dataclasses.replace(parts, detail=None), tmp_path / "without", dtype=torch.float16)
    assert load_components(tmp_path / "without").detail is None
    assert not (tmp_path / "without" / "detail").exists()
