"""Settings of the service, and which settings of a job its callers may choose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.generate import ExecutionOptions, GenerateConfig
from mimicmotion.settings.parsing import Range, Settings

Scope = Literal["read", "jobs", "admin"]
"""What a token allows, each with all before it: seeing its own jobs, making and cancelling them, everything."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """Everything that the service depends on: `mimicmotion serve` and its YAML file have these fields."""

    data: Path = Path("serve-data")
    """Folder of uploads, results, tokens and the database; machines that share a database share it, too."""
    host: str = "127.0.0.1"
    """Address to listen at; another one than this computer's own needs a token."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen at; 0 takes a free one."""
    allowed_hosts: list[str] = dataclasses.field(default_factory=list)
    """Names that requests may call this service by, besides `host` and this computer's own."""
    database: str | None = None
    """postgresql://... for several machines; empty is SQLite in the data folder, for one."""
    name: str | None = None
    """Name of this machine among those that share a database; it stays the same over restarts. Empty: the host's."""
    devices: list[str] = dataclasses.field(default_factory=lambda: ["auto"])
    """Where jobs run, one at a time on each: auto, cpu, cuda:0, cuda:1, ... Machines that share a database have equally
    many."""
    settings: Path | None = None
    """YAML file of settings of `mimicmotion generate` that all jobs have, such as the model."""
    max_upload: Annotated[float, Range(0, above=True)] = 512.0
    """MiB of one request."""
    max_pixels: Annotated[int, Range(1)] = 50_000_000
    """Pixels of a picture or of a frame that is sent."""
    max_result_pixels: Annotated[int, Range(1)] = 1_500_000
    """Pixels of a frame of the result."""
    max_seconds: Annotated[float, Range(0, above=True)] = 120.0
    """Seconds of a result."""
    max_jobs: Annotated[int, Range(1)] = 100
    """Jobs of one token that wait or run."""
    max_disk: Annotated[float, Range(0, above=True)] = 100.0
    """GiB of the data folder."""
    page: bool = True
    """Show a page at /, for browsers."""
    keep_days: Annotated[float, Range(0, above=True)] = 7.0
    """Days after which a finished job is deleted with its files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.devices or len(set(self.devices)) < len(self.devices):
            raise ConfigError(f"devices={', '.join(self.devices)}", "at least one, each once", "correct 'devices'")
        if self.database is not None and not self.database.startswith(("postgresql://", "postgresql+psycopg://")):
            got = f"database of kind {self.database.partition(':')[0]!r}"
            raise ConfigError(got, "postgresql://USER@HOST/NAME", "correct 'database', or leave it out for SQLite")

    @property
    def is_local(self) -> bool:
        """Whether this computer alone can reach the service."""
        return self.host in LOOPBACK


OPERATORS = frozenset(
    {"picture", "video", "output", "model", "checkpoint", "edition", "device", "dtype", "quantize"}
    | {"detector", "pose_model", "pose_device", "pose_threads", "pose_cache", "resume", "save_every", "side_by_side"}
    | {"signer"}
    | {f.name for f in dataclasses.fields(ExecutionOptions)}
)
"""Settings of `GenerateConfig` that are the service's, not its callers': files, weights and how the machine is used."""


def callers_settings() -> list[str]:
    """Names of the settings that come with a job."""
    return [f.name for f in dataclasses.fields(GenerateConfig) if f.name not in OPERATORS]
