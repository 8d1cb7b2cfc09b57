"""A candidate in the shadow of a run: the same rows read once, a hidden run of its own, and no harm to the run."""

import multiprocessing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

import jobs.shadow
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.lookback import has_changed
from jobs.plan import Runtime
from jobs.stopping import Terms
from storage import attempts, garbage, model_life, moves, registry, run_log
from storage.moves import NothingToMoveError
from storage.query_source import QuerySource
from storage.registry import ModelRef
from storage.run_log import NotRunningError
from tests.chaos import child
from tests.integration.test_release import scorer
from tests.pushed import push_model

JOB = """\
version: 1
name: churn
source: {query: "SELECT id, x, 100 / whole AS z FROM t WHERE day = :date"}
key: [id]
model: churn@champion
output: {columns: {score: probability}}
checks: {max_null_rate: 0.5}
chunk_rows: 10
"""
TABLES = """
CREATE TABLE t AS
SELECT id::bigint, sin(id)::float4 AS x, id AS whole, day::date
  FROM generate_series(1, 60) AS id, generate_series(date '2026-01-01', '2026-01-03', '1 day') AS day;
"""


@pytest.fixture
def job(runner, database):
    """A job of six chunks, whose candidate is churn/2."""
    run = runner(JOB, TABLES, scorer(1.0))
    push_model(database, "churn", scorer(-2.0), alias="candidate")
    return run


@pytest.fixture
def reads(monkeypatch):
    """How often a source was read, and which columns."""
    seen, read = [], QuerySource.read

    def counted(self, columns, order=()):
        seen.append([column.name for column in columns])
        return read(self, columns, order)

    monkeypatch.setattr(QuerySource, "read", counted)
    return seen


def do(database, statement, *values):
    with database.connect(purpose="test") as connection:
        cursor = connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def statuses(database):
    rows = do(database, "SELECT run_id, status, shadow_of FROM batchpred.runs ORDER BY run_id")
    return [tuple(row.values()) for row in rows]


def tables(database):
    rows = do(database, "SELECT relname FROM pg_class WHERE relname ~ '^_run_[0-9]+$' ORDER BY relname")
    return [int(row["relname"].removeprefix("_run_")) for row in rows]


def published(database):
    return do(database, "SELECT id, score, model_version FROM predictions.churn ORDER BY id")


def test_a_candidate_scores_the_same_rows(job, database, reads):
    """The rows are read once; both models score all of them, the candidate into a run that shadows the other."""
    report = job(shadow_ref="churn@candidate")
    assert ("published", [["id", "x"]]) == (report.status, reads)
    counts = {"read": 60, "scored": 60, "quarantined": 0}
    told = {"model": "churn/2", "run_id": 2, "status": "complete", "error": None, "rows": counts}
    assert told == report.shadow
    assert [(1, "published", None), (2, "complete", 1)] == statuses(database)
    turned = do(
        database, "SELECT a.id FROM batchpred_data._run_1 a JOIN batchpred_data._run_2 b USING (id)"
        " WHERE (a.score > 0.5) = (b.score < 0.5)"
    )  # fmt: skip
    assert 60 == len(turned), "the weights have opposite signs"
    assert any("compare --run 1" in note for note in report.notes)


def test_no_reader_sees_a_shadow(job, database, api):
    """Views, the read API, what is current, what was last and what a person can publish leave it out."""
    job(shadow_ref="churn@candidate")
    assert {1} == {row["model_version"] for row in published(database)}
    assert [] == do(database, "SELECT * FROM predictions.churn_history WHERE run_id = 2")
    assert [{"run_id": 1}] == do(database, "SELECT run_id FROM predictions._runs")
    assert [{"run_id": 1}] == do(database, "SELECT run_id FROM batchpred.served_runs")
    assert 1 == api.get("/v1/jobs/churn/predictions/7").json()["model"]["version"]
    assert 1 == len(api.get("/v1/jobs/churn/predictions/7/history").json()["predictions"])
    with database.connect(purpose="test", as_writer=True) as connection:
        for move in (
            lambda: moves.publish_blocked(database, connection, 2, "why"),
            lambda: moves.rollback(connection, "churn", to_run=2),
        ):
            with pytest.raises(
                NothingToMoveError, match=r"shadow of run 1.*batchpred models promote churn/2"
            ):
                move()
        with pytest.raises(NotRunningError, match="batchpred runs cancel 1"):
            run_log.cancel(connection, 2)
        needed = model_life.needed_by(connection, registry.resolve(connection, ModelRef("churn", version=2)))
        assert ["churn@candidate points at it"] == needed
        day = datetime(2026, 1, 2, tzinfo=UTC)
        assert [1] == [row["run_id"] for row in attempts.newest_runs(connection, "churn", day, day).values()]
        assert 1 == moves.rollback(connection, "churn").from_run
    with pytest.raises(psycopg.errors.CheckViolation):
        do(database, "UPDATE batchpred.runs SET status = 'published' WHERE run_id = 2")


