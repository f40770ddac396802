"""How the pipeline runs within a given memory: prediction of peaks, and the fastest way that fits."""

from __future__ import annotations

from mimicmotion.planning.budget import free_memory
from mimicmotion.planning.levels import plan_execution
from mimicmotion.planning.placement import Placement
from mimicmotion.planning.plan import ExecutionPlan, Peaks
from mimicmotion.planning.predict import Predictor, Workload
from mimicmotion.planning.recover import RecoveringUNet

__all__ = [
    "ExecutionPlan",
    "Peaks",
    "Placement",
    "Predictor",
    "RecoveringUNet",
    "Workload",
    "free_memory",
    "plan_execution",
]
