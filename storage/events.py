"""What is told of a job: each failure, block, lateness and recovery once, whoever notices it and how often.

An event's kinds, what opens one, and what ends it:

    failed      a run ended in an error and is not tried again by itself    over when readers see another run of
    blocked     a check refused a run                                       the interval than they saw then
    late        the newest published interval is past its `late_at`; or     over when it no longer is
                nothing is published, and the first interval that is due
                is past its promise (jobs/promise.py)
    recovered   one or more of the above are over: one event for all that one publish ended
    published   a run was published; recorded only where a target asks for it

Until a trouble is over the same one cannot be recorded again: two partial unique indexes say so, for (job,
interval, kind) and, for `late`, for the job. So retries, two schedulers and a person at once are one event, and a
lateness that grows by another interval is still that lateness.

An event and whom it is for are one transaction. A recovery and a publish are told in the transaction that
publishes, a block in the one that closes the run: both or neither. What the fault of a record may not do is undo
what it is about (`in_passing`), so a recovery that could not be recorded there is found by the next look. A
failure is recorded once its retries are used up, after the run is closed; a process killed in that moment tells
nothing, and the next run or `late` does. Where the database is away nothing is recorded and nothing told.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime, timedelta

    from storage.database import Connection, Row

log = logging.getLogger("batchpred.notify")

_SQL = load("events")


def record(
    connection: Connection,
    kind: str,
    slot_ids: Row,
    message: dict[str, Any],
    targets: Iterable[str],
    *,
    run_id: int | None = None,
    running_for: timedelta | None = None,
) -> bool:
    """Write an event down and whom it is for; False where it is told already and not over yet.

    `slot_ids` are `job` and `interval_start`. With `running_for`, how long the run went on that is told of, also
    False where another run of the interval was published meanwhile: then readers miss nothing.
    """
    values = {**slot_ids, "kind": kind, "run_id": run_id, "message": Jsonb(message)}
    with connection.transaction():
        row = connection.execute(_SQL["record"], {**values, "running_for": running_for}).fetchone()
        if row is None:
            return False
        for target in targets:
            connection.execute(_SQL["address"], {"event_id": row["event_id"], "target": target})
    return True


def close_over(connection: Connection, jobs: list[str]) -> list[Row]:
    """End the troubles of these jobs that are over; of several callers at once each trouble goes to one.

    Returns `job`, `kind`, `interval_start` and `happened_at` of each; call it in the transaction that tells it.
    """
    return connection.execute(_SQL["close_over"], {"jobs": jobs}).fetchall()


def find_late(connection: Connection, promises: Mapping[str, timedelta | None]) -> list[Row]:
    """Find the published jobs that are late and not told of yet: the missing interval, `late_at`, `newest_run`.

    `promises` is each job's late_after as its file says it now; what readers are told of it follows.
    """
    asked = {"jobs": list(promises), "late_after": list(promises.values())}
    connection.execute(_SQL["keep_promise"], asked)
    return connection.execute(_SQL["late"], asked).fetchall()


def without_predictions(connection: Connection, jobs: list[str]) -> list[str]:
    """Return which of some jobs have nothing published, and no lateness that is told and not over."""
    return [row["job"] for row in connection.execute(_SQL["without_predictions"], {"jobs": jobs})]


def published_run(connection: Connection, job: str, interval_start: datetime) -> Row | None:
    """Return the run readers see of an interval, or of the job's newest one where it has none."""
    ids = {"job": job, "interval_start": interval_start}
    return connection.execute(_SQL["published_run"], ids).fetchone()


def is_newest(connection: Connection, job: str, interval_start: datetime) -> bool:
    """Tell whether no later interval of the job is published."""
    row = connection.execute(_SQL["is_newest"], {"job": job, "interval_start": interval_start}).fetchone()
    return bool(row and row["is_newest"])


def forget_old(connection: Connection, keep: timedelta) -> int:
    """Delete events that are over and older than `keep`, with their deliveries; return how many."""
    return connection.execute(_SQL["forget_old"], {"keep": keep}).rowcount


def in_passing(connection: Connection, tell: Callable[[Connection], object]) -> None:
    """Record inside somebody else's transaction; a fault of the record is logged and undoes only itself."""
    try:
        with connection.transaction():
            tell(connection)
    except psycopg.Error as error:
        log.warning("event not recorded", extra={"error": error.diag.message_primary or type(error).__name__})
