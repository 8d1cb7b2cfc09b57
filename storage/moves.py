"""How a person moves the pointer of an interval: back to an earlier run, or on to one that a check blocked.

A rollback needs no claim: it writes nothing but the pointer, the two runs' statuses and the record of the move,
in one transaction, and takes its turn with a publish at the pointer's row. Views of current and history both
read the pointer, so they agree from the COMMIT on. Without an earlier run the interval is withdrawn: current
falls back to the interval before. Scheduled runs leave an interval alone whose last move was a rollback.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from storage import predictions, runs
from storage.errors import ConfigurationError, StorageError
from storage.holder import this_person
from storage.job_table import JobTable
from storage.queries import load
from storage.runs import Slot

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from storage.database import Connection, Database, Row

_SQL = load("moves")
_LEDGER = load("runs")


class UnknownRunError(ConfigurationError):
    """No run has that number, or it is another job's."""


class NothingToMoveError(StorageError):
    """The pointer is there already, or there is nothing to move it to."""


@dataclass(frozen=True)
class Move:
    """A move of the pointer of one interval: the run readers saw, and the one they see now (None: none)."""

    job: str
    interval_start: datetime
    from_run: int | None
    to_run: int | None


def calendar(connection: Connection, job: str) -> Row:
    """Return the job's `interval_unit` and `timezone`. Raises UnknownRunError, with the nearest name."""
    row = connection.execute(_SQL["calendar"], {"job": job}).fetchone()
    if row is None:
        jobs = [each["name"] for each in connection.execute(_SQL["jobs"])]
        near = difflib.get_close_matches(job, jobs, n=1)
        there = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(jobs) or 'none yet'}"
        raise UnknownRunError(f"no job {job!r} has a run here; {there}")
    return row


def list_runs(
    connection: Connection, job: str | None = None, interval_start: datetime | None = None, limit: int = 20
) -> list[Row]:
    """List the newest runs."""
    asked = {"job": job, "interval_start": interval_start, "limit": limit}
    return connection.execute(_SQL["list_runs"], asked).fetchall()


def show_run(connection: Connection, run_id: int) -> Row:
    """Return what the ledger says of a run, with its `quarantine` reasons and `moves`. Raises UnknownRunError."""
    row = _run(connection, run_id)
    moves = connection.execute(_SQL["moves_of_run"], {"run_id": run_id}).fetchall()
    return {**row, "quarantine": runs.quarantine_reasons(connection, run_id), "moves": moves}


def quarantined(
    connection: Connection, job: str, interval_start: datetime | None = None, limit: int = 100
) -> list[Row]:
    """List the rows set aside by the newest checked run of an interval, the newest one if none is named."""
    asked: Row = {"job": job, "interval_start": interval_start, "limit": limit}
    if interval_start is None:
        row = connection.execute(_SQL["newest_run_interval"], asked).fetchone()
        asked["interval_start"] = row["interval_start"] if row else None
    return connection.execute(_SQL["quarantine"], asked).fetchall()


def rollback(
    connection: Connection,
    job: str,
    *,
    interval_start: datetime | None = None,
    to_run: int | None = None,
    why: str | None = None,
) -> Move:
    """Make readers see an earlier run of an interval again: `to_run`, or the one before the one they see.

    The newest published interval where none is named. Raises UnknownRunError and NothingToMoveError; then
    nothing has changed.
    """
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = on")
        start = interval_start or _interval_of(connection, job, to_run)
        slot = {"job": job, "interval_start": start}
        connection.execute(_LEDGER["lock_moves"], slot)
        seen = _number(connection.execute(_LEDGER["pointer"], slot).fetchone())
        target: int | None
        if to_run is not None:
            target = _allowed_target(connection, job, start, to_run, seen)
        elif seen is None:
            raise NothingToMoveError(f"{job}: readers see no run of the interval that starts at {start}")
        else:
            target = _number(connection.execute(_SQL["run_before"], {"run_id": seen}).fetchone())
        move = Move(job, start, seen, target)
        _point(connection, move)
        record = {**vars(move), "kind": "rollback", "why": why, "by": this_person()}
        connection.execute(_SQL["record"], record)
        connection.execute(_LEDGER["announce"], slot)
    return move


def withdraw(connection: Connection, job: str, interval_start: datetime, run_id: int) -> None:
    """Take an interval that is past its retention from readers, if they still see that run of it."""
    slot = {"job": job, "interval_start": interval_start}
    with connection.transaction():
        connection.execute(_LEDGER["lock_moves"], slot)
        if _number(connection.execute(_LEDGER["pointer"], slot).fetchone()) == run_id:
            move = Move(job, interval_start, run_id, None)
            _point(connection, move)
            record = {**vars(move), "kind": "retention", "why": None, "by": this_person()}
            connection.execute(_SQL["record"], record)
            connection.execute(_LEDGER["announce"], slot)


