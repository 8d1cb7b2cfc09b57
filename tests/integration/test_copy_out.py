"""Rows read by binary COPY, held against what PostgreSQL was given."""

import asyncio
import threading
import time
from datetime import date

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from storage import copy_out
from storage.database import Database
from storage.parameters import bind_named
from storage.query_source import QuerySource
from storage.sources import SourceError
from tests.chaos.proxy import Proxy

# PostgreSQL type -> values, and the Arrow type they come as.
WHOLE = {2: "int16", 4: "int32", 8: "int64"}
VALUES = {
    **{
        f"int{n}": (st.integers(-(2 ** (8 * n - 1)), 2 ** (8 * n - 1) - 1), kind) for n, kind in WHOLE.items()
    },
    "float4": (st.floats(width=32), "float"),
    "float8": (st.floats(), "double"),
    "bool": (st.booleans(), "bool"),
    "text": (st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), "string"),
    "date": (st.dates(), "date32"),
}


@st.composite
def tables(draw):
    """Columns of any types, with or without NULL, and rows of them: none, one, or some."""
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    fields = [VALUES[each][0] | st.none() if draw(st.booleans()) else VALUES[each][0] for each in types]
    return types, draw(st.lists(st.tuples(*fields), max_size=9))


def source(database, query):
    return QuerySource(database, bind_named(query, {}, where="q.sql"), {}, "q.sql")


def batches(wanted):
    with wanted.read(wanted.describe()) as rows:
        return list(rows)


