"""Runs whose features and scores are held against the reference profile of the version that scores them."""

import numpy as np
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

import jobs.profiling
import jobs.rows
from jobs.jobfile import load_job
from jobs.profile import make_profile
from jobs.retries import fingerprint
from storage import predictions
from tests.integration.canary import begin, stands
from tests.integration.drifting import JOB, Drifting, reference, rows, scorer
from tests.unit.onnx_models import graph


@pytest.fixture
def bare(command, database, tmp_path):
    """The project without a model."""
    return Drifting(command, database, tmp_path)


@pytest.fixture
def project(bare):
    """The project with a champion that has a reference profile."""
    bare.push(scorer(), reference(), alias="champion")
    return bare


def level_of(report):
    return {each["column"]: each["level"] for each in report["drift"]["columns"]}


def test_what_has_not_drifted_is_published(project, database):
    """Every column is judged and none has moved; the figures are with the run, in JSON, and for analysts in SQL."""
    code, report = project.run(project.fill())
    assert (0, "published", []) == (code, report["status"], report["warnings"])
    assert dict.fromkeys(("x", "flat", "flag", "plan", "score", "label"), "none") == level_of(report)
    shown = project.command("runs", "show", report["run_id"], "--json")[1]
    assert report["drift"] == shown["drift"]
    assert all(each["psi"] < 0.03 for each in shown["drift"]["columns"])
    told = project.command("runs", "show", report["run_id"])[1]
    assert "drift none, against churn/1's 5,000 rows; warn 0.1, alert 0.25" in told
    with database.connect(purpose="test") as connection:
        connection.execute("SET ROLE batchpred_analyst")
        found = connection.execute(
            "SELECT column_name, column_of, level, psi FROM predictions._drift ORDER BY psi DESC"
        ).fetchall()
    assert [(each["column"], each["psi"]) for each in shown["drift"]["columns"]] == [
        (each["column_name"], each["psi"]) for each in found
    ]
    assert {"feature", "score"} == {each["column_of"] for each in found}


def test_with_a_canary_the_rows_of_the_champion_are_judged(project, database):
    """What a candidate scores is not held against the champion's reference; the champion's own rows are."""
    project.push(scorer(-3.0))
    begin(database, share=0.4)
    code, report = project.run(project.fill(flat=np.full(1_000, 6.0)))
    assert (3, "blocked", [2]) == (code, report["status"], stands(database)), "it has no part in the drift"
    code, report = project.run(project.fill())
    assert (0, "none") == (code, report["drift"]["level"]), report
    judged = {each["rows"] for each in report["drift"]["columns"]}
    assert {1_000 - report["canary"]["rows"]["scored"]} == judged


def test_what_has_drifted_is_blocked_and_named(project):
    """A shift, a constant that changes and a new text; NULLs, and another share of true: each blocks, by name."""
    plan = rows(1_000)["plan"]
    plan[:300] = "gold"
    code, report = project.run(project.fill(x=rows(1_000)["x"] + 1, flat=np.full(1_000, 6.0), plan=plan))
    assert (3, "blocked") == (code, report["status"]), report
    assert {**dict.fromkeys(("x", "score", "flat", "plan", "label"), "alert"), "flag": "none"} == level_of(
        report
    )
    assert "drifted from churn/1's reference: flat (psi" in report["error"]
    assert "above 5 in 100% of the rows, 0% in the reference" in report["error"]
    assert "and 2 more (drift.alert 0.25)" in report["error"]
    shown = project.command("runs", "show", report["run_id"], "--json")[1]["drift"]
    assert {"gold": 300} == next(each for each in shown["columns"] if each["column"] == "plan")["new_values"]
    assert "gold" not in report["error"]
    code, report = project.run(project.fill(x=[None] * 1_000, flag=np.arange(1_000) % 2 == 0))
    assert (3, {"x", "score", "flag"}) == (
        code,
        {name for name, level in level_of(report).items() if level == "alert"},
    )
    assert "NULL in 100% of the rows, 0% in the reference" in report["error"]


