"""Storage of shards: a local folder, or a URL from which they are copied on first use."""

from __future__ import annotations

import hashlib
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mimicmotion.data.shards.index import INDEX, Index, ShardEntry, load_index
from mimicmotion.errors import ConfigError, InputError, MediaError
from mimicmotion.runtime.extras import install_command
from mimicmotion.runtime.files import atomic_path, sha256_file, writing
from mimicmotion.weights.registry import cache_folder

logger = logging.getLogger(__name__)

SCHEMES = ("http", "https", "s3", "gs", "hf")
"""Allowed schemes of URLs besides file; none of them can run a program."""
_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20


def find_storage(where: str | Path, cache: Path | None = None) -> Folder | Remote:
    """The storage behind a path or URL.

    Raises:
        InputError: the URL has a scheme other than `SCHEMES`.
    """
    text = str(where)
    url = urlparse(text)
    if url.scheme == "file":
        return Folder(Path(urllib.request.url2pathname(url.path)))
    # a scheme of one letter is a Windows drive
    if isinstance(where, Path) or len(url.scheme) < 2:
        return Folder(Path(where))
    if url.scheme not in SCHEMES:
        schemes = ", ".join(f"{s}://" for s in SCHEMES)
        raise InputError(f"shards at {text}", f"a folder or a URL with file://, {schemes}", "copy them to one of these")
    return Remote(text, cache)


class Folder:
    """Shards in a local folder, read in place."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def index(self) -> Index:
        """Read the index, and check that all shards are there.

        Raises:
            InputError: the folder or its index is missing, or the index has another format.
            MediaError: a shard is missing, damaged or truncated.
        """
        if not (self.folder / INDEX).exists():
            got = f"{self.folder} has no {INDEX}"
            raise InputError(got, "a folder of shards", "check the path, or finish the preparation")
        index = load_index(self.folder / INDEX)
        for shard in (s for some in index.splits.values() for s in some):
            path = self.folder / shard.file
            size = path.stat().st_size if path.exists() else -1
            if size != shard.bytes:
                got = f"{path} is missing" if size < 0 else f"{path} has {size} bytes"
                raise MediaError(got, f"{shard.bytes} bytes according to {INDEX}", "copy it again, or prepare again")
        return index

    def find(self, shard: ShardEntry) -> Path:
        """The file itself."""
        return self.folder / shard.file


class Remote:
    """Shards at a URL with one of `SCHEMES`.

    The name of a file replaces {} in the URL, or is appended with a slash.
    """

    def __init__(self, url: str, cache: Path | None) -> None:
        self.name = url
        root = cache_folder() / "shards" if cache is None else Path(cache)
        self.cache = root / hashlib.sha256(url.encode()).hexdigest()[:16]

    def index(self) -> Index:
        """Copy the index (every time, because it may have changed) and read it.

        Raises:
            InputError: it cannot be fetched and there is no earlier copy, or it has another format.
            ConfigError: a package that reads such URLs is not installed.
        """
        path = self.cache / INDEX
        try:
            self._copy(INDEX, path, None)
        except InputError as e:
            if not path.exists():
                raise
            logger.warning("%s; using the copy in %s", e.got, self.cache)
        return load_index(path)

    def find(self, shard: ShardEntry) -> Path:
        """The copy of a shard, fetched and verified on first use, by one process at a time.

        Raises:
            InputError: it cannot be fetched.
            MediaError: its checksum is not the one in the index.
            OutputError: the cache cannot be written.
        """
        # named by content, so that a set that is replaced under the same URL does not use old copies
        path = self.cache / f"{shard.sha256[:16]}-{shard.file}"
        if not path.exists():
            from filelock import FileLock

            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    self._copy(shard.file, path, shard.sha256)
        return path

    def _copy(self, name: str, path: Path, sha256: str | None) -> None:
        url = self.name.replace("{}", name) if "{}" in self.name else f"{self.name.rstrip('/')}/{name}"
        logger.info("copying %s to %s", url, path)
        with atomic_path(path) as part:
            with writing(path), part.open("wb") as file:
                for chunk in _read(url):
                    file.write(chunk)
            if sha256 is not None and (found := sha256_file(part)) != sha256:
                got = f"{url} has sha256 {found[:16]}..."
                raise MediaError(got, f"{sha256[:16]}... by {INDEX}", "upload this shard and the index again")


def _read(url: str) -> Iterator[bytes]:
    """The bytes of the file at a URL."""
    try:
        with _open(url) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except ImportError as e:  # fsspec names the package
        raise ConfigError(f"{url} cannot be read ({e})", "the packages of 'remote'", install_command("remote")) from e
    except Exception as e:  # each library has errors of its own
        raise InputError(f"{url} cannot be read ({e})", f"a set of shards with {INDEX}", "check the URL") from e


def _open(url: str) -> Any:
    scheme = urlparse(url).scheme
    if scheme in ("http", "https"):
        return urllib.request.urlopen(url, timeout=_TIMEOUT)
    import fsspec

    # not fsspec.open, which follows chains such as a::b
    return fsspec.filesystem(scheme).open(url, "rb")
