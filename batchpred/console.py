"""What people and programs see: results on stdout, the log and the progress bar on stderr."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


@contextmanager
def progress(job: str) -> Iterator[Callable[[int], None]]:
    """Show rows and rows per second of a run while it works, on a terminal; yield what counts rows up."""
    if not err.is_terminal:
        yield _log_progress(job)
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,} rows  {task.fields[rate]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
    with bar:
        task = bar.add_task(job, total=None, rate="")

        def advance(rows: int) -> None:
            bar.advance(task, rows)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{speed:,.0f} rows/s" if speed else "")

        yield advance


def worst_exit_code(codes: list[int]) -> int:
    """Choose the one exit code for several runs: a configuration fault, then a failure, then a block, then held."""
    return next((code for code in (2, 1, 3, 4) if code in codes), 0)


def _log_progress(job: str) -> Callable[[int], None]:
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        logging.getLogger("batchpred.run").info("chunk written", extra={"job": job, "rows_done": done})

    return advance


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
