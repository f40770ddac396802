"""An execution plan: how the networks run, at the same result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mimicmotion.backbones.svd.execution.options import Execution
from mimicmotion.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Peaks:
    """Predicted bytes of each stage on the device: weights that are there, what is kept, and working space.

    Without the device's context and without what the allocator wastes (see `mimicmotion.runtime.free_memory`).
    """

    encode: int = 0
    denoise: int = 0
    decode: int = 0

    @property
    def most(self) -> int:
        """Of the stage that takes most."""
        return max(self.encode, self.denoise, self.decode)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionPlan:
    """How the networks run. Segments, steps and everything else that makes the result stay as they are.

    Attributes:
        unet: chunks, memory format and attention kernel of the U-Net.
        guidance_in_one_batch: both passes of guidance as one batch, or one after the other.
        offload: which weights wait on the host: none, modules (networks that are not in use), blocks (those of the
            U-Net too, each brought when its turn comes).
        decode_chunk: frames at once inside of the decoder (the result is the same); None is the whole clip.
        decode_tile: side in pixels of tiles that frames are decoded in (approximate, only where nothing else fits).
        peaks: predicted bytes of each stage.
        budget: bytes that the plan was made for.
    """

    unet: Execution = field(default_factory=Execution)
    guidance_in_one_batch: bool = True
    offload: Literal["none", "modules", "blocks"] = "none"
    decode_chunk: int | None = None
    decode_tile: int | None = None
    peaks: Peaks = field(default_factory=Peaks)
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.unet.compile and self.offload == "blocks":
            got = "compile=True with offload='blocks'"
            raise ConfigError(got, "one of the two", "compiled blocks hold their weights")

    @property
    def latents_on_host(self) -> bool:
        """Whether latents and pose features wait on the host; a segment's frames go to the device."""
        return self.offload != "none"

    @property
    def exact(self) -> bool:
        """Whether the result is that of the plain way but for rounding."""
        return self.decode_tile is None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a record."""
        return asdict(self)

    def describe(self) -> str:
        """A line for a person to read."""
        unet = self.unet
        parts = ["both passes in one batch" if self.guidance_in_one_batch else "two passes"]
        parts.append("all frames at once" if unet.frame_chunk is None else f"{unet.frame_chunk} frames at once")
        words = {"modules": "idle networks on the host", "blocks": "weights on the host, brought block by block"}
        if self.offload != "none":
            parts.append(words[self.offload])
        if self.decode_chunk is not None:
            parts.append(f"decoder {self.decode_chunk} frame{'s' * (self.decode_chunk > 1)} at once")
        if self.decode_tile is not None:
            parts.append(f"decoded in tiles of {self.decode_tile} pixels (not exact)")
        return ", ".join(parts)

    def describe_peaks(self) -> str:
        """Predicted peaks, for a person to read."""
        p = self.peaks
        stages = f"encode {p.encode / GIB:.2f}, denoise {p.denoise / GIB:.2f}, decode {p.decode / GIB:.2f}"
        room = "" if self.budget is None else f" of {self.budget / GIB:.2f}"
        return f"{p.most / GIB:.2f}{room} GiB predicted ({stages})"
