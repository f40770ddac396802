from __future__ import annotations

import pytest
import torch

from mimicmotion.backbones.svd.posenet import PoseNet, posenet_config
from mimicmotion.errors import ConfigError, InputError


def test_published_names_and_shapes() -> None:
    net = PoseNet()
    names = {f"conv_layers.{i}.{p}" for i in range(0, 16, 2) for p in ("weight", "bias")}
    assert set(net.state_dict()) == names | {"final_proj.weight", "final_proj.bias", "scale"}
    assert sum(p.numel() for p in net.parameters()) == 205_557
    assert net.scale.item() == 2.0


def test_starts_at_zero_and_learns() -> None:
    net = PoseNet(8, (3, 4, 5))
    out = net(torch.rand(2, 3, 3, 16, 8))
    assert out.shape == (2, 3, 8, 4, 2)
    assert not out.any()
    (out - 1).square().sum().backward()
    assert net.final_proj.weight.grad is not None
    assert net.final_proj.weight.grad.any()


def test_frames_and_videos_do_not_mix() -> None:
    torch.manual_seed(0)
    net = PoseNet(8, (6, 8, 8))  # driving pose and reference pose side by side
    torch.nn.init.normal_(net.final_proj.weight)
    pose = torch.randn(2, 3, 6, 8, 8)
    whole = net(pose)
    torch.testing.assert_close(net(pose[1:, 2:])[0, 0], whole[1, 2])


@pytest.mark.parametrize("widths", [(3, 16, 32, 64), (6, 8, 8), (3, 5)])
def test_config_from_shapes(widths: tuple[int, ...]) -> None:
    net = PoseNet(24, widths)
    assert posenet_config({k: v.shape for k, v in net.state_dict().items()}) == net.config
    assert net.downscale == 2 ** (len(widths) - 1)


@pytest.mark.parametrize("shape", [(1, 1, 3, 16, 12), (1, 1, 4, 16, 16), (1, 3, 16, 16), (1, 1, 3, 9, 16)])
def test_bad_pose_frames(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="pose frames of shape"):
        PoseNet(8)(torch.zeros(shape))


@pytest.mark.parametrize("kw", [{"widths": (3,)}, {"widths": (3, 0)}, {"out_channels": 0}])
def test_bad_config(kw: dict) -> None:
    with pytest.raises(ConfigError):
        PoseNet(**kw)
