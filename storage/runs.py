"""The ledger of runs: who may write for an interval, what has been done, and which run readers see.

A run's status, who moves it, and when:

    running      the holder of the claim reads, scores and writes into a table no reader can see
    published    the pointer of (job, interval) was moved to it, in the transaction that set this status
    superseded   it was published, and the pointer was moved away from it: by a later run, or rolled back
    blocked      a check refused it; readers keep the last good predictions, its table stays for inspection,
                 and a person may publish it all the same
    failed       an error ended it; readers keep the last good predictions. Its table is dropped where its rows
                 or its model were at fault, and stays where the same run may yet succeed
    abandoned    its runner stopped without a word; set by the next one that claims the interval
    complete     of a shadow (`shadow_of` names a run) alone: another model scored that run's rows; readers never
                 see it. A shadow is otherwise running, failed or abandoned, and is never taken up again

    running -> published | blocked | failed | abandoned      published <-> superseded
    failed, abandoned -> running: taken up again by the next claimer, who would make the same run of it
                                  (storage/unfinished.py), under that claimer's number
    blocked -> published: overridden by a person, who says why

A claim on (job, interval) is a lease with a fencing number. The holder renews the lease from a thread of its
own while it works. Whoever finds the lease run out, or the holder's process gone from this same machine,
takes the claim and with it a higher number. Every transaction that writes for a run ends with a look at the
number (`fence`): a runner that lost its claim, because it was frozen or cut off, changes nothing any more.
Claims are rows, not session locks, so a pooler between runner and server does not matter.

What a failure leaves behind, by the moment it strikes:

    before the run is written down   nothing but a claim, which the next claimer takes
    between two chunks               a run with whole chunks in a hidden table: abandoned, then taken up again
    inside a chunk                   the chunk's rows, quarantine and ledger entry commit together or not at all
    before the pointer moves         a complete hidden table that was never published: as above, nothing to score
    in the publishing transaction    all of it or none of it: readers see the old run or the new one
    after COMMIT, before the reply   a published run; the next run finds it and leaves it as it is
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from storage.errors import StorageError
from storage.holder import is_known_dead, this_process
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date, datetime

    from storage.database import Connection, Database, Row

# Long enough that a busy machine renews in time (three tries a lease), short enough that another machine
# takes over from a dead one within half a minute.
LEASE = timedelta(seconds=30)

_SQL = load("runs")


class IntervalHeldError(StorageError):
    """Another run holds the claim of this job's interval."""

    exit_code = 4


class TooManyActiveError(IntervalHeldError):
    """The job has as many runs at work as it may."""


class ClaimLostError(StorageError):
    """This runner's lease ran out and another took the interval over; nothing more was written."""


class RunCancelledError(StorageError):
    """A person asked for the run to stop; what was committed is kept."""


@dataclass(frozen=True)
class Slot:
    """What a claim is about: one job and one interval, with aware timestamps and the local start date."""

    job: str
    interval_start: datetime
    interval_end: datetime
    as_of_date: date

    @property
    def ids(self) -> Row:
        """Its values as the statements name them."""
        return {"job": self.job, "interval_start": self.interval_start}


@dataclass(frozen=True)
class Pin:
    """What a run is pinned to: the model's identity, the definition's digest and the provider that scores.

    `canary_…` are the version of the same model that scores a share of the keys, and that share (0 to 1).
    """

    model_name: str
    model_version: int | None
    model_sha256: str
    definition_sha256: str
    provider: str
    canary_version: int | None = None
    canary_sha256: str | None = None
    canary_share: float | None = None

    def is_of(self, run: Row) -> bool:
        """Tell whether a row of the ledger is of a run that would make the same of the same rows."""
        decisive = ("model_sha256", "definition_sha256", "canary_sha256", "canary_share")
        return all(run[name] == getattr(self, name) for name in decisive)


@dataclass(frozen=True)
class ChunkCounts:
    """Rows of one chunk: read, scored, quarantined."""

    read: int
    scored: int
    quarantined: int


class Claim:
    """The right to write for one slot: a fencing number, kept alive by a renewing thread."""

    def __init__(self, database: Database, slot: Slot, fence: int) -> None:
        self.slot = slot
        self.fence = fence
        self.database = database
        self.on_cancel: Callable[[RunCancelledError], None] = lambda _error: None
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="batchpred-lease", daemon=True)
        self._renewer.start()

    @property
    def ids(self) -> Row:
        """Its values as the statements name them."""
        return {**self.slot.ids, "fence": self.fence}

    def check(self, connection: Connection) -> None:
        """Raise ClaimLostError if another runner holds the slot; call it last in every writing transaction.

        Raises RunCancelledError where a person wants it to stop.
        """
        row = connection.execute(_SQL["fence"], self.ids).fetchone()
        if row is None:
            raise ClaimLostError(
                f"{self.slot.job}: another runner took this interval over while this one did not answer; "
                "this run stops and has published nothing"
            )
        if row["cancelled_by"] is not None:
            raise self._cancelled(row)

    def _cancelled(self, row: Row) -> RunCancelledError:
        return RunCancelledError(
            f"{self.slot.job}: cancelled by {row['cancelled_by']}; what is done is kept, and "
            f"`batchpred run {self.slot.job}` goes on from there"
        )

    def stop_renewing(self) -> None:
        """Let the lease run out from here on."""
        self._done.set()
        self._renewer.join(timeout=5)

    def _renew(self) -> None:
        # The fence decides who may write, so a renewal that fails needs no alarm: either the next one gets
        # through in time, or the run ends at its next write.
        while not self._done.wait(LEASE.total_seconds() / 3):
            with (
                suppress(psycopg.Error, StorageError),
                self.database.connect(purpose="lease", as_writer=True) as connection,
            ):
                row = connection.execute(_SQL["renew"], {**self.ids, "lease": LEASE}).fetchone()
                if row and row["cancelled_by"] is not None:
                    self.on_cancel(self._cancelled(row))


