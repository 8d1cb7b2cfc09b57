"""What is thrown away: predictions nobody can reach or that are past their retention, and keys to be forgotten.

Nobody can reach a run that a later one of its interval has replaced, once SUPERSEDED has passed since (until then
`batchpred rollback` may go back to it); nor one that came to nothing, once a later one was published or STOPPED
has passed (until then the next run may take it up). A blocked run stays until its interval is published
or past its retention. A shadow goes when the run it shadowed is replaced or gone, and SUPERSEDED after it was made
(STOPPED where it came to nothing).

No reader waits. A run that readers still see is first taken from the pointer and dropped by a later call, after
GRACE: statements that began before are done by then. A partition is detached CONCURRENTLY, which lets readers of
the job go on; if it has to wait too long it is left half-way, and the next call finishes it. Behind a pooler,
which lends no session, it is detached in one try that holds readers up for 200 ms at most, or left for the next
call. A slot is claimed before anything of it is dropped, so a runner at work keeps what it has. The ledger's rows
of runs stay.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from storage import events, moves, runs
from storage.errors import StorageError
from storage.predictions import DDL_LOCK_TIMEOUT, run_table
from storage.queries import load
from storage.runs import IntervalHeldError, Slot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.database import Connection, Database, Row

_SQL, _LEDGER = load("garbage"), load("runs")
SUPERSEDED = timedelta(days=30)
STOPPED = timedelta(days=7)
GRACE = timedelta(minutes=10)
TOLD = timedelta(days=90)
_LOCK_TIMEOUT = "5s"
# What stands in the ledger where an error named a key that was forgotten.
FORGOTTEN = "removed by `batchpred forget`: it named the key"


class RunAtWorkError(StorageError):
    """A run of the job is writing: what is forgotten now could come back with its next chunk."""


@dataclass
class Collected:
    """What a call did: runs whose tables were dropped, intervals withdrawn, and runs left for the next call."""

    dropped: list[int] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    left: list[int] = field(default_factory=list)


def collect(
    database: Database,
    connection: Connection,
    retention: Mapping[str, timedelta],
    *,
    grace: timedelta = GRACE,
    superseded: timedelta = SUPERSEDED,
    stopped: timedelta = STOPPED,
) -> Collected:
    """Drop what nobody can reach, what is older than `retention` says for its job, and events long told."""
    collected = Collected()
    events.forget_old(connection, TOLD)
    found = connection.execute(
        _SQL["unreachable"], {"superseded": max(superseded, grace), "stopped": stopped}
    ).fetchall()
    for job, keep in retention.items():
        asked = {"job": job, "keep": keep, "grace": grace}
        found += connection.execute(_SQL["expired_replaced"], asked).fetchall()
        for row in connection.execute(_SQL["expired"], asked).fetchall():
            moves.withdraw(connection, job, row["interval_start"], row["run_id"])
            collected.withdrawn.append(f"{job} {row['interval_start'].isoformat()}")
    for run in {row["run_id"]: row for row in found}.values():
        done = _drop(database, connection, run)
        (collected.dropped if done else collected.left).append(run["run_id"])
    return collected


def forget(database: Database, connection: Connection, job: str, key: Mapping[str, Any]) -> dict[str, int]:
    """Delete a key's predictions of every run of the job, and its rows in quarantine; return how many of each.

    `key` is {column: value}. The next run scores it again if the source still has it. Readers are told, so that
    the read API answers it from memory for a second at most. Errors on record that name the key are replaced by
    FORGOTTEN, whole: nobody can say what else of it they quote. A run whose runner is dead is closed first. Raises
    RunAtWorkError where one is alive, as far as can be told.
    """
    _close_dead_runs(database, connection, job)
    condition = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder()) for name in key
    )
    written = {name: value if isinstance(value, int) else str(value) for name, value in key.items()}
    deleted = 0
    with connection.transaction():
        tables = connection.execute(_SQL["tables_of_job"], {"job": job}).fetchall()
        if any(run["is_at_work"] for run in tables):
            raise RunAtWorkError(
                f"{job}: a run is at work and may hold the key; wait for it, then forget again"
            )
        for run in tables:
            statement = sql.SQL("DELETE FROM {} WHERE {}").format(run_table(run["run_id"]), condition)
            deleted += connection.execute(statement, list(key.values())).rowcount
        named = {"job": job, "key": Jsonb(written)}
        quarantined = connection.execute(_SQL["forget_key_in_quarantine"], named).rowcount
        connection.execute(_SQL["distrust_chunks"], named)
        connection.execute(_SQL["forget_key_in_chunks"], named)
        said = {"job": job, "instead": FORGOTTEN, "named": [_naming(*part) for part in written.items()]}
        for kept in ("runs", "run_events", "attempts", "events"):
            connection.execute(_SQL[f"forget_key_in_{kept}"], said)
        connection.execute(_SQL["note_forgotten"], {"job": job})
        connection.execute(_LEDGER["announce"], {"job": job})
    return {"predictions": deleted, "quarantined": quarantined}


def _naming(column: str, value: int | str) -> str:
    """Return a pattern for texts that name a value of a key's column.

    A text is looked for by itself. A number is one only behind its column's name, as we write it (`id 2`), or in
    PostgreSQL's `(a, id)=(1, 2)`: the 2 of "2 rows" is no key.
    """
    word = rf"{re.escape(str(value))}(?!\w)"
    if isinstance(value, str):
        return rf"(?<!\w){word}"
    return rf"((?<!\w){re.escape(column)}\W{{1,4}}|=\([^)]*(?<!\w)){word}"


def _close_dead_runs(database: Database, connection: Connection, job: str) -> None:
    """Close the runs whose runners are gone, as the next claimer of their intervals would."""
    for run in connection.execute(_SQL["running_of_job"], {"job": job}).fetchall():
        slot = Slot(run["job"], run["interval_start"], run["interval_end"], run["as_of_date"])
        try:
            with runs.claim(database, connection, slot):  # which closes what earlier holders left behind
                pass
        except IntervalHeldError as error:
            raise RunAtWorkError(
                f"run {run['run_id']} may hold the key, so nothing was forgotten: wait for it, or end it with "
                f"`batchpred runs cancel {run['run_id']}`, then forget again ({error})"
            ) from None


def _drop(database: Database, connection: Connection, run: Row) -> bool:
    """Drop one run's table and what else is kept of its rows; False where it must wait."""
    slot = Slot(run["job"], run["interval_start"], run["interval_end"], run["as_of_date"])
    with suppress(IntervalHeldError, psycopg.errors.LockNotAvailable):
        with runs.claim(database, connection, slot) as claim:
            # The claim took time: a person may have moved the pointer to this run meanwhile.
            now = runs.published_run(connection, slot)
            if now is not None and now["run_id"] == run["run_id"]:
                return False
            _detach(connection, run)
            with connection.transaction():
                connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_LOCK_TIMEOUT))
                connection.execute(sql.SQL("DROP TABLE {}").format(run_table(run["run_id"])))
                connection.execute(_SQL["forget_run_quarantine"], {"run_id": run["run_id"]})
                connection.execute(_SQL["forget_run_chunks"], {"run_id": run["run_id"]})
                claim.check(connection)
        return True
    return False


def _detach(connection: Connection, run: Row) -> None:
    table = run_table(run["run_id"])
    found = connection.execute(_SQL["partition"], {"table": table.as_string()}).fetchone()
    if found is None:
        return
    # A detaching that had to wait too long stays half done, until it is finalized.
    how = "FINALIZE" if found["is_pending"] else "" if connection.is_lent else "CONCURRENTLY"
    parent = sql.Identifier("batchpred_data", run["job"])
    statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}").format(parent, table, sql.SQL(how))
    if not connection.is_lent:
        connection.execute(sql.SQL("SET lock_timeout = {}").format(_LOCK_TIMEOUT))
        connection.execute(statement)
        return
    # CONCURRENTLY needs a session's setting and no transaction: a pooler lends only transactions. Without it
    # readers wait as well, so for no longer than for a changed view.
    with connection.transaction():
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(DDL_LOCK_TIMEOUT))
        connection.execute(statement)
