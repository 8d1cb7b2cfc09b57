"""How a whole run leaves the database as Arrow or Parquet: record batches from binary COPY, one at a time."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import conninfo

from storage.export import rows_of
from storage.queries import load

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from storage.database import Connection, Database
    from storage.served import ServedJob

# By the Arrow driver, where a source is read without it (storage/copy_out.py): a million rows of a key and a score
# cost 0.35 CPU seconds either way, but the driver's pass outside the interpreter's lock, and this process answers
# look-ups. It also knows every type a prediction can have, arrays among them.
_BATCH_BYTES = 4_000_000


class _Sink:
    """A file that only collects what is written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        """Take bytes in."""
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def take(self) -> bytes:
        """Give what was written since the last time."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data

    def flush(self) -> None:
        """Have nothing to do."""

    def close(self) -> None:
        """Have nothing to do."""


def arrow(database: Database, connection: Connection, job: ServedJob, run_id: int | None) -> Generator[bytes]:
    """Write the rows as an Arrow IPC stream, read at the moment of the connection's transaction."""
    import pyarrow as pa

    return _written(database, connection, job, run_id, pa.ipc.new_stream)


def parquet(
    database: Database, connection: Connection, job: ServedJob, run_id: int | None
) -> Generator[bytes]:
    """Write the rows as a Parquet file, one row group a batch, read at the moment of the transaction."""
    import pyarrow.parquet as pq

    return _written(database, connection, job, run_id, pq.ParquetWriter)


def _written(
    database: Database, connection: Connection, job: ServedJob, run_id: int | None, make_writer: Any
) -> Generator[bytes]:
    import pyarrow as pa

    sink = _Sink()
    with _batches(database, connection, job, run_id) as batches:
        with make_writer(pa.PythonFile(sink, mode="w"), batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                if data := sink.take():
                    yield data
        yield sink.take()


@contextmanager
def _batches(database: Database, connection: Connection, job: ServedJob, run_id: int | None) -> Iterator[Any]:
    from adbc_driver_postgresql import StatementOptions, dbapi

    moment = connection.execute(load("reads")["export_snapshot"]).fetchone()
    assert moment is not None  # noqa: S101  # a function call gives one row
    address = conninfo.make_conninfo(database.url, application_name="batchpred export")
    with ExitStack() as stack:
        stream = stack.enter_context(dbapi.connect(address, autocommit=True))
        cursor = stack.enter_context(stream.cursor())
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # The snapshot before any query; and all for this transaction alone, since a pooler may stand in between.
        cursor.execute(f"SET TRANSACTION SNAPSHOT '{moment['snapshot']}'")
        cursor.execute("SET LOCAL timezone = 'UTC'")
        cursor.execute("SET LOCAL statement_timeout = '10min'")
        if moment["reader"] == "batchpred_api":
            cursor.execute("SET LOCAL ROLE batchpred_api")
        cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(_BATCH_BYTES)})
        cursor.execute(rows_of(job, run_id).as_string())
        yield cursor.fetch_record_batch()
