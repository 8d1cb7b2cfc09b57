"""Peers that stay connected and never answer, and peers that only take long."""

import time

import pytest

import jobs.run
from storage import watch
from storage.copy_decode import RowDecoder
from storage.database import Database
from storage.parameters import bind_named
from storage.query_source import QuerySource
from storage.sources import SourceError
from tests.chaos.proxy import Proxy


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Half a second of silence is enough, and a look has half a second."""
    for name, seconds in {"SILENCE": 0.5, "LOOK_EVERY": 0.1, "ANSWER": 0.5}.items():
        monkeypatch.setattr(watch, name, seconds)


def test_a_statement_that_takes_long_is_left_alone(database, monkeypatch):
    """Silence is no fault where the server says that it is at work: it was asked, said so, and the answer comes."""
    before, said, is_at_work = watch.given_up(), [], watch._is_at_work

    def asked(*session):
        said.append((session, is_at_work(*session)))
        return said[-1][1]

    monkeypatch.setattr(watch, "_is_at_work", asked)
    with watch.kept(), database.connect(purpose="test") as connection:
        session = (database, connection.server_pid)
        answer = connection.execute("SELECT 'late' AS answer FROM pg_sleep(2)").fetchall()
    assert [{"answer": "late"}] == answer
    assert {(session, True)} == {(asked[:2], answer) for asked, answer in said}
    assert before == watch.given_up()


def test_a_source_that_takes_long_is_left_alone(database):
    """So it is with a query whose first row comes late, and with a reader who is slow to ask for the next."""
    query = "SELECT 1 AS a FROM pg_sleep(1)"
    source = QuerySource(database, bind_named(query, {}, where="q.sql"), {}, "q.sql")
    with watch.kept(), source.read(source.describe()) as rows:
        batches = iter(rows)
        assert 1 == next(batches).num_rows
        time.sleep(0.8)
        assert [] == list(batches)


def test_a_source_whose_rows_wait_for_us_is_left_alone(database, monkeypatch):
    """A server that cannot send on because the reader is busy is no silent one."""
    # Longer than this process, on a busy machine, may need for the rows that have arrived already.
    monkeypatch.setattr(watch, "SILENCE", 2.0)
    query = "SELECT repeat('x', 1000) AS t FROM generate_series(1, 60000)"
    source = QuerySource(database, bind_named(query, {}, where="q.sql"), {}, "q.sql")
    count = 0
    with watch.kept(), source.read(source.describe()) as rows:
        for batch in rows:
            if not count:
                time.sleep(3)
            count += batch.num_rows
    assert 60_000 == count


def test_a_process_without_time_for_rows_that_came_gives_nobody_up(database, monkeypatch):
    """While what the server sent lies unread it is this process that keeps the other waiting."""
    decode = RowDecoder.decode

    def slowly(decoder, block, sizes):
        batch = decode(decoder, block, sizes)
        if not count:
            time.sleep(2)
        return batch

    monkeypatch.setattr(RowDecoder, "decode", slowly)
    query = "SELECT repeat('x', 1000) AS t FROM generate_series(1, 60000)"
    source = QuerySource(database, bind_named(query, {}, where="q.sql"), {}, "q.sql")
    before, count = watch.given_up(), 0
    with watch.kept(), source.read(source.describe()) as rows:
        for batch in rows:
            count += batch.num_rows
    assert 60_000 == count
    assert before == watch.given_up()


def test_a_run_whose_network_swallows_everything_ends_and_can_be_taken_up(run, database, monkeypatch):
    """It ends as failed with one clear line in a stated time, and the next run goes on where it was."""
    monkeypatch.setattr(jobs.run, "RETRY_DELAYS", ())
    with Proxy(database.url, 7, "silence") as network:
        began = time.monotonic()
        report = run(on=Database.at(network.address))
        seconds = time.monotonic() - began
    assert ("failed", 1, 1) == (report.status, report.exit_code, report.attempts)
    assert "nothing any more, for 0.5 s on a connection that stays open" in report.error
    assert "what is done is kept" in report.error
    assert "\n" not in report.error
    assert seconds < 20
    again = run()
    assert ("published", 5) == (again.status, again.chunks_resumed)


def test_a_source_that_falls_silent_is_given_up(database):
    """A read through a network that swallows everything ends with an error, not never."""
    with Proxy(database.url, None, "silence") as network:
        there = Database.at(network.address)
        query = "SELECT i, pg_sleep(0.001)::text AS s FROM generate_series(1, 100000) AS i"
        source = QuerySource(there, bind_named(query, {}, where="q.sql"), {}, "q.sql")
        with watch.kept(), source.read(source.describe()) as rows:
            network.fall_silent()
            with pytest.raises(SourceError) as caught:
                list(rows)
    assert caught.value.is_transient
