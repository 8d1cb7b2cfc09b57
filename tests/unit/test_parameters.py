"""Which colons of a query are parameters, and what psycopg is given for them."""

from __future__ import annotations

import pytest
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

from storage.errors import ConfigurationError
from storage.parameters import BoundQuery, bind_named

AVAILABLE = ("date", "ids", "interval_end", "interval_start")


@pytest.mark.parametrize(
    ("text", "names", "sql"),
    [
        ("select %(date)s", ("date",), "select :date"),
        ("select %(ids)s::uuid[], %(date)s::date", ("ids", "date"), "select :ids::uuid[], :date::date"),
        ("select %(date)s, %(ids)s, %(date)s", ("date", "ids"), "select :date, :ids, :date"),
        ("select f(%(date)s)", ("date",), "select f(:date)"),
        ("select f(a := 1)", (), "select f(a := 1)"),
        ("select ':date', 'it''s :date'", (), "select ':date', 'it''s :date'"),
        (r"select E'\':date', e'\\' || %(date)s", ("date",), r"select E'\':date', e'\\' || :date"),
        ("select E'a'\n  'b\\':date'", (), "select E'a'\n  'b\\':date'"),
        ('select ":date", "a"":date"', (), 'select ":date", "a"":date"'),
        ("select $$ :date ' $$, %(date)s", ("date",), "select $$ :date ' $$, :date"),
        ("select $a$ :date $$ $b$ $a$", (), "select $a$ :date $$ $b$ $a$"),
        ("select 1 -- :date ' ;\n, %(date)s", ("date",), "select 1 -- :date ' ;\n, :date"),
        ("select /* :date /* ' */ ; */ %(date)s", ("date",), "select /* :date /* ' */ ; */ :date"),
        ("select a[1:2], a[:2], a[i:j]", (), "select a[1:2], a[:2], a[i:j]"),
        (
            "select a ? 'b', a ->> 'c', a #> '{d}', a @> '{}'",
            (),
            "select a ? 'b', a ->> 'c', a #> '{d}', a @> '{}'",
        ),
        ("select 5 %% 2 where a like 'x%%' -- 100%%", (), "select 5 % 2 where a like 'x%' -- 100%"),
        ("select '%%(date)s'", (), "select '%(date)s'"),
        ("select 1", (), "select 1 ;; "),
        ("select ';'", (), "select ';';"),
        ("-- why\nWITH a AS (select 1) TABLE a", (), "-- why\nWITH a AS (select 1) TABLE a"),
        ("(select 1) union (values (2))", (), "(select 1) union (values (2))"),
        ("select größe, x$1 from t", (), "select größe, x$1 from t"),
    ],
)
def test_binding(text, names, sql):
    """Parameters become placeholders in order of first use, every other % is doubled, the rest stays."""
    assert BoundQuery(text, names) == bind_named(sql, AVAILABLE, where="t.sql")


@pytest.mark.parametrize(
    ("expected", "sql"),
    [
        (
            "t.sql:2:10: unknown parameter :intervl_start; did you mean :interval_start?",
            "select 1\nwhere a >:intervl_start",
        ),
        (
            "t.sql:1:8: unknown parameter :x; there are :date, :ids, :interval_end, :interval_start",
            "select :x",
        ),
        ("t.sql:1:8: the ' here is never closed", "select 'a''b"),
        (r"t.sql:1:8: the ' here is never closed", r"select E'a\'"),
        ('t.sql:1:8: the " here is never closed', 'select "a'),
        ("t.sql:1:8: $a$ is never closed", "select $a$ b $$"),
        ("t.sql:1:8: the comment /* here is never closed", "select /* /* */"),
        ("t.sql:1:11: a second statement begins here; a source is one SELECT", "select 1; select 2"),
        (
            "t.sql:1:1: a source is one SELECT (or WITH, VALUES, TABLE), and this begins with 'delete'",
            "delete from t",
        ),
        ("t.sql:1:1: a source is one SELECT (or WITH, VALUES, TABLE), and there is none here", "-- nothing"),
        ("t.sql:1:1: a source is one SELECT (or WITH, VALUES, TABLE), and there is none here", ""),
        ("t.sql:1:9: the ) here closes nothing", "select 1) union (select 2"),
        ("t.sql:1:11: the ] here closes nothing", "select f(1]"),
        ("t.sql:1:9: the ( here is never closed", "select f(1"),
        ("t.sql:1:8: $1 is a positional parameter; give it a name, such as :name", "select $1"),
        ("t.sql:2:1: the query holds a NUL character", "select\n\0"),
    ],
)
def test_refused(expected, sql):
    """What is not one whole query with known parameters is refused, with its place."""
    with pytest.raises(ConfigurationError) as error:
        bind_named(sql, AVAILABLE, where="t.sql")
    assert expected == str(error.value)


def test_declared_and_unused():
    """A parameter that must be used and is not, is refused; in a string it is not used."""
    with pytest.raises(ConfigurationError) as error:
        bind_named("select ':ids', :date", AVAILABLE, ["date", "ids"], where="t.sql")
    assert "t.sql:1:1: the query never uses :ids, which the job file gives in `params`" == str(error.value)


def test_psycopg_reads_it():
    """The driver finds the placeholders, and gives PostgreSQL each % as it was written."""
    bound = bind_named("select :date::date, 5 % 2, '%(date)s', '%s'", AVAILABLE, where="t.sql")
    query = PostgresQuery(Transformer())
    query.convert(bound.text, {"date": "2026-01-01"})
    assert b"select $1::date, 5 % 2, '%(date)s', '%s'" == query.query
