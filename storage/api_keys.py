"""The keys of those who read over HTTP: made once, kept as digests, checked in constant time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.queries import load

if TYPE_CHECKING:
    from storage.database import Connection

_SQL = load("reads")


def cursor_secret(connection: Connection) -> bytes:
    """Return the secret that signs page cursors: every server of one database has the same."""
    row = connection.execute(_SQL["cursor_secret"]).fetchone()
    assert row is not None  # noqa: S101  # a function call gives one row
    return str(row["secret"]).encode()
