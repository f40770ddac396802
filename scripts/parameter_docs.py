"""Write docs/train-parameters.md from the docstrings of the settings: python scripts/parameter_docs.py."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from mimicmotion.settings import field_help

PAGE = Path(__file__).parents[1] / "docs" / "train-parameters.md"
INTRO = """\
# What each parameter does

All settings of `mimicmotion train RECIPE`. A recipe names only what differs from the defaults; an unknown
name or a value out of range stops the run before it begins. Groups are written as nested mappings:

```yaml
run: runs/mine
data:
  shards: shards/mine
  sample:
    num_frames: 16
optim:
  lr: 1.0e-5
```

Where the paper gives a number it is named; what the paper leaves open is a choice of this project and says so. This
page is made from the source code (`python scripts/parameter_docs.py`).
"""


def settings_class(kind: Any) -> type | None:
    """The settings class in a type such as `Settings`, `Settings | None` or `tuple[Settings, ...]`."""
    if dataclasses.is_dataclass(kind):
        return typing.cast(type, kind)
    return next((c for c in map(settings_class, get_args(kind)) if c is not None), None)


def sections(cls: type, path: str = "") -> Iterator[tuple[str, type]]:
    """The class and, below it, those of its groups, with their dotted places in the file."""
    yield path, cls
    for name, kind in typing.get_type_hints(cls).items():
        inner = settings_class(kind)
        if inner is not None and get_origin(kind) is not typing.ClassVar:
            yield from sections(inner, f"{path}.{name}".lstrip(".") + ("[]" if get_origin(kind) is tuple else ""))


def kind_text(kind: Any) -> str:
    """A type in words."""
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}
    if kind in names:
        return names[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(value_text(a) for a in args)
    if origin in (Union, types.UnionType):
        return ", ".join(kind_text(a) for a in args if a is not types.NoneType) + (
            " or empty" if types.NoneType in args else ""
        )
    if origin is tuple:
        return f"{'list of' if Ellipsis in args else len(args)} {plural(args[0])}"
    if origin is dict or settings_class(kind):
        return "group"
    raise TypeError(f"no words for {kind}: add them here")


def plural(kind: Any) -> str:
    """Several of a type in words."""
    words = kind_text(kind)
    return {"text": "texts", "true or false": "switches"}.get(words, f"{words}s")


def value_text(value: Any) -> str:
    """A default as it is written in a file."""
    if value is dataclasses.MISSING:
        return "required"
    if value is None or value in ("", ()):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:.4g}`" if math.isfinite(value) else f"`.{value}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(value_text(v).strip("`") for v in value) + "]`"
    # YAML takes a bare no for false
    return f'`"{value}"`' if value in ("no", "yes", "on", "off") else f"`{value}`"


def rows(cls: type) -> Iterator[str]:
    """A table row for each setting of a class; groups have sections of their own."""
    hints, helps = typing.get_type_hints(cls), field_help(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        words = " ".join(helps[field.name].split()).replace("|", "\\|")
        default = None if field.default_factory is dict else field.default
        yield f"| `{field.name}` | {kind_text(hints[field.name])} | {value_text(default)} | {words} |"


def page() -> str:
    """The whole page."""
    from mimicmotion.settings.training import TrainConfig

    parts = [INTRO]
    for path, cls in sections(TrainConfig):
        title = f"`{path}`" if path else "The run"
        about = " ".join((cls.__doc__ or "").split())
        table = ["| setting | kind | default | what it does |", "|---|---|---|---|", *rows(cls)]
        parts.append("\n".join([f"## {title}", "", about, "", *table]) + "\n")
    return "\n".join(parts)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(page().splitlines())} lines")


if __name__ == "__main__":
    main()
