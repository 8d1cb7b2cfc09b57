"""How a job stands: what readers see, whether the promise of freshness is kept, what is missing, what is next.

Nothing is written: a job that no schedule has seen yet is looked at as if it were seen now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from jobs import due, promise, slots
from jobs.interval import interval_containing, latest_complete
from jobs.schedule import look
from jobs.waiting import missing_upstream
from storage import attempts, canaries

if TYPE_CHECKING:
    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from storage.canaries import Canary
    from storage.database import Connection, Row

State = Literal["published", "backfilled", "running", "blocked", "failed", "withdrawn", "missing", "none"]


@dataclass(frozen=True)
class Standing:
    """How one job stands at a moment."""

    job: str
    published: Interval | None
    published_at: datetime | None
    late_at: datetime | None
    late_by: timedelta | None
    next_due: datetime | None
    running: tuple[Row, ...]
    missing: tuple[Interval, ...]
    waits_for: str | None
    failure: Row | None
    zone: str
    canary: Canary | None = None

    @property
    def is_broken(self) -> bool:
        """Whether the job's promise is broken."""
        return self.late_by is not None

    def as_json(self) -> dict[str, Any]:
        """Return it as one plain document; times in the job's zone, lengths in seconds."""
        failure = self.failure
        return {
            "job": self.job,
            "timezone": self.zone,
            "published": self.published.label if self.published else None,
            "published_at": self.published_at,
            "late_at": self.late_at,
            "is_late": self.is_broken,
            "late_by_seconds": self.late_by.total_seconds() if self.late_by else None,
            "next_due": self.next_due,
            "missing": [each.label for each in self.missing],
            "waits_for": self.waits_for,
            "canary": vars(self.canary) if self.canary else None,
            "running": [
                {
                    "run_id": run["run_id"],
                    "interval_start": run["interval_start"],
                    "rows_done": run["rows_done"],
                    "rows_before": run["rows_before"],
                    "is_cancelled": run["cancelled_by"] is not None,
                }
                for run in self.running
            ],
            "failure": None
            if failure is None
            else {
                name: failure[name]
                for name in ("interval_start", "cause", "error", "failed_at", "not_before")
            },
        }


def standing(connection: Connection, job_file: JobFile, now: datetime) -> Standing:
    """Return how a job stands at `now` (aware)."""
    job = job_file.job
    row = attempts.newest_published(connection, job.name)
    newest = interval_containing(row["interval_start"], job.interval, job.zone) if row else None
    found = look(connection, job_file, now, note=False) if job.schedule else due.Due(None, (), ())
    late_at = promise.late_at(job, promise.awaited(connection, job, newest, now))
    missing = found.missing
    if job.schedule and job.schedule.catchup in ("latest", "none"):  # the others were let go
        missing = tuple(
            each for each in missing if found.newest and due.start(each) == due.start(found.newest)
        )
    running = tuple(attempts.active(connection, job.name))
    at_work = {run["interval_start"] for run in running}
    return Standing(
        job=job.name,
        published=newest,
        published_at=row["published_at"] if row else None,
        late_at=late_at,
        late_by=now.astimezone(UTC) - late_at.astimezone(UTC) if late_at and late_at <= now else None,
        next_due=slots.next_slot(job.schedule, now + timedelta(seconds=1)) if job.schedule else None,
        running=running,
        missing=tuple(each for each in missing if due.start(each) not in at_work),
        waits_for=next(
            (
                name
                for task in found.tasks
                if task.kind == "missing" and (name := missing_upstream(connection, job_file, task.interval))
            ),
            None,
        ),
        failure=attempts.last_failure(connection, job.name),
        zone=job.zone.key,
        canary=canaries.of_ref(connection, job.model),
    )


def calendar(
    connection: Connection, job_file: JobFile, now: datetime, number: int = 30
) -> list[tuple[Interval, State]]:
    """Return the last intervals of a job, the oldest first, with what became of each."""
    job = job_file.job
    each = slots.newest_due(job, now) or latest_complete(job.interval, job.zone, now)
    last = [each]
    while len(last) < number:
        each = interval_containing(due.start(each) - timedelta(microseconds=1), job.interval, job.zone)
        last.append(each)
    begin, end = due.start(last[-1]), due.start(last[0])
    rows = attempts.newest_runs(connection, job.name, begin, end)
    failed = attempts.attempts(connection, job.name, begin, end)
    settled = attempts.settled(connection, job.name, begin, end)
    wanted = (
        {due.start(each) for each in look(connection, job_file, now, note=False).missing}
        if job.schedule
        else ()
    )
    found = []
    for each in reversed(last):
        state = _state(due.start(each), rows, failed, settled)
        found.append((each, state or ("missing" if due.start(each) in wanted else "none")))
    return found


def _state(
    start: datetime,
    rows: dict[datetime, Row],
    failed: dict[datetime, attempts.Attempt],
    settled: set[datetime],
) -> State | None:
    row = rows.get(start)
    status = row["status"] if row else None
    if status == "published":
        return "backfilled" if row and row["is_backfill"] else "published"
    if status == "running":
        return "running"
    if start in settled:
        return "withdrawn"
    if status == "blocked":
        return "blocked"
    has_failed = status in ("failed", "abandoned") or (start in failed and failed[start].failures)
    return "failed" if has_failed else None