@contextmanager
def claim(
    database: Database, connection: Connection, slot: Slot, *, max_active: int | None = None
) -> Iterator[Claim]:
    """Hold the slot for the length of the block, then give it back.

    Raises IntervalHeldError naming the holder where another runner, alive as far as can be told, has it, and
    TooManyActiveError where `max_active` others work on other intervals of the job.
    Runs that earlier holders left running are marked abandoned.
    """
    holder = connection.execute(_SQL["claim_holder"], slot.ids).fetchone()
    dead_fence = holder["fence"] if holder and _is_gone(slot.job, slot.interval_start, holder) else None
    asked = {**slot.ids, "holder": Jsonb(this_process()), "lease": LEASE, "dead_fence": dead_fence}
    row = None
    try:
        # Whoever keeps the claim's row locked for longer than an open transaction may last is at work.
        with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
            if max_active is not None:
                _check_others(connection, slot, max_active)
            row = connection.execute(_SQL["claim"], asked).fetchone()
            if row:
                # Before the COMMIT: another thread that sees the claim must find it here.
                _held_here.add((slot.job, slot.interval_start, row["fence"]))
                connection.execute(_SQL["abandon"], {**slot.ids, "fence": row["fence"]})
    except BaseException:
        if (
            row
        ):  # it may be committed all the same, the reply lost: then it is nobody's, and the next attempt's
            _held_here.discard((slot.job, slot.interval_start, row["fence"]))
        raise
    if row is None:
        raise IntervalHeldError(_held_by(slot, connection.execute(_SQL["claim_holder"], slot.ids).fetchone()))
    held = Claim(database, slot, row["fence"])
    try:
        yield held
    finally:
        held.stop_renewing()
        _held_here.discard((slot.job, slot.interval_start, held.fence))
        # Should this fail the lease runs out by itself; the error that brought us here is the one to show.
        with suppress(psycopg.Error):
            connection.execute(_SQL["release"], held.ids)


def start_run(
    connection: Connection,
    claim: Claim,
    pin: Pin,
    definition: dict[str, Any],
    job_table: dict[str, Any] | None = None,
    *,
    is_backfill: bool = False,
    shadow_of: int | None = None,
) -> int:
    """Write down a new run under the claim and return its run_id; `job_table` is JobTable.as_json().

    `shadow_of` is the run whose rows it scores with another model.
    """
    slot = claim.slot
    values = {
        **vars(pin),
        **claim.ids,
        "interval_end": slot.interval_end,
        "as_of_date": slot.as_of_date,
        "definition": Jsonb(definition),
        "job_table": None if job_table is None else Jsonb(job_table),
        "runner": this_process()["host"],
        "is_backfill": is_backfill,
        "shadow_of": shadow_of,
    }
    with connection.transaction():
        connection.execute(_SQL["save_definition"], values)
        row = connection.execute(_SQL["start_run"], values).fetchone()
        claim.check(connection)
    assert row is not None  # noqa: S101  # INSERT … RETURNING gives the row
    return int(row["run_id"])


def published_run(connection: Connection, slot: Slot) -> Row | None:
    """Return the run readers see for this slot, or None."""
    return connection.execute(_SQL["published_run"], slot.ids).fetchone()


def previous_published_run(connection: Connection, slot: Slot) -> Row | None:
    """Return the published run of the newest earlier interval, or None."""
    return connection.execute(_SQL["previous_published_run"], slot.ids).fetchone()


def add_chunk(
    connection: Connection,
    run_id: int,
    chunk: int,
    counts: ChunkCounts,
    quarantined: list[tuple[dict[str, Any], str, dict[str, Any]]],
    *,
    rows_sha256: str | None = None,
    last_key: dict[str, Any] | None = None,
    canary: ChunkCounts | None = None,
    drift_counts: dict[str, Any] | None = None,
) -> None:
    """Write a chunk's ledger entry and its quarantined rows: (key, reason, features) each.

    `canary` are those of `counts` that are the canary's, `drift_counts` is what jobs/drift_counts.py counted. Call
    it inside the transaction that writes the chunk's rows. Without the digest of its rows and its last key a chunk
    cannot be told done by a later runner.
    """
    values = {"run_id": run_id, "chunk": chunk}
    rows = {"rows_read": counts.read, "rows_scored": counts.scored, "rows_quarantined": counts.quarantined}
    checked = {"rows_sha256": rows_sha256, "last_key": None if last_key is None else Jsonb(last_key)}
    more = {
        "canary_scored": canary.scored if canary else None,
        "canary_quarantined": canary.quarantined if canary else None,
        "drift_counts": None if drift_counts is None else Jsonb(drift_counts),
    }
    connection.execute(_SQL["add_chunk"], {**values, **rows, **checked, **more})
    if quarantined:
        with connection.cursor() as cursor:
            cursor.executemany(
                _SQL["add_quarantined"],
                [
                    {**values, "key": Jsonb(key), "reason": reason, "features": Jsonb(features)}
                    for key, reason, features in quarantined
                ],
            )


