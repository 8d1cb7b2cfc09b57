"""Runs that stopped: which are taken up again, and how their last chunks are taken back."""

from datetime import UTC, date, datetime

import psycopg
import pyarrow as pa
import pytest

from storage import predictions, runs, unfinished
from storage.arrow_copy import copy_in
from storage.job_table import Column, JobTable
from storage.runs import ChunkCounts, Pin, Slot

SLOT = Slot("churn", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 1))
PIN = Pin("churn", 1, "a" * 64, "d" * 64, "CPUExecutionProvider")
JOB = JobTable(
    "churn", "", "snapshot", "day", "UTC", None,
    (Column("shop", "text", "text"), Column("id", "bigint", "integer"), Column("day", "date", "date")),
    (Column("score", "double precision"),),
)  # fmt: skip
DAY = date(2026, 1, 1)
CHUNKS = [[("A", 2, DAY), ("B", 1, DAY)], [("Z", 1, DAY), ("a", 1, DAY)], [("a", 2, DAY), ("é", 1, DAY)]]


@pytest.fixture
def stopped(database, connection):
    """A run of three chunks that stopped, and the claim of the next runner."""
    with runs.claim(database, connection, SLOT) as held:
        run_id = runs.start_run(connection, held, PIN, {}, JOB.as_json())
        predictions.create_run_table(connection, JOB, run_id)
        for number, keys in enumerate(CHUNKS):
            shop, ids, days = zip(*keys, strict=True)
            rows = pa.table({"shop": shop, "id": ids, "day": days, "score": [0.5] * len(keys)})
            copy_in(connection, predictions.run_table(run_id), rows)
            last = {"shop": shop[-1], "id": ids[-1], "day": str(days[-1])}
            bad = [({"id": 9}, "bad", {})]
            runs.add_chunk(
                connection, run_id, number, ChunkCounts(3, 2, 1), bad, rows_sha256="x", last_key=last
            )
    with runs.claim(database, connection, SLOT) as claim:
        yield run_id, claim


def keys_of(connection, run_id):
    rows = connection.execute(
        f'SELECT shop, id, day FROM batchpred_data._run_{run_id} ORDER BY shop COLLATE "C", id'
    )
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_chunks_are_taken_back_in_the_order_of_their_keys(connection, stopped, keep):
    """Rows, quarantine and ledger entries behind the last kept key go; text is compared by its bytes."""
    run_id, claim = stopped
    run = unfinished.take_up(connection, claim, PIN, JOB)
    unfinished.cut_back(connection, JOB, run, keep)
    assert [key for chunk in CHUNKS[:keep] for key in chunk] == keys_of(connection, run_id)
    for table in ("chunks", "quarantine"):
        left = connection.execute(f"SELECT chunk FROM batchpred.{table} ORDER BY chunk").fetchall()
        assert list(range(keep)) == [row["chunk"] for row in left]


@pytest.mark.parametrize(
    ("pin", "job"),
    [
        (Pin("churn", 1, "b" * 64, "d" * 64, "CPUExecutionProvider"), JOB),
        (Pin("churn", 2, "a" * 64, "d" * 64, "CPUExecutionProvider"), JOB),
        (Pin("churn", 1, "a" * 64, "e" * 64, "CPUExecutionProvider"), JOB),
        (Pin("churn", 1, "a" * 64, "d" * 64, "CUDAExecutionProvider"), JOB),
        (PIN, JobTable(**{**vars(JOB), "outputs": (Column("score", "bigint"),)})),
    ],
)
def test_a_run_of_another_model_or_definition_is_not_taken_up(connection, stopped, pin, job):
    """Rows of two models, two queries or two devices are never mixed in one run."""
    assert unfinished.take_up(connection, stopped[1], pin, job) is None


def test_a_run_that_is_taken_up_belongs_to_the_new_holder(connection, stopped):
    """It is running again, under the new fencing number; the one before can close it no more."""
    run_id, claim = stopped
    assert run_id == unfinished.take_up(connection, claim, PIN, JOB).run_id
    row = connection.execute("SELECT status, fence FROM batchpred.runs").fetchone()
    assert {"status": "running", "fence": claim.fence} == row
    before = runs.Claim(claim.database, SLOT, claim.fence - 1)
    before.stop_renewing()
    assert not runs.close_run(connection, before, run_id, "failed", "late")
    assert row == connection.execute("SELECT status, fence FROM batchpred.runs").fetchone()


def test_a_session_frozen_inside_a_copy_is_ended(database, connection, stopped):
    """A runner that stands still in the middle of its rows cannot keep the table from the next one."""
    run_id, claim = stopped
    with database.connect(purpose="frozen", as_writer=True) as frozen:
        copying = frozen.cursor().copy(f"COPY batchpred_data._run_{run_id} (shop, id, day) FROM STDIN")
        stream = copying.__enter__()
        stream.write_row(("x", 1, DAY))
        assert run_id == unfinished.take_up(connection, claim, PIN, JOB).run_id
        with connection.transaction():
            predictions.seal(connection, JOB, run_id)
        with pytest.raises(psycopg.OperationalError):
            copying.__exit__(None, None, None)
