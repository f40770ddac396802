"""The video model's training task (stage `denoiser`): data, frozen encoders, objective, export and validation."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor, nn

from mimicmotion.backbones.svd.checkpoint import Components, config_of, save_components
from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.backbones.svd.image_encoder import clip_pixels, image_embedding
from mimicmotion.backbones.svd.lora import merged_state, save_adapter
from mimicmotion.backbones.svd.pose_features import to_unit
from mimicmotion.backbones.svd.posenet import PoseNet
from mimicmotion.backbones.svd.unet import build_unet
from mimicmotion.backbones.svd.vae import encoder_digest
from mimicmotion.data.samples.batch import Batch, collate
from mimicmotion.data.samples.latents import LatentCache
from mimicmotion.data.samples.sample import PLAIN, SampleMaker
from mimicmotion.data.shards.shards import Shards
from mimicmotion.diffusion.noise import augment_picture
from mimicmotion.errors import ConfigError
from mimicmotion.pose.guidance.limb_warp import limb_warp
from mimicmotion.settings.training import PhaseConfig, TrainConfig
from mimicmotion.training.bundled import bundled_settings
from mimicmotion.training.networks import DenoiserModel, checkpointing, choose_trained, encode_frames, load_networks
from mimicmotion.training.objective import Draws, Encoded, denoising_loss, draw
from mimicmotion.training.processes import shared
from mimicmotion.training.stages.common import EXPORT_DTYPE, held_out_shards, shard_cache, training_shards
from mimicmotion.training.stages.validate import SEED, Validator
from mimicmotion.training.task import StepResult, Task, Validation
from mimicmotion.weights.tensors import assign

logger = logging.getLogger(__name__)

LATENTS_LIMIT = 20e9
"""Maximum size in bytes of latents that are cached by default; the paper's 4,436 videos would take 197 GB."""


