"""The keys of those who read over HTTP: made once, kept as digests, checked in constant time.

A key reads `bp_ID_SECRET`: twelve hexadecimal digits that find its row, and 256 random bits. A secret that long
cannot be guessed, so its plain SHA-256 is kept: a slow hash would only cost every request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.errors import ConfigurationError, StorageError
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from storage.database import Connection, Row

_READS = load("reads")
_SQL = load("api_keys")
_FORM = re.compile(rb"bp_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class KeyOptionError(ConfigurationError):
    """A key cannot be made as asked."""


class UnknownKeyError(StorageError):
    """There is no key of that id."""


@dataclass(frozen=True)
class ApiKey:
    """What a key opens: the jobs (None: all), how often a second (None: no limit), and until when."""

    key_id: str
    sha256: bytes
    name: str
    jobs: frozenset[str] | None
    requests_per_second: int | None
    expires_at: datetime | None

    def is_of(self, token: bytes) -> bool:
        """Say in constant time whether a token is this key."""
        return hmac.compare_digest(self.sha256, hashlib.sha256(token).digest())


def key_id_of(token: bytes) -> str | None:
    """Return the id a token names; None where it is not written as keys are."""
    found = _FORM.fullmatch(token)
    return found.group(1).decode() if found else None


def create(
    connection: Connection,
    name: str,
    *,
    jobs: Sequence[str] = (),
    requests_per_second: int | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Make a key and return it; it can never be shown again. Without `jobs` it opens all of them.

    Raises KeyOptionError where the name is empty or a job has never run here: a misspelt one would open nothing.
    """
    if not name.strip():
        raise KeyOptionError("a key needs a name: who reads with it")
    known = {row["job"] for row in connection.execute(_READS["served_jobs"])}
    if strange := [job for job in jobs if job not in known]:
        there = ", ".join(sorted(known)) or "none yet"
        raise KeyOptionError(f"no job {strange[0]!r} has run here; there are: {there}")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    token = f"bp_{key_id}_{secret}"
    values = {
        "key_id": key_id,
        "sha256": hashlib.sha256(token.encode()).digest(),
        "name": name,
        "jobs": list(jobs) or None,
        "requests_per_second": requests_per_second,
        "expires_at": expires_at,
    }
    connection.execute(_SQL["create"], values)
    return token


def all_keys(connection: Connection) -> list[Row]:
    """List the keys, newest last, without anything one could read with."""
    return connection.execute(_SQL["list"]).fetchall()


def revoke(connection: Connection, key_id: str) -> None:
    """Close a key for good. Raises UnknownKeyError."""
    if connection.execute(_SQL["revoke"], {"key_id": key_id}).fetchone() is None:
        raise UnknownKeyError(f"there is no key {key_id[:40]!r}; batchpred keys list shows them")


def find(connection: Connection, key_id: str) -> ApiKey | None:
    """Return the key of an id; None where there is none or it was revoked."""
    row = connection.execute(_READS["check_key"], {"key_id": key_id}).fetchone()
    if row is None:
        return None
    jobs = None if row["jobs"] is None else frozenset(row["jobs"])
    return ApiKey(
        key_id, bytes(row["sha256"]), row["name"], jobs, row["requests_per_second"], row["expires_at"]
    )


def any_exist(connection: Connection) -> bool:
    """Say whether a key was ever made here: from then on nobody reads without one."""
    row = connection.execute(_READS["has_keys"]).fetchone()
    return bool(row and row["found"])


def cursor_secret(connection: Connection) -> bytes:
    """Return the secret that signs page cursors: every server of one database has the same."""
    row = connection.execute(_READS["cursor_secret"]).fetchone()
    assert row is not None  # noqa: S101  # a function call gives one row
    return str(row["secret"]).encode()
