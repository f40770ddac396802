"""The main job: one picture and a driving video to a video."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion import __version__
from mimicmotion.config import FusionConfig, GenerateConfig
from mimicmotion.errors import OutputError
from mimicmotion.files import atomic_path, check_writable, sha256_file
from mimicmotion.jobs.inputs import Inputs, open_driving, prepare
from mimicmotion.jobs.progress import Job, Progress, Stopwatch
from mimicmotion.pose.draw import PoseDrawer
from mimicmotion.pose.keypoints import PoseSequence

if TYPE_CHECKING:
    from mimicmotion.diffusion.recipe import Recipe
    from mimicmotion.pipeline import MimicMotionPipeline
    from mimicmotion.pose.warp import WarpedPicture

logger = logging.getLogger(__name__)

Frame = UInt8[ndarray, "height width 3"]
PREVIEW_FRAMES = 4
SIDE_BY_SIDE_HEIGHT = 448  # small results are shown larger beside picture and pose
TINY_LIMITS = (
    "the bundled model is a small one for trying out: it was trained on drawn figures at 224x128, so faces, hands and "
    "real photographs come out as rough shapes; use --model and --checkpoint for the real thing"
)


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What a generate job made.

    Attributes:
        output: the video.
        side_by_side: the comparison video, if asked for.
        sidecar: JSON with seed, settings, versions and checksums.
        frames: number of frames.
        fps: frames per second.
        size: (height, width).
        seconds: time spent per stage.
        peak_memory: bytes, the process's peak so far, and of the GPU where one was used.
        warnings: what the user should know.
    """

    output: Path
    side_by_side: Path | None
    sidecar: Path
    frames: int
    fps: float
    size: tuple[int, int]
    seconds: dict[str, float]
    peak_memory: dict[str, int]
    warnings: list[str]

    def summary(self) -> str:
        """A few lines for a person to read."""
        lines = [f"note: {w}" for w in self.warnings]
        length = self.frames / self.fps
        lines += [
            f"{self.frames} frames of {self.size[1]}x{self.size[0]} at {self.fps:g} per second ({length:.1f} s)",
            "seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()),
            "peak memory: " + ", ".join(f"{k} {v / 2**30:.2f} GiB" for k, v in self.peak_memory.items()),
            f"video: {self.output}",
        ]
        if self.side_by_side:
            lines.append(f"side by side: {self.side_by_side}")
        return "\n".join([*lines, f"settings: {self.sidecar}"])


class DrawnPoses:
    """Pose frames that are drawn when they are asked for: `[a:b]` gives uint8 (b - a, height, width, 3)."""

    def __init__(self, poses: PoseSequence, drawer: PoseDrawer) -> None:
        self.poses, self.drawer = poses, drawer

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice, /) -> UInt8[ndarray, "frames height width 3"]:
        rows = range(*index.indices(len(self)))
        return np.stack([self.drawer.draw(self.poses.xy[i], self.poses.confidence[i]) for i in rows])


def generate(config: GenerateConfig, pipeline: MimicMotionPipeline | None = None) -> Job[GenerateResult]:
    """Make the video; yields progress per stage.

    Args:
        config: all settings.
        pipeline: a loaded model to use again; None loads the one of the settings.

    Raises:
        InputError: something about the inputs or settings, found before the long work.
        WeightsError: the model cannot be loaded.
        OutputError: the result cannot be written; no half file is left.
    """
    watch = Stopwatch()
    frames, size, warnings, weights = yield from watch.watch(_generate(config, pipeline))
    result = GenerateResult(
        output=config.output,
        side_by_side=side_by_side_path(config.output) if config.side_by_side else None,
        sidecar=sidecar_path(config.output),
        frames=frames,
        fps=config.fps,
        size=size,
        seconds=watch.seconds,
        peak_memory=peak_memory(),
        warnings=warnings,
    )
    write_sidecar(config, result, weights)
    return result


