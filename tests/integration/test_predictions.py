"""Run tables, partitions and views: what readers see, and when."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from storage import predictions, runs
from storage.arrow_copy import copy_in
from storage.job_table import Column, JobTable
from storage.predictions import ColumnsChangedError, DuplicateKeyError
from storage.runs import Pin, Slot

KEY = (Column("id", "bigint", "integer", "Key"),)
SCORE = Column("score", "double precision", comment="Model output p[1]")


def job(mode="snapshot", outputs=(SCORE,), **changes):
    values = {
        "name": "churn", "description": "Daily churn", "mode": mode, "interval_unit": "day", "timezone": "UTC",
        "late_after": timedelta(hours=2), "key": KEY, "outputs": outputs,
    }  # fmt: skip
    return JobTable(**{**values, **changes})


SNAPSHOT = job()


def slot(day):
    start = datetime(2026, 1, day, tzinfo=UTC)
    return Slot("churn", start, start + timedelta(days=1), start.date())


@pytest.fixture
def publish(publish_rows):
    """Publish rows of the job these tests are about, for a day, and return the run's number."""

    def published(day, rows, job=SNAPSHOT, version=1):
        return publish_rows(job, day, rows, version)

    return published


def read(connection, view="churn", columns="id, score"):
    return [
        tuple(row.values())
        for row in connection.execute(f"SELECT {columns} FROM predictions.{view} ORDER BY 1, 2")
    ]


def test_snapshot_shows_the_newest_interval_whole(publish, connection):
    """In snapshot mode current is the newest interval's run alone, whatever order runs finish in."""
    publish(2, {"id": [1, 2], "score": [0.1, 0.2]})
    publish(3, {"id": [2, 3], "score": [0.3, 0.4]})
    publish(1, {"id": [9], "score": [0.9]})
    assert [(2, 0.3), (3, 0.4)] == read(connection)
    assert [(1, 0.1), (2, 0.2), (2, 0.3), (3, 0.4), (9, 0.9)] == read(connection, "churn_history")


def test_incremental_shows_the_newest_row_of_each_key(publish, connection):
    """In incremental mode current is each key's row of its newest interval, whatever order runs finish in."""
    mode = job("incremental")
    publish(2, {"id": [1, 2], "score": [0.1, 0.2]}, mode)
    publish(3, {"id": [2, 3], "score": [0.3, 0.4]}, mode)
    publish(1, {"id": [1, 9], "score": [0.8, 0.9]}, mode)
    assert [(1, 0.1), (2, 0.3), (3, 0.4), (9, 0.9)] == read(connection)


def test_a_run_published_again_takes_the_place_of_the_first(publish, connection):
    """Rebuilding an interval swaps it whole, in current and in history."""
    publish(1, {"id": [1, 2], "score": [0.1, 0.2]})
    publish(1, {"id": [2], "score": [0.7]}, version=2)
    assert [(2, 0.7)] == read(connection)
    assert [(2, 0.7)] == read(connection, "churn_history")


def test_every_row_says_where_it_comes_from(publish, connection):
    """Interval, date, model, time and run stand beside each prediction."""
    run_id = publish(5, {"id": [1], "score": [0.5]}, version=3)
    row = connection.execute("SELECT * FROM predictions.churn").fetchone()
    assert [
        "id",
        "score",
        "interval_start",
        "as_of_date",
        "model_name",
        "model_version",
        "scored_at",
        "run_id",
    ] == list(row)
    assert (date(2026, 1, 5), "churn", 3, run_id) == (
        row["as_of_date"], row["model_name"], row["model_version"], row["run_id"],
    )  # fmt: skip
    origin = connection.execute("SELECT * FROM predictions._runs WHERE run_id = %s", [run_id]).fetchone()
    assert ("a" * 64, "SELECT 1", "published") == (origin["model_sha256"], origin["query"], origin["status"])


def test_views_and_columns_carry_comments(publish, connection):
    r"""\d+ tells an analyst what each view and column is."""
    publish(1, {"id": [1], "score": [0.5]})
    for view in ("churn", "churn_history"):
        rows = connection.execute(
            "SELECT attname, col_description(attrelid, attnum) AS comment FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0",
            [f"predictions.{view}"],
        ).fetchall()
        assert [] == [row["attname"] for row in rows if not row["comment"]]
    about = connection.execute("SELECT obj_description('predictions.churn'::regclass) AS said").fetchone()
    assert "Daily churn (current: the newest published interval)" == about["said"]


def test_a_run_that_is_not_published_is_seen_by_nobody(publish, connection, database):
    """Rows written, sealed and attached show nowhere until the pointer moves."""
    publish(1, {"id": [1], "score": [0.1]})
    with runs.claim(database, connection, slot(2)) as held:
        run_id = runs.start_run(connection, held, Pin("churn", 1, "a" * 64, "d" * 64, "CPU"), {})
        predictions.create_run_table(connection, job(), run_id)
        copy_in(connection, predictions.run_table(run_id), pa.table({"id": [5], "score": [0.5]}))
        predictions.seal(connection, job(), run_id)
        predictions.attach(connection, job(), run_id)
        assert [(1, 0.1)] == read(connection) == read(connection, "churn_history")


