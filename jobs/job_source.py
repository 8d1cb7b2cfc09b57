"""Where a job's rows come from: its query or path bound to an interval, and its key among the columns there."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from jobs.errors import JobError
from storage.database import Database
from storage.parameters import bind_named
from storage.query_source import QuerySource
from storage.sources import KEY_KINDS, SourceColumn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime
    from jobs.signature import FeatureColumn
    from storage.sources import Source

INTERVAL_PARAMETERS = ("interval_start", "interval_end", "date")


class SourceColumnsError(JobError):
    """The query does not yield what the job's key and model need."""


def source_of(
    runtime: Runtime, job_file: JobFile, interval: Interval, features: Sequence[FeatureColumn] = ()
) -> Source:
    """Bind the job's query or path to an interval; `features` say as what files are read. Raises BatchpredError."""
    job = job_file.job
    if job.source.path is not None:
        from jobs.file_source import file_source  # most jobs read a query, and start sooner without it

        return file_source(job_file, interval, {feature.column: feature.dtype for feature in features})
    where = job.source.query_file or job_file.path.name
    values = {
        "interval_start": interval.start,
        "interval_end": interval.end,
        "date": interval.date,
        **job.source.params,
    }
    query = bind_named(job_file.query, values, tuple(job.source.params), where=where)
    if job.source.bounded and not set(query.names) & set(INTERVAL_PARAMETERS):
        raise SourceColumnsError(
            f"{where}: the query uses none of :interval_start, :interval_end and :date, so every interval would "
            "score the same rows; add a condition such as `t >= :interval_start AND t < :interval_end`, or say "
            "`source: {bounded: false}` if that is meant"
        )
    return QuerySource(_source_database(runtime, job_file), query, values, where)


def ready_query(runtime: Runtime, job_file: JobFile, interval: Interval) -> QuerySource:
    """Return the job's `ready` query with the interval's values, in the source's database. The job has one."""
    job = job_file.job
    assert job.ready is not None  # noqa: S101  # the caller's business
    values = {
        "interval_start": interval.start,
        "interval_end": interval.end,
        "date": interval.date,
        **job.source.params,
    }
    where = f"ready.query of {job_file.path.name}"
    query = bind_named(job.ready.query, values, (), where=where)
    return QuerySource(_source_database(runtime, job_file), query, values, where)


def key_columns(
    job_file: JobFile, source: Source, yielded: Mapping[str, SourceColumn]
) -> tuple[SourceColumn, ...]:
    """Return the columns of the job's key among those a source yields. Raises SourceColumnsError."""
    job, where = job_file.job, source.where
    missing = [name for name in job.key if name not in yielded]
    if missing:
        raise SourceColumnsError(
            f"{where}: {source.yields} no column {', '.join(missing)}, which {job_file.path.name} names in `key`"
            + nearest(missing[0], yielded)
        )
    for name in job.key:
        if yielded[name].type not in KEY_KINDS:
            raise SourceColumnsError(
                f"{where}: key column {name} is {yielded[name].type}; a key is integer, text, uuid or date: "
                f"{source.mend}"
            )
    return tuple(yielded[name] for name in job.key)


def nearest(name: str, yielded: Mapping[str, SourceColumn]) -> str:
    """Say which column may have been meant, or which there are: the end of a message."""
    near = get_close_matches(name, yielded, n=1)
    return f"; did you mean {near[0]}?" if near else f"; it yields {', '.join(yielded)}"


def _source_database(runtime: Runtime, job_file: JobFile) -> Database:
    dsn = job_file.job.source.dsn
    if dsn is None:
        return runtime.database
    return Database.at(dsn.get_secret_value(), named=f"source.dsn of {job_file.path.name}")