def _generate(
    config: GenerateConfig, pipeline: MimicMotionPipeline | None
) -> Job[tuple[int, tuple[int, int], list[str], tuple[Path, ...]]]:
    check_outputs(config)
    pipe, inputs = yield from load_and_prepare(config, pipeline)
    size: tuple[int, int] = inputs.picture.shape[:2]
    drawer = pose_drawer(config, pipe, size)
    poses = DrawnPoses(inputs.aligned, drawer)
    reference = drawer.draw(inputs.reference.xy[0], inputs.reference.confidence[0])

    recipe = make_recipe(config, pipe, len(poses))
    noise = pipe.draw_noise(recipe, size, seed=config.seed)
    yield Progress("encode", 0, 1)
    conditioning = pipe.encode(
        inputs.picture,
        poses,
        reference,
        motion_bucket_id=config.motion_bucket_id,
        noise_aug_strength=config.noise_aug_strength,
        image_noise=noise.picture,
        warped=warped_picture(pipe, inputs),
    )
    yield Progress("encode", 1, 1)
    state = None
    for state in pipe.denoise(conditioning, noise.latents, recipe):
        if config.preview:
            write_preview(config.output, pipe, state.preview[0])
        yield Progress("denoise", state.index + 1, state.total)
    del conditioning  # decoding needs the memory
    assert state is not None  # a schedule has at least one step
    decoded = pipe.decode_state(state, recipe, config.decode_chunk_size)
    yield from write_video(config, inputs, poses, decoded)
    with contextlib.suppress(OSError):
        preview_path(config.output).unlink(missing_ok=True)
    limits = [TINY_LIMITS] if config.model is None and pipeline is None else []
    return len(poses), size, [*inputs.warnings, *limits], pipe.files


def check_outputs(config: GenerateConfig) -> None:
    """Raise OutputError now rather than after the long work."""
    from mimicmotion.video.writer import check_output

    check_output(config.output)
    check_writable(sidecar_path(config.output))
    if config.side_by_side:
        check_output(side_by_side_path(config.output))


def load_and_prepare(
    config: GenerateConfig, pipeline: MimicMotionPipeline | None
) -> Job[tuple[MimicMotionPipeline, Inputs]]:
    """Load the model, then read the picture and find and align the poses: the first stages of generate and plan."""
    check_inputs_exist(config)
    yield Progress("load", 0, 1)
    pipe = pipeline if pipeline is not None else load_pipeline(config)
    yield Progress("load", 1, 1)
    return pipe, (yield from prepare(config, result_size(config, pipe), pipe.size_multiple))


def check_inputs_exist(config: GenerateConfig) -> None:
    """Raise MediaError for a missing picture or video before a model is loaded."""
    from mimicmotion.video.picture import check_input_file

    check_input_file(config.picture, "a picture")
    open_driving(config)


def load_pipeline(config: GenerateConfig) -> MimicMotionPipeline:
    """The model of the settings on the device of the settings."""
    from mimicmotion.jobs.device import choose_device, choose_dtype
    from mimicmotion.pipeline import MimicMotionPipeline

    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    return MimicMotionPipeline.from_pretrained(config.model, config.checkpoint, device=device, dtype=dtype)


def result_size(config: GenerateConfig, pipe: MimicMotionPipeline) -> tuple[int, int]:
    """(height, width) of the result: the settings', else the model's own, else the published rule for the picture."""
    from mimicmotion.video.geometry import plan_size
    from mimicmotion.video.picture import read_picture

    if config.height is not None and config.width is not None:
        return config.height, config.width
    if "height" in pipe.settings and "width" in pipe.settings:
        return pipe.settings["height"], pipe.settings["width"]
    picture = read_picture(config.picture)
    return plan_size((picture.shape[0], picture.shape[1]), multiple=max(64, pipe.size_multiple))


def pose_drawer(config: GenerateConfig, pipe: MimicMotionPipeline, size: tuple[int, int]) -> PoseDrawer:
    """The look of poses that the model was trained on."""
    look = dict(pipe.settings.get("pose_drawing", {}))
    aware = look.pop("confidence_aware", True) and config.confidence_aware
    return PoseDrawer(size, confidence_aware=aware, **look)


def warped_picture(pipe: MimicMotionPipeline, inputs: Inputs) -> WarpedPicture | None:
    """The picture warped to each pose, for models that were trained with it."""
    from mimicmotion.pose.warp import WarpedPicture

    if not pipe.needs_warped_picture:
        return None
    return WarpedPicture(inputs.picture, inputs.reference, inputs.aligned)


