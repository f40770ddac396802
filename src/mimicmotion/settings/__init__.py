"""Frozen settings and their one parser. Only the standard library is imported at module level."""

from mimicmotion.settings.execution import ExecutionOptions
from mimicmotion.settings.fusion import FusionConfig, FusionMode
from mimicmotion.settings.generate import GenerateConfig, MaskConfig, PosesConfig
from mimicmotion.settings.parsing import STRICT, check_range, field_help, find_recipe, load_yaml, parse, recipes
from mimicmotion.settings.poses import PoseOptions, SamplingOptions, person_choice
from mimicmotion.settings.speed import SpeedOptions, SpeedPlan, resolve_speed

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