def publish_blocked(
    database: Database,
    connection: Connection,
    run_id: int,
    why: str,
    *,
    tell: Callable[[Connection], None] = lambda _connection: None,
) -> Move:
    """Publish a run that a check blocked; who did it and why are recorded, and `tell` what is told of it.

    Raises UnknownRunError, NothingToMoveError where it is not blocked, DuplicateKeyError where a key stands there
    twice, and what claiming the interval raises.
    """
    run = _run(connection, run_id)
    _refuse_shadow(run)
    if run["status"] != "blocked":
        raise NothingToMoveError(
            f"run {run_id} is {run['status']}, not blocked; see: batchpred runs show {run_id}"
        )
    if run["has_table"] is None or run["job_table"] is None:
        raise NothingToMoveError(f"the predictions of run {run_id} are gone; run the interval again")
    slot = Slot(run["job"], run["interval_start"], run["interval_end"], run["as_of_date"])
    with runs.claim(database, connection, slot) as claim:
        now = _number(runs.published_run(connection, slot))
        job = JobTable.from_json(run["job_table"])
        if not run["is_sealed"]:  # keys that stand there twice: no reason why makes one of them the right one
            with connection.transaction():
                predictions.seal(connection, job, run_id)
                claim.check(connection)
        predictions.attach(connection, job, run_id, claim.check)
        show, override = partial(predictions.show, job=job), (why, this_person())
        predictions.patiently(
            lambda: runs.publish(connection, claim, run_id, show, override=override, tell=tell)
        )
    return Move(slot.job, slot.interval_start, now, run_id)


def is_settled(connection: Connection, slot: Slot) -> bool:
    """Tell whether scheduled runs leave the interval alone: published, rolled back, or past its retention."""
    if runs.published_run(connection, slot) is not None:
        return True
    last = connection.execute(_SQL["last_move"], slot.ids).fetchone()
    return last is not None and last["kind"] in ("rollback", "retention")


def _number(run: Row | None) -> int | None:
    return None if run is None else int(run["run_id"])


def _run(connection: Connection, run_id: int) -> Row:
    row = connection.execute(_SQL["run"], {"run_id": run_id}).fetchone()
    if row is None:
        raise UnknownRunError(f"there is no run {run_id}; see: batchpred runs list")
    return row


def _interval_of(connection: Connection, job: str, to_run: int | None) -> Any:
    if to_run is not None:
        return _run(connection, to_run)["interval_start"]
    row = connection.execute(_SQL["newest_interval"], {"job": job}).fetchone()
    if row is None:
        calendar(connection, job)  # says so where there is no such job
        raise NothingToMoveError(f"{job}: nothing is published")
    return row["interval_start"]


def _allowed_target(connection: Connection, job: str, start: Any, to_run: int, seen: int | None) -> int:
    run = _run(connection, to_run)
    if run["job"] != job or run["interval_start"] != start:
        raise UnknownRunError(
            f"run {to_run} is about {run['job']} from {run['interval_start']}, not about {job} from {start}"
        )
    _refuse_shadow(run)
    if to_run == seen:
        raise NothingToMoveError(f"readers see run {to_run} already")
    if run["status"] != "superseded" or run["has_table"] is None:
        gone = " and its predictions are gone" if run["has_table"] is None else ""
        raise NothingToMoveError(
            f"run {to_run} is {run['status']}{gone}; readers can go back to a run that was published before"
        )
    return to_run


def _refuse_shadow(run: Row) -> None:
    if run["shadow_of"] is not None:
        version = f"{run['model_name']}/{run['model_version']}"
        raise NothingToMoveError(
            f"run {run['run_id']} is the shadow of run {run['shadow_of']}, and readers never see a shadow; to let "
            f"{version} score what they see: batchpred models promote {version}"
        )


def _point(connection: Connection, move: Move) -> None:
    slot = {"job": move.job, "interval_start": move.interval_start}
    if move.from_run is not None:
        connection.execute(_SQL["set_status"], {"run_id": move.from_run, "status": "superseded"})
    if move.to_run is None:
        connection.execute(_SQL["withdraw"], slot)
    else:
        connection.execute(_LEDGER["point"], {**slot, "run_id": move.to_run})
        connection.execute(_SQL["set_status"], {"run_id": move.to_run, "status": "published"})
