"""The errors of the embedded PostgreSQL; `storage.embedded` offers them to callers."""

from __future__ import annotations

from storage.errors import StorageError


class EmbeddedUnavailableError(StorageError):
    """No PostgreSQL program on this machine can serve: install one, or name a server."""


class EmbeddedStartError(StorageError):
    """The embedded PostgreSQL could not be created, started or reached; the message has the log's last word."""


class EmbeddedStopError(StorageError):
    """The embedded PostgreSQL was told to stop and still runs."""
