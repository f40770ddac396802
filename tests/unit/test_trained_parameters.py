"""Trained and frozen parameters, the wrapper module, gradient checkpointing, and outputs of the frozen networks."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fake_shards import FakeShards
from micro_task import SIZE, gradients, micro_config, micro_task, weights_of
from mimicmotion.backbones import backbone_of
from mimicmotion.backbones.base import Request
from mimicmotion.backbones.svd.conditioning import ConditionedUNet
from mimicmotion.backbones.svd.unet import build_unet, temporal_parameter_names, unused_parameter_names
from mimicmotion.backbones.svd.vae import encoder_digest
from mimicmotion.errors import ConfigError, WeightsError
from mimicmotion.pose.hands import hand_masks
from mimicmotion.pose.keypoints import LEFT_HAND, NUM_POINTS, RIGHT_HAND, PoseSequence
from mimicmotion.settings import SamplingSettings
from mimicmotion.settings.training import ModelConfig, ObjectiveConfig, TinyConfig, TrainedConfig
from mimicmotion.training.networks import load_networks, unet_names
from mimicmotion.training.objective import draw, loss_weights, network_arguments
from mimicmotion.training.stages.denoiser import DenoiserTask

pytestmark = pytest.mark.whole

SVD_UNET: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "num_attention_heads": [5, 10, 20, 20],
    "num_frames": 25,
}


def test_counts_on_the_real_network() -> None:
    unet: Any = build_unet(SVD_UNET, device="meta")
    sizes = {n: p.numel() for n, p in unet.named_parameters()}
    assert sum(sizes.values()) == 1_524_623_082
    assert sum(sizes[n] for n in unused_parameter_names(unet)) == 50_389_760
    assert sum(sizes[n] for n in unet_names(unet, TrainedConfig(what="all"))) == 1_474_233_322
    temporal = temporal_parameter_names(unet)
    assert len(temporal) == 416 + 64 + 220 + 38  # attention, frame embedding, convolutions, mixing numbers
    assert sum(sizes[n] for n in temporal) == 656_076_838
    assert not [n for n in temporal if "spatial" in n or ".transformer_blocks." in n]
    trained = unet_names(unet, TrainedConfig(what="temporal"))
    assert sum(sizes[n] for n in trained) == 656_076_838 - 25_194_880
    assert unet_names(unet, TrainedConfig(what="pose_net")) == []


def test_a_network_without_temporal_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="temporal layers"):
        unet_names(torch.nn.Linear(2, 2), TrainedConfig(what="temporal"))


@pytest.mark.parametrize("what", ["all", "pose_net", "temporal", "lora"])
def test_only_what_is_named_learns_and_all_of_it_does(what: Any, tmp_path: Path) -> None:
    task = micro_task(tmp_path, trained={"what": what, "rank": 2})
    names = set(task.parameters())
    assert any(n.startswith("pose_net.") for n in names)
    assert {n for n, p in task.model.named_parameters() if p.requires_grad} == names
    assert not any(f"unet.{n}" in names for n in unused_parameter_names(task.parts.unet))
    assert any(n.startswith("unet.") for n in names) == (what != "pose_net")
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    # two steps: behind a zero layer (LoRA's B) nothing learns in the first
    optimiser = torch.optim.SGD(task.parameters().values(), lr=0.1)
    for step in range(2):
        gradients(task, [2 * step, 2 * step + 1])
        optimiser.step()
    changed = {k for k, v in task.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= names
    # in front of a norm whose groups are single channels, as in the level of 32, what is added to a channel is lost
    lost = ("conv1.bias", "time_emb_proj.bias", "time_emb_proj.weight")
    narrow = ("unet.down_blocks.0.", "unet.up_blocks.1.")
    still = {n for n in names - changed if not (n.startswith(narrow) and n.endswith(lost))}
    # likewise in front of the last norm, where only rounding, which depends on the CPU, makes these change
    last = "unet.up_blocks.1.resnets.1."
    assert not {n for n in still if not (n.startswith(last) and n.endswith(("conv2.bias", "conv_shortcut.bias")))}


def test_accelerate_finds_the_blocks_to_shard(tmp_path: Path) -> None:
    fsdp = pytest.importorskip("accelerate.utils.fsdp_utils")
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    plugin = SimpleNamespace(auto_wrap_policy=transformer_auto_wrap_policy, transformer_cls_names_to_wrap=None)
    model = micro_task(tmp_path).model
    policy = fsdp.fsdp2_prepare_auto_wrap_policy(plugin, model)
    units = [m for m in model.modules() if policy(m)]
    inside = sum(p.numel() for m in units for p in m.parameters())
    assert inside > 0.8 * sum(p.numel() for p in model.unet.parameters())
    assert not any(a is not b and a in b.modules() for a in units for b in units)


def test_frozen_weights_take_half_the_memory_where_asked(tmp_path: Path) -> None:
    task = micro_task(tmp_path, precision="bf16", trained={"what": "temporal", "frozen": "half"})
    trained = task.parameters()
    for name, p in task.model.named_parameters():
        assert p.dtype == (torch.float32 if name in trained else torch.bfloat16), name
    with pytest.raises(ConfigError, match="precision"):
        micro_task(tmp_path, trained={"frozen": "half"})


@pytest.mark.parametrize("kind", ["nested", pytest.param(True, marks=pytest.mark.slow)])
def test_gradient_checkpointing_changes_no_number(kind: Any, tmp_path: Path) -> None:
    plain, grads = gradients(micro_task(tmp_path), [0, 1])
    saved, again = gradients(micro_task(tmp_path, gradient_checkpointing=kind), [0, 1])
    assert saved == pytest.approx(plain, rel=1e-6)
    for name, want in grads.items():
        torch.testing.assert_close(again[name], want, rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_keeps_less(tmp_path: Path) -> None:
    def kept(task: DenoiserTask) -> int:
        total = 0

        def pack(t: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += t.numel()
            return t

        batch = task.batch(0, [0])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            task.loss(task.model, batch, 0)
        return total

    plain, blocks, nested = (kept(micro_task(tmp_path, gradient_checkpointing=k)) for k in (False, True, "nested"))
    assert blocks < 0.5 * plain
    assert nested < 0.9 * blocks


def test_trained_forward_is_what_inference_runs(tmp_path: Path) -> None:
    """The same U-Net call as `ConditionedUNet` makes, with picture and pose and without."""
    task = micro_task(tmp_path, objective={"condition_dropout": 0.0})
    sample = task.maker(3)
    batch = task.batch(0, [3])
    draws = draw(task.config.objective, 0, [3], (4, 4, 6, 4), SIZE)
    shown, _ = network_arguments(task.config.objective, task.encode(batch, draws), draws, task.scaling_factor)
    request = Request(sample.reference, sample.poses[1:], sample.reference_pose, len(sample.poses) - 1)
    conditioning = backbone_of(task.parts).encode(request, SamplingSettings())
    with torch.no_grad():
        want = ConditionedUNet(task.parts.unet, conditioning, True).pair(shown.x, shown.c_noise, range(4))
        for dropped, answer in zip((True, False), want, strict=True):
            without = dataclasses.replace(shown, dropped=torch.full((1, 3), dropped))
            torch.testing.assert_close(task.model(without), answer, rtol=1e-5, atol=1e-5)


def test_each_condition_reaches_the_network_and_dropping_removes_it(tmp_path: Path) -> None:
    task = micro_task(tmp_path, objective={"condition_dropout": 0.0})
    draws = draw(task.config.objective, 0, [3], (4, 4, 6, 4), SIZE)
    shown, _ = network_arguments(
        task.config.objective, task.encode(task.batch(0, [3]), draws), draws, task.scaling_factor
    )
    others = {"token": 0, "picture_latents": 1, "poses": 2}
    with torch.no_grad():
        for name, column in others.items():
            other = dataclasses.replace(shown, **{name: torch.randn_like(getattr(shown, name))})
            assert not torch.equal(task.model(other), task.model(shown)), name
            dropped = torch.zeros(1, 3, dtype=torch.bool)
            dropped[0, column] = True
            a, b = (task.model(dataclasses.replace(x, dropped=dropped)) for x in (other, shown))
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_latents_are_modes_not_samples_and_not_scaled(tmp_path: Path) -> None:
    task = micro_task(tmp_path)
    batch = task.batch(0, [0, 1])
    draws = draw(task.config.objective, 0, [0, 1], (4, 4, 6, 4), SIZE)
    encoded = task.encode(batch, draws)
    assert batch.frames is not None
    mean, logvar = task.parts.vae.encode(batch.frames.flatten(0, 1))
    torch.testing.assert_close(encoded.latents.flatten(0, 1), mean, rtol=1e-5, atol=1e-5)
    assert float((logvar / 2).exp().max()) > 1e-3, "a sample would be told apart"
    assert torch.equal(encoded.picture_latents, encoded.latents[:, 0])
    assert torch.equal(task.encode(batch, draws).latents, encoded.latents)


def test_augmentation_is_in_the_picture_before_it_is_encoded(tmp_path: Path) -> None:
    task = micro_task(tmp_path, objective={"noise_aug": 0.5})
    numbers = list(range(6))
    batch = task.batch(0, numbers)
    draws = draw(task.config.objective, 0, numbers, (4, 4, 6, 4), SIZE)
    encoded = task.encode(batch, draws)
    used = draws.noise_aug > 0
    assert 0 < int(used.sum()) < 6
    assert draws.picture_noise is not None
    for i in range(6):
        noisy = batch.reference[i] + draws.noise_aug[i] * draws.picture_noise[i]
        want = task.parts.vae(noisy[None])[0]
        torch.testing.assert_close(encoded.picture_latents[i], want, rtol=1e-4, atol=1e-5)
        assert torch.equal(encoded.picture_latents[i], encoded.latents[i, 0]) == (not used[i])


def test_a_doubtful_second_hand_does_not_touch_the_first_hands_weight() -> None:
    xy = np.zeros((1, NUM_POINTS, 2), np.float32)
    rng = np.random.default_rng(0)
    xy[0, LEFT_HAND] = 4 + 8 * rng.random((21, 2))
    xy[0, RIGHT_HAND] = 8 + 8 * rng.random((21, 2))
    both, doubtful = np.ones((1, NUM_POINTS), np.float32), np.ones((1, NUM_POINTS), np.float32)
    doubtful[0, RIGHT_HAND] = 0.95
    doubtful[0, list(RIGHT_HAND)[4] if not isinstance(RIGHT_HAND, slice) else RIGHT_HAND.start + 4] = 0.2
    alone = np.array(both)
    alone[0, RIGHT_HAND] = 0.0
    masks = [hand_masks(PoseSequence(xy, c, (32, 32), 15.0), (4, 4)) for c in (both, doubtful, alone)]
    assert np.array_equal(masks[1], masks[2])
    assert masks[0].sum() > masks[1].sum() > 0
    from unit.test_objective import encoded

    batch = dataclasses.replace(encoded(), hand_mask=torch.from_numpy(masks[1])[None])
    weights = loss_weights(ObjectiveConfig(), batch, 1.0, reference_slot=False)
    assert weights is not None
    torch.testing.assert_close(weights[0, 0, 0], 1 + 9 * torch.from_numpy(masks[2][0]))


def test_latents_from_the_cache_are_those_of_the_frames(tmp_path: Path) -> None:
    plain, cached = micro_task(tmp_path), micro_task(tmp_path, data={"cache_latents": True})
    draws = draw(plain.config.objective, 0, [0, 1], (4, 4, 6, 4), SIZE)
    a, b = (t.encode(t.batch(0, [0, 1]), draws) for t in (plain, cached))
    assert cached.batch(0, [0]).frames is None
    torch.testing.assert_close(a.latents, b.latents, rtol=2e-3, atol=2e-3)  # float16 on disk
    torch.testing.assert_close(a.picture_latents, b.picture_latents, rtol=2e-3, atol=2e-3)


def test_gradient_of_a_batch_is_the_mean_of_its_halves(tmp_path: Path) -> None:
    task = micro_task(tmp_path)
    _, whole = gradients(task, [4, 5, 6, 7])
    _, left = gradients(task, [4, 5])
    _, right = gradients(task, [6, 7])
    for name, want in whole.items():
        torch.testing.assert_close((left[name] + right[name]) / 2, want, rtol=1e-4, atol=1e-5)


def test_one_clip_forever_under_changing_noise(tmp_path: Path) -> None:
    task = micro_task(tmp_path, overfit_one_clip=True)
    a, b = task.batch(0, [0, 1]), task.batch(7, [14, 15])
    assert a.frames is not None
    assert b.frames is not None
    assert torch.equal(a.frames[0], b.frames[1])
    assert torch.equal(a.poses, b.poses)
    assert b.numbers == [14, 15]


def test_new_networks_are_the_same_for_a_seed_and_follow_the_settings(tmp_path: Path) -> None:
    new = {"autoencoder": "tiny", "widths": [32, 32], "attention": [False, True], "token_dim": 16}
    config = micro_config(tmp_path, model={"base": "", "new": new}, data={"sample": {"num_frames": 3}})
    shards = FakeShards(size=(64, 64))
    tasks = [DenoiserTask(config, shards=shards) for _ in range(2)]  # type: ignore[arg-type]
    other = DenoiserTask(dataclasses.replace(config, seed=1), shards=shards)  # type: ignore[arg-type]
    states = [t.model.state_dict() for t in (*tasks, other)]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert any(not torch.equal(v, states[2][k]) for k, v in states[0].items())
    task = tasks[0]
    assert task.trains_encoder
    assert any(n.startswith("image_encoder.") for n in task.parameters())
    assert task.parts.pose_net.widths[0] == 6
    driving_only = ModelConfig(new=TinyConfig(**new, reference_pose=False))  # type: ignore[arg-type]
    assert load_networks(driving_only, 0).pose_net.widths[0] == 3
    assert task.settings["height"] == 64
    assert task.settings["pose_drawing"] == {"canvas_short_side": None, "stroke": 4.0}
    gradients(task, [0, 1])
    assert tasks[0].identity == tasks[1].identity


def test_a_base_without_pose_net_starts_as_the_base(tmp_path: Path) -> None:
    task = micro_task(tmp_path)
    base = tmp_path / "svd"
    shutil.copytree(tmp_path / "micro", base, ignore=shutil.ignore_patterns("pose_net", "mimicmotion.json"))
    fresh = micro_task(tmp_path, model={"base": str(base)})
    features = fresh.parts.pose_net(torch.randn(1, 1, 3, 32, 32))
    assert features.abs().max() == 0
    assert fresh.settings["num_inference_steps"] == 25, "the published defaults"
    assert encoder_digest(fresh.parts.vae) == encoder_digest(task.parts.vae)
    assert gradients(fresh, [0])[1]["pose_net.final_proj.weight"].abs().max() > 0


def test_missing_weights_are_named_before_the_data_is_touched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.base"):
        load_networks(ModelConfig(), 0)
    with pytest.raises(WeightsError, match="autoencoder"):
        load_networks(ModelConfig(new=TinyConfig(autoencoder=str(tmp_path))), 0)
    with pytest.raises(WeightsError, match="nothing-here"):
        load_networks(ModelConfig(base=str(tmp_path / "nothing-here")), 0)


def test_exported_folder_holds_the_given_weights_and_leaves_the_model_alone(tmp_path: Path) -> None:
    from mimicmotion.pipeline import MimicMotionPipeline

    task = micro_task(tmp_path)
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    weights = {k: v + 0.01 for k, v in weights_of(task).items()}
    pipe = MimicMotionPipeline.from_pretrained(task.export(tmp_path / "out", weights))
    loaded = {f"unet.{k}": v for k, v in pipe.backbone.unet.state_dict().items()}
    loaded |= {f"pose_net.{k}": v for k, v in pipe.backbone.pose_net.state_dict().items()}
    for name, value in loaded.items():
        torch.testing.assert_close(value, weights.get(name, before[name]), rtol=1e-3, atol=1e-4)
    assert pipe.backbone.settings["fps"] == 7.0
    assert pipe.backbone.settings["fusion"]["reference_slot"] is True
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
    assert {k for k, p in task.model.named_parameters() if p.requires_grad} == set(task.parameters())


def test_a_model_trained_with_thresholds_is_used_with_thresholds(tmp_path: Path) -> None:
    plain = micro_task(tmp_path).settings.get("pose_drawing", {})
    assert plain.get("confidence_aware", True)
    task = micro_task(tmp_path, data={"sample": {"num_frames": 4, "guidance": "threshold"}})
    assert task.settings["pose_drawing"] == {**plain, "confidence_aware": False, "threshold": 0.3}
    assert task.maker(0).poses.any()
