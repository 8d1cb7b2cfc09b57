"""How rows leave PostgreSQL: by COPY over a psycopg connection, in blocks, as binary rows or as text."""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING

from psycopg import errors, generators
from psycopg.pq import ExecStatus

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from psycopg import sql
    from psycopg.pq.abc import PGresult

    from storage.database import Connection

# 16,000 rows of 21 numbers: few enough to be decoded where the processor's own memory holds them.
_BLOCK_BYTES = 4_000_000
# Each goes from one thread to another: 0.28 CPU seconds for a million rows, 0.32 by 64 KiB.
_TEXT_BYTES = 262_144

# The server sends 8 KB at a time. Taken as they come they wake us 15,000 times for a million rows of 21 numbers,
# which costs 0.51 to 0.8 CPU seconds; with this pause before rows are waited for, 1,000 times and 0.43.
_PAUSE = 0.001

# What stands before the first row, in one message with it, and in a message of its own behind the last.
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"


def blocks(connection: Connection, statement: bytes) -> Iterator[tuple[bytearray, list[int]]]:
    """Run `COPY … TO STDOUT (FORMAT binary)` and yield blocks of whole rows: their bytes, and each row's length.

    A block is its receiver's to use up. Where blocks are not taken to the end, the connection has to be closed.
    Raises psycopg.Error.

    Rows are taken from libpq one by one, below psycopg's own iteration, and appended at once. Measured in CPU
    seconds, a million rows of a bigint and 20 float8: so 0.45; kept as a list of rows 1.4, as each is two objects
    for the garbage collector to go through; psycopg's Cursor.copy 2.0; asyncpg 0.85.
    """
    pgconn = connection.pgconn
    pgconn.send_query_params(statement, [])  # which takes one statement and no more
    _check(connection.wait(generators.execute(pgconn)), ExecStatus.COPY_OUT)
    take, receive = pgconn.get_copy_data, pgconn.consume_input
    block, sizes, known = bytearray(), list[int](), 0
    is_first = True
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        while True:
            size, row = take(1)
            if size > 0:
                block += row
                sizes.append(size)
            elif size < 0:
                break
            elif len(block) >= _BLOCK_BYTES and sizes[-1] != len(_TRAILER):  # which may come ahead of the end
                if is_first:
                    _cut_header(block, sizes)
                yield block, sizes
                block, sizes, known = bytearray(), [], 0
                is_first = False
            else:
                if len(sizes) == known:
                    _wait(selector)
                known = len(sizes)
                receive()
    _check(connection.wait(generators.fetch_many(pgconn)), ExecStatus.COMMAND_OK)
    if is_first:
        _cut_header(block, sizes)
    if sizes.pop() != len(_TRAILER):
        raise errors.DataError("the rows end before their trailer")
    if sizes:
        yield block[: -len(_TRAILER)], sizes


def text(connection: Connection, statement: sql.Composed) -> Generator[bytes]:
    """Run `COPY … TO STDOUT` in a form that is text, and yield it as it comes, in blocks of whole rows.

    Blocks need not be taken to the end. Raises psycopg.Error.
    """
    pgconn = connection.pgconn
    # Rows are taken from below psycopg's own iteration, as above: a million of 30 bytes cost the server 0.3 CPU
    # seconds as an export, and 1.0 by it. It still begins, and cancels what is left by whoever goes amid the rows.
    with connection.cursor().copy(statement), selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        take, receive = pgconn.get_copy_data, pgconn.consume_input
        block = bytearray()
        while True:
            size, row = take(1)
            if size > 0:
                block += row
            elif size < 0:
                break
            elif len(block) >= _TEXT_BYTES:
                yield bytes(block)
                block.clear()
            else:
                _wait(selector)
                receive()
        _check(connection.wait(generators.fetch_many(pgconn)), ExecStatus.COMMAND_OK)
    if block:
        yield bytes(block)


def _cut_header(block: bytearray, sizes: list[int]) -> None:
    """Take off what stands before the first row, in one message with it."""
    del block[: len(_HEADER)]
    sizes[0] -= len(_HEADER)


def _wait(selector: selectors.BaseSelector) -> None:
    """Wait for the next bytes, without holding up other threads."""
    if not selector.select(0):
        time.sleep(_PAUSE)
        selector.select()


def _check(results: Sequence[PGresult], wanted: ExecStatus) -> None:
    """Raise what PostgreSQL answered instead of what was wanted."""
    for result in results:
        if result.status != wanted:
            raise errors.error_from_result(result)
