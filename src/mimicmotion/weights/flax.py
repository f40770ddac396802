"""Pickled trees of numpy arrays, as Flax users publish them, read without running anything that the file brings along.

A pickle can name any function to be called while it is read. Here only what rebuilds a plain numeric array is known;
everything else is refused by name.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy import ndarray

from mimicmotion.errors import WeightsError

_NUMERIC = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


class _Array:
    """Stands for numpy.ndarray in the pickle, so that the class itself cannot be called with a shape of its own."""


def _reconstruct(kind: type, shape: tuple[int, ...], *_code: bytes) -> ndarray:
    if kind is not _Array or shape != (0,):
        raise pickle.UnpicklingError(f"an array of class {kind!r} and shape {shape!r}")
    return np.ndarray(shape, np.int8)


def _dtype(code: str, *_flags: bool) -> np.dtype:
    if code not in _NUMERIC:
        raise pickle.UnpicklingError(f"an array of type {code!r}")
    # a copy: what follows in the pickle sets the byte order on it
    return np.dtype(code, False, True)


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def load_arrays(file: BinaryIO, name: str) -> dict[str, ndarray]:
    """Arrays of a pickled tree of dicts, by their path in the tree ("params/Conv_0/kernel").

    Args:
        file: the pickle, open for reading.
        name: what to call it in errors.

    Raises:
        WeightsError: the pickle asks for anything else than numeric arrays and dicts, or is damaged.
    """
    try:
        tree = _ArraysOnly(file).load()
    except Exception as e:  # a hostile or damaged pickle can raise anything
        raise _refused(name, f"{type(e).__name__}: {e}") from e
    if not isinstance(tree, dict):
        raise _refused(name, f"it holds {type(tree).__name__}")
    return dict(_leaves(tree, "", name))


def _leaves(tree: dict[Any, Any], prefix: str, name: str) -> Iterator[tuple[str, ndarray]]:
    for key, value in tree.items():
        if not isinstance(key, str):
            raise _refused(name, f"the key {key!r} is not text")
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/", name)
        elif isinstance(value, ndarray) and value.dtype.kind in "fiub":
            yield prefix + key, value
        else:
            raise _refused(name, f"{prefix}{key} is {type(value).__name__}")


def _refused(name: str, reason: str) -> WeightsError:
    fix = "fetch it again from the package index; do not use a file from elsewhere"
    return WeightsError(f"{name} is not read: {reason}", "a pickle of nothing but dicts and numeric arrays", fix)
