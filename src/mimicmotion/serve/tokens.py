"""Access tokens of the service. Each has a name and a scope; only their checksums are stored."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mimicmotion.errors import ConfigError
from mimicmotion.runtime.reading import reading
from mimicmotion.runtime.run_folder import FolderLock, durable_file
from mimicmotion.serve.uploads import RefusedError
from mimicmotion.settings.serve import Scope

SCOPES: tuple[Scope, ...] = get_args(Scope)
FILE, LOCK = "tokens.json", "tokens.lock"
COOKIE = "mimicmotion-token"
"""Cookie in which a browser keeps its token."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, with only the checksum of its secret.

    Attributes:
        name: owner of the jobs that are submitted with the token.
        sha256: checksum of the secret, which has 256 random bits, so a fast checksum is enough.
        scope: read (see its own jobs), jobs (also create and cancel them) or admin (all jobs, and the metrics).
        created: time of creation in seconds since 1970.
        revoked: whether it is no longer valid. It is kept, so that a service that had tokens is never open to all.
    """

    name: str
    sha256: str
    scope: Scope
    created: float
    revoked: bool = False

    def allows(self, scope: Scope) -> bool:
        """Return whether the token's scope includes `scope`."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


ANYBODY = Token("anybody", "", "admin", 0.0)
"""Token of all requests to a service without tokens, which can be reached only from this computer."""


class Tokens:
    """The tokens of a data folder. The file is read again when it changes."""

    def __init__(self, data: Path) -> None:
        self.path = data / FILE
        self._seen: tuple[int, int] | None = None
        self._tokens: list[Token] = []

    def all(self) -> list[Token]:
        """Return all tokens, including revoked ones.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return []
        if (stat.st_mtime_ns, stat.st_ino) != self._seen:
            with reading(self.path, "a file of tokens", "restore it from a backup", ConfigError):
                self._tokens = [Token(**item) for item in json.loads(self.path.read_bytes())]
            self._seen = (stat.st_mtime_ns, stat.st_ino)
        return self._tokens

    def find(self, secret: str) -> Token | None:
        """Return the valid token with this secret, or None; `ANYBODY` if the service has no tokens."""
        tokens = self.all()
        if not tokens:
            return ANYBODY
        return next((t for t in tokens if t.sha256 == _sha256(secret) and not t.revoked), None)

    def authorize(self, secret: str, scope: Scope) -> Token:
        """Return the valid token with this secret.

        Raises:
            RefusedError: there is no such token, or its scope does not include `scope`.
        """
        token = self.find(secret)
        if token is None:
            raise RefusedError(401, "a missing or invalid token", "Authorization: Bearer TOKEN", "ask the operator")
        if not token.allows(scope):
            raise RefusedError(403, f"a token with scope {token.scope!r}", f"scope {scope!r}", "use another token")
        return token

    def add(self, name: str, scope: Scope) -> str:
        """Create a token and return its secret, which is not stored.

        Raises:
            ConfigError: the name is empty or taken, perhaps by a revoked token.
        """
        with self._changing() as tokens:
            if not name.strip() or any(t.name == name for t in tokens):
                raise ConfigError(f"the name {name!r}", "a non-empty name that has never been used", "choose another")
            secret = f"mm_{secrets.token_urlsafe(32)}"
            tokens.append(Token(name, _sha256(secret), scope, time.time()))
        return secret

    def revoke(self, name: str) -> None:
        """Revoke a token; its jobs are kept.

        Raises:
            ConfigError: there is no token of this name.
        """
        with self._changing() as tokens:
            if not any(t.name == name for t in tokens):
                names = ", ".join(t.name for t in tokens) or "none"
                raise ConfigError(f"no token {name!r}", f"one of: {names}", "`mimicmotion serve token list` lists them")
            tokens[:] = [dataclasses.replace(t, revoked=t.revoked or t.name == name) for t in tokens]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """Yield the tokens as a list, which is saved at the end of the block; one process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.path.with_name(LOCK))
        try:
            tokens = list(self.all())
            yield tokens
            with durable_file(self.path) as part:
                part.touch(mode=0o600)
                part.write_text(json.dumps([dataclasses.asdict(t) for t in tokens], indent=1), encoding="utf-8")
        finally:
            lock.release()


def owner_of(token: Token) -> str | None:
    """Return the owner whose jobs a token can see; None for all jobs."""
    return None if token.scope == "admin" else token.name


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
