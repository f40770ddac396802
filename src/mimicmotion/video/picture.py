"""Pictures in and out: whatever the file holds becomes one upright uint8 RGB array."""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from mimicmotion.errors import MediaError, OutputError
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.video.geometry import plan_fit

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif", ".jp2"}
)
# What Pillow raises on damaged files, depending on the format and on where the damage is.
PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
MAX_PIXELS = 150_000_000
"""Above this a picture is refused: 450 MB as RGB, and usually a decompression bomb. 8k is 33 million pixels."""


def read_picture(path: str | os.PathLike[str]) -> UInt8[ndarray, "height width 3"]:
    """Read a picture as sRGB over white, turned upright by its EXIF tag; of an animation, the first frame.

    Args:
        path: any format that Pillow reads; 16 bits a channel come down to 8.

    Raises:
        MediaError: missing, empty, truncated, not a picture, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    check_input_file(path, "a picture")
    try:
        with warnings.catch_warnings():
            # our own limit comes before decoding; Pillow's warning about the same thing would only confuse
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise MediaError(
                        f"{path} has {width} x {height} pixels",
                        f"at most {MAX_PIXELS / 1e6:g} million pixels",
                        "scale the picture down; 4000 pixels on the long side are plenty",
                    )
                return picture_to_rgb(image)
    except MediaError:
        raise
    except UnidentifiedImageError as e:
        raise MediaError(
            f"{path} is not a picture that can be read", "a PNG, JPEG, WebP, TIFF or BMP file", "check or convert it"
        ) from e
    except Image.DecompressionBombError as e:
        raise MediaError(f"{path}: {e}", f"at most {MAX_PIXELS / 1e6:g} million pixels", "scale it down") from e
    except PILLOW_ERRORS as e:
        raise MediaError(
            f"{path} is damaged or truncated ({e})", "a complete picture file", "copy or export it again"
        ) from e


def picture_to_rgb(image: Image.Image) -> UInt8[ndarray, "height width 3"]:
    """An opened Pillow image of any mode as upright RGB over white (EXIF, palette, alpha, grey, CMYK, 16 bits, ICC)."""
    from PIL import Image, ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # before the alpha branch: `transparency` of a 16-bit grey picture is one grey level, which is left alone
        return _grey_to_rgb(np.asarray(image))
    profile = image.info.get("icc_profile")
    if image.mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("P", "1", "HSV", "YCbCr"):
        image = image.convert("RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colour = image.convert("RGB" if image.mode == "RGBA" else "L") if alpha is not None else image
    colour = _to_srgb(colour, profile)
    if alpha is not None:
        backdrop = Image.new("RGB", colour.size, (255, 255, 255))
        backdrop.paste(colour, mask=alpha)
        colour = backdrop
    return np.array(colour, np.uint8)


def write_picture(path: str | os.PathLike[str], image: UInt8[ndarray, "height width 3"]) -> Path:
    """Write an RGB picture in the format of the suffix; it appears under its name only when complete.

    Raises:
        OutputError: the suffix is unknown or the place cannot be written.
    """
    from PIL import Image

    Image.init()
    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES or path.suffix.lower() not in Image.EXTENSION:
        raise OutputError(f"{path} has the suffix {path.suffix!r}", "a picture's suffix", "use .png, .jpg or .webp")
    with atomic_path(path) as part, writing(path):
        # PNG level 1: 3 times as fast as the default for 5-10 % more bytes
        options: dict[str, Any] = {"compress_level": 1} if part.suffix.lower() == ".png" else {"quality": 95}
        Image.fromarray(np.ascontiguousarray(image)).save(part, **options)
    return path


def side_by_side(frames: Sequence[UInt8[ndarray, "_ _ 3"]], height: int, gap: int = 4) -> UInt8[ndarray, "_ _ 3"]:
    """Put frames of any size into one row on white, for example picture | pose | result.

    The size depends on the frames' sizes only, so that every frame of a video gets the same; it is even, as video
    encoders want it.

    Args:
        frames: uint8 RGB.
        height: pixels of the row.
        gap: pixels between neighbours.
    """
    widths = [max(1, round(f.shape[1] * height / f.shape[0])) for f in frames]
    width = sum(widths) + gap * (len(frames) - 1)
    out = np.full((height + height % 2, width + width % 2, 3), 255, np.uint8)
    x = 0
    for frame, wide in zip(frames, widths, strict=True):
        out[:height, x : x + wide] = plan_fit(frame.shape[:2], (height, wide), "stretch").apply(frame)
        x += wide + gap
    return out


def check_input_file(path: Path, what: str) -> None:
    """Raise MediaError unless `path` is a file with something in it.

    Args:
        path: the file.
        what: what it should be, with its article: "a picture".
    """
    if not path.exists():
        raise MediaError(f"{path} does not exist", f"{what} file", "check the path")
    if path.is_dir():
        raise MediaError(f"{path} is a folder", f"{what} file", "name a file in it")
    try:
        with path.open("rb") as f:
            empty = not f.read(1)
    except OSError as e:
        raise MediaError(f"{path} cannot be read ({e.strerror})", f"{what} file", "check its permissions") from e
    if empty:
        raise MediaError(f"{path} is empty (0 bytes)", f"{what} file", "copy or download it again")


def check_picture_size(image: UInt8[ndarray, "height width 3"], minimum: int = 64, name: str = "the picture") -> None:
    """Raise MediaError if either side is below `minimum` pixels: too small to show a person."""
    height, width = image.shape[:2]
    if min(height, width) < minimum:
        raise MediaError(
            f"{name} is {width} x {height} pixels", f"at least {minimum} on the short side", "use a larger picture"
        )


def _grey_to_rgb(grey: ndarray) -> ndarray:
    """16-bit, 32-bit or float grey as RGB: full range of 16 bits; floats of 0..1 or 0..255 by their maximum."""
    values = grey.astype(np.float64)
    if np.issubdtype(grey.dtype, np.floating):
        values = np.nan_to_num(values)
        scale = 255.0 if values.max(initial=0) <= 1 else 1.0
    else:
        scale = 1 / 257 if grey.dtype == np.uint16 or values.max(initial=0) > 255 else 1.0
    level = np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, -1)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB by the embedded ICC profile where there is a usable one, else plainly."""
    if profile:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in ImageCms.getProfileDescription(source) and image.mode == "RGB":
                return image
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return image.convert("RGB") if converted is None else converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as e:
            logger.debug("ICC profile not used: %s", e)
    return image.convert("RGB")
