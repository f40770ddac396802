"""Read and write pictures, animations and folders of frames as upright uint8 RGB arrays."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from mimicmotion.arrays import Frame
from mimicmotion.errors import MediaError, OutputError
from mimicmotion.runtime.files import atomic_path, writing
from mimicmotion.runtime.reading import check_input_file, check_limit, is_heif, reading
from mimicmotion.video.geometry import plan_fit
from mimicmotion.video.sources import AvSource, Lazy, VideoInfo
from mimicmotion.video.timing import Timed

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif", ".jp2"}
    | {".heic", ".heif"}
)
BAND_PIXELS = 1 << 22
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")


def read_picture(path: str | os.PathLike[str]) -> Frame:
    """Read a picture, or the first frame of an animation, as sRGB on a white background, with EXIF orientation applied.

    Args:
        path: file in any format that Pillow can read; 16 bits per channel are converted to 8.

    Raises:
        MediaError: the file is missing, empty, truncated, not a picture, or too large.
    """
    path = Path(path)
    check_input_file(path, "a picture")
    if is_heif(path):
        with contextlib.suppress(ImportError):
            importlib.import_module("pillow_heif").register_heif_opener()  # unlike FFmpeg, it also assembles tiles
    with reading(path, "a picture", "copy or export it again", MediaError):
        try:
            with warnings.catch_warnings():
                # our own limit is checked before decoding
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    check_limit("pixels", image.width * image.height, path, MediaError)
                    return picture_to_rgb(image)
        except Image.DecompressionBombError as e:
            raise MediaError(f"{path}: {e}", "fewer pixels", "scale the picture down") from e
        except UnidentifiedImageError:
            if not is_heif(path):
                raise
            return next(iter(AvSource(path))).item()


def is_picture(path: Path) -> bool:
    """Return whether a file, judging by its content, is a picture or animation to be read with Pillow, not FFmpeg."""
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.open(path, formats=PICTURE_FORMATS).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # FFmpeg will report the error
        return False
    return True


def picture_to_rgb(image: Image.Image) -> Frame:
    """Convert a Pillow image of any mode and bit depth to sRGB on white, applying EXIF orientation and ICC profile."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # before handling alpha: in 16-bit grey, `transparency` is a single grey level, which is ignored
        return _grey_to_rgb(np.asarray(image))
    out = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // image.width)
    # in bands, because each conversion step copies: gigabytes for a large picture
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        out[top : top + rows] = np.asarray(_band_to_rgb(band))
    return out


def _band_to_rgb(image: Image.Image) -> Image.Image:
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
    return colour


def write_picture(path: str | os.PathLike[str], image: Frame) -> Path:
    """Write an RGB picture in the format given by the suffix. The file appears only once it is complete.

    Raises:
        OutputError: the suffix is unknown or the file cannot be written.
    """
    path = check_picture_output(path)
    with atomic_path(path) as part, writing(path):
        # PNG level 1: three times as fast as the default, 5-10% larger
        options: dict[str, Any] = {"compress_level": 1} if part.suffix.lower() == ".png" else {"quality": 95}
        Image.fromarray(np.ascontiguousarray(image)).save(part, **options)
    return path


