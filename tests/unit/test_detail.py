"""The detail network: what it starts as, its displacement, and its way through pipeline and files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro import micro_pipeline, random_frames
from mimicmotion.config import FusionConfig
from mimicmotion.errors import ConfigError, InputError, WeightsError
from mimicmotion.models.detail import DetailNet, add_detail, displace
from mimicmotion.models.pose_features import to_unit
from mimicmotion.pipeline import MimicMotionPipeline

SIZE = (32, 48)


def small(seed: int = 0, *, silent: bool = False) -> DetailNet:
    """A small network; unless `silent`, its last layer says something."""
    torch.manual_seed(seed)
    net = DetailNet(width=8, blocks=1, fine=8, reach=3.0).eval()
    if not silent:
        torch.nn.init.normal_(net.out.weight, std=0.3)
        torch.nn.init.normal_(net.out.bias, std=0.3)
    return net


def pictures(seed: int, n: int = 2) -> tuple[torch.Tensor, ...]:
    return tuple(to_unit(random_frames(seed + k, n, *SIZE, 3)) for k in range(3))


def detailed_pipeline(net: DetailNet | None) -> MimicMotionPipeline:
    plain = micro_pipeline()
    settings = plain.settings | {"reference_warp": "residual"}
    return MimicMotionPipeline(plain.unet, plain.vae, plain.image_encoder, plain.pose_net, settings, net)


def inputs(frames: int = 5) -> dict:
    return {
        "image": random_frames(1, *SIZE, 3),
        "poses": random_frames(2, frames, *SIZE, 3),
        "reference_pose": random_frames(3, *SIZE, 3),
        "warped": random_frames(4, frames, *SIZE, 3),
        "num_inference_steps": 1,
    }


def test_a_closed_gate_is_the_decoded_frame_and_an_open_one_the_warped_picture() -> None:
    net, (decoded, warped, reference) = small(silent=True), pictures(0)
    torch.testing.assert_close(net(decoded, warped, reference), (decoded + warped) / 2)  # as it starts
    gate = torch.arange(net.out.out_channels) < 4  # the first of six maps, folded 2x2
    for value, want in ((-40.0, decoded), (40.0, warped)):
        with torch.no_grad():
            net.out.bias[gate] = value
        torch.testing.assert_close(net(decoded, warped, reference), want, rtol=0, atol=1e-5)


@given(
    dx=st.integers(-3, 3),
    dy=st.integers(-3, 3),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
)
def test_whole_pixels_of_displacement_are_a_shift_with_edges_continued(
    dx: int, dy: int, height: int, width: int
) -> None:
    picture = torch.arange(3 * height * width, dtype=torch.float64).view(1, 3, height, width)
    shift = torch.tensor([dx, dy], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, height, width)
    rows = (torch.arange(height) + dy).clamp(0, height - 1)
    columns = (torch.arange(width) + dx).clamp(0, width - 1)
    torch.testing.assert_close(displace(picture, shift), picture[:, :, rows][:, :, :, columns])


def test_a_frame_depends_on_itself_alone_and_slots_before_the_first_stay() -> None:
    net, picture, warped = small(), random_frames(1, *SIZE, 3), random_frames(2, 4, *SIZE, 3)
    decoded = to_unit(random_frames(3, 5, *SIZE, 3))
    got = torch.stack(list(add_detail(net, (f for f in decoded), picture, warped, first=-1)))
    assert torch.equal(got[0], decoded[0])
    with torch.no_grad():
        want = net(decoded[1:], to_unit(warped), to_unit(picture[None]).expand(4, -1, -1, -1))
    torch.testing.assert_close(got[1:], want, rtol=1e-4, atol=1e-4)
    assert float((got[1:] - decoded[1:]).abs().mean()) > 0.1


def test_warped_frames_are_taken_one_by_one_when_they_are_needed() -> None:
    taken: list[int] = []

    class Lazy:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: slice) -> np.ndarray:
            taken.extend(range(*index.indices(100)))
            return random_frames(0, len(range(*index.indices(100))), *SIZE, 3)

    stream = add_detail(
        small(), (to_unit(random_frames(1, *SIZE, 3)[None])[0] for _ in range(100)), inputs()["image"], Lazy()
    )
    next(stream), next(stream)
    assert taken == [0, 1]
    stream.close()


def test_streamed_frames_are_those_of_the_whole_and_show_the_warped_picture() -> None:
    pipe = detailed_pipeline(small())
    whole = pipe(**inputs(), output_type="np", decode_chunk_size=5)
    stream = np.stack(list(pipe(**inputs(), output_type="stream", decode_chunk_size=5)))
    assert np.array_equal(whole, stream)
    plain = detailed_pipeline(None)(**inputs(), decode_chunk_size=5)
    assert (whole != plain).mean() > 0.5
    # what is decoded is the same; the detail comes on top of it
    latents = pipe(**inputs(), output_type="latent")[0]
    assert np.array_equal(np.stack(list(pipe.decode(latents, decode_chunk_size=5))), plain)


def test_the_published_way_of_decoding_leaves_the_reference_slot_out_of_it() -> None:
    pipe = detailed_pipeline(small())
    fusion = FusionConfig(mode="released", segment_frames=6, overlap_frames=3)
    given_inputs = inputs(8)
    got = pipe(**given_inputs, fusion=fusion)
    assert got.shape[0] == 8
    pipe.detail = small(silent=True)
    with torch.no_grad():
        pipe.detail.out.bias[:4] = 40.0  # an open gate: the warped pictures themselves, in their order
    got = pipe(**given_inputs, fusion=fusion)
    assert np.abs(got.astype(int) - given_inputs["warped"]).max() <= 1


def test_each_video_of_a_list_gets_its_own_picture() -> None:
    pipe, one = detailed_pipeline(small()), inputs()
    two = one | {"image": random_frames(11, *SIZE, 3), "warped": random_frames(14, 5, *SIZE, 3)}
    names = ("image", "poses", "reference_pose", "warped")
    both = pipe(**{k: [one[k], two[k]] for k in names}, num_inference_steps=1)
    for k, alone in enumerate((one, two)):
        assert np.array_equal(both[k], pipe(**alone))


def test_a_model_with_a_detail_network_survives_its_folder(tmp_path: Path) -> None:
    pipe = detailed_pipeline(small())
    pipe.save_pretrained(tmp_path / "model")
    again = MimicMotionPipeline.from_pretrained(tmp_path / "model")
    assert again.detail is not None
    assert again.detail.config == pipe.detail.config
    assert any(f.parent.name == "detail" for f in again.files)
    assert np.array_equal(again(**inputs()), pipe(**inputs()))
    again.to(dtype=torch.float64)
    assert next(again.detail.parameters()).dtype == torch.float64


def test_a_folder_without_its_detail_file_or_with_a_wrong_config_is_refused(tmp_path: Path) -> None:
    detailed_pipeline(small()).save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "detail" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"fine": 8', '"fine": 9'))
    with pytest.raises(WeightsError, match="fine"):
        MimicMotionPipeline.from_pretrained(tmp_path / "model")
    config.write_text(text)
    (tmp_path / "model" / "detail" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="detail"):
        MimicMotionPipeline.from_pretrained(tmp_path / "model")


def test_wrong_settings_and_missing_pictures_are_refused() -> None:
    for wrong in ({"width": 12}, {"fine": 0}, {"blocks": -1}, {"reach": 0.0}):
        with pytest.raises(ConfigError):
            DetailNet(**wrong)
    plain = micro_pipeline()
    with pytest.raises(ConfigError, match="detail network"):
        MimicMotionPipeline(plain.unet, plain.vae, plain.image_encoder, plain.pose_net, plain.settings, small())
    pipe = detailed_pipeline(small())
    latents = torch.zeros(3, 4, SIZE[0] // 8, SIZE[1] // 8)
    with pytest.raises(InputError, match="2 warped frames"):
        pipe.decode(latents, picture=inputs()["image"], warped=random_frames(0, 2, *SIZE, 3))
    with pytest.raises(InputError, match="no picture"):
        pipe.decode(latents, warped=random_frames(0, 3, *SIZE, 3))
    with pytest.raises(InputError, match="pixels"):
        next(pipe.decode(latents, picture=inputs()["image"], warped=random_frames(0, 3, 16, 32, 3)))


def test_components_carry_the_network(tmp_path: Path) -> None:
    from mimicmotion.models.checkpoint import load_components, save_components

    pipe = detailed_pipeline(small())
    pipe.save_pretrained(tmp_path / "with")
    parts = load_components(tmp_path / "with")
    save_components(dataclasses.replace(parts, detail=None), tmp_path / "without", dtype=torch.float16)
    assert load_components(tmp_path / "without").detail is None
    assert not (tmp_path / "without" / "detail").exists()
