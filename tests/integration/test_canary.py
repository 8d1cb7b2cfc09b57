"""A canary: a candidate scores a share of the keys in the run of the others, and each row says by whom."""

import csv
import io
import multiprocessing
from collections import Counter
from datetime import UTC, datetime

import httpx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from api.app import create_app
from batchpred.client import Client
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.lookback import has_changed
from jobs.plan import Runtime
from jobs.retries import fingerprint
from jobs.run import run_job
from jobs.share import is_in_share
from jobs.stopping import HandedOverError, Terms
from storage import canaries, model_life, moves, registry
from storage.job_table import Column
from storage.model_life import ModelNeededError
from storage.registry import ModelRef
from tests.chaos import child
from tests.integration.conftest import running
from tests.integration.test_release import scorer
from tests.pushed import push_model

JOB = """\
version: 1
name: churn
source: {query: "SELECT id, x, 100 / whole AS z FROM t WHERE day = :date"}
key: [id]
model: churn@champion
output: {columns: {score: probability}}
chunk_rows: 50
"""
TABLES = """
CREATE TABLE t AS
SELECT id::bigint, (1 + sin(id))::float4 AS x, 1 AS whole, day::date
  FROM generate_series(1, 300) AS id, generate_series(date '2026-01-01', '2026-01-03', '1 day') AS day;
"""
SHARE = 0.2


@pytest.fixture
def job(runner, database):
    """A job of 300 keys in six chunks; its champion churn/1 says more than a half, churn/2 less."""
    run = runner(JOB, TABLES, scorer(1.0))
    push_model(database, "churn", scorer(-2.0), alias="candidate")
    return run


