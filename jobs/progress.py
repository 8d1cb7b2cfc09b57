"""How far a run has come: rows as they are committed, and how many there may be in all."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage import runs
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.plan import Plan
    from storage.database import Connection
    from storage.unfinished import Unfinished


@dataclass(frozen=True)
class Progress:
    """Whom to tell of each committed chunk's rows, and as reading begins of the rows expected, 0 if unknown."""

    on_rows: Callable[[int], None]
    on_expected: Callable[[int], None]

    def begin(self, connection: Connection, plan: Plan, stopped: Unfinished | None) -> None:
        """Say how many rows may come: as many as the interval before had, else what the source estimates.

        Counting them would read the source twice. What a resumed run has already is taken off.
        """
        before = runs.previous_published_run(connection, plan.slot)
        rows: int | None = None
        with suppress(StorageError):  # what is wrong with the source is said where it is read
            rows = int(before["rows_read"]) if before else plan.source.estimate()
        done = sum(chunk.counts.read for chunk in stopped.chunks) if stopped else 0
        self.on_expected(max((rows or 0) - done, 0))
