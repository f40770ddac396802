"""Frozen settings and their one parser. Only the standard library is imported at module level."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from mimicmotion.errors import ConfigError

T = TypeVar("T")

FusionMode = Literal["progressive", "released", "average", "none"]
STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionConfig:
    """How a long video is cut into segments and how their predictions are joined (paper section 3.5)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    mode: FusionMode = "progressive"
    """progressive (paper), released (the published code's tent weights), average (MultiDiffusion) or none (hard cuts)."""
    segment_frames: int = 16
    """Frames per segment (paper: N)."""
    overlap_frames: int = 6
    """Frames shared by neighbouring segments (paper: C)."""
    reference_slot: bool = True
    """Put the reference picture with its own pose into slot 0 of every segment, as the published weights expect."""

    def __post_init__(self) -> None:
        if self.segment_frames < 1:
            raise ConfigError(f"segment_frames={self.segment_frames}", "at least 1", "raise segment_frames")
        if not 0 <= self.overlap_frames < self.segment_frames:
            raise ConfigError(
                f"overlap_frames={self.overlap_frames} with segment_frames={self.segment_frames}",
                "0 <= overlap_frames < segment_frames",
                f"set overlap_frames to at most {self.segment_frames - 1}",
            )


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
        fix = f"the fields are: {names}" if first["type"] == "extra_forbidden" else f"correct {where!r}"
        error = first.get("ctx", {}).get("error")
        if isinstance(error, ConfigError):
            raise error from e
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
