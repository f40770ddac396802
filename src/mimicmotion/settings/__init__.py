"""Frozen settings, and the parser for all of them. Only the standard library is imported at module level."""

from mimicmotion.settings.generate import (
    BatchConfig,
    ExecutionOptions,
    GenerateConfig,
    MaskConfig,
    PlanConfig,
    PosesConfig,
)
from mimicmotion.settings.parsing import field_help, find_recipe, load_yaml, parse, recipes
from mimicmotion.settings.poses import DrivingOptions, PoseOptions, person_choice
from mimicmotion.settings.sampling import FusionConfig, FusionMode, SamplingOptions, SamplingSettings, resolve_tier

__all__ = [
    "BatchConfig",
    "DrivingOptions",
    "ExecutionOptions",
    "FusionConfig",
    "FusionMode",
    "GenerateConfig",
    "MaskConfig",
    "PlanConfig",
    "PoseOptions",
    "PosesConfig",
    "SamplingOptions",
    "SamplingSettings",
    "field_help",
    "find_recipe",
    "load_yaml",
    "parse",
    "person_choice",
    "recipes",
    "resolve_tier",
]