def test_only_the_scores_have_drifted(project):
    """Features are as they were and the model says something else: its score is named, no feature is."""
    project.push(scorer(weight=4.0), reference(weight=1.0), alias="champion")
    code, report = project.run(project.fill())
    assert 3 == code
    assert {"score": "alert"} == {name: level for name, level in level_of(report).items() if level != "none"}


def test_blocked_by_drift_is_blocked(project, database, receiver):
    """Readers keep what they have, who is to be told is told once, and a person may publish it all the same."""
    project.job(JOB + f"notify: [{{webhook: '{receiver.url}/', secret: 0123456789abcdef}}]\n")
    first = project.run(project.fill())[1]["run_id"]
    day = project.fill(flat=np.full(1_000, 6.0))
    assert 3 == project.run(day)[0]
    code, report = project.run(day)
    assert 3 == code
    with database.connect(purpose="test") as connection:
        told = connection.execute("SELECT kind, message FROM batchpred.events").fetchall()
    assert ["blocked"] == [each["kind"] for each in told]
    assert "flat (psi" in told[0]["message"]["error"]
    shown = project.command("runs", "show", report["run_id"])[1]
    assert f"batchpred runs publish {report['run_id']} --override" in shown
    assert "flat" in shown
    assert "2026-01-01" in project.command("status")[1]
    assert first == project.command("get", "churn", 7, "--json")[1]["run_id"]
    assert 0 == project.command("runs", "publish", report["run_id"], "--override", "a new price list")[0]
    assert report["run_id"] == project.command("get", "churn", 7, "--json")[1]["run_id"]
    with database.connect(purpose="test") as connection:
        kinds = connection.execute("SELECT kind FROM batchpred.events ORDER BY event_id").fetchall()
    assert ["blocked", "recovered"] == [each["kind"] for each in kinds]


def test_warnings(project):
    """Where drift is to warn the run is published and says so; between the limits it does in any case."""
    shifted = rows(1_000)["x"] + 0.45
    code, report = project.run(project.fill(x=shifted))
    assert (0, "warn") == (code, report["drift"]["level"])
    assert "drift from churn/1's reference: score (psi 0.1" in report["warnings"][0]
    assert "(drift.warn 0.1)" in report["warnings"][0]
    project.job(JOB.replace("on_alert: block", "warn: 0.05, alert: 0.1"))
    code, report = project.run(project.fill(x=shifted))
    assert (0, "published", "alert") == (code, report["status"], report["drift"]["level"])
    assert "(drift.alert 0.1)" in report["warnings"][0]


def test_few_rows_say_little(project):
    """99 rows are not judged; 100 as they were are no alarm for a PSI above 0.1, and 100 others are one."""
    code, report = project.run(project.fill(**{name: values[:99] for name, values in rows(99, 5).items()}))
    assert (0, "unjudged") == (code, report["drift"]["level"])
    told = project.command("run", "churn", "--date", "2026-01-01", "--force")[1]
    assert "drift not judged: 99 rows are fewer than 100" in told
    few = rows(100, seed=5)
    code, report = project.run(project.fill(**few))
    worst = max(each["psi"] for each in report["drift"]["columns"])
    assert (0, "none", True) == (code, report["drift"]["level"], worst > 0.1)
    assert 3 == project.run(project.fill(**{**few, "x": few["x"] + 2}))[0]


