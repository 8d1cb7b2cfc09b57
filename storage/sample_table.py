"""The demo's source table: made once, filled a day at a time, in a schema of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from storage.arrow_copy import copy_in
from storage.queries import load

if TYPE_CHECKING:
    from datetime import date

    import pyarrow as pa

    from storage.database import Database

_SQL = load("sample_table")
_RIDES = sql.Identifier("batchpred_demo", "rides")


def fill_rides(database: Database, days: dict[date, pa.Table]) -> int:
    """Write the rides of those days (UTC) that the table does not have yet; return how many rows came in."""
    written = 0
    with (
        database.errors("demo rides"),
        database.connect(purpose="demo") as connection,
        connection.transaction(),
    ):
        connection.execute(_SQL["create"])
        for day, rides in days.items():
            row = connection.execute(_SQL["has_day"], {"day": day}).fetchone()
            if row and not row["found"]:
                copy_in(connection, _RIDES, rides)
                written += rides.num_rows
    return written