def check_picture_output(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path; raise OutputError if its suffix is not that of a supported picture format."""
    Image.init()
    path = Path(path)
    if path.suffix.lower() not in PICTURE_SUFFIXES or path.suffix.lower() not in Image.EXTENSION:
        got, expected = f"{path} has the suffix {path.suffix!r}", "the suffix of a picture format"
        raise OutputError(got, expected, "use .png, .jpg or .webp")
    return path


def side_by_side(frames: Sequence[UInt8[ndarray, "_ _ 3"]], height: int, gap: int = 4) -> UInt8[ndarray, "_ _ 3"]:
    """Arrange frames of any size in a row on white, such as picture | pose | result.

    The size of the result depends only on the sizes of the frames, and both sides are even, as video encoders require.

    Args:
        frames: uint8 RGB frames.
        height: height of the row in pixels.
        gap: space between neighbouring frames in pixels.
    """
    widths = [max(1, round(f.shape[1] * height / f.shape[0])) for f in frames]
    width = sum(widths) + gap * (len(frames) - 1)
    out = np.full((height + height % 2, width + width % 2, 3), 255, np.uint8)
    x = 0
    for frame, wide in zip(frames, widths, strict=True):
        out[:height, x : x + wide] = plan_fit(frame.shape[:2], (height, wide), "stretch").apply(frame)
        x += wide + gap
    return out


def check_picture_size(image: Frame, name: str) -> None:
    """Raise MediaError if a side is shorter than 64 pixels, which is too small to show a person."""
    height, width = image.shape[:2]
    if min(height, width) < 64:
        got = f"{name} is {width} x {height} pixels"
        raise MediaError(got, "at least 64 pixels on the short side", "use a larger picture")


def _grey_to_rgb(grey: ndarray) -> ndarray:
    """Convert 16-bit, 32-bit or float grey to RGB. Floats are in 0..1 if none exceeds 1, otherwise in 0..255."""
    highest = np.nanmax(grey, initial=0)
    if np.issubdtype(grey.dtype, np.floating):
        scale = 255.0 if highest <= 1 else 1.0
    else:
        scale = 1 / 257 if grey.dtype == np.uint16 or highest > 255 else 1.0
    out = np.empty((*grey.shape, 3), np.uint8)
    for row, values in zip(out, grey, strict=True):  # row by row, as a large picture in float64 takes gigabytes
        row[:] = np.clip(np.rint(np.nan_to_num(values.astype(np.float64)) * scale), 0, 255)[:, None]
    return out


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB with the embedded ICC profile, or just to RGB mode if there is no usable profile."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in ImageCms.getProfileDescription(source) and image.mode == "RGB":
                return image
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return image.convert("RGB") if converted is None else converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as e:
            logger.debug("ICC profile not used: %s", e)
    return image.convert("RGB")


def _is_animated(path: Path) -> bool:
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # errors are reported when the frames are read
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    return False


class AnimationSource:
    """A GIF, WebP or APNG animation or a still picture, read with Pillow, as FFmpeg does not support animated WebP."""

    damage = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        first = read_picture(path)
        pixels = first.shape[0] * first.shape[1] * _is_animated(path)
        check_limit("video_pixels", pixels, path, MediaError)  # before the second frame is composited onto the first
        durations = []
        for timed in self:
            durations.append(timed.duration)
            check_limit("frames", len(durations), path, MediaError)
            check_limit("animation", len(durations) * pixels, path, MediaError)
        total = sum(durations, Fraction(0))
        self.info = VideoInfo(
            width=first.shape[1],
            height=first.shape[0],
            fps=float(len(durations) / total),
            duration=float(total),
            num_frames=len(durations),
            codec=path.suffix.lower().lstrip("."),
            variable_frame_rate=len(set(durations)) > 2,  # 15 fps in a GIF alternates between 6 and 7 hundredths
        )

    def __iter__(self) -> Iterator[Lazy]:
        with Image.open(self.path) as image:
            time, index = Fraction(0), 0
            while True:
                try:
                    image.seek(index)
                    image.load()
                except EOFError:
                    return
                except MemoryError:
                    raise
                except Exception as e:  # the type depends on the format and on where the file is damaged
                    self.damage = f"damaged or truncated: {index} frames decoded ({e})"
                    logger.warning("%s is %s", self.path, self.damage)
                    return
                # like browsers, show frames with a duration of 0 or 10 ms for 100 ms
                milliseconds = float(image.info.get("duration", 0) or 0)
                duration = Fraction(milliseconds if milliseconds > 10 else 100).limit_denominator(1000) / 1000
                yield Timed(time, duration, partial(picture_to_rgb, image.copy()))
                time, index = time + duration, index + 1


class FolderSource:
    """A folder of numbered pictures in natural order (2 before 10), played at a given frame rate."""

    damage = ""  # always empty: unreadable pictures raise an error

    def __init__(self, path: Path, fps: Fraction) -> None:
        self.path, self.rate = path, fps
        self.files = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")),
            key=lambda p: [int(s) if s.isdigit() else s.lower() for s in re.split(r"(\d+)", p.name)],
        )
        if not self.files:
            raise MediaError(f"{path} contains no pictures", "a folder of PNG or JPEG frames", "check the path")
        first = read_picture(self.files[0])
        self.info = VideoInfo(
            width=first.shape[1],
            height=first.shape[0],
            fps=float(fps),
            duration=float(len(self.files) / fps),
            num_frames=len(self.files),
            codec="pictures",
        )

    def __iter__(self) -> Iterator[Lazy]:
        for i, file in enumerate(self.files):
            yield Timed(i / self.rate, 1 / self.rate, partial(self._read, file))

    def _read(self, file: Path) -> Frame:
        pixels = read_picture(file)
        if pixels.shape[:2] != self.info.size:
            raise MediaError(
                f"{file} is {pixels.shape[1]} x {pixels.shape[0]} pixels",
                f"{self.info.width} x {self.info.height} like {self.files[0].name}",
                "put only the frames of one video into the folder",
            )
        return pixels
