"""How the pipeline runs within a given memory: prediction of peaks, and the fastest way that fits."""

from __future__ import annotations

from mimicmotion.planning.budget import free_memory
from mimicmotion.planning.ladder import next_rung, plan_execution
from mimicmotion.planning.plan import ExecutionPlan, Peaks
from mimicmotion.planning.predict import Predictor, Task

__all__ = ["ExecutionPlan", "Peaks", "Predictor", "Task", "free_memory", "next_rung", "plan_execution"]
