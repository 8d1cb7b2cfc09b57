"""Gathered look-ups: what one connection to the database is asked."""

import asyncio
import time

import psycopg
import pytest

from storage import lookups, served
from storage.database import Database, DatabaseError, DatabaseUnreachableError
from storage.lane import Lane
from storage.lookups import Lookups, Target
from storage.pointers import Pointer


async def ask_lane(lane, statement, *values):
    """Ask a lane and wait for the rows, or raise the error."""
    done = asyncio.get_running_loop().create_future()
    lane.ask(statement, values, done.set_result)
    outcome = await done
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def on_a_lane(database, work):
    """Do some work on a lane of its own."""

    async def do():
        lane = Lane(await database.reader(purpose="test", statement_timeout_ms=5_000))
        try:
            return await work(lane)
        finally:
            lane.close()

    return asyncio.run(do())


async def look_up(found, target, key):
    """Look one key up: its row, or the error."""
    done = asyncio.get_running_loop().create_future()
    found.find(target, (key,), done.set_result)
    return await done


@pytest.fixture
def target(database, publish_rows, make_job):
    """A published run of three keys."""
    publish_rows(make_job(), 5, {"id": [1, 2, 3], "score": [0.1, 0.2, 0.3]})
    with database.connect(purpose="test") as connection:
        job = served.find_job(connection, "churn")
        return Target(Pointer(job, served.newest_run(connection, job)))


def test_a_statement_is_planned_once_for_a_connection(database, target):
    """Look-ups of one run are prepared: one parse and one generic plan, however many keys are asked for."""

    async def ask():
        asked = Lookups(database)
        found = [await look_up(asked, target, key) for key in (1, 2, 3, 4, 1, 2)]
        lanes = [lane for lane in asked._idle if lane is not None]
        rows = []
        for lane in lanes:
            rows += await ask_lane(
                lane,
                b"SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE $1",
                "%served_runs%",
            )
        await asked.close()
        return found, rows

    found, rows = asyncio.run(ask())
    assert [0.1, 0.2, 0.3, None, 0.1, 0.2] == [row and row[1] for row in found]
    assert [(6, 0)] == rows


@pytest.mark.parametrize("few", [1, 8])
def test_who_waits_is_answered_amid_a_turn_of_the_loop(database, target, monkeypatch, few):
    """A row that came while the loop was busy is handed over at the next look, once, and who waits behind it goes
    on its way: at once where it is not among few, else at the end of the turn.
    """  # noqa: D205  # one sentence
    monkeypatch.setattr(lookups, "LANES", 1)
    monkeypatch.setattr(lookups, "FEW_KEYS", few)

    async def ask():
        asked, told, behind = Lookups(database), [], []
        await look_up(asked, target, 1)  # now the lane is open
        asked.find(target, (2,), told.append)
        await asyncio.sleep(0)
        asked.find(target, (3,), behind.append)
        until = time.monotonic() + 10
        while not told and time.monotonic() < until:  # nothing is awaited here, so the loop does nothing
            asked.attend(time.monotonic())
        amid = list(told), asked._waiting
        async with asyncio.timeout(10):
            while not behind:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.001)
        await asked.close()
        return amid, told, behind

    (amid, waiting), told, behind = asyncio.run(ask())
    assert [(2, 0.2)] == [row[:2] for row in amid] == [row[:2] for row in told]
    assert (few == 8, [(3, 0.3)]) == (waiting == 1, [row[:2] for row in behind])


def test_more_than_a_socket_holds_is_sent(database):
    """What the kernel does not take at once is sent as it does: 16 MB of keys come back whole."""
    texts = [f"{n:04}" * 1_000 for n in range(4_000)]
    rows = on_a_lane(database, lambda lane: ask_lane(lane, b"SELECT unnest($1::text[])", texts))
    assert texts == [text for (text,) in rows]


def test_more_statements_than_it_remembers(database):
    """A lane that is asked for run after run forgets the statements of the first ones, and answers on."""

    async def many(lane):
        rows = [(await ask_lane(lane, b"SELECT %d" % n))[0][0] for n in (*range(150), 0)]
        (count,) = (await ask_lane(lane, b"SELECT count(*) FROM pg_prepared_statements"))[0]
        return rows, count

    rows, count = on_a_lane(database, many)
    assert [*range(150), 0] == rows
    assert count < 100


def test_after_an_error_it_is_closed(database):
    """An error of PostgreSQL, or the session's end, is given to the asker and closes the lane."""

    async def refused(lane):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await ask_lane(lane, b"SELECT 1 / $1::int", "0")
        return lane.is_open

    async def ended(lane):
        await ask_lane(lane, b"RESET ROLE")
        with pytest.raises(psycopg.OperationalError):
            await ask_lane(lane, b"SELECT pg_terminate_backend(pg_backend_pid())")
        return lane.is_open

    assert [False, False] == [on_a_lane(database, each) for each in (refused, ended)]


def test_an_idle_lane_that_ended_is_opened_anew(database, target):
    """A session that the server ended while nobody asked costs nobody an error."""

    async def ask():
        found = Lookups(database)
        rows = [await look_up(found, target, 1)]
        with database.connect(purpose="test") as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'batchpred api look-ups' AND datname = current_database()"
            )
        while any(lane and lane.is_open for lane in found._idle):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
        rows.append(await look_up(found, target, 2))
        await found.close()
        return rows

    assert [0.1, 0.2] == [row[1] for row in asyncio.run(ask())]


def test_a_silent_database_is_given_up(database, connection, target, monkeypatch):
    """Who waits for a database that says nothing is told so; the next one is answered on another lane."""
    monkeypatch.setattr(lookups, "SILENT_SECONDS", 0.2)

    async def ask():
        found = Lookups(database)
        with connection.transaction():
            connection.execute("LOCK batchpred.runs IN ACCESS EXCLUSIVE MODE")
            told = await look_up(found, target, 1)
        monkeypatch.setattr(lookups, "SILENT_SECONDS", 5.0)
        row = await look_up(found, target, 1)
        await found.close()
        return told, row

    told, row = asyncio.run(ask())
    assert isinstance(told, DatabaseUnreachableError)
    assert 0.1 == row[1]


def test_whoever_asks_is_answered_whatever_goes_wrong(database, target, caplog):
    """An answer that cannot be given, and a connection that cannot be opened, are errors and not silence."""

    class Odd(Database):
        async def reader(self, **_):
            raise RuntimeError("odd")

    async def ask():
        told = asyncio.get_running_loop().create_future()

        def spoilt(outcome):
            if not isinstance(outcome, Exception):
                raise TypeError("no JSON for that")
            told.set_result(outcome)

        right, wrong = Lookups(database), Lookups(Odd(database.url))
        right.find(target, (1,), spoilt)
        row = await look_up(right, target, 1)
        async with asyncio.timeout(20):
            outcomes = [await told, *[await look_up(wrong, target, key) for key in range(lookups.LANES + 1)]]
        await right.close()
        await wrong.close()
        return row, outcomes

    row, outcomes = asyncio.run(ask())
    assert 0.1 == row[1]
    assert [DatabaseError, *[DatabaseUnreachableError] * (lookups.LANES + 1)] == [*map(type, outcomes)]
    assert "no JSON for that" in caplog.text
    assert "odd" in caplog.text
