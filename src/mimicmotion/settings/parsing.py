"""The one parser of settings. Only the standard library is imported at module level."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mimicmotion.errors import ConfigError

T = TypeVar("T")

STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


def parse(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build the frozen settings `cls` from plain data (YAML, JSON, command line).

    Raises:
        ConfigError: a key is unknown, a value has the wrong type, or a check of the class fails.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(dict(data))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or cls.__name__
        names = ", ".join(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
        fix = f"the fields are: {names}" if unknown else f"correct {where!r}"
        error = first.get("ctx", {}).get("error")
        if isinstance(error, ConfigError):
            raise error from e
        if first["type"].startswith("missing"):
            raise ConfigError(
                f"no {where!r}", f"a value for {where!r}", "give it on the command line or in the file"
            ) from e
        raise ConfigError(f"{where} = {first['input']!r}", first["msg"], fix) from e


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"{path}: {e}", "a readable YAML file", "check the path and the syntax") from e
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}", "a mapping of settings", "write 'name: value' lines")
    return data


def recipes() -> dict[str, Path]:
    """Name and file of the training recipes that come with this package."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """A recipe's file: a path as it is, or one of `recipes` by its name.

    Raises:
        ConfigError: neither a YAML file's name nor that of a recipe.
    """
    path, known = Path(name), recipes()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if str(name) not in known:
        close = difflib.get_close_matches(str(name), known, 1)
        fix = f"did you mean {close[0]}?" if close else "'mimicmotion recipes' lists them"
        raise ConfigError(f"recipe {str(name)!r}", f"a YAML file, or one of {', '.join(known)}", fix)
    return known[str(name)]


def parse_folders(items: Iterable[str]) -> dict[str, Path]:
    """NAME=DIR of the command line.

    Raises:
        ConfigError: not NAME=DIR, or a name is given twice.
    """
    folders: dict[str, Path] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name.strip() or not folder or name.strip() in folders:
            raise ConfigError(repr(item), "NAME=DIR, each name once", "for example ours=results/ theirs=other/")
        folders[name.strip()] = Path(folder)
    return folders


def field_help(cls: type) -> dict[str, str]:
    """The docstring under each field of a settings class, base classes included: help texts and labels."""
    import ast
    import inspect
    import textwrap

    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        if not isinstance(body, ast.ClassDef):
            continue
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
            ):
                found[field.target.id] = inspect.cleandoc(str(doc.value.value))
    return found


def check_range(settings: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise ConfigError where a field of `settings` (None is not given) lies outside its (lowest, highest)."""
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name}={value}", f"{low} to {high}", f"correct {name!r}")
