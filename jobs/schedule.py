"""Which scheduled interval is due now, and one pass over all jobs that runs those that are missing.

The clock only wakes this: the ledger says what is published, so a pass too many does nothing, a pass too few
is made up for by the next, and several schedulers at once run each interval once, by its claim.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cronsim import CronSim

from jobs.deliver import watching
from jobs.interval import latest_complete
from jobs.run import RunReport, run_job
from storage import moves, runs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.jobspec import Job
    from jobs.plan import Runtime

log = logging.getLogger("batchpred.schedule")

# A job that failed is not tried again at every tick: a broken query would be run twice a minute.
RETRY_AFTER = timedelta(minutes=5)


def due_interval(job: Job, now: datetime) -> Interval | None:
    """Return the interval that the job's latest past slot is about, or None without a schedule.

    `now` is aware. At the slot 03:00 a daily job is about the day that ended at midnight.
    """
    if job.schedule is None:
        return None
    # From one second ahead: looking backwards, a slot that is exactly now has come.
    slot = next(
        CronSim(job.schedule.cron_fields, now.astimezone(job.zone) + timedelta(seconds=1), reverse=True)
    )
    return latest_complete(job.interval, job.zone, slot)


class Ticker:
    """One pass over the jobs at a time, remembering only which of them failed a moment ago."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._not_before: dict[tuple[str, str], datetime] = {}

    def watching(self, job_files: list[JobFile]) -> AbstractContextManager[None]:
        """Look for what is to be told, and deliver it, while a pass goes on and once when it has ended."""
        return watching(self._runtime.database, job_files)

    def tick(self, job_files: Iterable[JobFile], now: datetime) -> list[RunReport]:
        """Run every job whose due interval is not published; return what became of each run.

        Raises what reaching the database raises; what goes wrong in a run is in its report.
        """
        reports = []
        for job_file in job_files:
            interval = due_interval(job_file.job, now)
            if interval is None or self._is_settled(job_file, interval, now):
                continue
            report = run_job(self._runtime, job_file, interval)
            reports.append(report)
            if report.status == "held":  # another scheduler is at it
                log.info("run held", extra={"job": report.job})
            elif report.error:
                log.error("run %s", report.status, extra={"job": report.job, "error": report.error})
                self._not_before[job_file.job.name, interval.label] = now + RETRY_AFTER
        return reports

    def _is_settled(self, job_file: JobFile, interval: Interval, now: datetime) -> bool:
        name = job_file.job.name
        if now < self._not_before.get((name, interval.label), now):
            return True
        slot = runs.Slot(name, interval.start, interval.end, interval.date)
        database = self._runtime.database
        with database.errors("tick"), database.connect(purpose="tick") as connection:
            return moves.is_settled(connection, slot)
