"""The source query: described, bound, and read as Arrow."""

from datetime import UTC, date, datetime

import psycopg
import pyarrow as pa
import pytest

from storage.database import Database
from storage.parameters import bind_named
from storage.query_source import QuerySource
from storage.sources import SourceColumn, SourceError

VALUES = {
    "interval_start": datetime(2026, 1, 1, tzinfo=UTC), "interval_end": datetime(2026, 1, 2, tzinfo=UTC),
    "date": date(2026, 1, 1), "city": "O'Hara; DROP TABLE t; --",
}  # fmt: skip


@pytest.fixture
def source(database):
    def made(sql):
        return QuerySource(database, bind_named(sql, VALUES, where="t.sql"), VALUES, "t.sql")

    return made


def read(source):
    with source.read(source.describe()) as rows:
        return pa.Table.from_batches(list(rows))


def test_columns_are_described_without_reading(source):
    """Names, PostgreSQL types and Arrow types are known beforehand; what no model takes has no Arrow type."""
    described = source(
        "SELECT 1::int AS a, 'x'::varchar AS b, 1.5::numeric AS c, now() AS d, pg_sleep(60) IS NULL AS e"
    ).describe()
    assert (
        SourceColumn("a", "int4", "int32"),
        SourceColumn("b", "varchar", "string"),
        SourceColumn("c", "numeric", "double"),
        SourceColumn("d", "timestamptz", None),
        SourceColumn("e", "bool", "bool"),
    ) == described


def test_every_type_a_model_takes_is_read(source):
    """Integers, floats, numeric, boolean, text, uuid and date arrive as Arrow, NULL and NaN apart."""
    table = read(
        source(
            "SELECT 1::int2 AS a, 2::int4 AS b, 3::int8 AS c, 1.5::float4 AS d, 2.5::float8 AS e,"
            " 1.25::numeric AS f, true AS g,"
            " 'é'::text AS h, 'x'::char(3) AS i, '0a0b0c0d-0000-0000-0000-000000000001'::uuid AS j,"
            " date '2026-02-03' AS k, NULL::float8 AS l, 'NaN'::float8 AS m"
        )
    )
    types = "int16 int32 int64 float double double bool string string string date32[day] double double"
    assert types.split() == [str(field.type) for field in table.schema]
    (row,) = table.to_pylist()
    assert (
        1,
        2,
        3,
        1.5,
        2.5,
        1.25,
        True,
        "é",
        "x",
        "0a0b0c0d-0000-0000-0000-000000000001",
        date(2026, 2, 3),
        None,
    ) == (tuple(row.values())[:12])
    assert row["m"] != row["m"]


def test_values_are_bound_not_pasted(source):
    """A quote in a value is data; casts, percent signs, strings and comments in the query stay as they are."""
    table = read(
        source(
            "SELECT :city AS city, '100%'::text AS p, ':city' AS s, 7 % 4 AS m, :date::text AS d,"
            " :interval_end - :interval_start = interval '1 day' AS day -- :nothing {braces}"
        )
    )
    assert {
        "city": "O'Hara; DROP TABLE t; --", "p": "100%", "s": ":city", "m": 3, "d": "2026-01-01", "day": True,
    } == table.to_pylist()[0]  # fmt: skip


def test_a_percent_sign_stays_one_where_nothing_is_bound(source):
    """A query without parameters keeps its % signs, in operators and in text."""
    assert [{"m": 3, "p": "5%"}] == read(source("SELECT 7 % 4 AS m, '5%' AS p")).to_pylist()


def test_options_in_the_address_are_kept(database):
    """A search_path that the address asks for holds for the description and for the read."""
    with database.connect(purpose="test") as connection:
        connection.execute(
            "CREATE SCHEMA sales; CREATE TABLE sales.t AS SELECT 1 AS a; CREATE TABLE t AS SELECT 2 AS a"
        )
    there = Database.at(f"{database.url}?options=-csearch_path%3Dsales")
    source = QuerySource(there, bind_named("SELECT a FROM t", VALUES, where="t.sql"), VALUES, "t.sql")
    assert (1, [{"a": 1}]) == (source.count(), read(source).to_pylist())


def test_text_arrives_as_utf8_whatever_the_database_keeps(server_url):
    """A LATIN1 database gives the same text as any other."""
    with psycopg.connect(server_url, autocommit=True) as server:
        name = "latin_source"
        server.execute(f"DROP DATABASE IF EXISTS {name}")
        server.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc"
        )
        try:
            there = Database.at(server_url.rsplit("/", 1)[0] + f"/{name}")
            source = QuerySource(
                there, bind_named("SELECT 'K\u00f6ln' AS t", VALUES, where="t.sql"), VALUES, "t.sql"
            )
            assert [{"t": "K\u00f6ln"}] == read(source).to_pylist()
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_many_rows_come_in_batches(source):
    """A large result is streamed in pieces that do not hold it all."""
    query = source("SELECT g AS id, g::text AS t FROM generate_series(1, 300000) AS g")
    with query.read(query.describe()) as rows:
        sizes = [batch.num_rows for batch in rows]
    assert 300_000 == sum(sizes) == query.count()
    assert len(sizes) >= 2


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (
            "SELECT nope FROM generate_series(1, 2) AS g",
            't.sql: PostgreSQL says: column "nope" does not exist',
        ),
        ("SELECT * FROM missing_table", 't.sql: PostgreSQL says: relation "missing_table" does not exist'),
        ("SELECT 1 +", "t.sql: PostgreSQL says: syntax error"),
    ],
)
def test_a_wrong_query_is_one_line(source, sql, says):
    """What PostgreSQL has against a query is said with the file's name."""
    with pytest.raises(SourceError) as caught:
        source(sql).describe()
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_an_error_in_the_middle_is_one_line(source):
    """A row that PostgreSQL itself cannot compute ends the read with its words."""
    with pytest.raises(SourceError, match=r"t.sql: PostgreSQL says: division by zero"):
        read(source("SELECT 1 / (g - 200000) AS x FROM generate_series(1, 300000) AS g"))


def test_a_query_cannot_write(source, database):
    """The source is read in a session that refuses writes."""
    with database.connect(purpose="test") as connection:
        connection.execute("CREATE TABLE t (a int); CREATE FUNCTION w() RETURNS int LANGUAGE sql AS "
                           "'INSERT INTO t VALUES (1) RETURNING a'")  # fmt: skip
    with pytest.raises(SourceError, match="read-only transaction"):
        read(source("SELECT w() AS a"))
