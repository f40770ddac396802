"""Reproduce a result from its sidecar, and check that the file is identical."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicmotion.errors import ConfigError, InputError
from mimicmotion.generate.job import generate
from mimicmotion.generate.outputs import GenerateResult, check_outputs, read_sidecar
from mimicmotion.generate.provenance import Facts, sha256_path
from mimicmotion.runtime.progress import Job
from mimicmotion.runtime.reading import reading
from mimicmotion.settings import GenerateConfig, parse

NEEDED = ("settings", "origin", "output_sha256")
MOVABLE = ("picture", "video", "model", "checkpoint")


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Result of a replay.

    Attributes:
        made: the new result.
        identical: whether its checksum matches the sidecar (for signed results, the checksum before signing).
        original: path of the original result.
        original_state: result of `compare` for the original result and the sidecar.
    """

    made: GenerateResult
    identical: bool
    original: Path
    original_state: str

    def summary(self) -> str:
        """A short summary for the user."""
        verdict = "byte-identical to the result that the sidecar describes" if self.identical else "NOT byte-identical"
        original = {
            "unchanged": f"{self.original} still matches the sidecar",
            "changed": f"{self.original} no longer matches the sidecar",
            "missing": f"{self.original} does not exist",
        }[self.original_state]
        return f"{self.made.summary()}\nreplay: {verdict}; {original}"


def replay(sidecar: Path, output: Path | None = None, *, resume: bool = False, **paths: Any) -> Job[ReplayResult]:
    """Reproduce the result that a sidecar describes from the same inputs, settings and weights.

    Different inputs or weights are an error; different package versions are only noted.

    Args:
        sidecar: path of an OUTPUT.json written by `generate`.
        output: path of the new result; None means OUTPUT-replay next to the sidecar.
        resume: continue an interrupted replay.
        paths: new paths of files in `MOVABLE`. Missing inputs are also looked for next to the sidecar.

    Raises:
        ConfigError: the file is not a sidecar of this version, or the inputs or the model do not match it.
        InputError: as in `generate`.
        OutputError: as in `generate`.
    """
    facts = read_sidecar(sidecar, NEEDED)
    original = sidecar.with_suffix("")
    config = replay_config(facts, sidecar, output, resume, paths)
    expected: Facts = {k: v for k, v in facts["origin"].items() if k != "settings"}
    made = yield from generate(config, expected=expected)
    recorded = facts.get("unsigned_sha256") or facts["output_sha256"]
    return ReplayResult(
        made=made,
        identical=(made.unsigned_sha256 or sha256_path(made.path)) == recorded,
        original=original,
        original_state=compare(original, facts["output_sha256"]),
    )


def compare(path: Path, sha256: str) -> str:
    """Compare a file or folder with a SHA-256, and return "unchanged", "changed" or "missing"."""
    if not path.exists():
        return "missing"
    return "unchanged" if sha256_path(path) == sha256 else "changed"


def replay_config(
    facts: Facts, sidecar: Path, output: Path | None, resume: bool, paths: dict[str, Any]
) -> GenerateConfig:
    """Return the settings in a sidecar, with the current paths of files.

    Raises:
        ConfigError: this version does not know a setting, or the new result would replace the original.
    """
    original = sidecar.with_suffix("")
    with reading(sidecar, "the sidecar of a result", "it has been modified: use the original", ConfigError):
        settings = {k: v for k, v in facts["settings"].items() if v is not None}
        settings |= {"resume": resume, "dtype": facts["origin"]["machine"]["dtype"]}
        for name in MOVABLE:
            if paths.get(name) is not None:
                settings[name] = paths[name]
            elif name in ("picture", "video") and not Path(settings[name]).exists():
                candidate = sidecar.parent / Path(settings[name]).name
                settings[name] = candidate if candidate.exists() else settings[name]
    settings["output"] = output or original.with_name(f"{original.stem}-replay{original.suffix}")
    try:
        config = parse(GenerateConfig, settings)
    except InputError as e:
        raise ConfigError(
            f"{sidecar}: {e.got}", e.expected, f"use the version of mimicmotion that wrote it; {e.fix}"
        ) from e
    config = dataclasses.replace(config, preview=False)
    check_outputs(config, sidecar, original)
    return config
