"""How Arrow rows enter PostgreSQL: binary COPY, encoded column-wise, inside the caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.database import Connection


def copy_in(connection: Connection, table: sql.Identifier, rows: pa.Table) -> None:
    """Append rows to a table whose columns have the Arrow columns' names and types.

    int64 goes to bigint, int32 to integer, double to double precision, string to text, bool to boolean,
    date32 to date, timestamp[us, UTC] to timestamptz; lists of float, double and int64 to arrays.
    """
    from pgpq import ArrowToPostgresBinaryEncoder

    names = sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    encoder = ArrowToPostgresBinaryEncoder(rows.schema)
    with connection.cursor().copy(
        sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, names)
    ) as stream:
        stream.write(encoder.write_header())
        for batch in rows.to_batches():
            stream.write(encoder.write_batch(batch))
        stream.write(encoder.finish())
