"""A canary in a run: a candidate scores its share of the keys beside the champion, and costs no run its rows."""

import multiprocessing
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.lookback import has_changed
from jobs.plan import Runtime
from jobs.retries import fingerprint
from jobs.share import is_in_share
from jobs.stopping import HandedOverError, Terms
from storage import canaries, model_life, moves
from storage.job_table import Column
from storage.model_life import ModelNeededError
from storage.registry import ModelRef
from tests.chaos import child
from tests.integration.canary import (
    JOB,
    SHARE,
    TABLES,
    begin,
    champion_and_candidate,
    do,
    keys_of,
    of_canary,
    published,
    stands,
    told,
    whole,
)
from tests.integration.test_release import scorer
from tests.pushed import push_model


@pytest.fixture
def job(runner, database):
    """A job with a champion and a candidate."""
    return champion_and_candidate(runner, database)


def test_each_key_is_scored_by_its_own_model(job, database):
    """The share's keys are the candidate's and all others the champion's, in one run; each row says by whom."""
    mine = keys_of(database, begin(database))
    assert 30 < len(mine) < 90
    report = job()
    assert ("published", 300, 1) == (report.status, report.rows["scored"], report.run_id)
    assert {"scored": len(mine), "quarantined": 0} == report.canary["rows"]
    assert report.line["model"] == "churn/1, churn/2 20%"
    rows = published(database)
    assert (300, mine) == (len(rows), of_canary(rows))
    assert mine == {row["id"] for row in rows if row["score"] <= 0.5}
    assert rows == published(database, "churn_history")
    run = do(
        database, "SELECT model_version, canary_version, canary_share, canary_scored FROM predictions._runs"
    )
    assert [(1, 2, SHARE, len(mine))] == [tuple(row.values()) for row in run]
    assert "unchanged" == job().status, "same models, same share"
    stored = do(database, "SELECT id FROM batchpred_data._run_1 ORDER BY ctid")
    assert sorted(row["id"] for row in stored) == [row["id"] for row in stored], "written in order of the key"


def test_sides_depend_on_the_key_alone(job, database):
    """Other chunks, batches, intervals and a run by force change no key's side; a greater share keeps them."""
    mine = keys_of(database, begin(database))
    job()
    first = published(database)
    job.path.write_text(JOB.replace("chunk_rows: 50", "chunk_rows: 7\nbatch_size: 3"))
    assert "published" == job(force=True).status
    assert mine == of_canary(published(database))
    assert first == [{**row, "score": pytest.approx(row["score"])} for row in published(database)]
    begin(database, share=0.5)
    assert "published" == job().status, "another share is another run"
    assert mine < of_canary(published(database)) == keys_of(database, begin(database), 0.5)


def test_text_and_composite_keys(runner, database):
    """Keys of any kind are cut into the same shares in every run; a NULL in one goes to quarantine as ever."""
    text = (
        JOB.replace("SELECT id,", "SELECT uuid, day,")
        .replace("[id]", "[uuid, day]")
        .replace("t WHERE", "u WHERE")
    )
    tables = (
        TABLES
        + """
        CREATE TABLE u AS SELECT md5(id::text)::uuid AS uuid, t.* FROM t;
        UPDATE u SET uuid = NULL WHERE id = 8;"""
    )
    run = runner(text, tables, scorer(1.0))
    push_model(database, "churn", scorer(-2.0), alias="candidate")
    sha256 = begin(database)
    assert {"read": 300, "scored": 299, "quarantined": 1} == run().rows
    rows = do(database, "SELECT uuid, day, score, model_version FROM predictions.churn ORDER BY 1")
    key = [Column("uuid", "text"), Column("day", "date")]
    found = pa.table({"uuid": [row["uuid"] for row in rows], "day": [row["day"] for row in rows]})
    assert is_in_share(key, found, sha256, SHARE).tolist() == [row["model_version"] == 2 for row in rows]
    assert {1, 2} == {
        row["model_version"] for row in rows if (row["score"] > 0.5) == (row["model_version"] == 1)
    }


def test_a_killed_run_goes_on_with_its_canary(job, database, tmp_path):
    """What one that was killed ends with is, to the last bit, what one clean run would have made."""
    begin(database)
    spec = {
        "url": database.url, "job": str(job.path), "cache": str(tmp_path), "date": "2026-01-02",
        "result": str(tmp_path / "result"), "at": 5, "when": "after", "action": "kill",
    }  # fmt: skip
    process = multiprocessing.get_context("spawn").Process(target=child.main, args=(spec,))
    process.start()
    process.join()
    done = do(database, "SELECT count(*) AS n FROM batchpred.chunks")[0]["n"]
    assert (-9, True) == (process.exitcode, 0 < done < 6)
    report = job()
    assert ("published", 1, done) == (report.status, report.run_id, report.chunks_resumed)
    resumed = published(database)
    assert report.canary["rows"]["scored"] == len(of_canary(resumed)) > 0
    assert 2 == job(force=True).run_id
    assert resumed == published(database)


