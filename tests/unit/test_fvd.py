"""Windows, preprocessing, streaming features, and the layers of I3D."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicmotion.errors import ConfigError, InputError, WeightsError
from mimicmotion.evaluation.networks import features as networks
from mimicmotion.evaluation.networks.features import FeatureNetwork, Preprocess, features, load_i3d, load_network
from mimicmotion.evaluation.networks.i3d import I3D, Inception, SameConv, same_padding


class Means:
    """Features of a clip: the mean of each of its frames."""

    length, preprocess = 4, Preprocess(8)

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.sizes.append(len(clips))
        return clips.mean((2, 3, 4))


def steps(n: int) -> list[np.ndarray]:
    """Frame i has the grey 10 i."""
    return [np.full((6, 9, 3), 10 * i, np.uint8) for i in range(n)]


@pytest.mark.parametrize(("mode", "starts"), [("stride1", range(8)), ("disjoint", (0, 4))])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_features_are_those_of_the_clips_in_order(mode: networks.Mode, starts: Sequence[int], batch_size: int) -> None:
    got = features(steps(11), Means(), mode=mode, batch_size=batch_size)
    grey = np.arange(11) * 10 / 127.5 - 1
    np.testing.assert_allclose(got, [grey[i : i + 4] for i in starts], atol=1e-6)
    assert len(features(steps(4), Means(), mode=mode, batch_size=batch_size)) == 1


def test_frames_are_taken_as_they_are_needed() -> None:
    taken, network = [], Means()

    def source() -> Iterator[np.ndarray]:
        for i, frame in enumerate(steps(20)):
            # never more than two batches' clips ahead of what went through the network
            assert i <= sum(network.sizes) + 4 + 2
            taken.append(i)
            yield frame

    assert len(features(source(), network, batch_size=2)) == 17
    assert taken == list(range(20))
    assert max(network.sizes) == 2


def test_bad_frames_are_refused() -> None:
    frames = [f / 255 for f in steps(6)]
    frames[3][1, 2, 0] = np.nan
    with pytest.raises(InputError, match="frame 3: NaN"):
        features(frames, Means())
    with pytest.raises(InputError, match="scale the frames"):
        features([f.astype(np.float32) for f in steps(6)], Means())
    with pytest.raises(InputError, match="a sequence of 3 frames"):
        features(steps(3), Means())
    with pytest.raises(InputError, match=r"frame 2 of shape \(5, 9, 3\)"):
        features([*steps(2), np.zeros((5, 9, 3), np.uint8)], Means())


def test_squashing_keeps_the_whole_picture_and_cropping_the_middle() -> None:
    x = np.zeros((40, 80, 3), np.uint8)
    x[:, :20], x[:, 60:] = (255, 0, 0), (0, 0, 255)  # red and blue ends, black middle
    squash, crop = Preprocess(16)(x), Preprocess(16, "crop")(x)
    assert squash.shape == crop.shape == (3, 16, 16)
    assert squash[0, :, :3].min() > 0.9
    assert squash[2, :, -3:].min() > 0.9
    assert squash[:, :, 6:10].max() < -0.9
    assert crop.max() == -1
    # floats in 0..1 are the same picture
    np.testing.assert_allclose(Preprocess(16)(x / 255), squash, atol=1e-6)


def test_squashing_is_bicubic_with_antialiasing_and_cropping_bilinear_without() -> None:
    x = np.random.default_rng(0).integers(0, 256, (37, 50, 3)).astype(np.uint8)
    t = torch.from_numpy(x.transpose(2, 0, 1).copy())[None].float()
    resize = torch.nn.functional.interpolate
    want = resize(t, (16, 16), mode="bicubic", antialias=True).clip(0, 255)[0] / 127.5 - 1
    np.testing.assert_allclose(Preprocess(16)(x), want, atol=1e-3)
    want = resize(t, (16, 22), mode="bilinear")[0, :, :, 3:19] / 127.5 - 1
    np.testing.assert_allclose(Preprocess(16, "crop")(x), want, atol=1e-3)


@pytest.mark.whole
def test_a_network_given_by_path(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Flatten(), torch.zeros(2, 3, 4, 8, 8), check_trace=False), str(path))
    net = load_network(path, "flat", length=4, preprocess=Preprocess(8), device="cpu")
    assert features(steps(5), net).shape == (2, 3 * 4 * 8 * 8)
    with pytest.raises(WeightsError, match="does not exist"):
        load_network(tmp_path / "no.pt", "flat")
    path.write_bytes(b"no archive")
    with pytest.raises(WeightsError, match="TorchScript"):
        load_network(path, "flat")
    (tmp_path / "mae").mkdir()
    with pytest.raises(WeightsError, match="VideoMAE"):
        load_network(tmp_path / "mae", "mae")


def test_pictures_lose_their_time_axis() -> None:
    network = FeatureNetwork(torch.nn.Flatten(), "flat", length=1, preprocess=Preprocess(8), device="cpu")
    assert features(steps(3), network).shape == (3, 3 * 8 * 8)
    no_features = dataclasses.replace(network, module=torch.sum)
    with pytest.raises(WeightsError, match="without its classifier"):
        features(steps(3), no_features)


def test_a_video_mae_of_transformers_gives_averaged_tokens(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    with torch.random.fork_rng(devices=[]):
        VideoMAEModel(config).save_pretrained(tmp_path)
    net = load_network(tmp_path, "mae", length=4, preprocess=Preprocess(16), device="cpu")
    got = features(steps(5), net)
    assert got.shape == (2, 8)
    assert np.isfinite(got).all()


def test_a_video_mae_without_transformers_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"\[eval\]"):
        load_network(tmp_path, "VideoMAE")


def test_missing_or_foreign_weights_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.setenv("MIMICMOTION_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="mimicmotion weights fetch i3d"):
        load_i3d()
    with pytest.raises(WeightsError, match="does not exist"):
        load_i3d(tmp_path / "no.safetensors")
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="weights of I3D"):
        load_i3d(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="at least 9"):
        load_i3d(length=8)


@given(st.integers(1, 50), st.integers(1, 8), st.integers(1, 4))
def test_same_padding_makes_the_size_a_rounded_up_quotient(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    if kernel >= stride:
        assert (size + before + after - kernel) // stride + 1 == -(-size // stride)


def test_the_odd_padding_comes_after() -> None:
    conv = SameConv(1, 1, 3, 2)
    with torch.no_grad():
        conv.weight.zero_()[..., 0, 0, 0] = 1  # looks at the first corner of each window
        conv.bias.zero_()
        x = torch.arange(1.0, 65).reshape(1, 1, 4, 4, 4)
        torch.testing.assert_close(conv(x), x[..., ::2, ::2, ::2])


def test_the_network_has_the_published_shape() -> None:
    with torch.device("meta"):
        net = I3D()
        assert net(torch.empty(2, 3, 9, 224, 224)).shape == (2, 400)
        assert net(torch.empty(1, 3, 30, 224, 224)).shape == (1, 400)


def test_a_block_keeps_its_numbers(golden: Callable[..., None]) -> None:
    block = Inception(3, (2, 2, 3, 1, 2, 2))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(torch.from_numpy(rng.normal(size=p.shape)))
        got = block(torch.from_numpy(rng.normal(size=(1, 3, 3, 5, 4))).float())
    assert got.shape == (1, 9, 3, 5, 4)
    golden("i3d_block", rtol=1e-4, atol=1e-5, out=got.numpy())


def test_published_inputs() -> None:
    assert networks.FID_VID_INPUT.size == 112
    black = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_allclose(networks.FID_VID_INPUT(black)[:, 0, 0], [-114.7748, -107.7354, -99.4750])
    assert networks.IMAGENET_INPUT(black)[0, 0, 0] == pytest.approx(-0.485 / 0.229, rel=1e-4)
