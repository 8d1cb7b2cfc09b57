"""What readers, commands and other parts see of a run that two versions scored: of each row its own."""

import csv
import io
from collections import Counter
from datetime import UTC, datetime

import httpx
import pyarrow as pa
import pytest

from api.app import create_app
from batchpred.client import Client
from jobs import backfill
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.plan import Runtime
from jobs.run import run_job
from jobs.share import is_in_share
from jobs.stopping import Terms
from storage import moves
from storage.job_table import Column
from tests.integration.canary import (
    JOB,
    SHARE,
    TABLES,
    begin,
    champion_and_candidate,
    do,
    keys_of,
    of_canary,
    pair,
    published,
    stands,
    told,
)
from tests.integration.conftest import running
from tests.integration.test_release import scorer
from tests.pushed import push_model


@pytest.fixture
def job(runner, database):
    """A job with a champion and a candidate."""
    return champion_and_candidate(runner, database)


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
    assert "published" == job().status
    job_file, day = load_job(job.path, {}), interval_named("2026-01-02", "day", UTC, datetime.now(UTC))
    with database.connect(purpose="test", as_writer=True) as connection:
        found = [
            backfill.steps(connection, backfill.Backfill(job_file, day, day, ref))[0].line
            for ref in (None, "churn/1")
        ]
    assert ["skip", "rebuild"] == [each["do"] for each in found], "a share of it is another version's"
    assert {"churn/1, churn/2 20%"} == {each["by"] for each in found}
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


def test_a_shadow_beside_a_canary(job, database, command):
    """A shadow scores every key, and is compared with the champion's own rows alone."""
    mine = keys_of(database, begin(database))
    push_model(database, "churn", scorer(1.0 + 1e-3), alias="third")
    assert "complete" == job(shadow_ref="churn/3").shadow["status"]
    found = command("models", "compare", "--run", 1, "--json")[1]
    assert {"churn/1": 300 - len(mine), "churn/3": 300} == found["scored"]
    assert found["outputs"]["score"]["rank_correlation"] > 0.999
    push_model(database, "churn", scorer(-1.0, name="z"), alias="other")
    do(database, "UPDATE t SET whole = 0 WHERE id = 35")
    report = job(shadow_ref="churn/4", force=True)
    assert ("published", "abandoned") == (report.status, report.shadow["status"])
    assert ([2], mine) == (stands(database), of_canary(published(database))), (
        "that was the shadow's fault alone"
    )


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
