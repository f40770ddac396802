"""Everything that these nodes use of ComfyUI, through a versioned, stable interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import ComfyExtension, InputImpl, io, ui
from jaxtyping import Float

from mimicmotion.arrays import Frame
from mimicmotion.runtime.progress import Progress
from mimicmotion.video.writer import open_writer

__all__ = ["ComfyExtension", "Images", "io"]

Images = Float[torch.Tensor, "frames height width 3"]
"""ComfyUI's IMAGE: RGB in 0..1."""


def follow() -> Callable[[Progress], None]:
    """Show a job's reports in ComfyUI's progress bar, and end the job when the user asks for it."""
    bar = comfy.utils.ProgressBar(1)

    def report(progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(progress.done, progress.total or progress.done + 1)

    return report


def free_gpu() -> None:
    """Make ComfyUI move its own models off the GPU; it reloads them when it needs them."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def to_frame(image: Float[torch.Tensor, "height width channels"]) -> Frame:
    """Convert one picture of an IMAGE to uint8 RGB."""
    return (image[..., :3].float() * 255).round().clamp(0, 255).to("cpu", torch.uint8).numpy()


def to_images(frames: Iterable[Frame]) -> Images:
    """Convert frames to an IMAGE."""
    return torch.stack([torch.from_numpy(np.asarray(f)).float() / 255 for f in frames])


def temporary_folder() -> str:
    """ComfyUI's folder for temporary files, which it deletes itself."""
    return folder_paths.get_temp_directory()


def is_picture(source: Any) -> bool:
    """Whether a VIDEO or an IMAGE is an IMAGE of one frame."""
    return isinstance(source, torch.Tensor) and len(source) == 1


def as_file(source: Any, folder: Path, fps: float) -> Path:
    """Convert a VIDEO or an IMAGE to a file that MimicMotion reads.

    Args:
        source: a VIDEO that is a whole file is used as it is; frames become a folder of pictures.
        folder: folder for files that must be written.
        fps: frames per second of an IMAGE.
    """
    path = folder / "source"
    if isinstance(source, torch.Tensor):
        with open_writer(path, (source.shape[1], source.shape[2]), fps) as writer:
            for image in source:
                writer.write(to_frame(image))
        return path
    own = source.get_stream_source()
    if isinstance(own, str) and _facts(source) == _facts(InputImpl.VideoFromFile(own)):
        return Path(own)
    source.save_to(str(path.with_suffix(".mp4")))
    return path.with_suffix(".mp4")


def _facts(video: Any) -> tuple[Any, ...]:
    """Properties that differ if a VIDEO is only part of its file, as nodes that trim a video keep the whole file."""
    return video.get_dimensions(), video.get_duration()


def next_output(prefix: str, suffix: str, size: tuple[int, int]) -> Path:
    """The next free name in ComfyUI's output folder.

    Args:
        prefix: as in ComfyUI's own nodes; may hold folders and %date%.
        suffix: suffix of the file, with its dot.
        size: (height, width), for %height% and %width%.
    """
    base = folder_paths.get_output_directory()
    folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, base, size[1], size[0])
    return Path(folder) / f"{name}_{number:05}_{suffix}"


def shown(path: Path, *values: Any) -> io.NodeOutput:
    """Output of a node that shows a video from the output folder on the node."""
    below = path.parent.relative_to(folder_paths.get_output_directory())
    saved = ui.SavedResult(path.name, "" if below == Path() else str(below), io.FolderType.output)
    return io.NodeOutput(*values, ui=ui.PreviewVideo([saved]))


def video_of(path: Path) -> Any:
    """Convert a file to a VIDEO."""
    return InputImpl.VideoFromFile(str(path))