def pair(weight):
    """A model of `probability` and of `vector`, weight × x twice."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "w"], ["wx"]),
            helper.make_node("Sigmoid", ["wx"], ["probability"]),
            helper.make_node("Concat", ["wx", "wx"], ["vector"], axis=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info(*each) for each in (
            ("probability", TensorProto.FLOAT, ["N", 1]), ("vector", TensorProto.FLOAT, ["N", 2])
        )],
        initializer=[helper.make_tensor("w", TensorProto.FLOAT, [1], [weight])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString()


def do(database, statement, *values):
    with database.connect(purpose="test") as connection:
        cursor = connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def begin(database, version=2, share=SHARE):
    with database.connect(purpose="test", as_writer=True) as connection:
        found = registry.resolve(connection, ModelRef("churn", version=version))
        canaries.begin(connection, found, "champion", share)
        return found.sha256


def stands(database):
    return [each["version"] for each in do(database, "SELECT version FROM batchpred.canaries")]


def told(database):
    events = do(
        database, "SELECT kind, details ->> 'why' AS why FROM batchpred.model_events ORDER BY event_id"
    )
    return [(each["kind"], each["why"]) for each in events if "canary" in each["kind"]]


def keys_of(database, sha256, share=SHARE):
    ids = [row["id"] for row in do(database, "SELECT id FROM t WHERE day = '2026-01-02' ORDER BY id")]
    mine = is_in_share([Column("id", "bigint")], pa.table({"id": ids}), sha256, share)
    return {key for key, is_mine in zip(ids, mine.tolist(), strict=True) if is_mine}


def published(database, view="churn"):
    return do(database, f"SELECT id, score, model_name, model_version FROM predictions.{view} ORDER BY id")


def of_canary(rows):
    return {row["id"] for row in rows if row["model_version"] == 2}


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


def test_every_answer_says_whose_it_is(job, database, api):
    """Over HTTP each prediction carries the version that made it, however it is asked for."""
    mine = keys_of(database, begin(database))
    theirs = next(iter(set(range(1, 301)) - mine))
    own = min(mine)
    path = "/v1/jobs/churn/predictions"
    job()
    for key, version in ((own, 2), (theirs, 1)):
        expected = {"name": "churn", "version": version}
        assert expected == api.get(f"{path}/{key}").json()["model"]
        assert expected == api.get(f"{path}/{key}", params={"as_of": "2026-01-02"}).json()["model"]
        history = api.get(f"{path}/{key}/history").json()
        assert [version] == [each["model_version"] for each in history["predictions"]]
    answer = api.get(f"{path}/{own}")
    assert '"1"' == answer.headers["ETag"]
    assert 304 == api.get(f"{path}/{own}", headers={"If-None-Match": '"1"'}).status_code
    batch = api.post(f"{path}:batchGet", json={"keys": [own, theirs]}).json()
    assert [2, 1] == [each["model_version"] for each in batch["predictions"]]
    assert {"version": 2, "share": SHARE} == batch["runs"][0]["canary"]
    page = api.get(path, params={"limit": 300}).json()["predictions"]
    assert mine == {each["key"]["id"] for each in page if each["model_version"] == 2}
    table = list(csv.DictReader(io.StringIO(api.get(path, headers={"Accept": "text/csv"}).text)))
    assert mine == {int(row["id"]) for row in table if row["model_version"] == "2"}
    stream = api.get(path, headers={"Accept": "application/vnd.apache.arrow.stream"}).content
    arrow = pa.ipc.open_stream(stream).read_all().to_pylist()
    assert mine == {row["id"] for row in arrow if row["model_version"] == 2}
    assert (1, 2) == tuple(
        api.get("/v1/jobs/churn").json()["current"][name]["version"] for name in ("model", "canary")
    )
    with Client(str(api.base_url)) as client:
        assert (2, 1) == tuple(
            each.run.model_version for each in client.get_many("churn", [own, theirs]).predictions
        )
        assert 2 == client.get("churn", own).run.model_version
        assert [2] == [each.run.model_version for each in client.history("churn", own)]
        assert len(mine) == Counter(each.run.model_version for each in client.all("churn"))[2]


def test_the_hot_route_says_what_the_framework_says(job, database):
    """From the wire, remembered or not, comes the answer that the framework gives, before and after a canary."""
    app = create_app(database, keyless=True)
    job()
    with running(app) as address, httpx.Client(base_url=address) as client:
        parts, path = app.state.parts, "/v1/jobs/churn/predictions/{}"

        def answers():
            while not parts.hot._served:
                pass
            beneath = [
                [client.get(path.format(key)).content for _ in range(2)] for key in (1, 2, 3, 4, 5, 6, 7, 8)
            ]
            hot, parts.hot = parts.hot, None
            above = [[client.get(path.format(key)).content] * 2 for key in (1, 2, 3, 4, 5, 6, 7, 8)]
            parts.hot = hot
            assert beneath == above
            return {client.get(path.format(key)).json()["model"]["version"] for key in range(1, 40)}

        assert {1} == answers()
        begin(database, share=0.5)
        job()
        while client.get(path.format(1)).json()["run_id"] == 1:
            pass
        assert {1, 2} == answers()


def test_an_incremental_job(job, database, api):
    """Each key's newest row is of the version that scored it then, also where its run had no canary."""
    job.path.write_text(JOB.replace("probability}", "probability}, mode: incremental"))
    job_file = load_job(job.path, {})
    days = [interval_named(f"2026-01-0{n}", "day", job_file.job.zone, datetime.now(UTC)) for n in (1, 3)]
    assert "published" == job().status
    do(database, "DELETE FROM t WHERE day = '2026-01-03' AND id > 100")
    mine = keys_of(database, begin(database))
    runtime = Runtime(database, job.path.parent, threads=1)
    assert ["published"] * 2 == [run_job(runtime, job_file, each).status for each in days]
    expected = {key for key in mine if key <= 100}
    assert expected == of_canary(published(database))
    page = api.get("/v1/jobs/churn/predictions", params={"limit": 300}).json()
    assert (300, expected) == (
        len(page["predictions"]),
        {each["key"]["id"] for each in page["predictions"] if each["model_version"] == 2},
    )
    own = min(expected)
    assert 2 == api.get(f"/v1/jobs/churn/predictions/{own}").json()["model"]["version"]
    history = api.get(f"/v1/jobs/churn/predictions/{own}/history").json()["predictions"]
    assert [2, 1, 2] == [each["model_version"] for each in history]


def test_a_job_without_one_is_as_it_was(job, database, api):
    """Its table, views and answers know of no canary; a backfill and a run of a version have none either."""
    job()
    columns = (
        "SELECT attname FROM pg_attribute WHERE attrelid = 'batchpred_data.churn'::regclass AND attnum > 0"
    )
    assert {"id", "score", "run_id"} == {row["attname"] for row in do(database, columns)}
    batch = api.post("/v1/jobs/churn/predictions:batchGet", json={"keys": [1]}).json()
    assert ["key", "prediction", "run_id"] == list(batch["predictions"][0])
    assert "canary" not in batch["runs"][0]
    begin(database)
    for options in ({"terms": Terms(is_backfill=True)}, {"model_ref": "churn/1"}):
        report = job(force=True, **options)
        assert ("published", None) == (report.status, report.canary)
    assert {1} == {row["model_version"] for row in published(database)}


