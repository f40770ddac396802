"""Validation of a network's config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mimicmotion.errors import ConfigError


class Config(dict[str, Any]):
    """A config.json as a dictionary whose fields are also attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"config has no field {name}") from None


def read_config(
    network: str,
    given: Mapping[str, Any],
    fields: Mapping[str, Any],
    *,
    only: Mapping[str, Any] | None = None,
    without_effect: Collection[str] = (),
) -> Config:
    """Fill in defaults of a config, and reject values that the network does not support.

    Args:
        network: name of the network in errors.
        given: the config. Fields that begin with an underscore belong to the file format and are dropped.
        fields: supported fields and their defaults.
        only: fields that may only have the given value.
        without_effect: fields that do not affect the result; they are accepted and kept unchanged.

    Raises:
        ConfigError: a field is unknown, or a value is not supported.
    """
    only = only or {}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items() if not k.startswith("_")}
    unknown = sorted(k for k in plain if k not in fields and k not in only and k not in without_effect)
    if unknown:
        known = ", ".join(sorted({*fields, *only}))
        fix = "correct its config.json, or update mimicmotion, if it was written by a newer version"
        raise ConfigError(f"{network} config: unknown {', '.join(unknown)}", f"only fields among {known}", fix)
    for name, value in only.items():
        if plain.get(name, value) != value:
            got = f"{network} config: {name}={plain[name]!r}"
            raise ConfigError(got, f"{name}={value!r}", "use another network: other values are not supported")
    return Config({**fields, **only, **plain})