def test_a_run_taken_up_again_comes_to_the_same(project, monkeypatch):
    """A run that stopped after two of four chunks says to the last digit what an undisturbed one says."""
    day = project.fill(x=rows(1_000)["x"] + 0.3)
    write, done = jobs.rows.write_chunk, []

    def stop_at_the_third(connection, run_id, chunk):
        if len(done) == 2:
            raise RuntimeError
        done.append(chunk.number)
        write(connection, run_id, chunk)

    monkeypatch.setattr(jobs.rows, "write_chunk", stop_at_the_third)
    assert 1 == project.run(day)[0]
    monkeypatch.setattr(jobs.rows, "write_chunk", write)
    again = project.run(day)[1]
    assert 2 == again["chunks_resumed"]
    anew = project.run(day, "--force")[1]
    assert (0, again["drift"]) == (anew["chunks_resumed"], anew["drift"])
    attach = predictions.attach
    monkeypatch.setattr(predictions, "attach", lambda *_: 1 / 0)  # all is scored, and nothing published
    assert 1 == project.run(day, "--force")[0]
    monkeypatch.setattr(predictions, "attach", attach)
    whole = project.run(day, "--force")[1]
    assert (4, again["drift"]) == (whole["chunks_resumed"], whole["drift"])
    # Chunks that were done before anybody asked for drift are not counted: they are scored anew.
    monkeypatch.setattr(jobs.rows, "write_chunk", stop_at_the_third)
    done.clear()
    project.job(JOB.partition("drift:")[0])
    assert 1 == project.run(day, "--force")[0]
    monkeypatch.setattr(jobs.rows, "write_chunk", write)
    project.job()
    asked = project.run(day, "--force")[1]
    assert (0, again["drift"]) == (asked["chunks_resumed"], asked["drift"])


def test_a_release_is_taken_back_by_drift(project):
    """A released version whose first run drifts is no champion any more; the next run is by the one before."""
    project.push(scorer(weight=4.0), reference())
    (project.folder / "2.onnx").write_bytes(scorer(weight=4.0))
    assert 0 == project.command("release", "churn", "2.onnx")[0]
    day = project.fill()
    code, report = project.run(day)
    assert (3, 2) == (code, report["model"]["version"])
    assert "unstable candidate: the first run of churn/2" in report["warnings"][-1]
    code, report = project.run(day)
    assert (0, 1) == (code, report["model"]["version"])


def test_a_version_without_a_reference(bare, database, monkeypatch):
    """It is not judged where drift warns and refused where it blocks, until a profile is made of a job's rows."""
    bare.push(scorer(), alias="champion")
    before, day = bare.fill(), bare.fill()
    code, said = bare.command("plan", "churn", "--date", day)
    assert 2 == code
    assert "churn/1 has no reference profile" in said
    assert "batchpred models profile churn/1 --job churn; or write `on_alert: warn`" in said
    assert 2 == bare.run(day)[0]
    (bare.folder / "2.onnx").write_bytes(scorer(2.0))
    warning = "warning: job churn will not run: drift: churn/{} has no reference profile"
    assert warning.format(2) in bare.command("release", "churn", "2.onnx")[1]
    assert warning.format(1) in bare.command("models", "promote", "churn/1")[1]
    bare.job(JOB.replace("block", "warn"))
    code, report = bare.run(day)
    assert (0, None) == (code, report["drift"])
    assert "churn/1 has no reference profile, so it is not judged" in report["warnings"][0]
    with database.connect(purpose="test") as connection:
        assert (
            []
            == connection.execute("SELECT 1 FROM batchpred.chunks WHERE drift_counts IS NOT NULL").fetchall()
        )
    bare.job()
    job_file = load_job(bare.folder / "churn.job.yaml", {})
    with database.connect(purpose="test") as connection:
        failed_with = fingerprint(connection, job_file)
    made = bare.command("models", "profile", "churn/1", "--job", "churn", "--date", before, "--json")[1]
    with database.connect(purpose="test") as connection:  # a schedule tries again
        assert failed_with != fingerprint(connection, job_file)
    assert (1_000, {"probability", "label"}) == (made["profile"]["rows"], set(made["profile"]["outputs"]))
    code, said = bare.command("models", "profile", "churn@champion", "--job", "churn")
    assert (1, True) == (code, "has a reference profile already" in said)
    monkeypatch.setattr(jobs.profiling, "MOST_ROWS", 300)  # every fourth of a thousand rows
    bare.command("models", "profile", "churn/1", "--job", "churn", "--date", before, "--replace")
    assert "of 250 rows" in bare.command("plan", "churn", "--date", day)[1]
    assert 0 == bare.run(day, "--force")[0]
    assert 3 == bare.run(bare.fill(flag=np.arange(1_000) % 2 == 0))[0]
    assert "profiled" in bare.command("models", "history", "churn")[1]
    assert (
        "6 columns against the reference profile of churn/1, of 250 rows"
        in bare.command("plan", "churn", "--date", day)[1]
    )


