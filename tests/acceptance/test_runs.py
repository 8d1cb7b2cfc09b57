"""Runs as the ledger and the readers see them: keys, modes, checks, quarantine, crashes, two at once."""

import json
import signal
import time
from contextlib import contextmanager
from datetime import UTC, date, datetime

import psycopg
import pytest
from onnx import TensorProto, helper

from tests.pushed import push_model

JOB = """\
version: 1
name: {name}
interval: day
source: {{query_file: {name}.sql}}
key: [{key}]
model: double@champion
output: {{columns: {{score: doubled}}, mode: {mode}}}
chunk_rows: {chunk_rows}
checks: {checks}
"""


@pytest.fixture
def project(batchpred, database):
    """A model that doubles x, and a way to write jobs over a table t of the test's own."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["doubled"])], "double",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 1])],
        [helper.make_tensor_value_info("doubled", TensorProto.DOUBLE, ["N", 1])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    push_model(database, "double", model.SerializeToString())

    def job(table, query, *, name="j", key="id", mode="snapshot", chunk_rows=100_000, checks="{}"):
        with database.connect(purpose="test") as connection:
            connection.execute(table)
        batchpred.write(f"{name}.sql", query)
        batchpred.write(
            f"{name}.job.yaml",
            JOB.format(name=name, key=key, mode=mode, chunk_rows=chunk_rows, checks=checks),
        )
        return batchpred

    return job


def rows(database, view="j", columns="*"):
    with database.connect(purpose="test") as connection:
        return [
            tuple(row.values())
            for row in connection.execute(f"SELECT {columns} FROM predictions.{view} ORDER BY 1")
        ]


BOUNDED = "at >= :interval_start AND at < :interval_end"
TEN = (
    "CREATE TABLE t AS SELECT g::bigint AS id, timestamptz '2026-01-01 12:00+00' AS at, g::float8 AS x"
    " FROM generate_series(1, 10) AS g"
)


KEYS = {
    "integer": ("g::int", "2", 2),
    "bigint": ("(g - 9007199254740995)::bigint", "-9007199254740993", -9007199254740993),
    "text": ("'k ' || g || '/ü\"'", 'k 2/ü"', 'k 2/ü"'),
    "uuid": ("('0a0b0c0d-0000-0000-0000-00000000000' || g)::uuid", "0A0B0C0D-0000-0000-0000-000000000002",
             "0a0b0c0d-0000-0000-0000-000000000002"),
    "date": ("date '2026-01-01' + g", "2026-01-03", date(2026, 1, 3)),
}  # fmt: skip


def test_every_kind_of_key(project, database):
    """Integer, text, uuid and date keys are published, typed, and found again by what a person writes."""
    for kind, (expression, _, _) in KEYS.items():
        table = (
            f"CREATE TABLE t_{kind} AS SELECT {expression} AS id, g::float8 AS x FROM generate_series(1, 3) g"
        )
        batchpred = project(table, f"SELECT id, x FROM t_{kind} WHERE :date IS NOT NULL", name=f"by_{kind}")
    batchpred("run", "--date", "2026-01-01", check=True)
    for kind, (_, written, value) in KEYS.items():
        published = rows(database, f"by_{kind}", "id, score")
        assert [value] == [key for key, score in published if score == 4.0], kind
        found = batchpred.call("get", f"by_{kind}", "--json", "--", written, check=True).json
        assert 4.0 == found["score"], kind
        assert 2 == batchpred.call("get", f"by_{kind}", "a", "b").code, kind
    assert 4.0 == batchpred("get", "by_bigint", "--json", "--", "-9007199254740993", check=True).json["score"]


def test_a_composite_key(project, database):
    """A key of several columns is one key: found by all its parts, in order."""
    table = (
        "CREATE TABLE t AS SELECT g::int AS shop, 'p' || h AS product, (10 * g + h)::float8 AS x"
        " FROM generate_series(1, 2) AS g, generate_series(1, 2) AS h"
    )
    batchpred = project(table, "SELECT * FROM t WHERE :date IS NOT NULL", key="shop, product")
    batchpred("run", "--date", "2026-01-01", check=True)
    assert 4 == len(rows(database))
    assert 42.0 == batchpred.call("get", "j", "2", "p1", "--json", check=True).json["score"]
    assert 2 == batchpred.call("get", "j", "2").code


def test_an_old_interval_never_hides_a_newer_prediction(project, database):
    """A backfill of an older day leaves current as it is, in both modes, and appears in history."""
    table = (
        "CREATE TABLE t AS SELECT g::bigint AS id, d AS at, g + extract(day FROM d)::float8 AS x"
        " FROM generate_series(1, 2) AS g, generate_series(timestamptz '2026-01-01', '2026-01-02', '1 day') AS d"
    )
    for name, mode in (("whole", "snapshot"), ("each", "incremental")):
        batchpred = project(table.replace("CREATE TABLE t", "CREATE TABLE IF NOT EXISTS t"),
                            f"SELECT id, x FROM t WHERE {BOUNDED}", name=name, mode=mode)  # fmt: skip
    for day in ("2026-01-02", "2026-01-01"):
        batchpred("run", "--date", day, check=True)
    for name in ("whole", "each"):
        assert [(1, 6.0), (2, 8.0)] == rows(database, name, "id, score")
        assert 4 == len(rows(database, f"{name}_history"))


def test_bad_rows_are_set_aside_with_key_and_reason(project, database):
    """Infinite values go to quarantine, the other rows are published, and the counts add up."""
    table = f"{TEN}; UPDATE t SET x = 'Infinity' WHERE id = 3"
    batchpred = project(table, f"SELECT id, x FROM t WHERE {BOUNDED}", checks="{max_quarantined: 0.2}")
    (run,) = batchpred("run", "--date", "2026-01-01", "--json", check=True).json["runs"]
    assert {"read": 10, "scored": 9, "quarantined": 1} == run["rows"]
    assert [1, 2, 4, 5, 6, 7, 8, 9, 10] == [row[0] for row in rows(database)]
    with database.connect(purpose="test") as connection:
        (row,) = connection.execute("SELECT key, reason, features FROM batchpred.quarantine").fetchall()
    assert ({"id": 3}, {"x": "inf"}) == (row["key"], row["features"])
    assert "x is infinite" in row["reason"]


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ("{min_rows: 11}", "10 rows were scored (min_rows 11)"),
        ("{score_range: [0, 19]}", "score is outside [0, 19] in 1 rows"),
        ("{max_quarantined: 0}", "1 of 11 rows are in quarantine (max_quarantined 0): 1 × x is infinite"),
    ],
)
def test_a_check_blocks_publishing(project, database, checks, says):
    """A failed check leaves readers what they had, keeps the run for inspection, and exits with 3."""
    extra = "; INSERT INTO t VALUES (99, '2026-01-01', 'Infinity')" if "quarantined" in checks else ""
    batchpred = project(TEN + extra, f"SELECT id, x FROM t WHERE {BOUNDED}", checks=checks)
    result = batchpred.call("run", "--date", "2026-01-01", "--json")
    (run,) = result.json["runs"]
    assert (3, "blocked") == (result.code, run["status"])
    assert says in run["error"]
    with database.connect(purpose="test") as connection:
        assert [] == connection.execute("SELECT * FROM batchpred.published").fetchall()
        kept = connection.execute(f"SELECT count(*) AS n FROM batchpred_data._run_{run['run_id']}").fetchone()
    assert 10 == kept["n"]


def test_a_sudden_change_of_the_row_count_blocks(project, database):
    """max_rows_change compares with the published run of the interval before."""
    table = (
        "CREATE TABLE t AS SELECT g::bigint AS id, g::float8 AS x,"
        " timestamptz '2026-01-01 12:00+00' + interval '1 day' * (g > 10)::int AS at"
        " FROM generate_series(1, 14) AS g"
    )
    batchpred = project(table, f"SELECT id, x FROM t WHERE {BOUNDED}", checks="{max_rows_change: 0.5}")
    batchpred.call("run", "--date", "2026-01-01", check=True)
    result = batchpred("run", "--date", "2026-01-02", "--json")
    assert 3 == result.code
    assert "4 rows after 10 on 2026-01-01 (max_rows_change 0.5)" in result.json["runs"][0]["error"]


# Nobody reads on while the test holds the gate, however long that takes.
GATED = "SELECT id, x FROM t WHERE pg_advisory_xact_lock_shared(7) IS NOT NULL AND :date IS NOT NULL"
GATED_TABLE = "CREATE TABLE t AS SELECT g::bigint AS id, g::float8 AS x FROM generate_series(1, 200) AS g"
AT_THE_GATE = """
SELECT FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE 'COPY %pg_advisory%' AND wait_event_type = 'Lock'
"""


@contextmanager
def reading(batchpred, database):
    """A run in the middle of reading its source; at the end of the block it may go on."""
    with psycopg.connect(database.url, autocommit=True) as gate:
        gate.execute("SELECT pg_advisory_lock(7)")
        process = batchpred.start("run", "--date", "2026-01-02")
        until = time.monotonic() + 60
        while not gate.execute(AT_THE_GATE).fetchall():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        yield process


@pytest.fixture
def gated(project, database):
    """A job whose first day is published and whose next runs can be held up while they read."""
    batchpred = project(GATED_TABLE, GATED, chunk_rows=10)
    batchpred.call("run", "--date", "2026-01-01", check=True)
    return batchpred


def test_a_killed_run_leaves_the_old_predictions_and_the_next_publishes(gated, database):
    """After kill -9 readers have the last published rows, and the next run needs no waiting and no mending."""
    before = rows(database)
    with reading(gated, database) as process:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
        assert before == rows(database)
    gated.write("j.sql", f"{GATED} AND true")  # another query, so that nothing of the killed run is taken up
    (run,) = gated("run", "--date", "2026-01-02", "--json", check=True).json["runs"]
    assert ("published", 200) == (run["status"], run["rows"]["scored"])
    with database.connect(purpose="test") as connection:
        statuses = connection.execute("SELECT status FROM batchpred.runs ORDER BY run_id").fetchall()
    assert ["published", "abandoned", "published"] == [row["status"] for row in statuses]


def test_an_interrupted_run_says_so(gated, database):
    """Ctrl-C ends with 130 and one line; the run is closed and readers keep what they had."""
    before = rows(database)
    with reading(gated, database) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (130, True) == (process.returncode, "error: interrupted" in said)
    assert "Traceback" not in said
    assert before == rows(database)
    with database.connect(purpose="test") as connection:
        row = connection.execute(
            "SELECT status, error FROM batchpred.runs ORDER BY run_id DESC LIMIT 1"
        ).fetchone()
    assert {"status": "failed", "error": "interrupted"} == row


def test_two_runs_at_once_score_once(gated, database):
    """The second runner of an interval is told who holds it and leaves with 4."""
    with reading(gated, database) as first:
        second = gated("run", "--date", "2026-01-02", "--json")
    out, _ = first.communicate(timeout=60)
    assert (4, "held", 0) == (second.code, second.json["runs"][0]["status"], first.returncode), out
    assert "held by process" in second.json["runs"][0]["error"]
    assert 200 == len(rows(database))


def test_a_run_whose_session_is_ended_tries_again(gated, database):
    """When the server ends a run's sessions it is taken up again, and publishes; the log says what happened."""
    with reading(gated, database) as process, database.connect(purpose="test") as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'batchpred%' AND pid <> pg_backend_pid()"
        )
    _, said = process.communicate(timeout=60)
    assert 0 == process.returncode, said
    assert "terminat" in said
    assert 200 == len(rows(database))


def test_the_log_is_json_lines(gated):
    """Where stderr is no terminal every line of the log is one JSON document."""
    result = gated("run", "--date", "2026-01-01", "--force", check=True)
    events = [json.loads(line)["event"] for line in result.err.splitlines()]
    assert ("run started", "run published") == (events[0], events[-1])
    assert datetime.now(UTC).isoformat()[:4] in result.err
