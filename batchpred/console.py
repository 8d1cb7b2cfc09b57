"""What people and programs see: results on stdout, the log and the progress bar on stderr."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Rich decides about colour itself: none where the output is no terminal or NO_COLOR is set.
# A table that a program reads is not folded to a terminal's 80 columns.
_WIDE = None if sys.stdout.isatty() else 200
# What is shown is data: a key may hold [brackets] or :names: that Rich would read as markup.
out = Console(highlight=False, markup=False, emoji=False, width=_WIDE)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up_logging(level: str) -> None:
    """Send the log to stderr: plain lines on a terminal, one JSON document a line otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain() if sys.stderr.isatty() else _JsonLines())
    root = logging.getLogger("batchpred")
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(level.upper())
    # A tick that is still at work when the next is due is no news, and its warning is no JSON.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def print_json(document: Any) -> None:
    """Print the result as one JSON document; times are ISO 8601."""
    sys.stdout.write(json.dumps(document, indent=2, default=str, ensure_ascii=False) + "\n")


def print_table(rows: Sequence[dict[str, Any]], title: str | None = None) -> None:
    """Print rows under the names of their columns."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    out.print(table)


def print_error(message: str) -> None:
    """Say on stderr what went wrong, a line a fault, as it is: no markup, no wrapping."""
    for line in message.splitlines():
        err.print(f"error: {line}", soft_wrap=True)


class Counter:
    """Counts a run's rows up, chunk by chunk, on the way to as many as are expected (None: nobody knows)."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.done = 0
        self.expected: int | None = None
        self._began = time.monotonic()

    def expect(self, rows: int) -> None:
        """Take in, as reading begins, how many rows there may be in all; 0 where nobody knows."""
        self.expected = rows or None
        self._began = time.monotonic()

    def __call__(self, rows: int) -> None:
        """Count the rows of a chunk that is committed."""
        self.done += rows
        logging.getLogger("batchpred.run").info("chunk written", extra={"job": self.job, **self.state()})

    @property
    def rate(self) -> float:
        """Rows a second since reading began."""
        return self.done / max(time.monotonic() - self._began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """How long it may still take; None where nobody knows, or more rows came than were expected."""
        if not self.done or self.expected is None or self.done > self.expected:
            return None
        return (self.expected - self.done) / self.rate

    def state(self) -> dict[str, int | float | None]:
        """How far it is, as the log says it."""
        left = self.seconds_left
        return {
            "rows_done": self.done,
            "rows_expected": self.expected,
            "rows_per_second": round(self.rate),
            "seconds_left": None if left is None else round(left, 1),
        }

    def line(self) -> str:
        """How far it is, for a person: rows, rows a second, time left."""
        words = [
            f"{self.done:,} rows"
            if self.expected is None
            else f"{self.done:,} of about {self.expected:,} rows"
        ]
        if self.done:
            words.append(f"{self.rate:,.0f} rows/s")
        if (left := self.seconds_left) is not None:
            words.append(f"about {timedelta(seconds=math.ceil(left))} left")
        return "  ".join(words)


class _Bar(Counter):
    """Counts on a terminal, where it is one line that moves."""

    def __init__(self, job: str, bar: Progress) -> None:
        super().__init__(job)
        self._bar = bar
        self._task = bar.add_task(job, total=None, line="")

    def expect(self, rows: int) -> None:
        super().expect(rows)
        self._bar.update(self._task, total=self.expected, line=self.line())

    def __call__(self, rows: int) -> None:
        self.done += rows
        total = None if self.expected is None or self.done > self.expected else self.expected
        self._bar.update(self._task, completed=self.done, total=total, line=self.line())


@contextmanager
def progress(job: str) -> Iterator[Counter]:
    """Show how far a run is while it works: a bar on a terminal, log lines elsewhere; yield what counts rows."""
    if not err.is_terminal:
        yield Counter(job)
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[line]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
    with bar:
        yield _Bar(job, bar)


def worst_exit_code(codes: list[int]) -> int:
    """Choose the one exit code for several runs: a configuration fault, then a failure, then a block, then held."""
    return next((code for code in (2, 1, 3, 4) if code in codes), 0)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "  ".join(f"{name}={value}" for name, value in _fields(record).items())
        return f"{record.levelname.lower()}: {record.getMessage()}  {fields}".rstrip()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **_fields(record)}
        return json.dumps(line, default=str, ensure_ascii=False)