def test_a_changed_job_shows_nothing_before_its_run_is_published(publish, connection, database):
    """Another mode or a new output reaches readers with the publish, not with the preparations for it."""
    publish(1, {"id": [1], "score": [0.1]})
    publish(2, {"id": [2], "score": [0.2]})
    changed = job("incremental", outputs=(SCORE, Column("label", "text")))
    with runs.claim(database, connection, slot(3)) as held:
        run_id = runs.start_run(connection, held, Pin("churn", 1, "a" * 64, "d" * 64, "CPU"), {})
        predictions.create_run_table(connection, changed, run_id)
        predictions.seal(connection, changed, run_id)
        predictions.attach(connection, changed, run_id)
        assert [(2, 0.2)] == read(connection)
        assert "label" not in connection.execute("SELECT * FROM predictions.churn").fetchone()
        runs.publish(connection, held, run_id, lambda session: predictions.show(session, changed))
    assert [(1, 0.1), (2, 0.2)] == read(connection)


def test_a_view_that_was_dropped_comes_back(publish, connection):
    """A run puts a missing view back, though the job's definition is the known one."""
    publish(1, {"id": [1], "score": [0.1]})
    connection.execute("DROP VIEW predictions.churn")
    publish(2, {"id": [1], "score": [0.2]})
    assert [(1, 0.2)] == read(connection)


def test_an_open_reader_neither_waits_nor_sees_the_change(publish, connection, database):
    """A repeatable-read transaction keeps its answer through a publish, which does not wait for it."""
    publish(1, {"id": [1], "score": [0.1]})
    with database.connect(purpose="reader") as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert [(1, 0.1)] == read(reader)
        publish(2, {"id": [1], "score": [0.2]})
        assert [(1, 0.1)] == read(reader)
        reader.execute("COMMIT")
        assert [(1, 0.2)] == read(reader)


def test_a_duplicate_key_is_named(publish):
    """Rows of one key block the run; the message counts the keys and names the first, with their rows."""
    says = (
        r"2 key\(s\) stand there more than once: id 7 \(3 rows\); id 9 \(2 rows\); each key may have one row"
    )
    with pytest.raises(DuplicateKeyError, match=says):
        publish(1, {"id": [7, 8, 7, 9, 7, 9], "score": [0.1] * 6})


def test_a_new_output_is_added_to_what_is_published(publish, connection):
    """A job that gains an output keeps its history, NULL where it was not computed; one it drops stays."""
    publish(1, {"id": [1], "score": [0.1]})
    label = Column("label", "text")
    publish(2, {"id": [1], "score": [0.2], "label": ["yes"]}, job(outputs=(SCORE, label)))
    publish(3, {"id": [1], "label": ["no"]}, job(outputs=(label,)))
    assert [("no", None), ("yes", 0.2), (None, 0.1)] == read(connection, "churn_history", "label, score")
    assert [("no", None)] == read(connection, columns="label, score")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (job(outputs=(Column("score", "text"),)), "column score is text now and was double precision"),
        (job(key=(Column("id", "text", "text"),)), "column id is text now and was bigint"),
        (job(key=(*KEY, Column("shop", "bigint", "integer"))), "the key is id, shop now and was id"),
    ],
)
def test_a_changed_type_or_key_is_refused(publish, connection, changed, says):
    """A definition that published rows cannot be read through is refused before anything is written."""
    publish(1, {"id": [1], "score": [0.1]})
    with pytest.raises(ColumnsChangedError, match=says):
        predictions.check_columns(connection, changed)


def test_an_unchanged_job_touches_no_view(publish, connection):
    """A run whose definition is the known one replaces no view: that would wait for readers."""
    publish(1, {"id": [1], "score": [0.1]})
    before = connection.execute(
        "SELECT xmin::text FROM pg_class WHERE relname = 'churn' AND relkind = 'v'"
    ).fetchone()
    publish(2, {"id": [1], "score": [0.1]})
    assert (
        before
        == connection.execute(
            "SELECT xmin::text FROM pg_class WHERE relname = 'churn' AND relkind = 'v'"
        ).fetchone()
    )


def test_analysts_and_the_api_may_read_a_new_view(publish, database):
    """The views of a job's first run are readable by the reading roles at once."""
    publish(1, {"id": [1], "score": [0.1]})
    for role in ("batchpred_api", "batchpred_analyst"):
        with database.connect(purpose="test") as reader:
            reader.execute(f"SET ROLE {role}")
            assert [(1, 0.1)] == read(reader)


def test_the_current_view_reads_one_partition(publish, connection):
    """The planner prunes the current view to the published run's own table."""
    for day in range(1, 6):
        run_id = publish(day, {"id": [1], "score": [0.1]})
    lines = connection.execute(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT * FROM predictions.churn WHERE id = 1"
    )
    plan = "\n".join(row["QUERY PLAN"] for row in lines)
    assert "Subplans Removed: 4" in plan or plan.count("never executed") >= 4, plan
    assert f"_run_{run_id}" in plan


def test_freshness_has_one_row_a_job(publish, connection):
    """_freshness names each job's newest published interval."""
    publish(2, {"id": [1, 2], "score": [0.1, 0.1]})
    publish(1, {"id": [1], "score": [0.1]})
    row = connection.execute("SELECT * FROM predictions._freshness").fetchone()
    assert ("churn", date(2026, 1, 2), 2, True) == (
        row["job"], row["as_of_date"], row["predictions"], row["is_late"],
    )  # fmt: skip


def test_an_abandoned_table_is_dropped_and_an_attached_one_is_not(publish, connection):
    """Dropping waits for nobody: a table that readers' plans may hold is left to later cleaning."""
    published = publish(1, {"id": [1], "score": [0.1]})
    predictions.create_run_table(connection, job(), 999)
    assert predictions.drop_run_table(connection, 999)
    assert not predictions.drop_run_table(connection, published)
    assert [(1, 0.1)] == read(connection)
