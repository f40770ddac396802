"""The config.json of a network: read from any mapping, checked, kept beside the network, written back as it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mimicmotion.errors import ConfigError


class Config(dict[str, Any]):
    """A config.json as a dictionary whose fields are attributes, too."""

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
    """Complete a config and refuse what the network would not honour.

    Args:
        network: what to call it in errors.
        given: the config; fields that begin with an underscore belong to the file format and are left out.
        fields: those that the network honours, with their defaults.
        only: those that it knows with this value alone.
        without_effect: those that change no number; they are kept as they are.

    Raises:
        ConfigError: an unknown field, or a value that is not supported.
    """
    only = only or {}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items() if not k.startswith("_")}
    unknown = sorted(k for k in plain if k not in fields and k not in only and k not in without_effect)
    if unknown:
        known = ", ".join(sorted({*fields, *only}))
        fix = "correct its config.json, or use a version of this package that knows them"
        raise ConfigError(f"{network} config: unknown {', '.join(unknown)}", f"fields out of {known}", fix)
    for name, value in only.items():
        if plain.get(name, value) != value:
            fix = "use a network without it"
            raise ConfigError(f"{network} config: {name}={plain[name]!r}", f"{name}={value!r}", fix)
    return Config({**fields, **only, **plain})
