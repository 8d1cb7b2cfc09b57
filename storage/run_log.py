"""What happened to a run, event by event, and how a person stops one that is at work.

The events are few and bounded: a trigger writes one whenever a run's status moves, in the transaction that moves
it, and keeps the newest 200 of each run. Chunks and moves of the pointer are read from where they are recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from storage.errors import StorageError
from storage.holder import this_person
from storage.moves import UnknownRunError
from storage.queries import load

if TYPE_CHECKING:
    from storage.database import Connection, Row

_SQL = load("run_log")


class NotRunningError(StorageError):
    """The run is not at work, so there is nothing to stop."""


def events(connection: Connection, run_id: int) -> list[Row]:
    """List what happened to a run, in order: happened_at, event, details. Raises UnknownRunError."""
    _run(connection, run_id)
    return connection.execute(_SQL["events"], {"run_id": run_id}).fetchall()


def cancel(connection: Connection, run_id: int) -> dict[str, Any]:
    """Ask whoever works on a run to stop, and record who asked; return the holder.

    It stops at its next COMMIT, or within ten seconds at its next sign of life. Raises UnknownRunError and
    NotRunningError.
    """
    run = _run(connection, run_id)
    if run["shadow_of"] is not None:
        raise NotRunningError(
            f"run {run_id} is the shadow of run {run['shadow_of']} and ends with it: "
            f"batchpred runs cancel {run['shadow_of']}"
        )
    if run["status"] != "running":
        raise NotRunningError(f"run {run_id} is {run['status']}; only one that is running can be cancelled")
    by = this_person()
    with connection.transaction():
        row = connection.execute(_SQL["cancel"], {**run, "by": by}).fetchone()
        if row is None:
            raise NotRunningError(
                f"nobody is at work on run {run_id}: its runner stopped without a word. The next run of "
                f"{run['job']} takes it up; nothing is to be cancelled"
            )
        connection.execute(
            _SQL["record"], {"run_id": run_id, "event": "cancel", "details": Jsonb({"by": by})}
        )
    holder: dict[str, Any] = row["holder"]
    return holder


def note(connection: Connection, run_id: int, event: str, details: Row) -> None:
    """Write down something that happened to a run beside its status."""
    connection.execute(_SQL["record"], {"run_id": run_id, "event": event, "details": Jsonb(details)})


def _run(connection: Connection, run_id: int) -> Row:
    row = connection.execute(_SQL["run"], {"run_id": run_id}).fetchone()
    if row is None:
        raise UnknownRunError(f"there is no run {run_id}; see: batchpred runs list")
    return row
