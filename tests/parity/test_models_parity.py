"""The networks against outputs of the published code, and against the names and shapes of the full-size weights."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mimicmotion.backbones.svd.checkpoint import Components, load_components
from mimicmotion.backbones.svd.decode import decode_float, to_uint8
from mimicmotion.backbones.svd.image_encoder import ImageEncoder, image_embedding
from mimicmotion.backbones.svd.posenet import PoseNet, posenet_config
from mimicmotion.backbones.svd.unet import build_unet, unused_parameter_names
from mimicmotion.backbones.svd.vae import Autoencoder, encode_mode

Find = Callable[[str], Path]
DATA = Path(__file__).with_name("data")
CASES = ["a16_one_tile", "b40_tiles", "c37_ragged", "d36_exact"]


@pytest.fixture(scope="module")
def model(shared: Find) -> Components:
    return load_components(shared("parity/tiny_svd"), shared("parity/tiny_mimicmotion.pth"))


@pytest.fixture(scope="module")
def modules(shared: Find) -> dict[str, torch.Tensor]:
    with np.load(shared("parity/goldens/pipeline/modules.npz")) as z:
        return {k: torch.from_numpy(np.asarray(z[k])) for k in z.files}


@pytest.fixture(params=CASES)
def case(shared: Find, request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    names = ("ref_image", "image_embeddings", "image_latents")
    with np.load(shared(f"parity/goldens/pipeline/{request.param}.npz")) as z:
        return {k: torch.from_numpy(z[k]) for k in names}


def close(got: torch.Tensor, want: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=atol)


@torch.inference_mode()
def test_pose_net(model: Components, modules: dict[str, torch.Tensor]) -> None:
    close(model.pose_net(modules["pose_img"][None])[0], modules["pose_latents"], 1e-6)


@torch.inference_mode()
def test_unet(model: Components, modules: dict[str, torch.Tensor]) -> None:
    m = modules
    rest = (m["unet_t"], m["unet_ehs"], m["unet_ids"])
    close(model.unet(m["unet_sample"], *rest, m["pose_latents"][None]), m["unet_out_pose"], 2e-5)
    close(model.unet(m["unet_sample"], *rest), m["unet_out_nopose"], 2e-5)


@torch.inference_mode()
def test_unet_in_the_first_step(model: Components, shared: Find) -> None:
    """The guided pair: with pose and picture, and without all of them."""
    with np.load(shared("parity/goldens/pipeline/a16_one_tile.npz")) as z:
        case = {k: torch.from_numpy(np.asarray(z[k])) for k in z.files if k != "case"}
    t, ids, embedding = case["timesteps"][0], case["added_time_ids"], case["image_embeddings"]
    x, pose = case["step0_tile0_input_cond"], case["step0_tile0_pose_latents"][None]
    close(model.unet(x, t, embedding, ids, pose), case["step0_tile_cond"], 5e-5)
    x = case["step0_tile0_input_uncond"]
    close(model.unet(x, t, torch.zeros_like(embedding), ids), case["step0_tile_uncond"], 5e-5)


def test_encoders(model: Components, modules: dict[str, torch.Tensor]) -> None:
    close(encode_mode(model.vae, modules["vae_img"]), modules["vae_mode"], 1e-5)
    picture = modules["clip_ref"].permute(2, 0, 1)[None] / 127.5 - 1
    close(image_embedding(model.image_encoder, picture), modules["clip_embed"][1:], 1e-5)


def test_picture_of_each_case(model: Components, case: dict[str, torch.Tensor]) -> None:
    picture = case["ref_image"].permute(2, 0, 1)[None] / 127.5 - 1
    close(image_embedding(model.image_encoder, picture), case["image_embeddings"], 1e-5)
    close(encode_mode(model.vae, picture)[0], case["image_latents"], 1e-4)


@pytest.mark.parametrize(
    ("name", "start"), [pytest.param("a16_one_tile", 8, marks=pytest.mark.slow), ("c37_ragged", 24)]
)
def test_released_decode(model: Components, shared: Find, name: str, start: int) -> None:
    """The last chunks of a case (a chunk does not see the others), one of them short."""
    with np.load(shared(f"parity/goldens/pipeline/{name}.npz")) as z:
        latents, raw, uint8 = (torch.from_numpy(z[k]) for k in ("latents", "frames_raw", "frames_uint8"))
    frames = torch.stack(list(decode_float(model.vae, latents[0, start:], 8, mode="released")))
    close(frames.transpose(0, 1), raw[0, :, start:], 1e-4)
    got = to_uint8(frames, truncate=True).astype(int)
    want = uint8[start - 1 :].numpy().transpose(0, 2, 3, 1)  # the first frame was dropped
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 1e-3


def test_blended_decode_is_nearer_to_the_whole_decode(model: Components, shared: Find) -> None:
    """Against decoding all at once. Measured on 40 frames in chunks of 8: RMS 0.205 plain, 0.025 blended."""
    with np.load(shared("parity/goldens/pipeline/b40_tiles.npz")) as z:
        latents = torch.from_numpy(z["latents"])[0, :14, :, :8]
    whole = torch.stack(list(decode_float(model.vae, latents, 14)))

    def error(**kw: Any) -> tuple[float, float]:
        frames = torch.stack(list(decode_float(model.vae, latents, 8, **kw)))
        steps = (frames.diff(dim=0) - whole.diff(dim=0)).square().mean((1, 2, 3)).sqrt()
        return (frames - whole).square().mean().sqrt().item(), steps.max().item()

    plain, blend = error(mode="released"), error()
    assert blend[0] < plain[0] / 5
    assert blend[1] < plain[1] / 5


@torch.inference_mode()
def test_trained_pose_net(shared: Find) -> None:
    from safetensors.torch import load_file

    tensors = load_file(shared("models/mimic_motion_pose_net.safetensors"))
    net = PoseNet(**posenet_config({k: v.shape for k, v in tensors.items()}))
    net.load_state_dict({k: v.float() for k, v in tensors.items()})
    assert round(net.scale.item(), 4) == 1.1279
    for value, want in ((-1, [0.02769, -0.01850, -0.00915, -0.02333]), (0, [-0.00536, -0.00047, -0.06881, -0.08472])):
        out = net(torch.full((1, 1, 3, 64, 64), float(value)))
        close(out[0, 0, :4, 4, 4], torch.tensor(want), 1e-5)


def shapes(module: torch.nn.Module, prefix: str = "") -> dict[str, list[int]]:
    return {prefix + k: list(v.shape) for k, v in module.state_dict().items()}


def published(name: str) -> Any:
    """Names and shapes of the released full-size weights."""
    return json.loads(gzip.decompress((DATA / name).read_bytes()))


def test_full_size_checkpoint_keys() -> None:
    """Names and shapes of the published 1.5 B parameters, without memory."""
    config = json.loads((DATA / "svd/unet/config.json").read_text()) | {
        "layers_per_block": 2,
        "transformer_layers_per_block": 1,
        "block_out_channels": (320, 640, 1280, 1280),
        "num_attention_heads": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 768,
    }
    unet = build_unet(config, device="meta", dtype=torch.float16)
    want = published("full_keys.json.gz")
    assert shapes(unet, "unet.") | shapes(PoseNet(), "pose_net.") == want
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == 1524.6
    unused = set(unused_parameter_names(unet))
    assert round(sum(p.numel() for n, p in unet.named_parameters() if n in unused) / 1e6, 1) == 50.4


def test_full_size_svd_keys() -> None:
    want = published("full_keys_svd.json.gz")
    vae = json.loads((DATA / "svd/vae/config.json").read_text()) | {"layers_per_block": 2}
    clip = json.loads((DATA / "svd/image_encoder/config.json").read_text()) | {
        "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 32,
        "patch_size": 14, "projection_dim": 1024,
    }  # fmt: skip
    with torch.device("meta"):
        assert shapes(Autoencoder(vae | {"block_out_channels": (128, 256, 512, 512)})) == want["vae"]
        assert shapes(ImageEncoder(clip)) == want["image_encoder"]
