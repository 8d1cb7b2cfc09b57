"""What is told of a job: which event is recorded when, and what its message says.

storage/events.py says what opens and ends an event; jobs/deliver.py how messages leave. Only jobs whose file has
a `notify` list are told of, and nothing here fails a run: what could not be recorded is logged.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jobs import promise
from jobs.interval import Interval
from storage import attempts, events
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from jobs.jobfile import JobFile
    from jobs.jobspec.notify import Kind
    from jobs.plan import Plan
    from jobs.report import RunReport
    from storage.database import Connection, Database, Row

log = logging.getLogger("batchpred.notify")

# Chat services cut longer messages; the whole error is in the ledger.
_ERROR_LENGTH = 500


def _stopped(
    connection: Connection,
    job_file: JobFile,
    report: RunReport,
    interval: Interval,
    *,
    kind: Kind,
    error: str,
    running_for: timedelta | None = None,
) -> bool:
    """Record that a run failed or was blocked; False where that is told already."""
    job = job_file.job.name
    ids = {"job": job, "interval_start": interval.start}
    look = f"batchpred runs show {report.run_id}" if report.run_id else f"batchpred plan {job} --date "
    message = {
        **about(job_file, interval.start, interval.end),
        "run": report.run_id,
        "rows": report.rows if report.run_id else None,
        "model": report.model,
        "error": one_line(error, job_file),
        "look": look if report.run_id else look + interval.label,
    }
    targets = _wanting_now(connection, job_file, kind, interval.start)
    return events.record(
        connection, kind, ids, message, targets, run_id=report.run_id, running_for=running_for
    )


def blocked(connection: Connection, plan: Plan, report: RunReport, error: str) -> None:
    """Record that a check refused a run; call it in the transaction that closes the run."""
    if plan.job_file.job.notify:
        events.in_passing(
            connection,
            lambda inner: _stopped(inner, plan.job_file, report, plan.interval, kind="blocked", error=error),
        )


def failed(database: Database, job_file: JobFile, interval: Interval, report: RunReport) -> None:
    """Record that a run failed for good: its retries are used up, and nobody else has published meanwhile."""
    if not job_file.job.notify:
        return
    with _never_failing(report.job), _session(database) as connection:
        _stopped(
            connection,
            job_file,
            report,
            interval,
            kind="failed",
            error=database.redact(report.error or "no reason given"),
            running_for=timedelta(seconds=report.seconds),
        )


def published(connection: Connection, job_file: JobFile, interval: Interval) -> None:
    """Record what a publish ends, and the publish itself where a target asks for it.

    Call it in the publishing transaction, after the pointer has moved.
    """
    if job_file.job.notify:
        events.in_passing(connection, lambda inner: _published(inner, job_file, interval.start))


def look(connection: Connection, job_files: Sequence[JobFile]) -> int:
    """Record which jobs are late, and which troubles are over that no run of this version has told of.

    Every process that is alive does this; return how many events it was the first to record.
    """
    by_name = {job_file.job.name: job_file for job_file in job_files if job_file.job.notify}
    promises = {
        name: each.job.schedule.late_after if each.job.schedule else None for name, each in by_name.items()
    }
    recorded = 0
    found = events.find_late(connection, promises)
    unpublished = [by_name[name] for name in events.without_predictions(connection, list(promises))]
    for late in found + _late_at_first(connection, unpublished):
        job_file = by_name[late["job"]]
        ids = {"job": late["job"], "interval_start": late["interval_start"]}
        message = {
            **about(job_file, late["interval_start"], late["interval_end"]),
            "run": None,
            "rows": None,
            "model": None,
            "error": f"nothing is published that was promised by {late['late_at'].isoformat(timespec='seconds')}",
            "newest_published_run": late["newest_run"],
            "look": f"batchpred runs list {late['job']}",
        }
        recorded += events.record(connection, "late", ids, message, _wanting(job_file, "late"))
    with connection.transaction():
        over: dict[tuple[str, Any], list[Row]] = {}
        for row in events.close_over(connection, list(by_name)):
            over.setdefault((row["job"], row["interval_start"]), []).append(row)
        for (name, start), troubles in sorted(over.items()):
            run = events.published_run(connection, name, start)
            if run is not None:
                recorded += _recovered(connection, by_name[name], run, troubles)
    return recorded


def _late_at_first(connection: Connection, job_files: Sequence[JobFile]) -> list[Row]:
    """Find which of some jobs of which nothing is published are late, as events.find_late does for the others."""
    now = attempts.clock(connection)
    found: list[Row] = []
    for job_file in job_files:
        interval = promise.awaited(connection, job_file.job, None, now)
        late_at = promise.late_at(job_file.job, interval)
        if interval is not None and late_at is not None and late_at <= now:
            bounds = {"interval_start": interval.start, "interval_end": interval.end}
            found.append({"job": job_file.job.name, **bounds, "late_at": late_at, "newest_run": None})
    return found


def one_line(error: str, job_file: JobFile) -> str:
    """Make an error fit for a message: one line, of bounded length, and nothing secret of the job file in it."""
    text = " ".join(error.split())
    dsn = job_file.job.source.dsn
    secrets = [secret for target in job_file.job.notify for secret in target.secrets]
    for secret in [*secrets, *([dsn.get_secret_value()] if dsn else [])]:
        text = text.replace(secret, "***")
    return text if len(text) <= _ERROR_LENGTH else text[: _ERROR_LENGTH - 1] + "…"


def _published(connection: Connection, job_file: JobFile, interval_start: datetime) -> None:
    job = job_file.job.name
    run = events.published_run(connection, job, interval_start)
    assert run is not None  # noqa: S101  # the pointer has just moved to it
    troubles = events.close_over(connection, [job])
    if troubles:
        _recovered(connection, job_file, run, troubles)
    if wanting := _wanting_now(connection, job_file, "published", run["interval_start"]):
        ids = {"job": job, "interval_start": run["interval_start"]}
        events.record(connection, "published", ids, _about_run(job_file, run), wanting, run_id=run["run_id"])


def _recovered(connection: Connection, job_file: JobFile, run: Row, troubles: Sequence[Row]) -> bool:
    """Tell of all that one publish ended in one event."""
    ids = {"job": run["job"], "interval_start": run["interval_start"]}
    since = min(trouble["happened_at"] for trouble in troubles)
    message = {
        **_about_run(job_file, run),
        "after": sorted({trouble["kind"] for trouble in troubles}),
        "since": since.isoformat(timespec="seconds"),
    }
    wanting = _wanting(job_file, "recovered")
    return events.record(connection, "recovered", ids, message, wanting, run_id=run["run_id"])


def about(job_file: JobFile, start: datetime, end: datetime) -> dict[str, Any]:
    """Say which job and interval a message is about, in the job's own zone."""
    job = job_file.job
    interval = Interval(start.astimezone(job.zone), end.astimezone(job.zone), job.interval)
    return {
        "job": job.name,
        "description": job.description,
        "interval": {
            "start": interval.start.isoformat(),
            "end": interval.end.isoformat(),
            "date": interval.label,
            "timezone": job.zone.key,
        },
    }