def test_commands_say_what_it_is(job, database, command):
    """The list marks a shadow, and the run's log names it."""
    job(shadow_ref="churn@candidate")
    assert "complete, shadow of 1" in command("runs", "list")[1]
    dry = ("run", "churn", "--dry-run", "--json", "--shadow")
    told = [command(*dry, ref)[1]["plans"][0]["shadow"] for ref in ("churn/2", "churn@nobody")]
    assert [True, True] == [told[0].startswith("churn/2 ("), told[1].startswith("none: ")]
    listed = command("runs", "list", "--json")[1]["runs"]
    assert [(2, 1), (1, None)] == [(run["run_id"], run["shadow_of"]) for run in listed]
    assert [2] == command("runs", "show", "1", "--json")[1]["shadows"]
    assert 1 == command("runs", "show", "2", "--json")[1]["shadow_of"]
    assert "model=churn/2" in command("runs", "logs", "1")[1]


def test_the_job_file_names_it_and_a_backfill_leaves_it_out(job, database):
    """`shadow:` counts for each run but those of a backfill; a run that is published already has none."""
    job.path.write_text(JOB + "shadow: churn@candidate\n")
    assert job(terms=Terms(is_backfill=True)).shadow is None
    assert job().status == "unchanged"
    assert 1 == len(statuses(database))
    assert "complete" == job(force=True).shadow["status"]
    assert "--force scores anew" in job(shadow_ref="churn@candidate").warnings[-1]
    assert job(force=True, model_ref="churn/2").shadow is None, "it is the run's own model"
    assert "churn/1 is the run's own model" in job(force=True, shadow_ref="churn/1").warnings[-1]


def test_a_column_of_the_candidates_own(job, database, reads, tmp_path):
    """It is read along, and the run's model and the digests of its rows know nothing of it."""
    push_model(database, "churn", scorer(1.0, name="z"), alias="candidate")
    assert "complete" == job(shadow_ref="churn@candidate").shadow["status"]
    assert [["id", "x", "z"]] == reads
    job_file = load_job(job.path, {})
    day = interval_named("2026-01-02", "day", UTC, datetime.now(UTC))
    assert not has_changed(Runtime(database, tmp_path, threads=1), job_file, day)


def test_what_is_wrong_with_it_is_a_warning(job, database):
    """A candidate that is not there or does not fit leaves a reason, and the run goes on."""
    push_model(database, "other", scorer(1.0, name="nothing"))
    for ref, says in (("churn@nobody", "no alias"), ("other@champion", "yields no column nothing")):
        report = job(shadow_ref=ref, force=True)
        assert ("published", 0, "failed") == (report.status, report.exit_code, report.shadow["status"])
        assert says in report.warnings[-1]
    assert 2 == len(statuses(database))


@pytest.mark.parametrize("where", ["score", "write"])
def test_a_shadow_that_breaks_in_mid_run(job, database, monkeypatch, where):
    """Its run is failed with the reason and its table gone; the run beside it publishes all its rows."""
    calls = []
    score_chunk = jobs.shadow.score_chunk

    def scored(*given):
        calls.append(1)
        if where == "score" and len(calls) == 3:
            raise MemoryError("no room")
        return score_chunk(*given)

    def dropped(_rows):
        if where == "write" and 2 in tables(database) and len(calls) >= 3:
            do(database, "DROP TABLE batchpred_data._run_2")

    monkeypatch.setattr(jobs.shadow, "score_chunk", scored)
    report = job(shadow_ref="churn@candidate", on_progress=dropped)
    assert ("published", 60, 1) == (report.status, report.rows["scored"], report.attempts)
    assert [(1, "published", None), (2, "failed", 1)] == statuses(database)
    reason = {"score": "no room", "write": "does not exist"}[where]
    assert reason in report.warnings[-1]
    assert reason in do(database, "SELECT error FROM batchpred.runs WHERE run_id = 2")[0]["error"]
    assert ([1], 60) == (tables(database), len(published(database)))


