"""The pipeline: turns a picture and drawn poses into a video of any length, with any backbone."""

from mimicmotion.pipeline.pipeline import MimicMotionPipeline, PipelineOutput, StepState

__all__ = ["MimicMotionPipeline", "PipelineOutput", "StepState"]