def _about_run(job_file: JobFile, run: Row) -> dict[str, Any]:
    return {
        **about(job_file, run["interval_start"], run["interval_end"]),
        "run": run["run_id"],
        "rows": {name: run[f"rows_{name}"] for name in ("read", "scored", "quarantined")},
        "model": {
            "name": run["model_name"],
            "version": run["model_version"],
            "sha256": run["model_sha256"],
        },
        **({"canary": canary} if (canary := _canary(run)) else {}),
        "error": None,
        "look": f"batchpred runs show {run['run_id']}",
    }


def _canary(run: Row) -> dict[str, Any] | None:
    """Say which version scored a share of the run's keys, if one did."""
    version = run["canary_version"]
    return (
        {"version": version, "share": run["canary_share"], "sha256": run["canary_sha256"]}
        if version
        else None
    )


def _wanting(job_file: JobFile, kind: Kind) -> list[str]:
    return [target.label for target in job_file.job.notify if kind in target.wanted]


def _wanting_now(
    connection: Connection, job_file: JobFile, kind: Kind, interval_start: datetime
) -> list[str]:
    """The same without pings where a later interval is published: they are about how the job is now."""
    wanting = _wanting(job_file, kind)
    pings = {target.label for target in job_file.job.notify if target.kind == "ping"}
    if pings.isdisjoint(wanting) or events.is_newest(connection, job_file.job.name, interval_start):
        return wanting
    return [label for label in wanting if label not in pings]


@contextmanager
def _session(database: Database) -> Iterator[Connection]:
    with database.errors("notify"), database.connect(purpose="notify", as_writer=True) as connection:
        yield connection


@contextmanager
def _never_failing(job: str) -> Iterator[None]:
    try:
        yield
    except BatchpredError as error:
        log.warning("event not recorded", extra={"job": job, "error": str(error)})