def test_files_and_features_in_python(project):
    """What the transform makes of the rows of a file is what is compared; vectors are left out."""
    (project.folder / "build.py").write_text(
        "def features(df):\n"
        "    return df.assign(x=df.doubled.astype(float) / 2, flat=5.0, flag=df.plan == 'pro')\n"
    )
    made = rows(1_000)
    lines = [f"{at},{x * 2},{plan}" for at, (x, plan) in enumerate(zip(made["x"], made["plan"], strict=True))]
    (project.folder / "2026-01-01.csv").write_text("\n".join(["id,doubled,plan", *lines]))
    source = "{path: '{date}.csv', types: {id: integer}}"
    job = JOB.replace('{query: "SELECT * FROM t WHERE day = :date"}', source)
    project.job(
        job.replace("label: label", 'label: label, v: "probability[:]"') + "transform: build:features\n"
    )
    code, report = project.run("2026-01-01")
    assert (0, "published") == (code, report["status"]), report
    assert dict.fromkeys(("x", "flat", "flag", "plan", "score", "label"), "none") == level_of(report)
    (project.folder / "build.py").write_text(
        "def features(df):\n"
        "    return df.assign(x=df.doubled.astype(float), flat=5.0, flag=df.plan == 'pro')\n"
    )
    code, report = project.run("2026-01-01")
    assert (3, ["score", "x"]) == (
        code,
        sorted(name for name, level in level_of(report).items() if level == "alert"),
    )


def test_a_matrix_and_the_newest_of_each_key(command, database, tmp_path):
    """A matrix model's columns are those that `features` names; an incremental job is judged by its own rows."""
    node = helper.make_node("Softmax", ["x"], ["y"])
    shape = (TensorProto.FLOAT, ["N", 2])
    random = np.random.default_rng(4)
    sample = random.normal(size=(2_000, 2))
    share = np.exp(sample[:, 1]) / np.exp(sample).sum(axis=1)
    profile = make_profile(
        pa.table({"a": sample[:, 0], "b": sample[:, 1]}), {"y[1]": share.astype(np.float32)}
    )
    project = Drifting(command, database, tmp_path)
    project.push(graph([node], {"x": shape}, {"y": shape}), profile, alias="champion")
    with database.connect(purpose="test") as connection:
        connection.execute("CREATE TABLE u (day date, id bigint, a float4, b float4, c float4)")
        with connection.cursor().copy("COPY u FROM STDIN") as copy:
            for at, (a, b) in enumerate(random.normal(size=(1_000, 2))):
                copy.write_row(("2026-01-01", at, a, b, 9))
    job = JOB.replace("FROM t", "FROM u").replace("score: probability, label: label", 'score: "y[1]"')
    job = job.replace("}}\nchecks", "}, mode: incremental}\nchecks")
    for features, missing in (("a: float32, b: float32", []), ("b: float32, c: float32", ["c"])):
        project.job(job + f"features: {{{features}}}\n")
        report = project.run("2026-01-01")[1]
        assert missing == report["drift"]["not_in_reference"], report
    said = "drift: the reference profile of churn/1 says nothing of c; not judged"
    assert (["score"], said) == (
        [each["column"] for each in report["drift"]["columns"] if each["level"] == "alert"],
        report["warnings"][0],
    )
