"""Settings that trade exactness for time, alone or as tiers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.parsing import STRICT, check_range

Speed = Literal["exact", "balanced", "fast"]
Sampler = Literal["euler", "dpmpp-2m"]
Schedule = Literal["karras", "ays"]
Quantize = Literal["none", "int8", "fp8"]


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """How much the result may differ from the exact one, for less time."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    speed: Speed = "exact"
    """exact, or a tier that gives a slightly different result sooner: balanced or fast."""
    sampler: Sampler | None = None
    """euler (as published) or dpmpp-2m (second order, needs fewer steps); empty is the tier's."""
    schedule: Schedule | None = None
    """Noise levels: karras (as published) or ays (Align Your Steps, 10 steps); empty is the tier's."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only where the noise level is between these two; elsewhere the unconditional pass is left out."""
    guidance_every: int | None = None
    """Run the unconditional pass in every n-th step only, and use its difference again in between."""
    block_cache: float | None = None
    """Error budget of using deep blocks' outputs again in the next step; 0 is off; empty is the tier's."""
    quantize: Quantize | None = None
    """Weights of the U-Net as none (as they are), int8 or fp8; empty is the tier's."""
    preview_decoder: Path | None = None
    """A tiny autoencoder (diffusers' layout: folder or file) that decodes previews in place of the big one."""

    def __post_init__(self) -> None:
        check_range(self, {"guidance_every": (1, 1000), "block_cache": (0, 10)})
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0 <= low < high:
                raise ConfigError(
                    f"guidance_interval={low}, {high}", "0 <= lowest < highest noise level", "swap or correct them"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedPlan:
    """The features of a tier, with what was set by hand.

    Attributes:
        sampler: solver of the probability-flow ODE.
        schedule: of the noise levels; None keeps the model's own (Karras with 25 steps for the published weights).
        steps: of the schedule; None is its usual number.
        guidance_interval: (lowest, highest) noise level that is guided; None guides all.
        guidance_every: steps per unconditional pass.
        block_cache: error budget; 0 is off.
        quantize: number format of the U-Net's weights.
    """

    sampler: Sampler = "euler"
    schedule: Schedule | None = None
    steps: int | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_every: int = 1
    block_cache: float = 0.0
    quantize: Quantize = "none"

    @property
    def exact(self) -> bool:
        """Whether nothing is changed against the published way."""
        return self == SpeedPlan()


TIERS: dict[Speed, SpeedPlan] = {
    "exact": SpeedPlan(),
    "balanced": SpeedPlan(schedule="ays", steps=10, guidance_interval=(0.4, 60.0), block_cache=0.6),
    "fast": SpeedPlan(schedule="ays", steps=6, guidance_interval=(0.4, 60.0), guidance_every=2, block_cache=0.6),
}
"""What the tiers are made of; measured by benchmarks/tiers.py."""


def resolve_speed(options: SpeedOptions, model_steps: int | None = None) -> SpeedPlan:
    """The tier's features, each replaced by what the options name.

    A tier never makes more steps than the model does by itself: where the model's own noise levels are as few as the
    tier's (distilled models, the bundled one), they stay, with the model's sampler. What was set by hand holds always.

    Args:
        options: of the user; a number of steps (`num_inference_steps`) among them takes the place of the tier's.
        model_steps: steps that the model makes by default; None if that is not known.
    """
    tier = TIERS[options.speed]
    if model_steps is not None and tier.steps is not None and model_steps <= tier.steps:
        tier = replace(tier, schedule=None, sampler="euler", steps=None)
    given = {f.name: getattr(options, f.name, None) for f in fields(SpeedPlan)}
    given["steps"] = getattr(options, "num_inference_steps", None)
    if given["schedule"] not in (None, tier.schedule):
        tier = replace(tier, steps=None)  # the tier's number is for its own schedule
    return SpeedPlan(**{k: getattr(tier, k) if v is None else v for k, v in given.items()})