def test_with_another_canary_it_is_another_run(job, database):
    """A run that stopped with a canary is not taken up by one without; nor is one that was published left."""
    begin(database)
    terms = Terms()
    stopped = job(terms=terms, on_progress=lambda _: terms.stop.ask(HandedOverError("stopped")))
    assert ("stopped", 1) == (stopped.status, stopped.run_id)
    canary = do(database, "SELECT * FROM batchpred.canaries")[0]
    do(database, "DELETE FROM batchpred.canaries")
    assert (2, set()) == (job().run_id, of_canary(published(database)))
    do(database, "INSERT INTO batchpred.canaries VALUES (%s, %s, %s, %s, %s, %s)", *canary.values())
    assert 1 == job().run_id, "the one that had stopped is taken up"
    assert of_canary(published(database))
    with database.connect(purpose="test", as_writer=True) as connection:
        canary = canaries.standing(connection, "churn", "champion")
        assert canaries.withdraw(connection, canary, "enough")
        assert not canaries.withdraw(connection, canary, "again")
    report = job()
    assert ("published", 3, None) == (report.status, report.run_id, report.canary)
    assert set() == of_canary(published(database))
    assert [("canary", None), ("canary withdrawn", "enough")] == told(database)
    with database.connect(purpose="test", as_writer=True) as connection:
        assert 1 == moves.rollback(connection, "churn").to_run
    assert of_canary(published(database)), (
        "a rollback of the publish brings its rows back, and whose they are"
    )


def test_the_first_run_blocked_by_its_checks_withdraws_it(job, database, command, tmp_path):
    """The champion stays; history, the run and what is told say so; the next run is the champion's alone."""
    push_model(database, "churn", scorer(-50.0, squashed=False), alias="wild")
    notify = "notify: [{webhook: 'http://127.0.0.1:9/', secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw}]\n"
    job.path.write_text(JOB + "checks: {score_range: [0, 1]}\n" + notify)
    begin(database, version=3)
    job_file = load_job(job.path, {})
    report = job()
    assert ("blocked", 3) == (report.status, report.exit_code)
    assert report.warnings[-1].startswith(
        "canary churn/3 was withdrawn, churn@champion stays as it is: run 1"
    )
    assert [] == stands(database)
    news = do(database, "SELECT kind, message ->> 'error' AS error FROM batchpred.events")
    assert ["blocked"] == [each["kind"] for each in news]
    assert news[0]["error"].startswith("canary churn/3 was withdrawn, churn@champion stays as it is")
    kind, why = told(database)[-1]
    assert ("canary withdrawn", True) == (kind, "score is outside [0, 1]" in why)
    with database.connect(purpose="test", as_writer=True) as connection:
        now = fingerprint(connection, job_file)
        failed = fingerprint(connection, job_file, model_sha256=report.model["sha256"], canary=report.beside)
    assert now != failed, "a schedule tries again"
    report = job()
    assert ("published", {1}) == (report.status, {row["model_version"] for row in published(database)})
    assert "canary withdrawn" in command("models", "history", "churn")[1]
    shown = command("runs", "show", 1, "--json")[1]
    assert ["churn", 3] == [shown["model_name"], shown["canary_version"]]
    override = ("runs", "publish", 1, "--override", "wanted")
    assert 0 == command(*override)[0]
    assert {1, 3} == {row["model_version"] for row in published(database)}


def test_what_was_proven_is_not_withdrawn(job, database):
    """Once a run of the job was published with it, a block leaves it standing; keys twice are never its fault."""
    begin(database)
    do(database, "INSERT INTO t SELECT * FROM t WHERE id = 5 AND day = '2026-01-02'")
    assert ("blocked", [2]) == (job().status, stands(database))
    do(database, "DELETE FROM t WHERE id = 5")
    assert "published" == job().status
    job.path.write_text(JOB + "checks: {min_rows: 1000}\n")
    assert ("blocked", [2]) == (job(force=True).status, stands(database))


