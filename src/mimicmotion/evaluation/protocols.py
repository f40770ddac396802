"""Evaluation protocols: which sequences are compared, and which part of each frame.

Real frames are never resampled, except to the protocol's `size`. A method's frame shows a window of the real frame. One
affine map brings it to the real frame's pixels (bicubic, with Pillow's antialiasing), cropped to the compared region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.settings.parsing import Range, Settings, load_yaml, parse
from mimicmotion.video.geometry import Fit

Size = tuple[int, int]
Box = tuple[float, float, float, float]
"""Left, top, width, height."""
SAME_SHAPE = 0.02
"""Aspect ratios that differ by less than this count as equal, because networks need multiples of 64."""
_TINY = 1e-6  # pixels, for rounding errors


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodCrop(Settings):
    """The part of the real frame that a method shows: how its reference picture and poses were cropped."""

    shows: Literal["auto", "full", "centre"] | tuple[float, float, float, float] = "auto"
    """full: the whole frame; centre: the largest central part with the result's aspect ratio; four numbers: left, top,
    width, height in the real frame, as fractions of its size (0..1) or, if one exceeds 1, in pixels. auto: centre if
    the result is square, the real frame is not, and squares are compared; else full."""

    def __post_init__(self) -> None:
        if isinstance(self.shows, tuple) and not (min(self.shows) >= 0 and self.shows[2] > 0 and self.shows[3] > 0):
            raise ConfigError(f"shows={self.shows}", "left, top >= 0, width, height > 0", "correct 'shows'")


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """An evaluation protocol. YAML files have these fields."""

    name: str = "plain"
    what: str = "whole frames of all sequences"
    sequences: tuple[str, ...] = ()
    """Names of the sequences; empty uses all in the real folder. 335 and 00335 are the same."""
    region: Literal["full", "square"] = "full"
    """Compare the whole real frame, or its central square."""
    size: Annotated[int | None, Range(8, 8192)] = None
    """Height (square: and width) to which the region is resized in real and generated frames."""
    frames_in: str = ""
    """Subfolder of a sequence's folder that holds its frames (else they are in the folder itself)."""
    crop: MethodCrop = field(default_factory=MethodCrop)
    """Crop of methods not named below."""
    methods: dict[str, MethodCrop] = field(default_factory=dict)
    """Crop of each method by name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if Path(self.frames_in).is_absolute() or ".." in Path(self.frames_in).parts:
            raise ConfigError(f"frames_in={self.frames_in!r}", "a folder within the sequence", "correct 'frames_in'")

    def crop_of(self, method: str) -> MethodCrop:
        """Return the crop of a method, or the default crop if the method has none of its own."""
        return self.methods.get(method, self.crop)


TIKTOK = Protocol(
    name="tiktok",
    what="TikTok sequences 335 to 340, central squares",
    sequences=tuple(str(n) for n in range(335, 341)),
    region="square",
    frames_in="images",
)
PROTOCOLS = {"plain": Protocol(), "tiktok": TIKTOK}


def load_protocol(name: str) -> Protocol:
    """Load a protocol by name or from a YAML file, which may extend a named one (`base: tiktok`).

    Raises:
        ConfigError: the name is unknown, or the file cannot be read or has an invalid field.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if not name.endswith((".yaml", ".yml")):
        raise ConfigError(f"protocol={name!r}", f"{', '.join(PROTOCOLS)} or a YAML file", "correct 'protocol'")
    data = load_yaml(Path(name))
    base = data.pop("base", "plain")
    if base not in PROTOCOLS:
        raise ConfigError(f"base={base!r} in {name}", f"one of {', '.join(PROTOCOLS)}", "correct 'base'")
    start = PROTOCOLS[base]
    fields = {k: getattr(start, k) for k in ("what", "sequences", "region", "size", "frames_in")}
    return parse(Protocol, {"name": Path(name).stem, **fields} | data)


@dataclass(frozen=True, slots=True)
class Fits:
    """How real and generated frames are mapped to the pixels that are compared, with notes for the report."""

    real: Fit
    generated: Fit
    notes: tuple[str, ...] = ()


def plan_fits(protocol: Protocol, method: str, real: Size, generated: Size) -> Fits:
    """Decide how frames of two sizes are compared.

    Raises:
        InputError: less than 8 pixels (in width or height) of the compared region are visible in the method's frames.
    """
    notes: list[str] = []
    region = _region(protocol, real)
    window = _window(protocol, method, real, generated, notes)
    part = _intersection(region, window)
    if part is None or min(part[2:]) < 8:
        got = f"{method} shows {_text(window)} of a frame, but {_text(region)} is compared"
        raise InputError(got, "at least 8 common pixels a side", "correct 'shows' in the protocol")
    if part != region:
        notes.append(f"only {_text(part)} of {_text(region)} is compared: the method shows {_text(window)}")
    left, top, width, height = part
    target = (int(height), int(width))
    if protocol.size is not None:
        target = protocol.size, round(protocol.size * width / height) if protocol.region == "full" else protocol.size
    zoom = target[0] / height, target[1] / width
    scale = window[3] / generated[0] * zoom[0], window[2] / generated[1] * zoom[1]
    offset = (window[1] - top) * zoom[0], (window[0] - left) * zoom[1]
    own = Fit(real, target, zoom, (0.0 - top * zoom[0], 0.0 - left * zoom[1]), "bicubic")
    return Fits(own, Fit(generated, target, scale, offset, "bicubic"), tuple(notes))


def _region(protocol: Protocol, size: Size) -> Box:
    height, width = size
    if protocol.region == "full":
        return 0, 0, width, height
    side = min(size)
    return (width - side) // 2, (height - side) // 2, side, side


def _window(protocol: Protocol, method: str, real: Size, generated: Size, notes: list[str]) -> Box:
    """Return the part of the real frame that the generated frame shows, in pixels of the real frame."""
    shows, (height, width) = protocol.crop_of(method).shows, real
    if isinstance(shows, tuple):
        shares = max(shows) <= 1
        left, top, w, h = (v * n for v, n in zip(shows, (width, height) * 2, strict=True)) if shares else shows
        return left, top, w, h
    wanted, own = width / height, generated[1] / generated[0]
    alike, square = abs(own / wanted - 1) < SAME_SHAPE, abs(own - 1) < SAME_SHAPE
    if shows == "auto" and square and not alike and protocol.region == "square":
        return _region(protocol, real)
    if shows != "centre":
        if not alike:
            notes.append(f"stretched from {generated[1]} x {generated[0]} to the shape of {width} x {height}")
        return 0, 0, width, height
    w, h = (width, width / own) if own > wanted else (height * own, height)
    # whole pixels, like the corners of central squares
    return math.floor((width - w) / 2), math.floor((height - h) / 2), w, h


def _intersection(a: Box, b: Box) -> Box | None:
    """Intersection of two boxes, rounded inwards to whole pixels; None if it is empty."""
    left, top = max(a[0], math.ceil(b[0] - _TINY)), max(a[1], math.ceil(b[1] - _TINY))
    right = min(a[0] + a[2], math.floor(b[0] + b[2] + _TINY))
    bottom = min(a[1] + a[3], math.floor(b[1] + b[3] + _TINY))
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _text(box: Box) -> str:
    left, top, width, height = (f"{v:g}" for v in (round(x, 1) for x in box))
    return f"{width} x {height} at ({left}, {top})"


def plain_name(sequence: str) -> str:
    """Strip leading zeros from a numeric name, so that 335 and 00335 match; other names are unchanged."""
    return str(int(sequence)) if sequence.isdecimal() else sequence
