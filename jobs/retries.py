"""Which failures are worth another attempt, and when that may come."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.checks import ChecksFailedError
from jobs.gates import FILE, load_gates
from jobs.interval import interval_containing
from jobs.remote_models import is_remote
from storage import attempts, canaries, model_life, registry
from storage.database import DatabaseUnreachableError
from storage.errors import BatchpredError
from storage.predictions import DuplicateKeyError
from storage.runs import RunCancelledError

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from storage.attempts import Attempt, Cause
    from storage.canaries import Canary
    from storage.database import Connection

# A source that is away for hours is asked once an hour, not once a day.
_LONGEST = timedelta(hours=1)
# Of so many failed intervals the files are looked at, the newest: each look costs a listing of their folders.
_LISTED = 10


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


def fingerprint(
    connection: Connection,
    job_file: JobFile,
    *,
    model_sha256: str | None = None,
    canary: Canary | None = None,
) -> str:
    """Return a digest of what a lasting failure depends on: the job file, its query, its transform and the models.

    Where the job asks for a signature or a reference profile, those too. `model_sha256` is that of the registry's
    version that failed, and `canary` the one it failed with, where a run came so far: the alias may have been moved
    since, or the canary withdrawn, and what stands there now has not failed. A model from elsewhere counts by what
    the job's newest run took, so that no look at the clock asks another server.
    """
    job = job_file.job
    digest = hashlib.sha256(f"{job.model_dump_json()}\n{job_file.query}\n".encode())
    if job.transform:
        for path in _sources(job.transform.partition(":")[0].partition(".")[0], job_file.path.parent):
            digest.update(_bytes_of(path))
    gates = job_file.path.parent / FILE
    if gates.is_file():  # it may ask for signatures, which a refused version may get
        digest.update(_bytes_of(gates))
        digest.update(_keys_now(gates))
        digest.update(_signature_now(connection, job_file))
    if job.drift is not None:  # its version may get a reference profile, or another one
        digest.update(_profile_now(connection, job_file))
    if job.model.startswith("file:"):
        digest.update(_bytes_of(job_file.path.parent / job.model.removeprefix("file:")))
    elif is_remote(job.model):
        digest.update((attempts.newest_model(connection, job.name) or "").encode())
    else:
        digest.update((model_sha256 or _named_now(connection, job.model)).encode())
        beside = canary if model_sha256 else canaries.of_ref(connection, job.model)
        if beside is not None:
            digest.update(f"canary {beside} {beside.share}".encode())
    return digest.hexdigest()


def files_of(job_file: JobFile, interval: Interval) -> str:
    """Say which files an interval has now; nothing for a query. They may come late, or be written anew."""
    if job_file.job.source.path is None:
        return ""
    try:
        from jobs.file_source import file_source  # as in jobs/plan.py: a query's run starts without it

        return json.dumps(file_source(job_file, interval, {}).inputs())
    except BatchpredError as error:  # its text may differ each time
        return type(error).__name__


def with_files(general: str, files: str) -> str:
    """Make of a job's fingerprint that of an interval with these files."""
    return hashlib.sha256(f"{general}\n{files}".encode()).hexdigest() if files else general


def fingerprints(general: str, job_file: JobFile, failed: Mapping[datetime, Attempt]) -> dict[datetime, str]:
    """Return the fingerprints of failed intervals that have files; older ones than can be looked at keep theirs."""
    job = job_file.job
    if job.source.path is None:
        return {}
    newest = sorted(failed, reverse=True)
    found = {start: failed[start].fingerprint or "" for start in newest[_LISTED:]}
    for start in newest[:_LISTED]:
        files = files_of(job_file, interval_containing(start, job.interval, job.zone))
        found[start] = with_files(general, files)
    return found


def _named_now(connection: Connection, ref: str) -> str:
    try:
        return registry.resolve(connection, registry.ModelRef.parse(ref), to_score=True).sha256
    except BatchpredError as error:
        return type(error).__name__


def _keys_now(gates: Path) -> bytes:
    """The keys that a gates file names; nothing where it is faulty, or takes their names from the environment."""
    try:
        asked = load_gates(gates, {}).models.values()
    except BatchpredError:
        return b""
    return b"".join(_bytes_of(gates.parent / key) for each in asked for key in each.signed_by)


def _signature_now(connection: Connection, job_file: JobFile) -> bytes:
    ref = job_file.job.model
    if ref.startswith("file:"):
        return _bytes_of(job_file.path.parent / f"{ref.removeprefix('file:')}.sig")
    try:
        return (
            model_life.signature_of(connection, registry.resolve(connection, registry.ModelRef.parse(ref)))
            or b""
        )
    except BatchpredError:
        return b""


def _profile_now(connection: Connection, job_file: JobFile) -> bytes:
    try:
        version = registry.resolve(connection, registry.ModelRef.parse(job_file.job.model))
        return json.dumps(model_life.profile(connection, version), sort_keys=True).encode()
    except BatchpredError:
        return b""


def _sources(top: str, folder: Path) -> list[Path]:
    """The project's modules, as far as they may be a transform's: those beside the job file, and its package's."""
    return sorted({*folder.glob("*.py"), *(folder / top).rglob("*.py")})


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        return type(error).__name__.encode()