def test_rows_it_fails_on_cannot_hide_in_the_average(job, database):
    """Ten bad rows of its own and more than its share of them block a run that would pass as a whole."""
    push_model(database, "churn", scorer(float("inf"), squashed=False), alias="wild")
    job.path.write_text(JOB + "checks: {max_quarantined: 0.5}\n")
    begin(database, version=3)
    report = job()
    assert "rows of canary churn/3 are in quarantine (max_quarantined 0.5)" in report.error
    assert [] == stands(database)
    reasons = {row["reason"] for row in do(database, "SELECT reason FROM batchpred.quarantine")}
    assert {"the model returned infinity for score (by canary churn/3)"} == reasons


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("signature", "no column nothing"),
        ("types", "score is bigint and not double precision"),
        ("retired", "was retired"),
        ("damaged", "is damaged and was not used"),
    ],
)
def test_one_that_cannot_score_is_withdrawn(job, database, fault, says):
    """The run is the champion's alone, published, and says why."""
    odd = {"signature": scorer(3.0, name="nothing"), "types": whole()}
    push_model(database, "churn", odd.get(fault, scorer(3.0)), alias="odd")
    sha256 = begin(database, version=3)
    if fault == "retired":
        retired = "retired_at = now(), retired_why = 'old'"
        do(database, f"UPDATE batchpred.model_versions SET {retired} WHERE version = 3")
    if fault == "damaged":
        do(database, "UPDATE batchpred.model_pieces SET data = 'x' WHERE sha256 = %s", sha256)
    report = job()
    assert ("published", 0, None) == (report.status, report.exit_code, report.canary)
    assert report.warnings[-1].startswith("canary churn/3 was withdrawn")
    assert says in report.warnings[-1]
    assert ([], {1}) == (stands(database), {row["model_version"] for row in published(database)})
    assert "canary withdrawn" == told(database)[-1][0]
    assert "unchanged" == job().status


def test_a_column_of_its_own(job, database, tmp_path):
    """It is read along and is part of what the chunks' digests hold; where it fails the run is made without it."""
    push_model(database, "churn", scorer(-1.0, name="z"), alias="other")
    begin(database, version=3)
    assert "published" == job().status
    assert {1, 3} == {row["model_version"] for row in published(database)}
    job_file = load_job(job.path, {})
    day = interval_named("2026-01-02", "day", UTC, datetime.now(UTC))
    assert not has_changed(Runtime(database, tmp_path, threads=1), job_file, day)
    do(database, "UPDATE t SET whole = 0 WHERE id = 35")
    report = job(force=True)
    assert ("published", {1}) == (report.status, {row["model_version"] for row in published(database)})
    assert "failed with it, and not without" in report.warnings[-1]
    assert "division by zero" in report.warnings[-1]
    assert [] == stands(database)


def test_a_fault_that_is_not_its_own_leaves_it(job, database):
    """Where the run fails without it, too, it stands as before, and a schedule rests until something changes."""
    begin(database)
    job.path.write_text(JOB.replace("id, x,", "id, (x / (id - 9))::float4 AS x,"))
    report = job()
    assert ("failed", 2, [2]) == (report.status, report.attempts, stands(database))
    assert "division by zero" in report.error
    tried = do(database, "SELECT status, canary_version FROM batchpred.runs ORDER BY run_id")
    assert [("failed", 2), ("failed", None)] == [tuple(row.values()) for row in tried]
    job_file = load_job(job.path, {})
    with database.connect(purpose="test", as_writer=True) as connection:
        sha256 = report.model["sha256"]
        failed = fingerprint(connection, job_file, model_sha256=sha256, canary=report.beside)
        assert fingerprint(connection, job_file) == failed


def test_a_run_that_somebody_else_has_made_says_nothing_of_it(job, database):
    """It failed with the canary and was not tried without, because the schedule had no use for it any more."""
    push_model(database, "churn", scorer(-1.0, name="z"), alias="other")
    begin(database, version=3)
    do(database, "UPDATE t SET whole = 0 WHERE id = 35")
    wanted = iter([True, False])
    report = job(terms=Terms(is_wanted=lambda _connection: next(wanted)))
    assert ("unchanged", [3]) == (report.status, stands(database))


def test_a_moved_alias_ends_it(job, database):
    """Promoted it is champion; where the alias moves elsewhere it has nothing to stand beside."""
    push_model(database, "churn", scorer(3.0), alias="third")
    for version in (3, 2):
        begin(database)
        with database.connect(purpose="test", as_writer=True) as connection:
            model_life.promote(connection, ModelRef("churn", version=version), "champion")
        ended = ("canary ended", f"churn@champion points at churn/{version}")
        assert ([], ended) == (stands(database), told(database)[-1])
    job()
    assert {2} == {row["model_version"] for row in published(database)}


def test_a_canary_and_its_rows_keep_a_version(job, database):
    """It is neither retired nor deleted while it stands or predictions of it are read; a champion can be none."""
    with pytest.raises(canaries.NoCanaryError, match="churn/1 is what churn@champion points at"):
        begin(database, version=1)
    begin(database)
    do(database, "DELETE FROM batchpred.model_aliases WHERE alias = 'candidate'")
    ref = ModelRef("churn", version=2)
    with database.connect(purpose="test", as_writer=True) as connection:
        for step in (
            lambda: model_life.retire(connection, ref, "old"),
            lambda: model_life.delete(connection, ref),
        ):
            with pytest.raises(ModelNeededError, match="it is the canary of churn@champion"):
                step()
        job()
        canaries.withdraw(connection, canaries.standing(connection, "churn", "champion"), None)
        with pytest.raises(ModelNeededError, match="current predictions of churn are its"):
            model_life.retire(connection, ref, "old")
        with pytest.raises(ModelNeededError, match="whose predictions readers see"):
            model_life.delete(connection, ref)
