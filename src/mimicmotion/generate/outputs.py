"""Write the outputs of a generate job: the video, the side-by-side comparison, previews, and the sidecar."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimicmotion.arrays import Frame, PoseFrames
from mimicmotion.errors import ConfigError, OutputError
from mimicmotion.generate.inputs import Inputs, input_files, open_driving, sampled_frames
from mimicmotion.pose.keypoints import PoseSequence
from mimicmotion.pose.mask import SelfieSegmenter
from mimicmotion.runtime.files import check_not_inputs, check_writable, write_json
from mimicmotion.runtime.progress import Job, Progress
from mimicmotion.runtime.reading import read_json
from mimicmotion.runtime.run_folder import clear_leftovers
from mimicmotion.runtime.threads import in_background
from mimicmotion.settings import GenerateConfig
from mimicmotion.video.background import keep_background
from mimicmotion.video.labels import SHOWN_SECONDS, Label, check_signing, draw
from mimicmotion.video.picture import side_by_side, write_picture
from mimicmotion.video.reader import open_video
from mimicmotion.video.timing import Timed, exact_rate, resample
from mimicmotion.video.writer import FrameWriter, check_output, open_writer, plan_output

logger = logging.getLogger(__name__)

PREVIEW_FRAMES = 4
WAITING_FRAMES = 8
"""Maximum number of decoded frames in the queue of the writer thread."""
SIDE_BY_SIDE_HEIGHT = 448
"""Minimum height of the comparison in pixels; smaller frames are enlarged."""
FORMAT, VERSION = "mimicmotion.result", 1


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """Result of a generate job.

    Attributes:
        path: path of the video, or of the folder of frames.
        side_by_side: path of the comparison video; None if not requested.
        sidecar: path of a JSON file with seed, settings, versions and checksums.
        num_frames: number of frames.
        fps: frames per second.
        size: (height, width).
        seconds: time spent per stage, including earlier parts of a resumed run.
        peak_memory: peak memory in bytes of the process, and of the GPU if one was used.
        warnings: notes for the user, one sentence each.
        resumed_at: number of completed steps each time the run was resumed.
        unsigned_sha256: SHA-256 of the video before signing (signatures differ each time); None if it is not signed.
    """

    path: Path
    side_by_side: Path | None
    sidecar: Path
    num_frames: int
    fps: float
    size: tuple[int, int]
    seconds: dict[str, float]
    peak_memory: dict[str, int]
    warnings: list[str]
    resumed_at: list[int]
    unsigned_sha256: str | None = None

    @property
    def frames(self) -> Iterator[Frame]:
        """Iterator over the frames of the result, which are read from the file one by one."""
        return open_video(self.path, folder_fps=self.fps).frames()

    def summary(self) -> str:
        """A short summary for the user."""
        lines = [f"note: {w}" for w in self.warnings]
        length = self.num_frames / self.fps
        lines += [
            f"{self.num_frames} frames of {self.size[1]}x{self.size[0]} at {self.fps:g} per second ({length:.1f} s)",
            "seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()),
            "peak memory: " + ", ".join(f"{k} {v / 2**30:.2f} GiB" for k, v in self.peak_memory.items()),
            f"frames: {self.path}{os.sep} (a folder of PNG files)" if not self.path.suffix else f"video: {self.path}",
        ]
        if self.resumed_at:
            lines.insert(-1, f"resumed after step {', '.join(map(str, self.resumed_at))}")
        if self.side_by_side:
            lines.append(f"side by side: {self.side_by_side}")
        return "\n".join([*lines, f"settings: {self.sidecar}"])


# --- names ------------------------------------------------------------------------------------------------------


def side_by_side_path(output: Path) -> Path:
    """Return the path of the comparison video: OUTPUT-side-by-side.SUFFIX."""
    return output.with_name(f"{output.stem}-side-by-side{output.suffix}")


def sidecar_path(output: Path) -> Path:
    """Return the path of the sidecar: OUTPUT.json."""
    return output.with_name(f"{output.name}.json")


def preview_path(output: Path) -> Path:
    """Return the path of the preview picture: OUTPUT.preview.png."""
    return output.with_name(f"{output.name}.preview.png")


def state_path(output: Path) -> Path:
    """Return the path of the state folder: OUTPUT.state."""
    return output.with_name(f"{output.name}.state")


def check_outputs(config: GenerateConfig, *inputs: Path) -> None:
    """Check in advance that all outputs can be written and that none is an input.

    Args:
        config: settings of the job.
        inputs: additional files that must not be overwritten.

    Raises:
        ConfigError: an output is an input, or has an unknown suffix.
        OutputError: an output cannot be written.
    """
    output = config.output
    if config.label == "signed":
        check_signing(plan_output(output)[1], config.signer)
    videos = [output, *([side_by_side_path(output)] if config.side_by_side else [])]
    others = [sidecar_path(output), *([preview_path(output)] if config.preview else [])]
    state = [state_path(output)] if config.save_every else []
    check_not_inputs([*input_files(config), *inputs], [*videos, *others, *state])
    for path in videos:
        check_output(path)
    for path in (*others, *state):
        check_writable(path)


def clear_partial(output: Path) -> None:
    """Delete partial files left by a killed process. No other process may be writing the same output."""
    paths = (output, side_by_side_path(output), sidecar_path(output), preview_path(output))
    clear_leftovers(output.parent, {p.name for p in paths})


# --- video ------------------------------------------------------------------------------------------------------


def write_video(
    config: GenerateConfig, inputs: Inputs, poses: PoseFrames, frames: Iterable[Frame], result_id: str
) -> Job[tuple[int, str | None]]:
    """Write the video, and the comparison if requested, on a separate thread while frames are decoded.

    Args:
        config: settings of the job; frames are repeated to reach `output_fps`.
        inputs: the picture and the poses.
        poses: drawn poses, for the comparison.
        frames: frames of the result.
        result_id: id of the result, for its label.

    Returns:
        Number of frames written, and the SHA-256 of the video before signing (None if it is not signed).
    """
    size: tuple[int, int] = inputs.picture.shape[:2]
    audio = {"audio_from": audio_source(config), "audio_start": config.start}
    label = Label(config.producer, result_id, config.label == "signed", config.signer)
    fps = config.output_fps or config.fps
    labelled = 0 if config.label == "metadata" else math.ceil(SHOWN_SECONDS * fps)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(open_writer(config.output, size, fps, **audio, label=label))
        comparison: FrameWriter | None = None
        driving = stack.enter_context(contextlib.closing(driving_frames(config)))
        driving_frame: list[Frame] = []
        last = -1

        def write(item: tuple[int, Frame]) -> None:
            nonlocal comparison, driving_frame, last
            i, frame = item
            frame = draw(frame) if writer.count < labelled else frame
            writer.write(frame)
            if not config.side_by_side:
                return
            driving_frame, last = driving_frame if i == last else list(itertools.islice(driving, 1)), i
            shown = [inputs.picture, *driving_frame, poses[i : i + 1][0], frame]
            row = side_by_side(shown, max(SIDE_BY_SIDE_HEIGHT, size[0]))
            if comparison is None:
                path = side_by_side_path(config.output)
                comparison = stack.enter_context(open_writer(path, row.shape[:2], fps, label=label))
            comparison.write(row)

        with in_background(write, WAITING_FRAMES) as submit:  # on exit, writes the remaining frames
            for i, frame in _repeated(frames, config):
                submit((i, frame))
                yield Progress("write", i + 1, len(poses))
    return writer.count, writer.unsigned_sha256


def _repeated(frames: Iterable[Frame], config: GenerateConfig) -> Iterator[tuple[int, Frame]]:
    """Yield (index, frame), repeating frames to reach `output_fps` if it is set."""
    if config.output_fps is None:
        return enumerate(frames)
    length = 1 / exact_rate(config.fps)
    return resample((Timed(i * length, length, (i, frame)) for i, frame in enumerate(frames)), config.output_fps)


def with_background(config: GenerateConfig, inputs: Inputs, frames: Iterator[Frame]) -> Iterator[Frame]:
    """Composite the person onto the background of the picture, unless the settings keep the model's background."""
    if config.background == "model":
        return frames
    segmenter = SelfieSegmenter(device=config.pose_device)
    (person,) = segmenter.masks([inputs.picture], inputs.reference)
    frames, seen = itertools.tee(frames)  # consumed in lockstep, so at most one frame is buffered
    return keep_background(inputs.picture, person, frames, segmenter.masks(seen, inputs.aligned))


