"""What is thrown away, what stays, and that no reader waits for it."""

from datetime import UTC, date, datetime, timedelta
from functools import partial

import pyarrow as pa
import pytest

from storage import events, garbage, moves, predictions, runs
from storage.arrow_copy import copy_in
from storage.garbage import RunAtWorkError
from storage.job_table import Column, JobTable
from storage.runs import ChunkCounts, Pin, Slot

PIN = Pin("churn", 1, "a" * 64, "d" * 64, "CPUExecutionProvider")
JOB = JobTable(
    "churn", "", "snapshot", "day", "UTC", None, (Column("id", "bigint", "integer"),),
    (Column("score", "double precision"),),
)  # fmt: skip
NOW = {"grace": timedelta(0), "superseded": timedelta(0), "stopped": timedelta(days=7)}


def slot(day):
    start = datetime(2026, 1, day, tzinfo=UTC)
    return Slot("churn", start, start + timedelta(days=1), start.date())


@pytest.fixture
def make(database, connection):
    """Bring a run of a day to an end of some kind, and return its number."""

    def made(day, end="published", keys=(1, 2)):
        with runs.claim(database, connection, slot(day)) as held:
            run_id = runs.start_run(connection, held, PIN, {"query": "q"}, JOB.as_json())
            predictions.create_run_table(connection, JOB, run_id)
            table = pa.table({"id": list(keys), "score": [run_id / 100] * len(keys)})
            copy_in(connection, predictions.run_table(run_id), table)
            counts = ChunkCounts(len(keys) + 1, len(keys), 1)
            bad = [({"id": 7}, "bad", {})]
            runs.add_chunk(connection, run_id, 0, counts, bad, rows_sha256="x", last_key={"id": keys[-1]})
            if end == "published":
                predictions.seal(connection, JOB, run_id)
                predictions.attach(connection, JOB, run_id, held.check)
                runs.publish(connection, held, run_id, partial(predictions.show, job=JOB))
            elif end != "running":
                runs.close_run(connection, held, run_id, end, "x")
        return run_id

    return made


def tables(connection):
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relname ~ '^_run_[0-9]+$' AND relkind = 'r' ORDER BY relname"
    )
    return [int(row["relname"].removeprefix("_run_")) for row in rows]


def test_only_what_nobody_can_reach_is_dropped(make, database, connection):
    """Replaced, failed and blocked runs of a published interval go; what may be needed yet stays."""
    gone = [make(1, end) for end in ("published", "failed", "abandoned", "blocked")]
    stay = [make(1), make(2), make(3, "failed"), make(4, "blocked"), make(5, "running")]
    collected = garbage.collect(database, connection, {}, **NOW)
    assert (gone, [], []) == (collected.dropped, collected.withdrawn, collected.left)
    assert stay == tables(connection)
    kept = connection.execute("SELECT DISTINCT run_id FROM batchpred.quarantine ORDER BY 1").fetchall()
    assert stay == [row["run_id"] for row in kept]
    assert 9 == len(moves.list_runs(connection, "churn"))


def test_a_replaced_run_can_be_gone_back_to_for_thirty_days(make, database, connection):
    """Until its time is over gc leaves what a rollback may want."""
    first = make(1)
    make(1)
    assert [] == garbage.collect(database, connection, {}).dropped
    assert first == moves.rollback(connection, "churn").to_run


def test_retention_takes_old_intervals_from_readers_and_then_from_the_disk(make, database, connection):
    """What is past its retention is withdrawn by one call and dropped by a later one; the newest stays."""
    today = datetime.now(UTC).date()
    old, new = make(1), make(2)
    keep = {"churn": (today - date(2026, 1, 2)) - timedelta(hours=1)}
    first = garbage.collect(database, connection, keep, grace=timedelta(hours=1))
    assert (["churn 2026-01-01T00:00:00+00:00"], []) == (first.withdrawn, first.dropped)
    seen = connection.execute("SELECT DISTINCT run_id FROM predictions.churn_history").fetchall()
    assert [{"run_id": new}] == seen
    assert [] == garbage.collect(database, connection, keep, grace=timedelta(hours=1)).dropped
    assert [old] == garbage.collect(database, connection, keep, grace=timedelta(0)).dropped
    assert moves.is_settled(connection, slot(1)), "a schedule would score anew what was dropped"


def test_a_blocked_run_is_not_kept_past_its_retention(make, database, connection):
    """Predictions that no reader ever saw are kept no longer than those that they did see."""
    blocked, _, newer = make(1, "blocked"), make(2), make(3, "blocked")
    keep = {"churn": (datetime.now(UTC).date() - date(2026, 1, 2)) - timedelta(hours=1)}
    assert [blocked] == garbage.collect(database, connection, keep).dropped
    assert newer in tables(connection)


def test_no_reader_waits_and_an_open_one_is_waited_for(make, database, connection, monkeypatch):
    """An open transaction keeps the table for this call; others read on, and the next call finishes."""
    old, new = make(1), make(1)
    with database.connect(purpose="open") as opened, database.connect(purpose="reader") as reader:
        opened.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        opened.execute("SELECT * FROM predictions.churn")
        monkeypatch.setattr(garbage, "_LOCK_TIMEOUT", "200ms")
        assert [old] == garbage.collect(database, connection, {}, **NOW).left
        reader.execute("SET statement_timeout = '1s'")
        assert 2 == len(reader.execute("SELECT * FROM predictions.churn").fetchall())
        assert 2 == len(opened.execute("SELECT * FROM predictions.churn").fetchall())
        opened.execute("COMMIT")
    assert [old] == garbage.collect(database, connection, {}, **NOW).dropped
    assert [new] == tables(connection)


