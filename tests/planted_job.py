"""A small generate job: files, planted poses and a model of very few channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy import ndarray

from micro import copied_parts, micro_pipeline
from mimicmotion.backbones import backbone_of
from mimicmotion.pipeline import MimicMotionPipeline
from mimicmotion.pose.estimators.base import StaticPose
from mimicmotion.pose.keypoints import NUM_POINTS, PoseSequence
from mimicmotion.settings import GenerateConfig
from mimicmotion.video.picture import write_picture
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer

SIZE = (64, 48)
FRAMES = 8
# A standing person's 18 body points in fractions of the frame (x, y).
BODY_POINTS = [(0.5, 0.15), (0.5, 0.27), (0.4, 0.27), (0.35, 0.4), (0.33, 0.52), (0.6, 0.27), (0.65, 0.4), (0.67, 0.52)]
BODY_POINTS += [(0.44, 0.52), (0.44, 0.7), (0.44, 0.88), (0.56, 0.52), (0.56, 0.7), (0.56, 0.88)]
BODY_POINTS += [(0.47, 0.13), (0.53, 0.13), (0.45, 0.14), (0.55, 0.14)]


def standing(frames: int, size: tuple[int, int] = SIZE) -> PoseSequence:
    """A person who lowers and raises the right wrist."""
    xy = np.zeros((frames, NUM_POINTS, 2), np.float32)
    xy[:, :18] = BODY_POINTS
    xy[:, 4, 1] += 0.1 * np.sin(np.arange(frames))
    confidence = np.zeros((frames, NUM_POINTS), np.float32)
    confidence[:, :18] = 0.9
    return PoseSequence(xy * np.array(size[::-1], np.float32), confidence, size, 15.0, "planted")


def dancing(frames: int) -> PoseSequence:
    """The same person smaller and off the middle, as a driving video shows it."""
    poses = standing(frames)
    xy = poses.xy * np.float32(0.7) + np.array([16, 14], np.float32)
    xy[:, [10, 13], 1] += 4  # longer legs: no fit is exact
    return dataclasses.replace(poses, xy=xy)


def planted(picture: PoseSequence, video: PoseSequence) -> Callable[..., Callable[..., StaticPose]]:
    """In place of `find_estimator`: these poses are found, whatever is seen."""
    return lambda _: lambda static=False: StaticPose(picture if static else video)


def random_frames(count: int, size: tuple[int, int]) -> ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def save_micro_model(folder: Path) -> Path:
    """The micro model in a folder, with a size of its own and one step."""
    pipe = micro_pipeline()
    pipe.backbone.settings |= {"height": SIZE[0], "width": SIZE[1], "num_inference_steps": 1}
    pipe.save_pretrained(folder)
    return folder


@contextmanager
def loaded_once(model: Path | None) -> Iterator[None]:
    """Jobs with this model (None: the bundled one) get copies of what was loaded once with the same options."""
    load, loaded = MimicMotionPipeline.from_pretrained, {}

    def load_once(base: str | None = None, *args: Any, **options: Any) -> MimicMotionPipeline:
        if base != (model and str(model)):
            return load(base, *args, **options)
        key = str((args, options))
        loaded[key] = parts = loaded.get(key) or load(base, *args, **options).backbone.components
        return MimicMotionPipeline(backbone_of(copied_parts(parts)))  # a job configures its model

    with mock.patch.object(MimicMotionPipeline, "from_pretrained", load_once):
        yield


def make_job(folder: Path, model: Path) -> GenerateConfig:
    """Settings of a small job with real files in a folder of its own."""
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    write_picture(folder / "in" / "person.png", random_frames(1, (150, 120))[0])
    with open_writer(folder / "in" / "dance.mp4", SIZE, 15.0) as writer:
        for frame in random_frames(FRAMES, SIZE):
            writer.write(frame)
    return GenerateConfig(
        picture=folder / "in" / "person.png",
        video=folder / "in" / "dance.mp4",
        output=folder / "out" / "result.mp4",
        model=str(model),
    )


def left_over(job: GenerateConfig) -> list[str]:
    return sorted(p.name for p in job.output.parent.iterdir())


def frames_of(path: Path) -> ndarray:
    return np.stack(list(open_video(path)))
