"""Pipeline that generates videos of any length from a picture and poses, with any backbone."""

from mimicmotion.pipeline.pipeline import MimicMotionPipeline, PipelineOutput

__all__ = ["MimicMotionPipeline", "PipelineOutput"]
