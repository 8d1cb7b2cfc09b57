"""The outbox: whom an event is for, and whether it got there. It names targets; addresses and secrets stay outside.

    pending      waits for its next attempt; while one is under way the next is a lease away
    delivered    the receiver said yes
    failed       given up after the last attempt; `batchpred notify deliver` tries again
    superseded   the target only wants to know how things are now, and something newer is known

Whoever is alive and has the job file takes what is due, sends it outside any transaction and says what became of
it. A process that dies in between is followed by another after the lease, so a message arrives at least once, and
its `message_id` is the same each time. Messages to one target set out in order; one that has to wait is overtaken.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from storage.queries import load

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from storage.database import Connection, Row

# Longer than any attempt may take (jobs/deliver.py), so that two processes do not send one message at once.
LEASE = timedelta(minutes=2)

_SQL = load("deliveries")


@dataclass(frozen=True)
class Delivery:
    """An event taken for one target; `attempts` counts this one too."""

    event_id: int
    target: str
    attempts: int
    job: str
    kind: str
    message_id: UUID
    happened_at: datetime
    message: dict[str, Any]

    @property
    def ids(self) -> Row:
        """Its values as the statements name them."""
        return {"event_id": self.event_id, "target": self.target, "attempts": self.attempts}


def due(connection: Connection, known: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """List which of these (job, target) have something due now, the longest waiting first."""
    asked = {"jobs": [job for job, _ in known], "targets": [target for _, target in known]}
    return [(row["job"], row["target"]) for row in connection.execute(_SQL["due"], asked)]


def take(connection: Connection, job: str, target: str, *, only_newest: bool = False) -> Delivery | None:
    """Take the oldest message that is due for a target, or None; `only_newest` first drops what is overtaken."""
    asked = {"job": job, "target": target, "lease": LEASE}
    if only_newest:
        connection.execute(_SQL["supersede"], asked)
    row = connection.execute(_SQL["take"], asked).fetchone()
    return None if row is None else Delivery(**row)


def mark_delivered(connection: Connection, delivery: Delivery) -> None:
    """Say that the receiver has it."""
    connection.execute(_SQL["delivered"], delivery.ids)


def mark_undelivered(connection: Connection, delivery: Delivery, error: str, delay: timedelta | None) -> None:
    """Say why an attempt failed, and after which delay there is another; None gives up."""
    connection.execute(_SQL["undelivered"], {**delivery.ids, "error": error, "delay": delay})


def retry(connection: Connection, jobs: list[str]) -> int:
    """Make everything of these jobs that has not got there due now; return how many."""
    return connection.execute(_SQL["again"], {"jobs": jobs}).rowcount


def list_deliveries(
    connection: Connection, job: str | None = None, *, everything: bool = False, limit: int = 50
) -> list[Row]:
    """List deliveries, the newest event first: those that have not got there, or all."""
    asked = {"job": job, "all": everything, "limit": limit}
    return connection.execute(_SQL["list"], asked).fetchall()
