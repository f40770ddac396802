"""VAE latents and CLIP embeddings of stored frames, so that a training need not compute them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, UInt8
from numpy import ndarray

from mimicmotion.errors import WeightsError

CHUNK = 8


@dataclass(frozen=True)
class SceneEncoder:
    """The two frozen networks that see whole pictures.

    Attributes:
        vae: the autoencoder.
        image_encoder: CLIP's vision tower.
        digest: identity of the autoencoder's weights, as a training asks for it.
    """

    vae: Any
    image_encoder: Any
    digest: str

    @property
    def device(self) -> str:
        """Kind of device that the networks run on: cpu, cuda."""
        return next(self.vae.parameters()).device.type

    @staticmethod
    @functools.lru_cache(maxsize=1)
    def open(model: str, device: str = "auto") -> SceneEncoder:
        """Load the networks once a process.

        Args:
            model: folder, name or hub id of a base model.
            device: auto, cpu, cuda, cuda:1.

        Raises:
            WeightsError: files are missing or damaged.
        """
        import torch

        from mimicmotion.backbones.svd.checkpoint import load_components
        from mimicmotion.backbones.svd.vae import encoder_digest

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        parts = load_components(model, device="cpu", new_pose_net=True)
        digest = encoder_digest(parts.vae)
        return SceneEncoder(parts.vae.to(device).eval(), parts.image_encoder.to(device).eval(), digest)

    def encode(
        self, frames: Iterable[UInt8[ndarray, "height width 3"]]
    ) -> tuple[Float16[ndarray, "frames c h w"], Float32[ndarray, "frames dim"]]:
        """Latents (mode, not scaled) and embeddings of frames, a few at a time.

        Raises:
            WeightsError: the autoencoder gives NaN or numbers too large for float16.
        """
        import torch

        from mimicmotion.backbones.svd.image_encoder import image_embedding
        from mimicmotion.backbones.svd.vae import encode_mode

        latents, embeddings = [], []
        rest, threads = iter(frames), torch.get_num_threads()
        if self.device == "cpu":  # sums depend on the number of threads: one makes the same bytes on every machine
            torch.set_num_threads(1)
        try:
            while chunk := list(islice(rest, CHUNK)):
                images = torch.from_numpy(np.stack(chunk)).movedim(-1, 1).float() / 127.5 - 1
                latents.append(encode_mode(self.vae, images).cpu().numpy().astype(np.float16))
                embeddings.append(image_embedding(self.image_encoder, images)[:, 0].cpu().numpy())
        finally:
            torch.set_num_threads(threads)
        found = np.concatenate(latents)
        if not np.isfinite(found).all():
            raise WeightsError(
                "the autoencoder gives NaN or too large numbers", "latents that fit float16", "check the model"
            )
        return found, np.concatenate(embeddings)
