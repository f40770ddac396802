"""Frozen settings and their one parser. Only the standard library is imported at module level."""

from mimicmotion.config.execution import ExecutionOptions
from mimicmotion.config.fusion import FusionConfig, FusionMode
from mimicmotion.config.inputs import PoseOptions, SamplingOptions, person_choice
from mimicmotion.config.jobs import GenerateConfig, MaskConfig, PosesConfig
from mimicmotion.config.parsing import STRICT, check_range, field_help, find_recipe, load_yaml, parse, recipes
from mimicmotion.config.speed import SpeedOptions, SpeedPlan, resolve_speed

__all__ = [
    "STRICT",
    "ExecutionOptions",
    "FusionConfig",
    "FusionMode",
    "GenerateConfig",
    "MaskConfig",
    "PoseOptions",
    "PosesConfig",
    "SamplingOptions",
    "SpeedOptions",
    "SpeedPlan",
    "check_range",
    "field_help",
    "find_recipe",
    "load_yaml",
    "parse",
    "person_choice",
    "recipes",
    "resolve_speed",
]