def finish_scoring(connection: Connection, claim: Claim, run_id: int) -> Row:
    """Sum the committed chunks into the run and return it as it now stands. Raises ClaimLostError."""
    with connection.transaction():
        row = connection.execute(_SQL["finish_scoring"], {"run_id": run_id}).fetchone()
        claim.check(connection)
    assert row is not None  # noqa: S101  # the run was written down by start_run
    return row


def quarantine_reasons(connection: Connection, run_id: int) -> list[Row]:
    """List the commonest reasons of a run's quarantined rows: `reason` and `rows`, five at most."""
    return connection.execute(_SQL["quarantine_reasons"], {"run_id": run_id}).fetchall()


def publish(
    connection: Connection,
    claim: Claim,
    run_id: int,
    show: Callable[[Connection], None] = lambda _connection: None,
    *,
    override: tuple[str, str] | None = None,
    tell: Callable[[Connection], None] = lambda _connection: None,
) -> None:
    """Make the run what readers see for its slot: one transaction, all or nothing.

    `show` brings the job's views to its definition, inside that transaction; `tell` records there what is told
    of it, once the pointer has moved. `override` is (why, who) where a person publishes what a check had
    blocked. Raises ClaimLostError, and then nothing has changed.
    """
    why, who = override or (None, None)
    kind = "override" if override else "publish"
    ids = {**claim.ids, "run_id": run_id, "kind": kind, "why": why, "by": who}
    with connection.transaction():
        # A published run must survive a crash of the server, whatever the database's default is: with
        # synchronous_commit off, 7 of 8 "published" runs were lost when PostgreSQL was killed.
        connection.execute("SET LOCAL synchronous_commit = on")
        show(connection)
        for statement in (
            "lock_moves",
            "supersede",
            "record_publish",
            "point",
            "mark_published",
            "announce",
        ):
            connection.execute(_SQL[statement], ids)
        tell(connection)
        claim.check(connection)


def close_run(
    connection: Connection,
    claim: Claim,
    run_id: int,
    status: str,
    error: str | None,
    *,
    tell: Callable[[Connection], object] = lambda _connection: None,
) -> bool:
    """End a run that will not be published; `status` is blocked, failed or abandoned, or for a shadow complete.

    `tell` records in the same transaction what is told of it. False where another runner has taken the run up:
    then it is that one's, and nothing was changed or told.
    """
    values = {"run_id": run_id, "fence": claim.fence, "status": status, "error": error}
    with connection.transaction():
        is_closed = connection.execute(_SQL["close"], values).rowcount == 1
        if is_closed:
            tell(connection)
    return is_closed


# The claims this process holds now. One that is not among them, though the ledger says it is this process's, could
# not be given back because the connection was lost.
_held_here: set[tuple[str, datetime, int]] = set()


def _is_gone(job: str, interval_start: datetime, claim: Row) -> bool:
    """Tell whether the holder of a claim is certainly at work no more."""
    is_own = claim["holder"] == this_process()
    lost = is_own and (job, interval_start, claim["fence"]) not in _held_here
    return is_known_dead(claim["holder"]) or lost


def at_work(connection: Connection, job: str) -> set[datetime]:
    """Return the starts of the intervals of a job that somebody, alive as far as can be told, works on now."""
    rows = connection.execute(_SQL["claims_of_job"], {"job": job})
    return {row["interval_start"] for row in rows if not _is_gone(job, row["interval_start"], row)}


def _check_others(connection: Connection, slot: Slot, most: int) -> None:
    """Raise TooManyActiveError where so many others work on the job; no two claims count at the same time."""
    connection.execute(_SQL["lock_job_claims"], slot.ids)
    others = at_work(connection, slot.job) - {slot.interval_start}
    if len(others) >= most:
        raise TooManyActiveError(
            f"{slot.job}: {len(others)} of its runs are at work already, and its max_active is {most}"
        )


def _held_by(slot: Slot, holder: Row | None) -> str:
    if (
        holder is None or holder["holder"] is None
    ):  # given back between the two looks: as good as free, but say so rather than race on
        return f"{slot.job}: another run has just finished this interval; run again"
    who = holder["holder"]
    until = holder["lease_until"].strftime("%H:%M:%S")
    return (
        f"{slot.job}: this interval is held by process {who['pid']} on {who['host']}, whose lease runs until "
        f"{until} UTC unless renewed; wait for it, or stop it"
    )