def driving_frames(config: GenerateConfig) -> Generator[Frame]:
    """Yield the frames of the driving video that correspond to the poses; none for a pose file."""
    source = open_driving(config)
    if not isinstance(source, PoseSequence):
        yield from sampled_frames(config, source)


def audio_source(config: GenerateConfig) -> Path | None:
    """Return the path of the driving video if its audio is requested and it has any, else None."""
    source = open_driving(config) if config.audio else None
    if source is None or isinstance(source, PoseSequence) or not source.info.has_audio:
        return None
    return config.video


def write_preview(output: Path, latents: Any, decode: Callable[[Any], Iterable[Frame]]) -> None:
    """Decode a few frames of the current denoised estimate, and write them side by side to the preview picture."""
    count = latents.shape[0]
    index = sorted({round(i * (count - 1) / max(PREVIEW_FRAMES - 1, 1)) for i in range(PREVIEW_FRAMES)})
    frames = [next(iter(decode(latents[i : i + 1]))) for i in index]
    try:
        write_picture(preview_path(output), np.concatenate(frames, axis=1))
    except OutputError as e:  # a preview must not stop the job
        logger.warning("no preview: %s", e.got)


# --- sidecar ----------------------------------------------------------------------------------------------------


def peak_memory() -> dict[str, int]:
    """Return the peak memory in bytes of this process, and of the GPU if one was used."""
    found = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["GPU"] = torch.cuda.max_memory_allocated()
    return found


def write_sidecar(path: Path, facts: dict[str, Any]) -> None:
    """Write the sidecar, from which the result can be reproduced."""
    write_json(path, {"format": FORMAT, "version": VERSION, **facts})


def read_sidecar(path: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Read a sidecar.

    Args:
        path: OUTPUT.json.
        parts: required keys.

    Raises:
        ConfigError: the file is missing, is not a sidecar, lacks a key, or was written by another version.
    """
    expected = f"the file OUTPUT.json that `mimicmotion generate` writes (version {VERSION})"
    fix = "pass the OUTPUT.json next to a result"
    data = read_json(path, expected, fix, ConfigError)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConfigError(f"{path} is not the sidecar of a result", expected, fix)
    if (version := data["version"]) != VERSION:
        raise ConfigError(f"{path} has version {version}", expected, "use the version of mimicmotion that wrote it")
    if missing := [k for k in parts if k not in data]:
        got, fix = f"{path} lacks {', '.join(missing)}", "the file has been modified: use the original"
        raise ConfigError(got, expected, fix)
    return data
