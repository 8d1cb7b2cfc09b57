"""Whether rows of a published interval came late: its source is read again and held against what was read then."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from jobs.pipeline import cut_into_chunks
from jobs.plan import make_plan
from jobs.resume import digest_of
from storage import attempts, runs
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Plan, Runtime
    from storage.database import Connection
    from storage.sources import SourceColumn


def has_changed(runtime: Runtime, job_file: JobFile, interval: Interval) -> bool:
    """Tell whether the source gives other rows now than the published run of the interval had read.

    Nothing is scored or written: the rows' digests, chunk by chunk, are held against the ledger's, and the reading
    stops at the first that differs. Raises what planning and reading raise.
    """
    with (
        runtime.database.errors(f"lookback of {job_file.job.name}"),
        runtime.database.connect(purpose="lookback", as_writer=True) as connection,
    ):
        plan = make_plan(runtime, connection, job_file, interval)
        known = attempts.chunk_digests(connection, plan.slot)
        reads = _read_then(runtime, connection, plan)
    seen = 0
    with plan.source.read(reads, plan.key) as rows:
        for chunk in cut_into_chunks(rows, job_file.job.chunk_rows):
            if seen == len(known) or digest_of(chunk) != known[seen]:
                return True
            seen += 1
    return seen < len(known)


def _read_then(runtime: Runtime, connection: Connection, plan: Plan) -> tuple[SourceColumn, ...]:
    """The columns of the published run's chunks: those its canary took are among them, whether or not it stands."""
    done = runs.published_run(connection, plan.slot)
    if done is None or done["canary_version"] is None:
        return plan.reads
    ref = f"{done['model_name']}/{done['canary_version']}"
    with suppress(BatchpredError):  # then the rows look changed, and are scored by the models of today
        beside = make_plan(runtime, connection, plan.job_file, plan.interval, model_ref=ref)
        return tuple(dict.fromkeys(plan.reads + beside.reads))
    return plan.reads
