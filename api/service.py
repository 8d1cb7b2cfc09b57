"""What the routes share: the pool they read through, and the job a request is about."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from api.access import reader_of
from storage import api_keys, served
from storage.served import UnknownJobError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import Request

    from storage.api_keys import ApiKey
    from storage.database import Connection, Database
    from storage.served import ServedJob

# Long enough for a page on a busy server, short enough that a caller with a deadline gets an answer.
STATEMENT_TIMEOUT_MS = 5_000
# How long a request waits for a connection before it answers 503.
POOL_TIMEOUT_SECONDS = 3.0
POOL_SIZE = 8


class Service:
    """One database, read through a bounded pool. Routes run in threads and use one connection each."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pool = database.pool(purpose="api", size=POOL_SIZE, statement_timeout_ms=STATEMENT_TIMEOUT_MS)
        self._secret: bytes | None = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read at one moment: one repeatable-read, read-only transaction. Raises DatabaseError."""
        with (
            self.database.errors("read"),
            self.pool.connection(timeout=POOL_TIMEOUT_SECONDS) as connection,
            connection.transaction(),
        ):
            yield connection

    def cursor_secret(self, connection: Connection) -> bytes:
        """Return what cursors are signed with: the same for every server of this database."""
        if self._secret is None:
            self._secret = api_keys.cursor_secret(connection)
        return self._secret

    def find_key(self, key_id: str) -> ApiKey | None:
        """Read a key by its id. Raises DatabaseError."""
        with self.reading() as connection:
            return api_keys.find(connection, key_id)

    def has_keys(self) -> bool:
        """Say whether any key was ever made. Raises DatabaseError."""
        with self.reading() as connection:
            return api_keys.any_exist(connection)


def job_for(connection: Connection, request: Request, name: str) -> ServedJob:
    """Find a job that this reader may see. Raises UnknownJobError: one answer for absent and for not allowed."""
    job = served.find_job(connection, name) if reader_of(request).may_read(name) else None
    if job is None:
        raise UnknownJobError(name)
    return job
