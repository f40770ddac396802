"""MimicMotion's settings as inputs of nodes, with the names, ranges, defaults and help of the settings classes.

A node cannot leave a number empty, so -1 stands for an empty number, and "default" for an empty choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mimicmotion.settings import GenerateConfig, SamplingSettings, field_help, parse
from mimicmotion.settings.parsing import Range, declared

from .api import io

EMPTY, DEFAULT = -1, "default"
LARGEST = 2**53 - 1
"""Largest integer that is exact in a browser."""


class NodeSettings:
    """Some fields of a settings class as inputs that may be left out.

    Args:
        cls: the settings.
        names: names of the fields, in the order of the inputs.
    """

    def __init__(self, cls: type, *names: str) -> None:
        self.cls, self.names = cls, names

    def inputs(self) -> list[io.Input]:
        """The inputs of a node."""
        helps, fields = field_help(self.cls), {f.name: f.default for f in dataclasses.fields(self.cls)}
        return [i for name in self.names for i in _inputs(name, *declared(self.cls)[name], fields[name], helps[name])]

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that were set, as plain data for `parse`, without those that are empty.

        Args:
            given: values of a node's inputs.
        """
        found: dict[str, Any] = {}
        for name in self.names:
            pair = [given.get(f"{name}_{end}", EMPTY) for end in ("low", "high")]
            if f"{name}_low" in given and pair != [EMPTY, EMPTY]:
                found[name] = tuple(pair)
            elif name in given and not _is_empty(declared(self.cls)[name][0], given[name]):
                found[name] = given[name]
        return found


def job_settings(values: Mapping[str, Any]) -> GenerateConfig:
    """Settings of a job. Nodes get pictures instead of files, so the paths are placeholders unless they are given."""
    return parse(GenerateConfig, {"picture": ".", "video": ".", "output": "result", **values})


def sampling_settings(config: GenerateConfig, sigmas: list[float] | None) -> SamplingSettings:
    """The job settings that a pipeline call takes, with noise levels in place of a schedule."""
    names = {f.name for f in dataclasses.fields(SamplingSettings)} & {f.name for f in dataclasses.fields(config)}
    given = {name: getattr(config, name) for name in names - {"fps", "height", "width"}}
    return SamplingSettings(**given, sigmas=sigmas)


def _is_empty(kind: Any, value: Any) -> bool:
    return value in ("", DEFAULT) or (value == EMPTY and type(None) in get_args(kind))


def _inputs(name: str, kind: Any, notes: list[Any], default: Any, tooltip: str) -> Iterator[io.Input]:
    """Yield the input of a field; two for a pair of numbers."""
    kinds = [k for k in get_args(kind) if k is not type(None)]
    optional = type(None) in get_args(kind)
    kind = kinds[0] if optional else kind
    limits = next((n for n in notes if isinstance(n, Range)), Range(0, LARGEST))
    common: dict[str, Any] = {"optional": True, "tooltip": tooltip}
    if get_origin(kind) is Literal:
        options = [*([DEFAULT] if optional else []), *get_args(kind)]
        yield io.Combo.Input(name, options=options, default=DEFAULT if default is None else default, **common)
    elif kind is bool:
        yield io.Boolean.Input(name, default=default, **common)
    elif kind in (str, Path):
        yield io.String.Input(name, default=default or "", **common)
    elif get_origin(kind) is tuple:
        common["tooltip"] = f"{tooltip} Set both to {EMPTY} for the default."
        for end in ("low", "high"):
            yield io.Float.Input(f"{name}_{end}", default=EMPTY, min=EMPTY, max=LARGEST, step=0.01, **common)
    else:
        low = limits.low
        if optional:
            low, common["tooltip"] = EMPTY, f"{tooltip} {EMPTY}: the default."
        value, high = EMPTY if default is None else default, min(limits.high, LARGEST)
        if kind is int:
            seed = {"control_after_generate": True} if name == "seed" else {}
            yield io.Int.Input(name, default=value, min=int(low), max=int(high), **common, **seed)
        else:
            yield io.Float.Input(name, default=float(value), min=float(low), max=float(high), step=0.01, **common)