def test_a_column_that_only_the_candidate_reads_fails(job, database):
    """What the query cannot compute for the candidate alone costs an attempt, not the run."""
    do(database, "UPDATE t SET whole = 0 WHERE id = 35")
    push_model(database, "churn", scorer(1.0, name="z"), alias="candidate")
    report = job(shadow_ref="churn@candidate")
    assert ("published", 60, 2) == (report.status, report.rows["scored"], report.attempts)
    assert "division by zero" in report.warnings[-1]
    assert "abandoned" == report.shadow["status"]
    assert [1] == tables(database)


def test_a_killed_run_goes_on_without_its_shadow(job, database, tmp_path):
    """The shadow of a run that was killed is abandoned; the run is what one without a shadow would have been."""
    job.path.write_text(JOB + "shadow: churn@candidate\n")
    spec = {
        "url": database.url, "job": str(job.path), "cache": str(tmp_path), "date": "2026-01-02",
        "result": str(tmp_path / "result"), "at": 9, "when": "after", "action": "kill",
    }  # fmt: skip
    process = multiprocessing.get_context("spawn").Process(target=child.main, args=(spec,))
    process.start()
    process.join()
    assert (-9, ["running", "running"]) == (process.exitcode, [each[1] for each in statuses(database)])
    chunks = do(database, "SELECT run_id, count(*) AS n FROM batchpred.chunks GROUP BY 1 ORDER BY 1")
    assert 0 < chunks[0]["n"] < 6
    job.path.write_text(JOB)  # what was asked for before is told all the same
    report = job()
    assert ("published", 1, chunks[0]["n"]) == (report.status, report.run_id, report.chunks_resumed)
    assert [(1, "published", None), (2, "abandoned", 1)] == statuses(database)
    assert report.warnings[-1].startswith("shadow churn/2 abandoned: the run was taken up again")
    assert "goes on without its shadow" in report.warnings[-1]
    assert [1] == tables(database)
    shadowed = published(database)
    assert "published" == job(force=True, terms=Terms(is_backfill=True)).status
    assert published(database) == shadowed


def test_a_blocked_run_keeps_its_shadow(job, database):
    """What a check refuses can still be compared with the candidate."""
    job.path.write_text(JOB.replace("max_null_rate: 0.5", "min_rows: 61"))
    report = job(shadow_ref="churn@candidate")
    assert ("blocked", "complete") == (report.status, report.shadow["status"])
    assert [(1, "blocked", None), (2, "complete", 1)] == statuses(database)


def test_gc_drops_a_shadow_with_the_run_it_shadowed(job, database):
    """It stays beside what readers see, for thirty days, and goes once that is replaced; keys leave it too."""
    job(shadow_ref="churn@candidate")
    with database.connect(purpose="test", as_writer=True) as connection:
        assert [] == garbage.collect(database, connection, {}).dropped
        # Killed once its run was published: nobody is at work on it, and it stands in no way.
        connection.execute("UPDATE batchpred.runs SET status = 'running' WHERE run_id = 2")
        assert {"predictions": 2, "quarantined": 0} == garbage.forget(
            database, connection, "churn", {"id": 7}
        )
        connection.execute("UPDATE batchpred.runs SET status = 'complete' WHERE run_id = 2")
        job(shadow_ref="churn@candidate", force=True)
        assert [2] == garbage.collect(database, connection, {}).dropped
        assert [1, 3, 4] == tables(database)
        connection.execute(
            "UPDATE batchpred.runs SET started_at = now() - interval '31 days' WHERE run_id = 4"
        )
        assert [4] == garbage.collect(database, connection, {}).dropped
        job(shadow_ref="churn@candidate", force=True)
        keep = {"churn": datetime.now(UTC) - datetime(2026, 1, 3, tzinfo=UTC) - timedelta(hours=1)}
        gone = garbage.collect(database, connection, keep)
        assert (1, 6) == (len(gone.withdrawn), gone.dropped[-1])


