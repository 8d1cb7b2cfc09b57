"""Moves of the pointer by a person: back to an earlier run, and on to one that a check blocked."""

import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pytest

from storage import moves, predictions, runs
from storage.arrow_copy import copy_in
from storage.job_table import Column, JobTable
from storage.moves import NothingToMoveError, UnknownRunError
from storage.runs import ChunkCounts, Pin, Slot

PIN = Pin("churn", 1, "a" * 64, "d" * 64, "CPUExecutionProvider")
STATUSES = "SELECT run_id, status FROM batchpred.runs ORDER BY run_id"


def job(mode):
    key, score = Column("id", "bigint", "integer", "Key"), Column("score", "double precision")
    return JobTable("churn", "", mode, "day", "UTC", None, (key,), (score,))


def slot(day):
    start = datetime(2026, 1, day, tzinfo=UTC)
    return Slot("churn", start, start + timedelta(days=1), start.date())


@pytest.fixture(params=["snapshot", "incremental"])
def mode(request):
    return request.param


@pytest.fixture
def publish(database, connection, mode):
    """Publish rows for a day as a run would, or leave them blocked, and return the run's number."""

    def published(day, rows, *, blocked=False):
        with runs.claim(database, connection, slot(day)) as held:
            run_id = runs.start_run(connection, held, PIN, {"query": "q"}, job(mode).as_json())
            predictions.create_run_table(connection, job(mode), run_id)
            table = pa.table({"id": list(rows), "score": list(rows.values())})
            copy_in(connection, predictions.run_table(run_id), table)
            runs.add_chunk(connection, run_id, 0, ChunkCounts(len(rows), len(rows), 0), [])
            runs.finish_scoring(connection, held, run_id)
            predictions.seal(connection, job(mode), run_id)
            if blocked:
                runs.close_run(connection, held, run_id, "blocked", "too few rows")
                return run_id
            predictions.attach(connection, job(mode), run_id, held.check)
            runs.publish(connection, held, run_id, partial(predictions.show, job=job(mode)))
        return run_id

    return published


def read(connection, view):
    rows = connection.execute(f"SELECT as_of_date, id, score FROM predictions.{view} ORDER BY 1, 2")
    return [(row["as_of_date"].day, row["id"], row["score"]) for row in rows]


def both(connection):
    return read(connection, "churn"), read(connection, "churn_history")


def test_a_rollback_shows_the_run_before_in_current_and_history(publish, connection):
    """Both views go back together, in both modes, and once more for the run before that."""
    first = publish(1, {1: 0.1})
    publish(1, {1: 0.2, 2: 0.2})
    third = publish(1, {1: 0.3})
    moves.rollback(connection, "churn")
    assert ([(1, 1, 0.2), (1, 2, 0.2)],) * 2 == both(connection)
    move = moves.rollback(connection, "churn")
    assert ([(1, 1, 0.1)],) * 2 == both(connection)
    assert (first, slot(1).interval_start) == (move.to_run, move.interval_start)
    moves.rollback(connection, "churn", to_run=third)
    assert ([(1, 1, 0.3)],) * 2 == both(connection)
    statuses = [row["status"] for row in connection.execute(STATUSES)]
    assert ["superseded", "superseded", "published"] == statuses


def test_an_interval_with_one_run_is_withdrawn(publish, connection, mode):
    """Without an earlier run of the interval current falls back to the interval before."""
    publish(1, {1: 0.1})
    publish(2, {1: 0.2})
    assert moves.rollback(connection, "churn").to_run is None
    assert ([(1, 1, 0.1)],) * 2 == both(connection)
    assert moves.is_settled(connection, slot(2)), "a schedule would publish at once what was rolled back"
    publish(2, {1: 0.4})
    current, history = both(connection)
    assert ([(2, 1, 0.4)], [(1, 1, 0.1), (2, 1, 0.4)]) == (current, history)


