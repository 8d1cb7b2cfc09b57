"""Whether rows of a published interval came late: its source is read again and held against what was read then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.pipeline import cut_into_chunks
from jobs.plan import make_plan
from jobs.resume import digest_of
from storage import attempts

if TYPE_CHECKING:
    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime


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
    seen = 0
    with plan.source.read(plan.reads, plan.key) as rows:
        for chunk in cut_into_chunks(rows, job_file.job.chunk_rows):
            if seen == len(known) or digest_of(chunk) != known[seen]:
                return True
            seen += 1
    return seen < len(known)
