"""Runs that stopped before they were published, and how the next runner takes one up again.

A run that stopped keeps its table and its chunks. The next holder of the claim takes it up again where it
would make the same run: same model (name, version and digest), same definition, same provider, same columns.
It gets the holder's fencing number with that, so whoever worked on it before can write nothing more; a session
of theirs that still has the table locked, because it froze inside a COPY, is ended.

The chunks that are done are not taken on trust: jobs/resume.py says how they are held against the source.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from storage.predictions import run_table
from storage.queries import load
from storage.runs import ChunkCounts

if TYPE_CHECKING:
    from storage.database import Connection, Database
    from storage.job_table import JobTable
    from storage.runs import Claim, Pin

_SQL = load("unfinished")
# An ended session is gone within milliseconds; one that is not is another user's, and its run is left alone.
_RELEASE_SECONDS = 5.0


@dataclass(frozen=True)
class DoneChunk:
    """A chunk that is committed: its number, what was read, its digest and the last key in it.

    Where drift is judged, also the digest of the reference it was counted against.
    """

    chunk: int
    counts: ChunkCounts
    rows_sha256: str
    last_key: dict[str, Any]
    drift_reference: str | None = None


@dataclass(frozen=True)
class Unfinished:
    """A run that was taken up again: its number, its chunks in order, and whether its table is sealed."""

    run_id: int
    chunks: tuple[DoneChunk, ...]
    is_sealed: bool


def take_up(connection: Connection, claim: Claim, pin: Pin, job: JobTable) -> Unfinished | None:
    """Take up the newest run of the slot that stopped and would make what this one would; None without one.

    Raises ClaimLostError.
    """
    wanted = {**vars(pin), **claim.ids, "job_table": Jsonb(job.as_json())}
    found = connection.execute(_SQL["find"], wanted).fetchone()
    if found is None or not _release(claim.database, found["run_id"]):
        return None
    run = {**claim.ids, "run_id": found["run_id"]}
    with connection.transaction():
        connection.execute(_SQL["take_up"], run)
        claim.check(connection)
    chunks = connection.execute(_SQL["chunks"], run).fetchall()
    return Unfinished(
        found["run_id"],
        tuple(
            DoneChunk(
                row["chunk"],
                ChunkCounts(row["rows_read"], row["rows_scored"], row["rows_quarantined"]),
                row["rows_sha256"],
                row["last_key"],
                row["drift_reference"],
            )
            for row in chunks
        ),
        found["is_sealed"],
    )


def cut_back(connection: Connection, job: JobTable, run: Unfinished, keep: int) -> None:
    """Take back every chunk from number `keep` on: predictions, quarantine and ledger entries.

    Call it inside a transaction that ends with a look at the fence.
    """
    ids = {"run_id": run.run_id, "chunk": keep}
    table = run_table(run.run_id)
    # A chunk all of whose keys name nothing has an empty one, and no predictions either.
    last = next((chunk.last_key for chunk in reversed(run.chunks[:keep]) if chunk.last_key), None)
    if last is None:
        connection.execute(sql.SQL("DELETE FROM {}").format(table))
    else:
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in job.key)
        values = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(str(last[column.name]), _TYPES[column.type]) for column in job.key
        )
        connection.execute(sql.SQL("DELETE FROM {} WHERE ({}) > ({})").format(table, names, values))
    connection.execute(_SQL["forget_quarantine"], ids)
    connection.execute(_SQL["forget_chunks"], ids)


_TYPES = {"bigint": sql.SQL("bigint"), "text": sql.SQL("text"), "date": sql.SQL("date")}


def _release(database: Database, run_id: int) -> bool:
    """End the sessions that still hold the run's table for writing; False where they stay.

    As the user that logged in, not as the writing role: a user may end its own sessions.
    """
    table = {"table": run_table(run_id).as_string()}
    until = time.monotonic() + _RELEASE_SECONDS
    with database.connect(purpose="take over") as connection:
        with suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute(_SQL["end_writers"], table)
        while connection.execute(_SQL["writers"], table).fetchone():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
    return True
