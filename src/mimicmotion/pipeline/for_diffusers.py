"""Custom pipeline for diffusers, which the pipeline.py in saved model folders imports."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mimicmotion.pipeline.pipeline import MimicMotionPipeline as Pipeline
from mimicmotion.pipeline.pipeline import PipelineOutput
from mimicmotion.runtime.extras import import_extra

DiffusionPipeline: Any = import_extra("diffusers", "diffusers").DiffusionPipeline


class MimicMotionPipeline(DiffusionPipeline):
    """MimicMotion as a diffusers pipeline.

    Load it with `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`. The
    networks are not diffusers components. They are loaded on first use; move and cast them with `to`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._model: Pipeline | None = None

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Skip the networks listed in model_index.json, which the base class would load."""
        others = {k: v for k, v in config_dict.items() if not isinstance(v, list)}
        return super().extract_init_dict(others, **kwargs)

    @property
    def model(self) -> Pipeline:
        """The wrapped pipeline, loaded on first access."""
        if self._model is None:
            self._model = Pipeline.from_pretrained(self.config["_name_or_path"])
        return self._model

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> MimicMotionPipeline:  # type: ignore[override]
        """Move and cast all networks to a device, a dtype, or both."""
        device, dtype = (None, device) if isinstance(device, torch.dtype) else (device, dtype)
        self.model.to(device, dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.model.device

    def __call__(self, image: Any, video: Any = None, *, output_type: str = "pil", **settings: Any) -> PipelineOutput:
        """Generate a video. Takes the arguments of `mimicmotion.MimicMotionPipeline`.

        Returns:
            `frames` as in diffusers: a list that contains one list of PIL images, or with "np" an array (1, frames,
            height, width, 3) in 0..1.
        """
        frames = self.model(image, video=video, output_type=output_type, **settings).frames  # type: ignore[arg-type]
        return PipelineOutput(np.stack([frames]).astype(np.float32) / 255 if output_type == "np" else [frames])
