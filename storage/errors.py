"""The parent of every error a person can act on, and those the storage package raises."""

from __future__ import annotations

from typing import ClassVar


class BatchpredError(Exception):
    """Something a person can act on: the message says what is wrong, where, and what to do next.

    `exit_code` is what the command leaves with: 1 failed, 2 usage or configuration, 3 a check blocked
    publishing, 4 the interval is held by another run.
    """

    exit_code: ClassVar[int] = 1
    # Whether the same thing may succeed a moment later: a lost connection, a restart, a deadlock.
    is_transient: bool = False


class ConfigurationError(BatchpredError):
    """What was asked for cannot be meant: a flag, a job file, a name or an address is wrong."""

    exit_code = 2


class StorageError(BatchpredError):
    """The database, the files beside it, or what they hold refused."""
