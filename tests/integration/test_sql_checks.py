"""A job's own checks: queries over the run before anybody sees it."""

import pytest

from storage import moves, staged
from storage.predictions import DuplicateKeyError
from tests.chaos.world import CHUNK_ROWS, JOB, SOURCE, model

PUBLISHED = "SELECT count(*) AS rows FROM predictions.chaos"


@pytest.fixture
def checked(runner):
    """The job of twenty chunks with checks of its own."""

    def made(**queries):
        listed = ", ".join(f"{name}: '{query}'" for name, query in queries.items())
        return runner(JOB.replace("0.05}", f"0.05, sql: {{{listed}}}}}"), SOURCE, model())

    return made


def test_a_check_that_finds_nothing_lets_the_run_through(checked):
    """It reads the run as `staged`, binds the interval, and may begin with WITH and end in a comment."""
    run = checked(
        outside="SELECT id FROM staged WHERE score NOT BETWEEN 0 AND 1",
        share="WITH low AS (SELECT * FROM staged WHERE score < 0.5) SELECT count(*) FROM low "
        "HAVING count(*) > 2000 AND :date >= :interval_start -- 100 %",
    )
    assert ("published", None) == (run().status, run().error)


def test_a_check_that_finds_rows_blocks_the_publish_and_shows_them(checked, database):
    """Exit code 3: the message has the check's name, how many rows it found and the first; nothing is published."""
    report = checked(
        low="SELECT id, round(score::numeric, 3) AS score FROM staged WHERE id < 7 ORDER BY id"
    )()
    assert ("blocked", 3) == (report.status, report.exit_code)
    assert "low found 6 rows, such as id 1, score " in report.error
    assert "; id 2, score " in report.error
    assert report.error.endswith("(checks.sql)")
    with database.connect(purpose="test") as connection:
        assert {"staged"} == {connection.execute(
            "SELECT CASE WHEN to_regclass('predictions.chaos') IS NULL THEN 'staged' END AS found"
        ).fetchone()["found"]}  # fmt: skip
        moves.publish_blocked(database, connection, report.run_id, "they are all right")
        assert 1980 == connection.execute(PUBLISHED).fetchone()["rows"]


def test_a_check_may_compare_with_what_readers_see(checked, database):
    """`before` is empty at the first publish, and then what is current; the job's own view needs no name."""
    run = checked(jump="SELECT id, staged.score, before.score AS was FROM staged JOIN before USING (id) "
                  "WHERE staged.score <> before.score ORDER BY id")  # fmt: skip
    assert "published" == run().status
    with database.connect(purpose="test") as connection:
        connection.execute("UPDATE rows SET b = b + 1 WHERE id IN (3, 4)")
    report = run(force=True)
    assert ("blocked", 3) == (report.status, report.exit_code)
    assert "jump found 2 rows, such as id 3, score " in report.error


BROKEN = {
    "SELECT scor FROM staged": "there are `staged` and `before`, with id, score",
    "SELECT id FROM stagd": 'relation "stagd" does not exist',
    "SELECT :now": "unknown parameter :now",
    "DELETE FROM staged": "one SELECT",
    "WITH gone AS (DELETE FROM rows RETURNING 1) SELECT * FROM gone": "top level",
    "SELECT lo_create(0)": "read-only transaction",
}


def test_a_broken_check_costs_no_run(checked):
    """It is a configuration error that names the check, found before a row is read."""
    run = checked(mine="the query")
    text = run.path.read_text(encoding="utf-8")
    for query, says in BROKEN.items():
        run.path.write_text(text.replace("the query", query), encoding="utf-8")
        report = run()
        assert ("failed", 2, None) == (report.status, report.exit_code, report.run_id)
        assert report.error.startswith("chaos.job.yaml: checks.sql.mine")
        assert says in report.error
        assert "\n" not in report.error


def test_a_check_that_takes_too_long_or_fails_on_the_rows_is_named(checked, monkeypatch):
    """What shows only on rows ends the run as failed; once it is mended the run goes on where it was."""
    monkeypatch.setattr(staged, "TIME_LIMIT_SECONDS", 1)
    run = checked(mine="SELECT 1 / (id - 5) AS x FROM staged WHERE id = 5")
    report = run()
    assert ("failed", 2) == (report.status, report.exit_code)
    assert "checks.sql.mine: PostgreSQL says: division by zero" in report.error
    text = run.path.read_text(encoding="utf-8")
    run.path.write_text(text.replace("1 / (id - 5) AS x", "pg_sleep(2) AS x"), encoding="utf-8")
    assert "checks.sql.mine: it took longer than 1 s" in run().error
    run.path.write_text(text.replace("id = 5", "id < 0"), encoding="utf-8")
    report = run()
    assert ("published", 2000 // CHUNK_ROWS) == (report.status, report.chunks_resumed)


def test_duplicate_keys_block_and_no_reason_publishes_them(runner, database):
    """They are a check of every job: exit code 3, the keys by name, and an override is refused."""
    run = runner(JOB, SOURCE + "; INSERT INTO rows SELECT * FROM rows WHERE id IN (5, 900)", model())
    report = run()
    assert ("blocked", 3) == (report.status, report.exit_code)
    assert "2 key(s) stand there more than once: id 5 (2 rows); id 900 (2 rows); each key" in report.error
    with database.connect(purpose="test") as connection, pytest.raises(DuplicateKeyError):
        moves.publish_blocked(database, connection, report.run_id, "let it be")
