"""How a whole run leaves the database: streamed by COPY, a few rows in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from storage import copy_out, reads
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Generator

    from storage.database import Connection
    from storage.served import ServedJob

_SQL = load("reads")


def allow_time(connection: Connection) -> None:
    """Give this transaction the time an export takes."""
    connection.execute(_SQL["export_long"])


def csv(connection: Connection, job: ServedJob, run_id: int | None) -> Generator[bytes]:
    """Write the rows as CSV with a header; NULL is an empty field, an empty text is quoted."""
    return copy_out.text(connection, reads.compose("export_csv", rows=rows_of(job, run_id)))


def ndjson(connection: Connection, job: ServedJob, run_id: int | None) -> Generator[bytes]:
    """Write the rows as JSON, one flat object a line."""
    return copy_out.text(connection, reads.compose("export_ndjson", rows=rows_of(job, run_id)))


def rows_of(job: ServedJob, run_id: int | None) -> sql.Composed:
    """Select the key, the outputs and run_id of a run, or of what an incremental job shows now."""
    if run_id is None:
        current = reads.current_view(job)
        return reads.compose("export_current", columns=reads.columns(job, as_stored=True), source=current)
    return reads.compose(
        "export",
        columns=reads.columns(job, as_stored=True),
        source=reads.history_view(job),
        run_id=sql.Literal(run_id),
    )
