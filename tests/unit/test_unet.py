from __future__ import annotations

import pytest
import torch

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.models.unet import (
    PoseConvIn,
    build_unet,
    cross_attentions,
    unused_parameter_names,
    use_constant_cross_attention,
    with_pose,
)

CONFIG = {
    "block_out_channels": (32, 64),
    "num_attention_heads": (2, 2),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build_unet(CONFIG)


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(2, 3, 8, 8, 4, generator=g),
        "pose": torch.randn(1, 3, 32, 8, 4, generator=g),
        "rest": (torch.tensor(0.3), torch.randn(2, 1, 24, generator=g), torch.tensor([[6.0, 127.0, 0.0]] * 2)),
    }


def test_pose_conv_is_addition_after_the_convolution() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(8, 32, 3, padding=1)
    conv = PoseConvIn(8, 32, 3, padding=1)
    conv.load_state_dict(plain.state_dict())  # same names
    x, pose = torch.randn(5, 8, 6, 4), torch.randn(5, 32, 6, 4)
    assert torch.equal(conv(torch.cat([x, pose], 1)), plain(x) + pose)
    assert torch.equal(conv(x), plain(x))


@pytest.mark.parametrize("channels", [9, 39, 41, 4])
def test_wrong_number_of_pose_channels(channels: int) -> None:
    with pytest.raises(InputError, match=f"with {channels} channels"):
        PoseConvIn(8, 32, 3, padding=1)(torch.zeros(1, channels, 4, 4))


def test_unet_adds_pose_after_conv_in_and_keeps_its_keys(unet, inputs) -> None:
    from diffusers import UNetSpatioTemporalConditionModel

    plain = UNetSpatioTemporalConditionModel.from_config(CONFIG).eval()
    plain.load_state_dict(unet.state_dict())
    pose = inputs["pose"]
    hook = plain.conv_in.register_forward_hook(lambda m, i, o: o + pose.expand(2, -1, -1, -1, -1).flatten(0, 1))
    with torch.inference_mode():
        want = plain(inputs["sample"], *inputs["rest"]).sample
        got = unet(with_pose(inputs["sample"], pose), *inputs["rest"]).sample
        assert torch.equal(got, want)
        hook.remove()
        without = unet(with_pose(inputs["sample"], None), *inputs["rest"]).sample
        assert torch.equal(without, plain(inputs["sample"], *inputs["rest"]).sample)
    assert not torch.allclose(got, without)


def test_constant_cross_attention_equals_the_plain_one(unet, inputs) -> None:
    x = with_pose(inputs["sample"], inputs["pose"])
    with torch.inference_mode():
        want = unet(x, *inputs["rest"]).sample
        layers = len(list(cross_attentions(unet)))
        assert use_constant_cross_attention(unet) == layers
        assert use_constant_cross_attention(unet) == 0  # already on
        got = unet(x, *inputs["rest"]).sample
        assert use_constant_cross_attention(unet, enabled=False) == layers
        again = unet(x, *inputs["rest"]).sample
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert torch.equal(again, want)


def test_several_context_tokens_take_the_plain_path(unet, inputs) -> None:
    t, context, ids = inputs["rest"]
    context = torch.cat([context, context.flip(-1)], dim=1)
    with torch.inference_mode():
        want = unet(inputs["sample"], t, context, ids).sample
        use_constant_cross_attention(unet)
        got = unet(inputs["sample"], t, context, ids).sample
        use_constant_cross_attention(unet, enabled=False)
    assert torch.equal(got, want)


def test_unused_parameters_have_no_gradient_and_all_others_do(unet, inputs) -> None:
    torch.manual_seed(0)
    net = build_unet(CONFIG).double()
    rest = [v.double() for v in inputs["rest"]]
    net(inputs["sample"].double(), *rest).sample.square().sum().backward()
    unused = set(unused_parameter_names(net))
    grads = {n: 0.0 if p.grad is None else p.grad.abs().max().item() for n, p in net.named_parameters()}
    assert unused
    assert max(grads[n] for n in unused) < 1e-12
    # (Elsewhere some biases vanish in the norm that follows, at one channel a group.)
    assert min(g for n, g in grads.items() if n not in unused and ".attn" in n) > 1e-9


def test_dtype_device_and_no_global_change() -> None:
    before = torch.get_default_dtype(), torch.get_default_device()
    net = build_unet(CONFIG, device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.float16)}
    assert (torch.get_default_dtype(), torch.get_default_device()) == before


def test_bad_config() -> None:
    with pytest.raises(ConfigError, match="U-Net config"):
        build_unet({**CONFIG, "num_attention_heads": (2, 2, 2)})