def test_a_run_and_its_shadow_are_compared_without_scoring(job, command, reads, tmp_path):
    """By its number, by the two models and by the job the figures are those of scoring the rows with both."""
    job(shadow_ref="churn@candidate")
    reads.clear()
    day = ("churn", "churn@candidate", "--date", "2026-01-02")
    for words in (("--run", 1), ("--run", 2), ("churn@champion", "churn/2"), day):
        code, found = command("models", "compare", *words, "--json", "--picture", "moved.svg")
        assert (0, [1, 2], ["churn/1", "churn/2"]) == (code, found["runs"], found["models"])
    assert [] == reads, "no row was read"
    assert (tmp_path / "moved.svg").read_text().startswith("<svg")
    code, scored = command(
        "models", "compare", "churn", "churn/2", "--date", "2026-01-02", "--anew", "--json"
    )
    assert (1, None) == (len(reads), scored.pop("runs"))
    assert found.pop("runs")
    assert scored == found
    figures = found["outputs"]["score"]
    assert (-1.0, 60, 60) == (
        round(figures["rank_correlation"], 9),
        sum(figures["spread"]["new"]),
        found["rows"],
    )
    assert "run 1 and its shadow 2" in command("models", "compare", "--run", 1)[1]


def test_labels_come_later_and_are_read_alone(job, command, reads, database):
    """Metrics of both models and their differences, where the truth is known; only key and label are read."""
    job(shadow_ref="churn@candidate")
    do(database, "ALTER TABLE t ADD COLUMN churned boolean")
    do(database, "UPDATE t SET churned = x > 0 WHERE id % 3 > 0")
    job.path.write_text(JOB.replace("SELECT id, x,", "SELECT id, x, churned,"))
    reads.clear()
    code, found = command("models", "compare", "--run", 1, "--label", "churned", "--json")
    assert (0, [["id", "churned"]]) == (code, reads)
    assert (1.0, 0.0) == (
        found["metrics"]["score by churn/1"]["auc"],
        found["metrics"]["score by churn/2"]["auc"],
    )
    assert -1.0 == found["changes"]["score"]["auc"]
    assert (
        "score: change" in command("models", "compare", "churn@champion", "churn/2", "--label", "churned")[1]
    )
    assert "yields no column 'nope'" in command("models", "compare", "--run", 1, "--label", "nope")[1]


def test_labels_may_take_long_and_may_be_missing(job, command, database, monkeypatch):
    """A slow query for labels ends no comparison; no label yet, and no row any more, are said."""
    job(shadow_ref="churn@candidate")
    slow = ", (SELECT x > 0 FROM pg_sleep(CASE id WHEN 1 THEN 0.9 ELSE 0 END)) AS churned"
    for more, expected, says in (
        (slow, 0, "auc"),
        (", NULL::boolean AS churned", 1, "no row was scored and has a label"),
        (", true AS churned", 1, "every row has the label 1"),
    ):
        job.path.write_text(JOB.replace("id, x,", f"id, x{more},"))
        with monkeypatch.context() as patch:
            patch.setattr("storage.database._IDLE_IN_TRANSACTION", "300ms")
            code, said = command("models", "compare", "--run", 1, "--label", "churned")
        assert (expected, True) == (code, says in said), said
    job.path.write_text(JOB.replace("id, x,", "id, x, day, 'yes' AS said,"))
    for how in ((), ("churn/2", "--anew", "--date", "2026-01-02")):
        words = ("churn", *how) if how else ("--run", 1)
        for label, says in (
            ("day", "label day is date, and the truth of a score is a number"),
            ("said", "label said is text"),
            ("id", "id is part of the key, and no label"),
        ):
            code, said = command("models", "compare", *words, "--label", label)
            assert (1, True) == (code, says in said), said
    job.path.write_text(JOB.replace("id, x,", "id, x, true AS churned,"))
    do(database, "DELETE FROM t")
    code, said = command("models", "compare", "--run", 1, "--label", "churned")
    assert (1, True) == (code, "the query has no rows for 2026-01-02 any more" in said), said


def test_what_cannot_be_compared_is_said(job, command):
    """Without a shadow, with one model twice, with words that contradict each other: what to do instead."""
    job()
    for words, says in (
        (("--run", 1), "run 1 has no complete shadow"),
        (("--run", 9), "there is no run 9"),
        (("churn/1", "churn@champion"), "are both churn/1"),
        (("churn/1", "churn/2"), "no run of churn/1 has churn/2 as its shadow"),
        (("churn",), "name what to compare"),
        (("churn@champion",), "name what to compare"),
        (("--run", 1, "--anew"), "--with, --date and --anew go with a JOB"),
    ):
        code, said = command("models", "compare", *words)
        assert (2, True) == (code, says in said), said
