"""Settings of the service, and the job settings that its clients may choose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mimicmotion.errors import ConfigError
from mimicmotion.settings.generate import ExecutionOptions, GenerateConfig
from mimicmotion.settings.parsing import Range, Settings

Scope = Literal["read", "jobs", "admin"]
"""Token scopes, each including the previous one: see one's own jobs; create and cancel them; everything."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """Settings of `mimicmotion serve` and its YAML file."""

    data: Path = Path("serve-data")
    """Folder for uploads, results, tokens and the database. Machines that share a database must share this folder."""
    host: str = "127.0.0.1"
    """Address to listen on; any address other than localhost needs a token."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    allowed_hosts: list[str] = dataclasses.field(default_factory=list)
    """Host names to accept in requests in addition to `host` and localhost, such as a proxy's."""
    database: str | None = None
    """postgresql://... for several machines; default: SQLite in the data folder, for a single machine."""
    name: str | None = None
    """Unique name of this machine among those that share a database, kept across restarts; default: the host name."""
    devices: list[str] = dataclasses.field(default_factory=lambda: ["auto"])
    """Devices, each of which runs one job at a time: auto, cpu, cuda:0, cuda:1, ... Machines that share a database
    need the same number of devices."""
    settings: Path | None = None
    """YAML file of `mimicmotion generate` settings that apply to all jobs, such as the model."""
    max_upload: Annotated[float, Range(0, above=True)] = 512.0
    """Maximum size of a request in MiB."""
    max_pixels: Annotated[int, Range(1)] = 50_000_000
    """Maximum number of pixels of an uploaded picture or frame."""
    max_result_pixels: Annotated[int, Range(1)] = 1_500_000
    """Maximum number of pixels per frame of the result."""
    max_seconds: Annotated[float, Range(0, above=True)] = 120.0
    """Maximum length of a result in seconds."""
    max_jobs: Annotated[int, Range(1)] = 100
    """Maximum number of queued and running jobs per token."""
    max_disk: Annotated[float, Range(0, above=True)] = 100.0
    """Maximum size of the data folder in GiB."""
    max_connections: Annotated[int, Range(1)] = 500
    """Maximum number of open connections; further ones are closed."""
    page: bool = True
    """Serve the web page at /."""
    study: Path | None = None
    """Folder of a user study (created by `study build`) to serve at /study."""
    keep_days: Annotated[float, Range(0, above=True)] = 7.0
    """Days after which a finished job and its files are deleted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.devices or len(set(self.devices)) < len(self.devices):
            raise ConfigError(f"devices={', '.join(self.devices)}", "at least one, each once", "correct 'devices'")
        if self.database is not None and not self.database.startswith(("postgresql://", "postgresql+psycopg://")):
            got = f"database of kind {self.database.partition(':')[0]!r}"
            raise ConfigError(got, "postgresql://USER@HOST/NAME", "correct 'database', or leave it out for SQLite")


OPERATORS = frozenset(
    {"picture", "video", "output", "model", "checkpoint", "edition", "device", "dtype", "quantize"}
    | {"detector", "pose_model", "pose_device", "pose_cache", "resume", "save_every", "side_by_side"}
    | {"label", "producer", "signer"}
    | {f.name for f in dataclasses.fields(ExecutionOptions)}
)
"""Settings of `GenerateConfig` that only the operator controls: files, weights, labels, devices."""


def client_settings() -> list[str]:
    """Return the names of the settings that a client may send with a job."""
    return [f.name for f in dataclasses.fields(GenerateConfig) if f.name not in OPERATORS]