def test_rows_arrive_as_they_are(database):
    """Whatever the types and values, NULL, NaN and empty text among them, each comes as itself, in its place."""

    @settings(max_examples=40, deadline=None)
    @given(tables())
    def compare(table):
        types, rows = table
        names = [f"c{n}" for n in range(len(types))]
        columns = ", ".join(f"{name} {each}" for name, each in zip(names, types, strict=True))
        connection.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (n serial, {columns})")
        with connection.cursor().copy(f"COPY t ({', '.join(names)}) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)
        found = batches(source(database, f"SELECT {', '.join(names)} FROM (SELECT * FROM t ORDER BY n) AS s"))
        assert bool(rows) == len(found)
        for batch in found:
            batch.validate(full=True)
            assert [pa.type_for_alias(VALUES[each][1]) for each in types] == batch.schema.types
            for expected, column in zip(zip(*rows, strict=True), batch.columns, strict=True):
                assert [*map(alike, expected)] == [*map(alike, column.to_pylist())]

    with database.connect(purpose="test") as connection:
        compare()


def alike(value):
    """What two values must share to be the same: NaN is the same as NaN, 1 is not true, 0 is not -0."""
    return type(value), repr(value)


def test_blocks_are_whole_rows_and_follow_each_other(database, monkeypatch):
    """Rows of equal length and others, in many blocks, come each once and in order."""
    monkeypatch.setattr(copy_out, "_BLOCK_BYTES", 100_000)
    query = (
        "SELECT g AS id, g::float8 AS x, CASE WHEN g > 50000 AND g % 3 = 0 THEN NULL ELSE g::int4 END AS y"
        " FROM generate_series(1, 100000) AS g"
    )
    parts = batches(source(database, query))
    assert len(parts) > 10
    found = pa.Table.from_batches(parts)
    numbers = list(range(1, 100_001))
    assert numbers == found["id"].to_pylist() == found["x"].to_pylist()
    assert [None if n > 50_000 and n % 3 == 0 else n for n in numbers] == found["y"].to_pylist()


def test_a_row_may_be_larger_than_a_block(database):
    """Texts of megabytes come whole, in blocks of their own."""
    query = "SELECT repeat('ab', 3000000) || g AS t, g FROM generate_series(1, 3) AS g"
    parts = batches(source(database, query))
    assert [f"{'ab' * 3_000_000}{n}" for n in (1, 2, 3)] == pa.Table.from_batches(parts)["t"].to_pylist()


class Halting(Proxy):
    """Holds back for a moment what comes behind the trailer of the rows."""

    async def _downwards(self, link, reader):
        while data := await reader.read(65536):
            rows, trailer, end = data.partition(b"d\0\0\0\x06\xff\xff")
            link.client.write(rows + trailer)
            if trailer:
                await asyncio.sleep(0.2)
                link.client.write(end)


def test_the_trailer_is_no_row(database, monkeypatch):
    """Nor where it arrives alone, ahead of the word that it was the last, and a block is full."""
    monkeypatch.setattr(copy_out, "_BLOCK_BYTES", 1)
    with Halting(database.url, None, "silence") as network:
        there = Database.at(network.address)
        for count in (0, 1, 1000):
            rows = batches(source(there, f"SELECT g FROM generate_series(1, {count}) AS g"))
            assert count == sum(batch.num_rows for batch in rows)


def test_a_date_without_end_is_outside_every_calendar(database):
    """Both infinities stay apart from each other and from dates, so that a key of them is set aside."""
    query = "SELECT unnest(ARRAY['-infinity', '2000-01-01', 'infinity', NULL]::date[]) AS d"
    (batch,) = batches(source(database, query))
    least, day, greatest, nothing = batch["d"].cast(pa.int32()).to_pylist()
    assert (10_957, None) == (day, nothing)
    assert least != greatest
    assert not any(
        date.min.toordinal() <= days + 719_163 <= date.max.toordinal() for days in (least, greatest)
    )


@pytest.mark.parametrize("at", [0, 200_000])
def test_a_session_that_is_ended_is_worth_another_attempt(database, at):
    """An administrator who ends the session before or amid the rows is quoted, and the fault passes."""
    query = source(
        database,
        f"SELECT CASE WHEN g = {at} THEN pg_terminate_backend(pg_backend_pid()) END AS ended,"
        " repeat('x', 100) AS t FROM generate_series(0, 300000) AS g",
    )
    with pytest.raises(SourceError, match="PostgreSQL says: terminating connection due to") as caught:
        batches(query)
    assert caught.value.is_transient


@pytest.mark.parametrize("kind", ["int4", "float8"])
def test_columns_that_changed_meanwhile_are_one_line(database, kind):
    """A column that became another before it is read, of any length, ends the read and is named."""
    with database.connect(purpose="test") as connection:
        connection.execute("CREATE TABLE t AS SELECT 1::int8 AS a")
        query = source(database, "SELECT a FROM t")
        columns = query.describe()
        connection.execute(f"ALTER TABLE t ALTER a TYPE {kind}")
    with pytest.raises(SourceError, match=r"^q\.sql: column a: .* changed since.*; run again$") as caught:
        with query.read(columns) as rows:
            list(rows)
    assert caught.value.exit_code == 1


def test_a_reader_that_waits_holds_up_nobody(database):
    """While rows are waited for other threads run: here the one that lets the rows come."""
    query = source(
        database,
        "SELECT g AS id, CASE WHEN g = 100000 THEN pg_advisory_xact_lock(1) IS NULL END AS waited"
        " FROM generate_series(1, 200000) AS g",
    )
    with database.connect(purpose="test") as holder, database.connect(purpose="test") as other:
        holder.execute("SELECT pg_advisory_lock(1)")

        def let_go():
            waiting = (
                "SELECT count(*) AS n FROM pg_stat_activity"
                " WHERE wait_event = 'advisory' AND datname = current_database()"
            )
            while not other.execute(waiting).fetchone()["n"]:
                time.sleep(0.01)
            holder.execute("SELECT pg_advisory_unlock(1)")

        thread = threading.Thread(target=let_go)
        thread.start()
        assert 200_000 == sum(batch.num_rows for batch in batches(query))
        thread.join()


def test_a_read_is_cancelled_from_another_thread(database):
    """A read that waits for its rows ends when it is told to, and the server stops working for it."""
    query = source(database, "SELECT g AS id, pg_sleep(g)::text AS t FROM generate_series(0, 9999) AS g")
    faults = []

    def reading():
        try:
            list(rows)
        except SourceError as error:
            faults.append(str(error))

    with database.connect(purpose="test") as other, query.read(query.describe()) as rows:
        thread = threading.Thread(target=reading)
        thread.start()
        asleep = (
            "SELECT count(*) AS n FROM pg_stat_activity"
            " WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
        while not other.execute(asleep).fetchone()["n"]:
            time.sleep(0.01)
        rows.cancel()
        thread.join()
        assert 0 == other.execute(asleep).fetchone()["n"]
    assert ["q.sql: PostgreSQL says: canceling statement due to user request"] == faults


def test_a_read_that_is_left_ends_its_session(database):
    """Whoever takes only some rows leaves no session and no lock behind."""
    query = source(database, "SELECT g AS id, repeat('x', 1000) AS t FROM generate_series(1, 100000) AS g")
    with query.read(query.describe()) as rows:
        assert next(iter(rows)).num_rows
    with database.connect(purpose="test") as other:
        reading = (
            "SELECT count(*) AS n FROM pg_stat_activity"
            " WHERE application_name = 'batchpred read' AND datname = current_database()"
        )
        while other.execute(reading).fetchone()["n"]:
            time.sleep(0.01)


NUMBERS = sql.SQL("COPY (SELECT {} FROM generate_series(1, 100000) AS g) TO STDOUT")


def test_text_comes_whole_and_in_order(database, monkeypatch):
    """Rows that are sent as text come each once, in blocks, and the connection is free again."""
    monkeypatch.setattr(copy_out, "_TEXT_BYTES", 10_000)
    with database.connect(purpose="test") as connection:
        for _ in range(2):
            parts = list(copy_out.text(connection, NUMBERS.format(sql.SQL("g"))))
            assert len(parts) > 10
            assert [f"{n}" for n in range(1, 100_001)] == b"".join(parts).decode().split()


def test_text_that_is_left_or_fails_leaves_a_connection_that_works(database):
    """Whoever takes some blocks only, or meets an error amid them, can go on with the same connection."""
    with database.connect(purpose="test") as connection:
        rows = copy_out.text(connection, NUMBERS.format(sql.SQL("repeat('x', 100)")))
        assert next(rows).startswith(b"xxx")
        rows.close()
        with pytest.raises(psycopg.errors.DivisionByZero):
            list(copy_out.text(connection, NUMBERS.format(sql.SQL("1 / (g - 99999)"))))
        assert {"n": 1} == connection.execute("SELECT 1 AS n").fetchone()
