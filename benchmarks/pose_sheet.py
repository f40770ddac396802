"""Make a contact sheet: python benchmarks/pose_sheet.py PICTURE VIDEO SHEET.webp [--frames N] [--duration S].

The rows are frames of the video with their estimated poses, the aligned and smoothed poses that the model gets, and the
result of the bundled model. The picture comes first, with its own pose below it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from mimicmotion.generate.inputs import find_poses, open_driving, prepare, sampled_frames
from mimicmotion.generate.job import generate
from mimicmotion.pose.guidance.skeleton import draw_pose
from mimicmotion.runtime.progress import finish
from mimicmotion.settings import GenerateConfig
from mimicmotion.video.picture import side_by_side, write_picture

HEIGHT, FINER = 192, 4
STROKE = 4.0  # thicker than for the model, to be visible at this size


def drawn(xy: ndarray, confidence: ndarray, size: tuple[int, int]) -> ndarray:
    """The pose at the height of the sheet, drawn large and then reduced."""
    wide, scale = round(size[1] * HEIGHT / size[0]), FINER * HEIGHT / size[0]
    large = draw_pose(xy * scale, confidence, (FINER * HEIGHT, FINER * wide), canvas_short_side=None, stroke=STROKE)
    return cv2.resize(large, (wide, HEIGHT), interpolation=cv2.INTER_AREA)


def over(frame: ndarray, xy: ndarray, confidence: ndarray) -> ndarray:
    """The pose over the darkened frame."""
    size: tuple[int, int] = frame.shape[:2]
    pose = drawn(xy, confidence, size)
    small = cv2.resize(frame, pose.shape[1::-1], interpolation=cv2.INTER_AREA)
    return np.where(pose.max(-1, keepdims=True) > 40, pose, (small * 0.6).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--frames", type=int, default=7, help="number of frames to show, evenly spaced")
    parser.add_argument("--duration", type=float, default=4.0, help="seconds of the video")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = GenerateConfig(
            picture=arguments.picture,
            video=arguments.video,
            output=Path(folder) / "out.mp4",
            duration=arguments.duration,
            estimator="holistic",
        )
        made = finish(generate(config))
        print(*made.warnings, sep="\n")
        results = list(made.frames)
    found = finish(find_poses(config))
    inputs = prepare(config, found, made.size)
    at = np.linspace(0, len(inputs.driving) - 1, arguments.frames).round().astype(int).tolist()
    # pyrefly: ignore [bad-argument-type] - a video, not a pose file
    shown = {i: frame for i, frame in enumerate(sampled_frames(config, open_driving(config))) if i in at}
    poses = [drawn(inputs.aligned.xy[i], inputs.aligned.confidence[i], made.size) for i in at]
    overlaid = [over(shown[i], found.driving.xy[i], found.driving.confidence[i]) for i in at]
    own = over(inputs.picture, inputs.reference.xy[0], inputs.reference.confidence[0])
    rows = [
        side_by_side(row, HEIGHT)
        for row in ([inputs.picture, *overlaid], [own, *poses], [inputs.picture, *(results[i] for i in at)])
    ]
    width = max(row.shape[1] for row in rows)
    rows = [cv2.copyMakeBorder(row, 0, 4, 0, width - row.shape[1], 0, value=(255, 255, 255)) for row in rows]
    write_picture(arguments.sheet, np.concatenate(rows))


if __name__ == "__main__":
    main()