class DenoiserTask(Task):
    """Trains the U-Net and PoseNet to denoise, given a picture and poses (paper section 3).

    Args:
        config: settings of the run; see `ModelConfig` for the initial networks and `TrainedConfig` for what is trained.
        shards: the training data; None opens the shards of the config.

    Raises:
        ConfigError: settings contradict each other or the data.
        InputError: shards are missing, or scenes are too short for a sample.
        WeightsError: networks are missing or damaged, or do not match.
    """

    def __init__(self, config: TrainConfig, shards: Shards | None = None) -> None:
        if config.trained.frozen == "half" and config.precision == "no":
            raise ConfigError("trained.frozen: half with precision: no", "bf16 or fp16", "set precision: bf16")
        self.config = config
        self.shards = shards or training_shards(config)
        self.device = torch.device("cpu")
        self.parts = load_networks(config.model, config.seed)
        self.settings = self._settings()
        if self.settings.get("reference_warp") == "residual" != self.parts.settings.get("reference_warp"):
            # the pretrained U-Net predicts another quantity; with zero output, the model returns the warped picture
            for p in self.parts.unet.conv_out.parameters():
                torch.nn.init.zeros_(p)
        vae, encoder = self.parts.vae, self.parts.image_encoder
        self.downscale = vae.downscale
        self.trains_encoder = config.trained.image_encoder or config.model.new is not None
        self.model: nn.Module = DenoiserModel(
            self.parts.unet, self.parts.pose_net, encoder if self.trains_encoder else None
        )
        self._trained = choose_trained(self.model, config.trained, config.seed)
        self.parts.unet.set_execution(Execution(checkpointing=checkpointing(config)))
        # multi-GPU wrappers may leave only shards of the parameters in the model
        self._frozen = {k: p.detach() for k, p in self.model.named_parameters() if k not in self._trained}
        self.latents: LatentCache | None = None
        if self._caches_latents():
            self.latents = LatentCache(self.shards, encoder_digest(vae), self._encode, shard_cache(config) / "latents")
        self.maker = self.sample_maker(self.shards, self.latents)
        for phase in config.phases:  # fail now if the data is too short for a later phase
            self.maker.usable(dataclasses.replace(config.data.sample, **_clip_of(phase)))
        self.identity: dict[str, Any] = {
            "stage": "denoiser",
            "data": self.shards.digest,
            "autoencoder": encoder_digest(vae),
            "start": [[f.name, f.stat().st_size] for f in self.parts.files],
            "unet": config_of(self.parts.unet),
            "pose_net": config_of(self.parts.pose_net),
            "trained": dataclasses.asdict(config.trained) | {"targets": list(config.trained.targets)},
        }
        count = sum(p.numel() for p in self._trained.values())
        logger.info("%s: %.1f million trained parameters", config.trained.what, count / 1e6)

    def _settings(self) -> dict[str, Any]:
        """Return the default settings of the trained model: those of its base, updated by this run."""
        known = bundled_settings(self.shards.size) if self.config.model.new is not None else {}
        settings: dict[str, Any] = {**known, **self.parts.settings, **self.config.model.settings}
        if self.config.objective.fps is not None:
            settings["fps"] = self.config.objective.fps
        if self.config.model.reference_warp is not None:
            settings["reference_warp"] = self.config.model.reference_warp
        sample = self.config.data.sample
        if sample.guidance == "threshold":  # inference must match training
            settings["pose_drawing"] = {**settings.get("pose_drawing", {}), **PLAIN}
        length = self.config.phases[-1].frames if self.config.phases else sample.num_frames
        fusion = {**settings.get("fusion", {}), "reference_slot": sample.reference_slot}
        if "segment_frames" not in self.config.model.settings.get("fusion", {}):
            fusion |= {"segment_frames": length, "overlap_frames": min(fusion.get("overlap_frames", 6), length // 2)}
        elif fusion["segment_frames"] != length:
            logger.warning(
                "training on clips of %d frames, but model.settings has segments of %d",
                length,
                fusion["segment_frames"],
            )
        return {**settings, "fusion": fusion, "trained_frames": length}

    def _caches_latents(self) -> bool:
        """Decide whether to cache latents: as set, or by their total size if not set."""
        config, frames = self.config, sum(self.shards.num_frames)
        cells = math.prod(side // self.downscale for side in self.shards.size)
        size = frames * self.parts.vae.config.latent_channels * cells * 2  # float16
        wanted = size <= LATENTS_LIMIT if config.data.cache_latents is None else config.data.cache_latents
        done = f"cached in {shard_cache(config) / 'latents'}" if wanted else "encoded in every step, not cached"
        logger.info("latents of %d frames, %.3g GB: %s (data.cache_latents)", frames, size / 1e9, done)
        return wanted

    def sample_maker(self, shards: Shards, latents: LatentCache | None, **changes: Any) -> SampleMaker:
        """Create a sample maker with the run's settings (with phases, those of the first phase).

        Args:
            shards: the records.
            latents: cache of latents to use instead of frames.
            changes: overrides of the sample settings or of `seed`.
        """
        seed = changes.pop("seed", self.config.seed)
        sample = dataclasses.replace(self.config.data.sample, **{**_clip_of(self.config.phase(0)), **changes})
        return SampleMaker(
            shards,
            sample,
            seed=seed,
            downscale=self.downscale,
            drawing=self.settings.get("pose_drawing", {}),
            latents=latents,
            warp=None if self.settings.get("reference_warp", "none") == "none" else limb_warp,
        )

    def _encode(self, frames: UInt8[ndarray, "n height width 3"]) -> Float32[ndarray, "n c h w"]:
        vae = self.parts.vae
        return encode_frames(vae, to_unit(frames).to(next(vae.parameters()).device)).cpu().numpy()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by their names in `model`."""
        return self._trained

    def place(self, device: torch.device) -> None:
        """Move the frozen encoders. On a GPU, also cache all latents, because data loader workers cannot use it."""
        self.device = device
        half = self.config.trained.frozen == "half" and device.type != "cpu"
        frozen = [self.parts.vae] if self.trains_encoder else [self.parts.vae, self.parts.image_encoder]
        for module in frozen:
            nn.Module.to(module, device=device, dtype=torch.float16 if half else None)
        if device.type == "cpu" or self.latents is None:
            return
        with shared(len(self.shards)) as records:
            start = time.monotonic()
            for done in self.latents.fill(records):
                if done in (1, 10) or done % 100 == 0:
                    hours = (time.monotonic() - start) / done * (len(records) - done) / 3600
                    logger.info("latents of %d of %d scenes, %.2g hours left", done, len(records), hours)

    def batch(self, step: int, numbers: Sequence[int]) -> Batch:
        """Return the samples with these numbers; with `overfit_one_clip`, the same clip for each number."""
        options = _clip_of(self.config.phase(step))
        if not self.config.overfit_one_clip:
            return collate([self.maker(n, **options) for n in numbers])
        one = self.maker(0, **options)
        return collate([dataclasses.replace(one, number=n) for n in numbers])

    def loss(self, model: nn.Module, batch: Batch, step: int) -> StepResult:  # noqa: ARG002
        """Compute the denoising loss of a batch (see `mimicmotion.training.objective`)."""
        o = self.config.objective
        (_, slots, _, height, width), channels = batch.poses.shape, self.parts.vae.config.latent_channels
        latent = (slots, channels, height // self.downscale, width // self.downscale)
        draws = draw(o, self.config.seed, batch.numbers, latent, (height, width))
        encoded = self.encode(batch, draws)
        slot = self.config.data.sample.reference_slot
        loss = denoising_loss(model, o, encoded, draws, self.scaling_factor, reference_slot=slot)
        return dataclasses.replace(loss, samples=batch.keys)

    @functools.cached_property
    def validator(self) -> Validator:
        """The validator on fixed held-out clips or, with `overfit_one_clip`, on the training clip."""
        c = self.config
        options = _clip_of(c.phases[-1] if c.phases else None)
        if c.overfit_one_clip:
            return Validator(c, [self.sample_maker(self.shards, None, **options)(0)], self.encode)
        options |= {"seed": SEED, "reverse": 0.0, "short_records": "skip"}
        maker = self.sample_maker(held_out_shards(c, self.shards), None, **options)
        return Validator(c, [maker(n) for n in range(c.validation.clips)], self.encode)

    @property
    def scaling_factor(self) -> float:
        """The factor that scales latents to about unit standard deviation."""
        return float(self.parts.vae.config.scaling_factor)

    @torch.no_grad()
    def encode(self, batch: Batch, draws: Draws, *, image_encoder: Any = None) -> Encoded:
        """Encode a batch with the frozen networks.

        The reference latents of samples with noise augmentation are encoded from the noisy picture. The picture
        embedding always comes from the clean picture, as in inference.

        Args:
            batch: batch on the device of the encoders.
            draws: strength and noise of the augmentation.
            image_encoder: used instead of the model's encoder; an embedding is then returned even if the model's
                encoder is trained.
        """
        vae, encoder = self.parts.vae, image_encoder or self.parts.image_encoder
        latents = encode_frames(vae, batch.frames) if batch.latents is None else batch.latents  # type: ignore[arg-type]
        if batch.reference_latents is not None:
            picture = batch.reference_latents
        elif self.config.data.sample.reference_slot:
            picture = latents[:, 0]
        else:
            picture = encode_frames(vae, batch.reference)
        for i in torch.nonzero(draws.noise_aug).flatten().tolist():
            if draws.picture_noise is not None:
                noise = draws.picture_noise[i : i + 1].to(batch.reference)
                noisy = augment_picture(batch.reference[i : i + 1], float(draws.noise_aug[i]), noise)
                picture = picture.index_copy(0, torch.tensor([i], device=picture.device), encode_frames(vae, noisy))
        token, pixels = None, None
        if self.trains_encoder and image_encoder is None:
            pixels = clip_pixels(batch.reference, encoder.config.image_size)
        else:
            token = image_embedding(encoder, batch.reference).clone()
        warped = None if batch.warped is None else encode_frames(vae, batch.warped)
        if warped is not None and self.config.data.sample.reference_slot:
            warped[:, 0] = picture  # with augmentation noise
        poses, residual = (batch.poses, batch.reference_pose), self.settings.get("reference_warp") == "residual"
        return Encoded(latents, picture, token, pixels, *poses, batch.hand_mask, batch.fps, warped, residual)

    def assembled(self, weights: Mapping[str, Tensor], device: torch.device | str | None = None) -> Components:
        """Assemble a plain model with these weights and merged LoRA; frozen weights are shared with the running model.

        Args:
            weights: values of the trained parameters, named as in `parameters`.
            device: device of the result; None keeps the device of each tensor.
        """
        state: dict[str, Tensor] = {}
        for name, live in self.model.state_dict().items():
            value = weights.get(name, self._frozen.get(name, live) if hasattr(live, "full_tensor") else live)
            state[name] = value.detach() if device is None else value.detach().to(device)

        def state_of(part: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}

        unet_state = state_of("unet")
        lora = self.config.trained
        if lora.what == "lora":
            unet_state = merged_state(unet_state, lora.alpha / lora.rank)
        unet: Any = build_unet(config_of(self.parts.unet), device="meta")
        unet.load_state_dict(unet_state, assign=True)
        with torch.device("meta"):
            pose_net = PoseNet(**self.parts.pose_net.config)
        pose_net.load_state_dict(state_of("pose_net"), assign=True)
        encoder: Any = self.parts.image_encoder
        if self.trains_encoder:
            values = state_of("image_encoder")
            with torch.device("meta"):
                encoder = type(encoder)(encoder.config)
            assign(encoder, values, (next(iter(values.values())).device, torch.float32), "image_encoder")
        for module in (unet, pose_net, encoder):
            module.eval().requires_grad_(False)
        networks = {"unet": unet, "image_encoder": encoder, "pose_net": pose_net}
        return dataclasses.replace(self.parts, **networks, settings=self.settings, files=())

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> Path:
        """Write the complete model in float16 for `MimicMotionPipeline.from_pretrained`, and any LoRA adapter."""
        out = save_components(self.assembled(weights), folder, dtype=EXPORT_DTYPE)
        lora = self.config.trained
        if lora.what == "lora":
            adapter = {k.removeprefix("unet."): v for k, v in weights.items() if ".lora_" in k}
            save_adapter(adapter, lora.rank, lora.alpha, out / "adapter")
        return out

    def validate(self, step: int, weights: Mapping[str, Tensor]) -> Validation:  # noqa: ARG002
        """Compute losses per noise band and scores of generated clips on held-out data (see `Validator`)."""
        return self.validator(self.assembled(weights, self.device))


def _clip_of(phase: PhaseConfig | None) -> dict[str, Any]:
    """Return the clip length and frame spacing of a phase as sample settings; empty if `phase` is None."""
    return {} if phase is None else {"num_frames": phase.frames, "spacing": phase.spacing}
