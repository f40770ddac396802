"""Where shards lie: in a folder, or behind a URL from where they are copied when first used."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse
from urllib.request import url2pathname

from mimicmotion.data.shards.index import INDEX, Index, ShardEntry, load_index, scan_folder
from mimicmotion.errors import InputError, MediaError
from mimicmotion.runtime.files import atomic_path, sha256_file, writing
from mimicmotion.weights.registry import cache_folder

logger = logging.getLogger(__name__)


class Place(Protocol):
    """A set of shards somewhere; picklable."""

    name: str

    def index(self) -> Index:
        """Read the index."""
        ...

    def find(self, shard: ShardEntry) -> Path:
        """A local file with all bytes of the shard."""
        ...


def find_place(where: str | Path, cache: Path | None = None) -> Place:
    """The place that a path or URL names."""
    text = str(where)
    scheme = urlparse(text).scheme
    if scheme == "file":
        return Folder(Path(url2pathname(urlparse(text).path)))
    # a scheme of one letter is a drive
    if isinstance(where, Path) or len(scheme) < 2:
        return Folder(Path(where))
    return Remote(text, cache)


class Folder:
    """Shards in a folder of this machine, read where they are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def index(self) -> Index:
        """The index file, or one made from the shards where there is none.

        Raises:
            InputError: no shards, an index of another format, or one that names shards which are not there.
            MediaError: a shard is damaged or cut off.
        """
        if not (self.folder / INDEX).exists():
            index = scan_folder(self.folder)
            logger.warning(
                "%s has no %s (an unfinished preparation?): made from the shards that are there", self.folder, INDEX
            )
            return index
        index = load_index(self.folder / INDEX)
        for shard in (s for some in index.splits.values() for s in some):
            path = self.folder / shard.file
            size = path.stat().st_size if path.exists() else -1
            if size != shard.bytes:
                got = f"{path} is missing" if size < 0 else f"{path} has {size} bytes"
                raise MediaError(got, f"{shard.bytes} bytes by {INDEX}", f"copy it again, or delete {INDEX}")
        return index

    def find(self, shard: ShardEntry) -> Path:
        """The file itself."""
        return self.folder / shard.file


class Remote:
    """Shards behind a URL that `webdataset.gopen` reads (http:, https:, pipe:, gs:, hf: and so on).

    The name of a file is put in place of {} in the URL, or after it with a slash: `pipe:aws s3 cp s3://data/{} -`.
    """

    def __init__(self, url: str, cache: Path | None) -> None:
        self.url = self.name = url
        root = cache_folder() / "shards" if cache is None else Path(cache)
        self.cache = root / hashlib.sha256(url.encode()).hexdigest()[:16]

    def index(self) -> Index:
        """Copy the index (each time: it is small and may have changed) and read it.

        Raises:
            InputError: it cannot be fetched and was not before, or is of another format.
        """
        path = self.cache / INDEX
        try:
            self._copy(INDEX, path, None)
        except InputError as e:
            if not path.exists():
                raise
            logger.warning("%s; the copy in %s is used", e.got, self.cache)
        return load_index(path)

    def find(self, shard: ShardEntry) -> Path:
        """The copy of a shard, fetched and verified if it is not there yet; one process at a time does it.

        Raises:
            InputError: it cannot be fetched.
            MediaError: what came is not what the index says.
            OutputError: the cache cannot be written.
        """
        # by content: a set that was prepared anew under the same URL does not meet old copies
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
        from webdataset import gopen

        url = self.url.replace("{}", name) if "{}" in self.url else f"{self.url.rstrip('/')}/{name}"
        logger.info("copying %s to %s", url, path)
        with atomic_path(path) as part:
            try:
                source = gopen(url, "rb")
                with source, writing(path), part.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            except (OSError, ValueError) as e:
                if isinstance(e, InputError):
                    raise
                raise InputError(f"{url} cannot be read ({e})", f"a set of shards with {INDEX}", "check the URL") from e
            if sha256 is not None and (found := sha256_file(part)) != sha256:
                got = f"{url} has sha256 {found[:16]}..."
                raise MediaError(got, f"{sha256[:16]}... by {INDEX}", "upload this shard and the index again")