def test_a_run_at_work_loses_nothing(make, database, connection):
    """Of an interval that is claimed nothing is dropped."""
    old, _ = make(1), make(1)
    with database.connect(purpose="other", as_writer=True) as other, runs.claim(database, other, slot(1)):
        assert [old] == garbage.collect(database, connection, {}, **NOW).left


def test_a_key_is_forgotten_everywhere(make, database, connection):
    """Every run's rows of the key go, published or not, and its rows in quarantine; other keys stay."""
    for end in ("published", "blocked", "failed"):
        make(1, end)
    make(2)
    assert {"predictions": 4, "quarantined": 0} == garbage.forget(database, connection, "churn", {"id": 2})
    assert {"predictions": 0, "quarantined": 4} == garbage.forget(database, connection, "churn", {"id": 7})
    rows = connection.execute("SELECT id FROM predictions.churn_history").fetchall()
    assert [{"id": 1}] * 2 == rows
    trusted = connection.execute(
        "SELECT status FROM batchpred.chunks JOIN batchpred.runs USING (run_id) WHERE rows_sha256 IS NOT NULL"
    ).fetchall()
    assert "failed" not in [row["status"] for row in trusted]


def test_nothing_is_forgotten_under_a_run_at_work(make, database, connection):
    """A run that is writing could bring the key back: the command says so instead of half doing it."""
    make(1)
    make(2, "running")
    with (
        database.connect(purpose="other", as_writer=True) as other,
        runs.claim(database, other, slot(2)) as held,
    ):
        at_work = runs.start_run(other, held, PIN, {"query": "q"}, JOB.as_json())
        with pytest.raises(
            RunAtWorkError, match=f"wait for it, or end it with `batchpred runs cancel {at_work}`"
        ):
            garbage.forget(database, connection, "churn", {"id": 2})
    assert 2 == connection.execute("SELECT count(*) AS rows FROM predictions.churn").fetchone()["rows"]


def test_a_dead_run_does_not_keep_a_key(make, database, connection):
    """Nobody writes for a run whose claim is free: it is closed, its rows of the key go, and it is not taken up."""
    dead = make(2, "running")
    assert {"predictions": 1, "quarantined": 0} == garbage.forget(database, connection, "churn", {"id": 2})
    row = connection.execute("SELECT status, error FROM batchpred.runs WHERE run_id = %s", [dead]).fetchone()
    assert ("abandoned", "its runner stopped without finishing") == (row["status"], row["error"])
    assert [{"rows_sha256": None}] == connection.execute(
        "SELECT rows_sha256 FROM batchpred.chunks"
    ).fetchall()


def test_no_error_and_no_chunk_names_a_forgotten_key(make, database, connection):
    """What quotes the key is replaced whole wherever it is kept, and a chunk does not say that it ended there."""
    twice = "churn: a key stands there more than once: id 2 (3 rows)"
    other = "churn: 2 of 20 rows, and id 20 (2 rows)"
    blocked, failed = make(1, "blocked"), make(1, "failed", keys=(1, 20))
    connection.execute("UPDATE batchpred.runs SET error = %s WHERE run_id = %s", [twice, blocked])
    connection.execute("UPDATE batchpred.runs SET error = %s WHERE run_id = %s", [other, failed])
    connection.execute(
        "UPDATE batchpred.run_events SET details = jsonb_build_object('error', runs.error)"
        " FROM batchpred.runs WHERE runs.run_id = run_events.run_id AND event IN ('blocked', 'failed')"
    )
    connection.execute(
        "INSERT INTO batchpred.attempts (job, interval_start, error) VALUES ('churn', %s, %s)",
        [slot(1).interval_start, "Key (id)=(2) already exists."],
    )
    for kind, error in (("blocked", twice), ("failed", other)):
        told = {"job": "churn", "interval_start": slot(1).interval_start}
        assert events.record(connection, kind, told, {"error": error}, [])
    garbage.forget(database, connection, "churn", {"id": 2})
    for kept in (
        "SELECT error FROM batchpred.runs ORDER BY run_id",
        "SELECT details ->> 'error' AS error FROM batchpred.run_events WHERE details ? 'error' ORDER BY run_id",
        "SELECT message ->> 'error' AS error FROM batchpred.events ORDER BY event_id",
    ):
        assert [garbage.FORGOTTEN, other] == [row["error"] for row in connection.execute(kept)]
    assert [garbage.FORGOTTEN] == [
        row["error"] for row in connection.execute("SELECT error FROM batchpred.attempts")
    ]
    chunks = connection.execute("SELECT last_key FROM batchpred.chunks ORDER BY run_id").fetchall()
    assert [None, {"id": 20}] == [row["last_key"] for row in chunks]


@pytest.mark.parametrize(
    ("key", "error", "is_named"),
    [
        ({"name": "Anna (7)"}, "two rows of Anna (7), once each", True),
        ({"name": "Ann"}, "two rows of Anna, once each", False),
        ({"a": 1, "b": "x"}, "Key (a, b)=(1, x) is there already", True),
        ({"a": 1, "b": "y"}, "Key (a, b)=(1, x) is there already", False),
    ],
)
def test_a_text_is_told_by_itself_and_a_number_by_its_column(connection, key, error, is_named):
    """Every part of the key must be named for an error to count."""
    named = [garbage._naming(*part) for part in key.items()]
    (found,) = connection.execute("SELECT %s ~ ALL (%s::text[]) AS found", [error, named]).fetchall()
    assert is_named == found["found"]
