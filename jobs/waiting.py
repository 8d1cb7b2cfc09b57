"""What an interval waits for before the schedule runs it: other jobs' intervals, and data that says it is ready."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from jobs.errors import JobFileError
from jobs.job_source import ready_query
from storage import attempts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime
    from storage.database import Connection


def missing_upstream(connection: Connection, job_file: JobFile, interval: Interval) -> str | None:
    """Return the first job of `after` whose published intervals do not cover this one, or None."""
    begin, end = interval.start.astimezone(UTC), interval.end.astimezone(UTC)
    for name in job_file.job.after:
        reached = begin
        for start, stop in attempts.covering(connection, name, begin, end):
            if start > reached:
                break
            reached = max(reached, stop)
        if reached < end:
            return name
    return None


def is_ready(runtime: Runtime, job_file: JobFile, interval: Interval) -> bool:
    """Ask the job's `ready` query about an interval; true without one. Raises SourceError."""
    return job_file.job.ready is None or ready_query(runtime, job_file, interval).is_true()


def circles(job_files: Iterable[JobFile]) -> Mapping[str, JobFileError]:
    """Return the jobs that wait, over `after`, for themselves: none of them could ever run."""
    by_name = {each.job.name: each for each in job_files}
    faults = {}
    for name, job_file in by_name.items():
        path = _way_back(name, by_name)
        if path:
            faults[name] = JobFileError(
                f"{job_file.path.name}:1:1: after: {' waits for '.join(path)}, so none of them can ever run"
            )
    return faults


def _way_back(name: str, by_name: Mapping[str, JobFile]) -> list[str] | None:
    """Return the way over `after` from a job to itself, or None."""
    paths, seen = [[name]], set()
    while paths:
        path = paths.pop()
        job_file = by_name.get(path[-1])
        for other in job_file.job.after if job_file else ():
            if other == name:
                return [*path, name]
            if other not in seen:
                seen.add(other)
                paths.append([*path, other])
    return None
