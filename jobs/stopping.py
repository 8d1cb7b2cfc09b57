"""How a run is asked to stop before its end: by its deadline, by a person, or by a scheduler that is stopping.

Whoever asks leaves the error that says why. The run hears of it between two chunks, while it waits for rows, and
before it publishes; a chunk that is being written is committed first. What is committed is kept, and the next run
of the interval goes on from there.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from storage.database import Connection


class RunStoppedError(BatchpredError):
    """The run was asked to stop; what was committed is kept."""


class DeadlineError(RunStoppedError):
    """The run took longer than it may."""

    is_transient = True


class HandedOverError(RunStoppedError):
    """The scheduler or backfill that made the run is stopping; the next one goes on with it."""

    exit_code = 130


class Stop:
    """The word to stop, for one run: asked once, by any thread."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._asked = threading.Event()
        self._listeners: list[Callable[[BaseException], None]] = []
        # Entered again by a signal's handler, which may strike while the main thread is inside.
        self._lock = threading.RLock()

    def ask(self, error: BaseException) -> None:
        """Ask the run to stop because of this error; only the first one counts."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            self._asked.set()
            listeners = list(self._listeners)
        for tell in listeners:
            tell(error)

    def check(self) -> None:
        """Raise the error, if the run was asked to stop."""
        if self._error is not None:
            raise self._error

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the run is asked to stop; then raise the error."""
        self._asked.wait(seconds)
        self.check()

    @contextmanager
    def told_to(self, tell: Callable[[BaseException], None]) -> Iterator[None]:
        """Call `tell` with the error when the run is asked to stop, also if that was before."""
        with self._lock:
            self._listeners.append(tell)
            error = self._error
        try:
            if error is not None:
                tell(error)
            yield
        finally:
            with self._lock:
                self._listeners.remove(tell)

    @contextmanager
    def after(self, limit: timedelta | None, job: str) -> Iterator[None]:
        """Ask the run to stop once it has taken so long."""
        if limit is None:
            yield
            return
        error = DeadlineError(
            f"{job}: stopped at its deadline of {limit}; what is done is kept, and the next run goes on from there"
        )
        timer = threading.Timer(limit.total_seconds(), self.ask, [error])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@dataclass(frozen=True)
class Terms:
    """On which terms a run is made, beyond its job and interval.

    `is_wanted` is asked once the interval is claimed: where another process has done the work meanwhile, the run is
    `unchanged`. `max_active` is how many runs of the job there may be at once; None for a person's own run.
    """

    is_wanted: Callable[[Connection], bool] = lambda _connection: True
    max_active: int | None = None
    deadline: timedelta | None = None
    is_backfill: bool = False
    stop: Stop = field(default_factory=Stop)
