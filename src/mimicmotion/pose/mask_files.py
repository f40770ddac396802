"""Mask files: an .npz with one array, `masks`, written and read frame by frame."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy import ndarray

from mimicmotion.errors import MediaError, OutputError
from mimicmotion.pose.mask import Mask
from mimicmotion.runtime.files import atomic_path, writing

VERSION = 1  # of the segmentation method; part of the cache key
MEMBER = "masks.npy"


def save_masks(masks: Iterable[Mask], path: Path, count: int, size: tuple[int, int]) -> Iterator[Mask]:
    """Write masks and yield each in turn. The file appears once all are written.

    `numpy.load(path)["masks"]` gives uint8 (frames, height, width), 255 where the person is.

    Args:
        masks: uint8 masks of `size`.
        path: the .npz file.
        count: number of masks.
        size: (height, width) in pixels.

    Raises:
        OutputError: the file cannot be written, or the number of masks is not `count`.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *size)}
    done = 0
    with atomic_path(path) as part:
        with (
            writing(path),
            zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open(MEMBER, "w", force_zip64=True) as file,
        ):
            np.lib.format.write_array_header_1_0(file, header)
            for mask in masks:
                file.write(np.ascontiguousarray(mask).tobytes())
                done += 1
                yield mask
        if done != count:
            raise OutputError(f"{done} masks for {path}", f"{count}", "pass a mask for each frame")


def are_whole(path: Path) -> bool:
    """Whether `path` is a complete mask file with a valid checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None and MEMBER in archive.namelist()
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


def load_masks(path: Path) -> Iterator[Mask]:
    """Read masks one by one.

    Raises:
        MediaError: the file is missing, damaged or not a mask file.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as file:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            if len(shape) != 3 or kind != np.uint8:
                raise ValueError(f"{kind} of shape {shape}")
            for _ in range(shape[0]):
                yield _read(file, shape[1:])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        got = f"{path} is no file of masks ({e})"
        raise MediaError(got, "a file written by `mimicmotion mask`", "create it again") from e


def _read(file: IO[bytes], size: tuple[int, int]) -> ndarray:
    data = file.read(size[0] * size[1])
    if len(data) != size[0] * size[1]:
        raise ValueError("it is truncated")
    return np.frombuffer(data, np.uint8).reshape(size)
