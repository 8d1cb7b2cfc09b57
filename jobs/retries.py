"""Which failures are worth another attempt, and when that may come."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.checks import ChecksFailedError
from storage import registry
from storage.database import DatabaseUnreachableError
from storage.errors import BatchpredError
from storage.predictions import DuplicateKeyError
from storage.runs import RunCancelledError

if TYPE_CHECKING:
    import random

    from jobs.jobfile import JobFile
    from storage.attempts import Cause
    from storage.database import Connection

# A source that is away for hours is asked once an hour, not once a day.
_LONGEST = timedelta(hours=1)


def cause_of(error: BaseException) -> Cause:
    """Tell whether the same run may succeed a moment later (passing), or what would have to change first."""
    if isinstance(error, RunCancelledError):
        return "cancelled"
    if isinstance(error, (ChecksFailedError, DuplicateKeyError)):
        return "blocked"
    passing = isinstance(error, DatabaseUnreachableError) or getattr(error, "is_transient", False)
    # A full disk or spent memory: what is short now need not be in an hour.
    short = isinstance(error, BatchpredError) and "SQLSTATE 53" in str(error)
    return "passing" if passing or short else "lasting"


def rest_after(failures: int, backoff: timedelta, chance: random.Random) -> timedelta:
    """Return how long to rest after so many failures in a row: doubled each time, give or take half of it.

    The jitter keeps the jobs that one outage struck from coming back in the same second.
    """
    rest = backoff
    for _ in range(failures - 1):
        rest = min(2 * rest, max(_LONGEST, backoff))
    return rest * chance.uniform(0.5, 1.5)


def fingerprint(connection: Connection, job_file: JobFile) -> str:
    """Return a digest of what a lasting failure depends on: the job file, its query, and the model it names now."""
    ref = job_file.job.model
    digest = hashlib.sha256(f"{job_file.job.model_dump_json()}\n{job_file.query}\n".encode())
    if ref.startswith("file:"):
        path = job_file.path.parent / ref.removeprefix("file:")
        digest.update(path.read_bytes() if path.is_file() else b"missing")
    else:
        try:
            digest.update(registry.resolve(connection, registry.ModelRef.parse(ref)).sha256.encode())
        except BatchpredError as error:
            digest.update(type(error).__name__.encode())
    return digest.hexdigest()
