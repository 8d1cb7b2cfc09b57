"""What a run must satisfy before readers see it: the job's checks, held against the written rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs import canary, drift
from jobs.errors import JobError
from storage import predictions, runs, staged

if TYPE_CHECKING:
    from jobs.plan import Plan
    from storage.database import Connection, Row


class ChecksFailedError(JobError):
    """A check blocked publishing; readers keep the last good predictions."""

    exit_code = 3


class DriftedError(ChecksFailedError):
    """Nothing but drift failed: of the rows that the run's model scored, so no canary is the reason of it."""


def check(connection: Connection, plan: Plan, run: Row, drifted: dict[str, Any] | None = None) -> None:
    """Hold a scored run against the job's checks. Raises ChecksFailedError or DriftedError listing all that failed.

    A query among them that cannot be run raises CheckQueryError. `run` is the ledger's row: its counts are those of
    the committed chunks. `drifted` is jobs/drift.py's verdict.
    """
    failed = [
        *_row_counts(connection, plan, run),
        *canary.faults(plan, run),
        *_outputs(connection, plan, run),
        *_own(connection, plan, run),
    ]
    kind = ChecksFailedError if failed else DriftedError
    failed += drift.failed(drifted, plan.job_file.job.drift)
    if failed:
        raise kind(f"{plan.table.name}: not published, readers keep what they have: {'; '.join(failed)}")


def _row_counts(connection: Connection, plan: Plan, run: Row) -> list[str]:
    checks = plan.job_file.job.checks
    failed = []
    if run["rows_scored"] < checks.min_rows:
        none = f"the source gave no rows for {plan.interval.describe()}"
        few = f"{run['rows_scored']} rows were scored"
        failed.append(f"{few if run['rows_read'] else none} (min_rows {checks.min_rows})")
    if run["rows_quarantined"] > checks.max_quarantined * run["rows_read"]:
        reasons = runs.quarantine_reasons(connection, run["run_id"])
        most = ", ".join(f"{row['rows']} × {row['reason']}" for row in reasons)
        failed.append(
            f"{run['rows_quarantined']} of {run['rows_read']} rows are in quarantine "
            f"(max_quarantined {checks.max_quarantined:g}): {most}"
        )
    if checks.max_rows_change is not None:
        last = runs.previous_published_run(connection, plan.slot)
        # Against an interval without rows every change is endless, and would block all that follow.
        if (
            last
            and last["rows_scored"]
            and abs(run["rows_scored"] - last["rows_scored"]) > checks.max_rows_change * last["rows_scored"]
        ):
            failed.append(
                f"{run['rows_scored']} rows after {last['rows_scored']} on {last['as_of_date']} "
                f"(max_rows_change {checks.max_rows_change:g})"
            )
    return failed


def _outputs(connection: Connection, plan: Plan, run: Row) -> list[str]:
    checks = plan.job_file.job.checks
    if checks.max_null_rate is None and checks.score_range is None:
        return []
    counts = predictions.count_outputs(connection, plan.table, run["run_id"], checks.score_range)
    failed = []
    for column, count in counts.items():
        if checks.max_null_rate is not None and count["null"] > checks.max_null_rate * run["rows_scored"]:
            failed.append(
                f"{column} is NULL in {count['null']} rows (max_null_rate {checks.max_null_rate:g})"
            )
        if checks.score_range is not None and count["outside"]:
            low, high = checks.score_range
            failed.append(f"{column} is outside [{low:g}, {high:g}] in {count['outside']} rows (score_range)")
    return failed


def _own(connection: Connection, plan: Plan, run: Row) -> list[str]:
    failed = []
    for each in plan.checks:
        found = staged.find(connection, plan.table, run["run_id"], each)
        if found:
            rows = "1 row" if found.rows == 1 else f"{found.rows} rows"
            failed.append(f"{each.name} found {rows}, such as {'; '.join(found.first)} (checks.sql)")
    return failed
