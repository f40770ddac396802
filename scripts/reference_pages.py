"""Write the pages and tables that are generated from the source: python scripts/reference_pages.py.

- docs/reference/training-settings.md, from the docstrings of the settings of training;
- docs/reference/cli.md, from the commands and their help;
- the table of packages in CONTRIBUTING.md, from their docstrings;
- the table of errors in docs/guide/troubleshooting.md, from their classes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App, Parameter

from mimicmotion.cli import app
from mimicmotion.cli.options import show_default
from mimicmotion.settings import field_help

ROOT = Path(__file__).parents[1]
INTRO = """\
# Training settings

All settings of `mimicmotion train RECIPE`. A recipe only needs the settings that differ from the
defaults. Unknown names and values out of range are errors, reported before the run starts. Groups are nested mappings:

```yaml
run: runs/mine
data:
  shards: shards/mine
  sample:
    num_frames: 16
optim:
  lr: 1.0e-5
```

Settings that come from the paper say so, and so do settings for which the paper gives no value. This page is generated
from the source code (`python scripts/reference_pages.py`).
"""
CLI_INTRO = """\
# Command line

All commands and their options, as shown by `mimicmotion COMMAND --help`. In a YAML file for `--config`, write option
names with `_` instead of `-`. This page is generated from the source code (`python scripts/reference_pages.py`).
"""


def settings_class(kind: Any) -> type | None:
    """The settings class in a type such as `Settings`, `Settings | None` or `tuple[Settings, ...]`."""
    if dataclasses.is_dataclass(kind):
        return typing.cast(type, kind)
    return next((c for c in map(settings_class, get_args(kind)) if c is not None), None)


def sections(cls: type, path: str = "") -> Iterator[tuple[str, type]]:
    """Yield the class and those of its groups, with their dotted paths in the file."""
    yield path, cls
    for name, kind in typing.get_type_hints(cls).items():
        inner = settings_class(kind)
        if inner is not None and get_origin(kind) is not typing.ClassVar:
            yield from sections(inner, f"{path}.{name}".lstrip(".") + ("[]" if get_origin(kind) is tuple else ""))


def kind_text(kind: Any) -> str:
    """Describe a type in words."""
    names = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "path"}
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
    """Describe several items of a type in words."""
    return f"{kind_text(kind)}s"


def value_text(value: Any) -> str:
    """Format a default as it is written in a file."""
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
    # YAML reads a bare no as false
    return f'`"{value}"`' if value in ("no", "yes", "on", "off") else f"`{value}`"


def rows(cls: type) -> Iterator[str]:
    """A table row for each setting of a class; groups have their own sections."""
    hints, helps = typing.get_type_hints(cls), field_help(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            continue
        words = " ".join(helps[field.name].split()).replace("|", "\\|")
        default = None if field.default_factory is dict else field.default
        yield f"| `{field.name}` | {kind_text(hints[field.name])} | {value_text(default)} | {words} |"


def training_settings() -> str:
    """The page of training settings."""
    from mimicmotion.settings.training import TrainConfig

    parts = [INTRO]
    for path, cls in sections(TrainConfig):
        title = f"`{path}`" if path else "The run"
        about = " ".join((cls.__doc__ or "").split())
        table = ["| setting | kind | default | what it does |", "|---|---|---|---|", *rows(cls)]
        parts.append("\n".join([f"## {title}", "", about, "", *table]) + "\n")
    return "\n".join(parts)


def commands(group: App, *path: str) -> Iterator[tuple[tuple[str, ...], App]]:
    """Yield the commands of an application, each followed by its subcommands."""
    for name in sorted(n for n in group if not n.startswith("-")):
        yield (*path, name), group[name]
        yield from commands(group[name], *path, name)


def cli() -> str:
    """The command-line page."""
    parts = [CLI_INTRO]
    for path, command in commands(app):
        about, _, arguments = inspect.cleandoc(command.help or "").partition("\nArgs:\n")
        parts += [f"## mimicmotion {' '.join(path)}\n", about.partition("\nRaises:\n")[0].strip() + "\n"]
        if command.default_command is not None:
            helps = {k: " ".join(v.split()) for k, v in re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", arguments, re.M)}
            signature = inspect.signature(command.default_command, eval_str=True)
            table = [option(p, helps) for p in signature.parameters.values()]
            if table:
                parts.append("\n".join(["| option | what it does |", "|---|---|", *table]) + "\n")
    return "\n".join(parts)


def option(parameter: inspect.Parameter, helps: dict[str, str]) -> str:
    """The table row of one option or argument."""
    notes = [n for n in getattr(parameter.annotation, "__metadata__", ()) if isinstance(n, Parameter)]
    told = {k: v for n in notes for k, v in (("name", n.name), ("help", n.help)) if v}
    by_place = parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    name = parameter.name.upper() if by_place else f"--{parameter.name.replace('_', '-')}"
    names = [name] if by_place else list(told.get("name", (name,)))
    words = " ".join(str(told.get("help") or helps[parameter.name]).split()).replace("|", "\\|")
    shown = parameter.default not in (parameter.empty, None, False, "", ()) and "[default:" not in words
    return f"| `{', '.join(names)}` | {words}{f' [default: {show_default(parameter.default)}]' if shown else ''} |"


def packages() -> str:
    """The table of packages, top layer first, with the first paragraphs of their docstrings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = project["tool"]["importlinter"]["contracts"][0]["layers"]
    table = ["| package | what |", "|---|---|"]
    for name in re.findall(r"\w+", " ".join(floors)):
        folder = ROOT / "src" / "mimicmotion" / name
        files = [folder / "__init__.py", *sorted(folder.glob("*/__init__.py"))] if folder.is_dir() else []
        for file in files or [folder.with_suffix(".py")]:
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            words = " ".join(text.partition("\n\n")[0].split())
            place = file.parent if file.name == "__init__.py" else file
            table.append(f"| `{place.relative_to(ROOT / 'src' / 'mimicmotion').as_posix()}` | {words} |")
    return "\n".join(table)


def error_tree() -> str:
    """The table of errors: each class with its base classes, its meaning, and the exit code."""
    from mimicmotion.errors import InputError, MimicMotionError

    def below(cls: type, *path: str) -> Iterator[str]:
        for kind in cls.__subclasses__():
            if kind.__module__ == InputError.__module__:
                words = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
                of = f", an `{path[-1]}`" if path else ""
                yield f"| `{kind.__name__}`{of} | {words} | {2 if issubclass(kind, InputError) else 1} |"
                yield from below(kind, *path, kind.__name__)

    return "\n".join(["| error | means | exit code |", "|---|---|---|", *below(MimicMotionError)])


def filled(page: Path, name: str, table: str) -> str:
    """Fill in a table between the markers `<!-- NAME -->` and `<!-- end of NAME -->` of a page."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    return f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


TROUBLESHOOTING = ROOT / "docs" / "guide" / "troubleshooting.md"
PAGES = {
    ROOT / "docs" / "reference" / "training-settings.md": training_settings,
    ROOT / "docs" / "reference" / "cli.md": cli,
    ROOT / "CONTRIBUTING.md": lambda: filled(ROOT / "CONTRIBUTING.md", "packages", packages()),
    TROUBLESHOOTING: lambda: filled(TROUBLESHOOTING, "errors", error_tree()),
}


def main() -> None:
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