def test_an_older_interval_can_be_rolled_back(publish, connection, mode):
    """Another interval's pointer moves alone; what newer intervals say stays."""
    publish(1, {1: 0.1, 5: 0.5})
    publish(1, {1: 0.9})
    publish(2, {1: 0.2})
    moves.rollback(connection, "churn", interval_start=slot(1).interval_start)
    current, history = both(connection)
    assert [(1, 1, 0.1), (1, 5, 0.5), (2, 1, 0.2)] == history
    assert ([(2, 1, 0.2)] if mode == "snapshot" else [(1, 5, 0.5), (2, 1, 0.2)]) == current


def test_every_move_is_recorded(publish, connection):
    """Who moved the pointer from where to where, and why, stays in the ledger."""
    first, second = publish(1, {1: 0.1}), publish(1, {1: 0.2})
    moves.rollback(connection, "churn", why="wrong currency")
    rows = connection.execute(
        "SELECT kind, from_run, to_run, why, moved_by ~ ' on ' AS named FROM batchpred.publish_moves"
        " ORDER BY move_id"
    ).fetchall()
    assert [
        ("publish", None, first, None, False),
        ("publish", first, second, None, False),
        ("rollback", second, first, "wrong currency", True),
    ] == [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("mode", ["snapshot"], indirect=True)
def test_what_cannot_be_rolled_back_is_said_and_changes_nothing(publish, connection):
    """An unknown job or run, another job's run, the run readers see, and one never published are refused."""
    seen = publish(1, {1: 0.1})
    blocked = publish(1, {1: 0.2}, blocked=True)
    before = both(connection)
    for error, says, asked in (
        (UnknownRunError, "no job 'chrun' has a run here; did you mean 'churn'", {"job": "chrun"}),
        (UnknownRunError, "there is no run 99", {"job": "churn", "to_run": 99}),
        (UnknownRunError, "is about churn", {"job": "other", "to_run": seen}),
        (NothingToMoveError, "readers see run 1 already", {"job": "churn", "to_run": seen}),
        (NothingToMoveError, "run 2 is blocked; readers can go back", {"job": "churn", "to_run": blocked}),
        (NothingToMoveError, "no run of the interval", {"job": "churn", "interval_start": slot(9).interval_start}),
    ):  # fmt: skip
        with pytest.raises(error, match=says):
            moves.rollback(connection, **asked)
    assert before == both(connection)


def test_a_blocked_run_can_be_published_all_the_same(publish, database, connection):
    """An override attaches and publishes the run and says who and why; also a job's very first run."""
    blocked = publish(1, {1: 0.1}, blocked=True)
    move = moves.publish_blocked(database, connection, blocked, "holiday")
    assert (None, blocked) == (move.from_run, move.to_run)
    assert ([(1, 1, 0.1)],) * 2 == both(connection)
    (record,) = moves.show_run(connection, blocked)["moves"]
    assert ("override", "holiday", True) == (record["kind"], record["why"], " on " in record["moved_by"])
    with pytest.raises(NothingToMoveError, match="is published, not blocked"):
        moves.publish_blocked(database, connection, blocked, "again")


@pytest.mark.parametrize("mode", ["snapshot"], indirect=True)
def test_readers_meet_no_mixed_answer_while_the_pointer_moves(publish, database, connection):
    """During 20 publishes and 20 rollbacks every answer is one run's, and no read fails."""
    publish(1, dict.fromkeys(range(100), 0.0))
    wrong, stop = [], threading.Event()

    def look():
        try:
            with database.connect(purpose="reader") as reader:
                while not stop.is_set():
                    row = reader.execute(
                        "SELECT count(*), min(score) = max(score) AS one FROM predictions.churn"
                    ).fetchone()
                    if row != {"count": 100, "one": True}:
                        wrong.append(row)
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for score in range(1, 21):
        publish(1, dict.fromkeys(range(100), float(score)))
        moves.rollback(connection, "churn")
    stop.set()
    for reader in readers:
        reader.join()
    assert [] == wrong
