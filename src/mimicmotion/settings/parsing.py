"""Declare, check and parse settings. Only the standard library is imported at module level."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from mimicmotion.errors import ConfigError
from mimicmotion.runtime.reading import check_limit, reading

T = TypeVar("T")

_SHORT = reprlib.Repr()
"""Truncates values in error messages, because YAML aliases can expand a few lines to gigabytes of text."""
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


@dataclass(frozen=True)
class Range:
    """Allowed range of a number, or of each item of a list: `Annotated[int, Range(1, 1000)]`."""

    low: float
    high: float = math.inf
    above: bool = False
    """Exclude `low` itself."""

    def __contains__(self, value: Any) -> bool:
        try:
            number = float(value) if isinstance(value, numbers.Real) else math.nan
        except OverflowError:  # an integer with hundreds of digits
            return False
        return (self.low < number if self.above else self.low <= number) and number <= self.high

    def __str__(self) -> str:
        if self.above:
            return f"a number above {self.low:g}, at most {self.high:g}"
        return f"a number of at least {self.low:g}" + ("" if self.high == math.inf else f" and at most {self.high:g}")


@dataclass(frozen=True)
class Help:
    """The section of `--help` in which a setting is listed."""

    group: str
    first: bool = False
    """Also list the setting in the short help."""


class Settings:
    """Base class of frozen settings. Unknown names are rejected, and each value is checked against its annotation."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    def __post_init__(self) -> None:
        """Check ranges (`Range`) and choices (`Literal`). None is always accepted.

        Raises:
            ConfigError: a value is out of range or not among the choices.
        """
        for name, (kind, notes) in declared(type(self)).items():
            value = getattr(self, name)
            if value is None:
                continue
            items = value if isinstance(value, (tuple, list)) else (value,)
            choices = next((get_args(k) for k in (kind, *get_args(kind)) if get_origin(k) is Literal), items)
            for item in items:
                for limits in (n for n in notes if isinstance(n, Range)):
                    if item not in limits:
                        raise ConfigError(f"{name}={item}", str(limits), f"correct {name!r}")
                if item not in choices:
                    raise ConfigError(f"{name}={item!r}", " or ".join(map(str, choices)), f"correct {name!r}")


@functools.cache
def declared(cls: type) -> dict[str, tuple[Any, list[Any]]]:
    """Return the type and annotations (`Range`, `Help`) of each field of a settings class, own fields first.

    A field that is redeclared without annotations keeps those of the base class.
    """
    found: dict[str, tuple[Any, list[Any]]] = {}
    for base in cls.__mro__[:-1]:
        hints = get_type_hints(base, include_extras=True)
        for name in inspect.get_annotations(base):
            kind, *notes = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
            if name not in found or not found[name][1]:
                found[name] = found.get(name, (kind,))[0], notes
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return {name: facts for name, facts in found.items() if name in fields}


def parse(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build the settings `cls` from plain data (YAML, JSON, command line).

    Raises:
        ConfigError: a key is unknown, a value has the wrong type, or a check of the class fails.
    """
    from pydantic import ValidationError

    try:
        return _adapter(cls).validate_python(dict(data))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or cls.__name__
        unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
        fix = nearest(where, [f.name for f in dataclasses.fields(cls)]) if unknown else f"correct {where!r}"  # type: ignore[arg-type]
        error = first.get("ctx", {}).get("error")
        if isinstance(error, ConfigError):
            raise ConfigError(f"{where}: {error.got}" if first["loc"] else error.got, error.expected, error.fix) from e
        if first["type"].startswith("missing"):
            how = "with -o" if where == "output" else "on the command line"
            raise ConfigError(f"no {where!r}", f"a value for {where!r}", f"set it {how}, or in the file") from e
        raise ConfigError(f"{where} = {_SHORT.repr(first['input'])}", first["msg"], fix) from e


@functools.cache
def _adapter(cls: type) -> Any:
    """Build the pydantic parser of a class; cached, because this takes about 0.1 s."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    import yaml

    with reading(path, "a readable YAML file", "check the path and the syntax", ConfigError):
        check_limit("bytes", path.stat().st_size, path, ConfigError)
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    if not isinstance(data, dict):
        raise ConfigError(f"{path} contains {type(data).__name__}", "a mapping of settings", "use 'name: value' lines")
    return data


def refuse_unused(settings: Any, names: Iterable[str], why: str) -> None:
    """Raise ConfigError for an option that is set but has no effect.

    Args:
        settings: the settings.
        names: options without effect.
        why: the reason, such as "without draw".
    """
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    for name in names:
        if (value := getattr(settings, name)) != defaults[name]:
            raise ConfigError(f"{name}={value} {why}, where it has no effect", "the default", f"leave out {name!r}")


def recipes() -> dict[str, Path]:
    """Return the paths of the bundled training recipes by name."""
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """Find a recipe's file, given its path or the name of one of `recipes`.

    Raises:
        ConfigError: `name` is neither the path of a YAML file nor a bundled recipe.
    """
    path, known = Path(name), recipes()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if str(name) not in known:
        raise ConfigError(f"recipe {str(name)!r}", "a YAML file, or the name of a recipe", nearest(str(name), known))
    return known[str(name)]


def field_help(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a settings class and its bases, for help texts and labels."""
    import ast
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


def nearest(name: str, names: Iterable[str]) -> str:
    """Suggest a correction for a name that is not among `names`, worded as the fix in an error message."""
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}"


def from_keywords(cls: type[T], settings: T | None, keywords: Mapping[str, Any]) -> T:
    """Combine a settings object and keywords for its fields. A keyword that is None leaves its field unchanged.

    Raises:
        ConfigError: a keyword is unknown, or the object sets the same field.
    """
    fields = {f.name: f.default for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given = {name: value for name, value in keywords.items() if value is not None}
    for name in keywords:
        if name not in fields:
            raise ConfigError(f"unknown setting {name!r}", f"a setting of {cls.__name__}", nearest(name, fields))
    if settings is None:
        return cls(**given)
    for name in given:
        if getattr(settings, name) != fields[name]:
            got = f"{name} as a keyword and in {cls.__name__}"
            raise ConfigError(got, "only one of the two", f"remove the keyword argument {name!r}")
    return dataclasses.replace(settings, **given)  # type: ignore[type-var]
