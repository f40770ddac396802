"""The pipeline: one picture and drawn poses to a video of any length, with any backbone."""

from mimicmotion.pipeline.pipeline import MimicMotionPipeline, PipelineOutput, StepState

__all__ = ["MimicMotionPipeline", "PipelineOutput", "StepState"]