def fusion_config(config: GenerateConfig, default: FusionConfig) -> FusionConfig:
    """The model's fusion with what the settings change."""
    segment = default.segment_frames if config.segment_frames is None else config.segment_frames
    overlap = min(default.overlap_frames, segment - 1) if config.overlap_frames is None else config.overlap_frames
    slot = default.reference_slot if config.reference_slot is None else config.reference_slot
    mode = config.fusion or default.mode
    return dataclasses.replace(default, mode=mode, segment_frames=segment, overlap_frames=overlap, reference_slot=slot)


def make_recipe(config: GenerateConfig, pipe: MimicMotionPipeline, frames: int) -> Recipe:
    """Segments, noise levels and guidance by the settings."""
    return pipe.recipe(
        frames,
        reference_slot=True,
        fusion=fusion_config(config, pipe.default_fusion),
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        max_guidance_scale=config.guidance_scale_end,
    )


def write_video(config: GenerateConfig, inputs: Inputs, poses: DrawnPoses, decoded: Iterator[Frame]) -> Job[None]:
    """Write frames as they are decoded; the files appear when all are complete."""
    from mimicmotion.video.compose import side_by_side
    from mimicmotion.video.writer import open_writer

    size: tuple[int, int] = inputs.picture.shape[:2]
    audio = sound_source(config)
    with contextlib.ExitStack() as stack:
        sound = {"audio_from": audio, "audio_start": config.start}
        writer = stack.enter_context(open_writer(config.output, size, config.fps, **sound))
        beside: Callable[[Frame], None] | None = None
        for i, frame in enumerate(decoded):
            writer.write(frame)
            if config.side_by_side:
                row = side_by_side(
                    [inputs.picture, poses[i : i + 1][0], frame], height=max(SIDE_BY_SIDE_HEIGHT, size[0])
                )
                if beside is None:
                    path = side_by_side_path(config.output)
                    beside = stack.enter_context(open_writer(path, row.shape[:2], config.fps)).write
                beside(row)
            yield Progress("write", i + 1, len(poses))


def sound_source(config: GenerateConfig) -> Path | None:
    """The driving video, if its sound is wanted and it has any; pose files, pictures and folders have none."""
    source = open_driving(config) if config.audio else None
    if source is None or isinstance(source, PoseSequence) or not source.info.has_audio:
        return None
    return config.video


def side_by_side_path(output: Path) -> Path:
    """OUTPUT-side-by-side.SUFFIX."""
    return output.with_name(f"{output.stem}-side-by-side{output.suffix}")


def sidecar_path(output: Path) -> Path:
    """OUTPUT.json."""
    return output.with_name(f"{output.name}.json")


def preview_path(output: Path) -> Path:
    """OUTPUT.preview.png."""
    return output.with_name(f"{output.name}.preview.png")


def write_preview(output: Path, pipe: MimicMotionPipeline, latents: Any) -> None:
    """Decode a few frames of the present estimate and replace the preview picture."""
    from mimicmotion.video.picture import write_picture

    count = latents.shape[0]
    index = sorted({round(i * (count - 1) / max(PREVIEW_FRAMES - 1, 1)) for i in range(PREVIEW_FRAMES)})
    frames = [next(iter(pipe.decode(latents[i : i + 1]))) for i in index]
    try:
        write_picture(preview_path(output), np.concatenate(frames, axis=1))
    except OutputError as e:  # a preview must not stop the job
        logger.warning("no preview: %s", e.got)


def peak_memory() -> dict[str, int]:
    """Peak bytes of this process, and of the GPU where one was used."""
    found = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        found["GPU"] = torch.cuda.max_memory_allocated()
    return found


def write_sidecar(config: GenerateConfig, result: GenerateResult, weights: Sequence[Path]) -> None:
    """Write what is needed to make the same result again; `weights` are the files that the model came from."""
    import importlib.metadata

    from mimicmotion.jobs.doctor import PACKAGES

    versions = {"mimicmotion": __version__, "python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    facts = {
        "settings": dataclasses.asdict(config),
        "versions": versions,
        "weights_sha256": {str(p): sha256_file(p) for p in weights},
        "inputs_sha256": {str(p): sha256_file(p) for p in (config.picture, config.video) if p.is_file()},
        "frames": result.frames,
        "size": result.size,
        "seconds": result.seconds,
        "peak_memory": result.peak_memory,
        "warnings": result.warnings,
    }
    with atomic_path(result.sidecar) as part:
        part.write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
