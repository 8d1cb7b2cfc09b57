"""How a job's `source.path` becomes the files of one interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.files.columns import TimeSpan
from storage.files.pattern import parse_path
from storage.files.source import FileSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobs.interval import Interval
    from jobs.jobfile import JobFile


def file_source(job_file: JobFile, interval: Interval, dtypes: Mapping[str, str]) -> FileSource:
    """Bind a job's path to an interval; `dtypes` are the columns its model takes. Nothing is looked at yet."""
    job = job_file.job
    given = job.source
    start = interval.start
    return FileSource(
        pattern=parse_path(given.path or ""),
        folder=job_file.path.parent.absolute(),
        values={
            "date": start.date().isoformat(),
            "year": f"{start:%Y}",
            "month": f"{start:%m}",
            "day": f"{start:%d}",
            "hour": f"{start:%H}",
        },
        key=tuple(job.key),
        format=given.format,
        delimiter=given.delimiter,
        types=dict(given.types),
        dtypes=dtypes,
        span=TimeSpan(given.time_column, start, interval.end) if given.time_column else None,
        is_hourly=interval.unit == "hour",
    )