def test_a_job_that_has_predictions_gets_one(job, database, api):
    """The rows of earlier runs stay where they lie and are their champion's; rows are not written anew."""
    path = "/v1/jobs/churn/predictions"
    job()
    tags = [
        api.get(path, headers={"Accept": form}).headers["ETag"] for form in ("application/json", "text/csv")
    ]
    one = api.get(f"{path}/1")
    file = "SELECT pg_relation_filenode('batchpred_data._run_1') AS file"
    before = do(database, file)
    mine = keys_of(database, begin(database))
    job()
    assert before == do(database, file)
    versions = do(
        database, "SELECT run_id, model_version, count(*) AS n FROM predictions._runs GROUP BY 1, 2"
    )
    assert 2 == len(versions)
    assert mine == of_canary(published(database))
    with database.connect(purpose="test", as_writer=True) as connection:
        moves.rollback(connection, "churn")
    assert {1} == {row["model_version"] for row in published(database)}
    again = api.get(f"{path}/1")
    assert (one.content, one.headers["ETag"]) == (again.content, again.headers["ETag"])
    for form, tag in zip(("application/json", "text/csv"), tags, strict=True):
        answer = api.get(path, headers={"Accept": form, "If-None-Match": tag})
        assert (200, True) == (answer.status_code, "model_version" in answer.text), (
            "it is written otherwise now"
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


@pytest.mark.parametrize("fault", ["signature", "retired", "damaged", "types"])
def test_one_that_cannot_score_is_withdrawn(job, database, fault, monkeypatch):
    """The run is the champion's alone, published, and says why."""
    name = {"signature": "nothing"}.get(fault, "x")
    push_model(database, "churn", scorer(3.0, name=name), alias="odd")
    sha256 = begin(database, version=3)
    if fault == "retired":
        do(
            database,
            "UPDATE batchpred.model_versions SET retired_at = now(), retired_why = 'y' WHERE version = 3",
        )
    if fault == "damaged":
        do(database, "UPDATE batchpred.model_pieces SET data = 'x' WHERE sha256 = %s", sha256)
    if fault == "types":
        monkeypatch.setattr("jobs.canary._require_fit", lambda *_: 1 / 0)
    report = job()
    assert ("published", 0, None) == (report.status, report.exit_code, report.canary)
    assert report.warnings[-1].startswith("canary churn/3 was withdrawn")
    expected = {
        "signature": "no column nothing", "retired": "was retired", "damaged": "damaged", "types": "ZeroDivision"
    }  # fmt: skip
    assert expected[fault] in report.warnings[-1]
    assert ([], {1}) == (stands(database), {row["model_version"] for row in published(database)})
    assert "canary withdrawn" == told(database)[-1][0]


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
    assert "failed with it, and was published without" in report.warnings[-1]
    assert "division by zero" in report.warnings[-1]
    assert [] == stands(database)


def test_over_files(runner, database, tmp_path):
    """Rows of a file are shared in the same way, bad ones set aside; it reads what the champion reads."""
    lines = [f"{n},{n / 100},{n}" for n in range(1, 200)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,x,z", "0,much,0", *lines]) + "\n")
    text = (
        JOB.partition("source:")[0]
        + "source: {path: rows.csv, bounded: false, types: {id: integer}}\n"
        + JOB.partition("}\n")[2]
    )
    job = runner(text + "checks: {max_quarantined: 0.5}\n", TABLES, scorer(1.0))
    push_model(database, "churn", scorer(-2.0), alias="candidate")
    push_model(database, "churn", scorer(-2.0, name="z"), alias="other")
    sha256 = begin(database)
    report = job()
    assert report.error is None, report.error
    assert ({"read": 200, "scored": 199, "quarantined": 1}, []) == (report.rows, report.warnings)
    rows = do(database, "SELECT id, model_version FROM predictions.churn ORDER BY id")
    mine = is_in_share([Column("id", "bigint")], pa.table({"id": range(1, 200)}), sha256, SHARE)
    assert mine.tolist() == [row["model_version"] == 2 for row in rows]
    begin(database, version=3)
    report = job()
    assert ("published", []) == (report.status, stands(database))
    assert "of files a canary reads what the run's own model reads" in report.warnings[-1]


def test_vectors_and_a_transform(runner, database, tmp_path, api):
    """Each model is given what the job's transform makes of its own rows; vectors say whose they are, too."""
    (tmp_path / "features.py").write_text("def twice(df):\n    return df.assign(x=df.x * 2)[df.x > 0.01]\n")
    text = JOB.replace("score: probability", "score: probability, v: 'vector[:]'")
    job = runner(text + "transform: features:twice\nchecks: {max_quarantined: 0.5}\n", TABLES, pair(1.0))
    push_model(database, "churn", pair(-2.0), alias="candidate")
    mine = keys_of(database, begin(database))
    report = job()
    assert "published" == report.status, report.error
    rows = do(
        database,
        "SELECT v.id, v.v, v.model_version, t.x FROM predictions.churn_vectors AS v JOIN t USING (id)"
        " WHERE t.day = '2026-01-02'",
    )
    weights = {1: 1.0, 2: -2.0}
    assert all(row["v"][0] == pytest.approx(2 * row["x"] * weights[row["model_version"]]) for row in rows)
    assert {row["id"] for row in rows} & mine == of_canary(rows)
    own = min(of_canary(rows))
    answer = api.get(f"/v1/jobs/churn/predictions/{own}").json()
    assert (2, 2) == (answer["model"]["version"], len(answer["prediction"]["v"]))
    listed = api.post("/v1/jobs/churn/predictions:batchGet", json={"keys": [own]}).json()["predictions"]
    assert [(2, answer["prediction"])] == [(each["model_version"], each["prediction"]) for each in listed]


def test_a_fault_that_is_not_its_own_leaves_it(job, database):
    """Where the run fails without it, too, it stands as before, and a schedule rests until something changes."""
    begin(database)
    do(database, "ALTER TABLE t RENAME x TO y")
    do(database, "ALTER TABLE t ADD x float4")
    do(database, "ALTER TABLE t ALTER x TYPE float4 USING 1, ALTER day TYPE text")
    job.path.write_text(JOB.replace("id, x,", "id, (1 / (id - 9))::float4 AS x,"))
    report = job()
    assert ("failed", [2]) == (report.status, stands(database))
    job_file = load_job(job.path, {})
    with database.connect(purpose="test", as_writer=True) as connection:
        sha256 = report.model["sha256"] if report.model else None
        failed = fingerprint(connection, job_file, model_sha256=sha256, canary=report.beside)
        assert fingerprint(connection, job_file) == failed


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


def test_a_shadow_beside_a_canary(job, database, command):
    """A shadow scores every key, and is compared with the champion's own rows alone."""
    mine = keys_of(database, begin(database))
    push_model(database, "churn", scorer(1.0 + 1e-3), alias="third")
    assert "complete" == job(shadow_ref="churn/3").shadow["status"]
    found = command("models", "compare", "--run", 1, "--json")[1]
    assert {"churn/1": 300 - len(mine), "churn/3": 300} == found["scored"]
    assert found["outputs"]["score"]["rank_correlation"] > 0.999


def test_a_release_begins_it_and_commands_tell_it(job, database, command, tmp_path):
    """From the release to its end every command that shows models, jobs or runs says what stands."""
    (tmp_path / "three.onnx").write_bytes(scorer(0.5))
    for words, says in (
        (("--canary", "5"), "write 0.01% to 99.99%"),
        (("--canary", "0%"), "write 0.01% to 99.99%"),
        (("--canary", "5%", "--alias", "nobody"), "churn@nobody points at no version yet"),
    ):
        try:
            code, said = command("release", "churn", "three.onnx", *words)
        except Exception as error:  # typer's own
            code, said = 2, error.format_message()
        assert (2, True) == (code, says in said), said
    assert 2 == len(do(database, "SELECT version FROM batchpred.model_versions"))
    code, said = command("release", "churn", "three.onnx", "--canary", "12.5%", "--json")
    assert (0, False, 3, 0.125) == (
        code,
        said["promoted"],
        said["canary"]["version"],
        said["canary"]["share"],
    )
    assert "canary" == said["steps"][-1]["step"]
    assert "candidate, canary of champion, 12.5%" in command("models", "list", "churn")[1]
    assert "churn/3" in command("plan", "churn", "--date", "2026-01-02", "--json")[1]["plans"][0]["canary"]
    assert 0 == command("run", "churn", "--date", "2026-01-02")[0]
    assert "canary churn/3 scores 12.5% of the keys beside churn@champion" in command("status", "churn")[1]
    assert "churn/1, churn/3 12.5%" in command("runs", "list")[1]
    shown = command("runs", "show", 1, "--json")[1]
    assert [False, True] == [side["is_canary"] for side in shown["sides"]]
    assert 300 == sum(side["rows"] for side in shown["sides"])
    assert "score p50" in command("runs", "show", 1)[1]
    own = min(keys_of(database, shown["canary_sha256"], 0.125))
    assert 3 == command("get", "churn", own, "--json")[1]["model_version"]
    code, said = command("models", "rollback", "churn", "--canary", "--why", "slow")
    assert 0 == code
    assert "canary churn/3 (12.5% of the keys) is withdrawn; churn@champion points at churn/1" in said
    code, said = command("models", "rollback", "churn", "--canary")
    assert (2, True) == (code, "has no canary" in said)
    assert [("canary", None), ("canary withdrawn", "slow")] == told(database)
    assert "canary" not in command("status", "churn")[1]
