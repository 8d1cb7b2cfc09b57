"""How a run is scored, from the job file to the ledger: batch size, device, and what is remembered."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from onnx import helper
from typer.testing import CliRunner

import jobs.batch_size
import jobs.summary
from batchpred import console
from batchpred.cli import app
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.machine import fingerprint
from jobs.plan import Runtime
from jobs.run import run_job
from tests.unit import onnx_models as models

TABLE = """
CREATE TABLE t AS
SELECT g::bigint AS id, (g % 100) / 50.0::float8 AS a, sin(g) AS b, cos(g) AS c, ln(g) AS d
  FROM generate_series(1, 8000) AS g
"""


@pytest.fixture
def project(database, tmp_path):
    """A logistic regression beside its job over 8,000 rows; a call runs the job with these lines and a day."""
    (tmp_path / "m.onnx").write_bytes(models.matrix(zipmap=False)[1])
    with database.connect(purpose="test") as connection:
        connection.execute(TABLE)

    def run(*lines, day="2026-01-01", model=None, columns='p: "probabilities[1]"'):
        if model:
            (tmp_path / "m.onnx").write_bytes(model)
        path = tmp_path / "j.job.yaml"
        path.write_text(
            "\n".join(
                (
                    "version: 1",
                    "name: j",
                    "source: {query: 'SELECT * FROM t WHERE :date IS NOT NULL'}",
                    "key: [id]",
                    "features: {a: null, b: null, c: null, d: null}",
                    "model: file:m.onnx",
                    f"output: {{columns: {{{columns}}}}}" if columns else "",
                    *lines,
                )
            ),
            encoding="utf-8",
        )
        job_file = load_job(path, {})
        interval = interval_named(day, "day", job_file.job.zone, datetime.now(UTC))
        runtime = Runtime(database, tmp_path, threads=2)
        return run_job(runtime, job_file, interval, on_expected=run.expected.append)

    run.expected = []
    return run


def batch_sizes(database):
    with database.connect(purpose="test", as_writer=True) as connection:
        return connection.execute("SELECT * FROM batchpred.batch_sizes").fetchall()


def test_a_measured_size_is_remembered(project, database, monkeypatch):
    """What a run measured the next run uses, on this machine alone, and both say so; predictions are the same."""
    monkeypatch.setattr(jobs.batch_size, "SIZES", (64, 128, 256))
    first = project()
    assert first.status == "published", first.error
    assert "measured in this run" in first.scoring["batch"]
    (kept,) = batch_sizes(database)
    used = (first.scoring["batch_rows"], first.scoring["threads"])
    assert used == (kept["batch_rows"], kept["threads"])
    assert (first.scoring["provider"], fingerprint()) == (kept["provider"], kept["machine"])
    second = project(day="2026-01-02")
    assert used == (second.scoring["batch_rows"], second.scoring["threads"])
    assert ": measured on 20" in second.scoring["batch"]
    monkeypatch.setattr(jobs.summary, "fingerprint", lambda: "another machine")
    third = project(day="2026-01-03")
    assert "measured in this run" in third.scoring["batch"]
    with database.connect(purpose="test") as connection:
        differ = connection.execute(
            "SELECT id FROM predictions.j_history GROUP BY id HAVING count(DISTINCT p) > 1"
        ).fetchall()
    assert differ == []


def test_how_many_rows_are_expected(project, database):
    """The first run takes the planner's estimate, the next the count of the interval before."""
    with database.connect(purpose="test") as connection:
        connection.execute("ANALYZE t")
        project()
        connection.execute("DELETE FROM t WHERE id > 5000")
    project(day="2026-01-02")
    assert [8_000, 8_000] == project.expected
    project(day="2026-01-03")
    assert project.expected[-1] == 5_000


def test_the_ledger_says_how(project, database, monkeypatch):
    """Device, provider and batch size stand on the run, and `runs show` shows them."""
    report = project("device: [cuda, cpu]", "batch_size: 700")
    assert report.status == "published", report.error
    assert report.scoring["device"] == "cpu"
    assert "no CUDAExecutionProvider" in report.scoring["fallback"]
    assert report.scoring["batch"] == "700 rows, 2 at once: `batch_size` of the job file"
    assert any("fell back to cpu" in line for line in report.notes)
    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)
    monkeypatch.setattr(console, "set_up_logging", lambda _level: None)
    shown = CliRunner().invoke(app, ["runs", "show", str(report.run_id), "--json"])
    assert report.scoring == json.loads(shown.stdout)["scoring"]
    shown = CliRunner().invoke(app, ["runs", "show", str(report.run_id)]).stdout
    assert "device_asked   cuda, cpu" in shown
    assert "CPUExecutionProvider" in shown


def test_a_device_that_is_not_there(project):
    """Asked for without a fallback, a missing device ends the run before it is written down, with exit code 2."""
    report = project("device: cuda")
    assert (None, "failed", 2) == (report.run_id, report.status, report.exit_code)
    assert "has no CUDAExecutionProvider" in report.error


# Output, its element type, and what it is kept and exported as.
VECTORS = {
    "single": (models.FLOAT, "real[]", "float"),
    "half": (models.HALF, "real[]", "float"),
    "twice": (models.DOUBLE, "double precision[]", "double"),
    "whole": (models.INT32, "bigint[]", "int64"),
}


def vectors():
    """A model that gives its four columns back as vectors of several dtypes, and the largest as a number."""
    casts = [helper.make_node("Cast", ["X"], [name], to=element) for name, (element, *_) in VECTORS.items()]
    largest = helper.make_node("ReduceMax", ["X"], ["largest"], axes=[1], keepdims=0)
    outputs = {name: (element, ["N", 4]) for name, (element, *_) in VECTORS.items()}
    return models.graph(
        [*casts, largest],
        {"X": (models.FLOAT, ["N", 4])},
        {**outputs, "largest": (models.FLOAT, ["N"])},
        opset={"": 17},
    )


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_vectors(project, database, api, mode):
    """Whole vectors are kept as arrays, read by key and in exports, and left out of what BI tools see."""
    columns = "".join(f'{name}: "{name}[:]", ' for name in VECTORS)
    report = project(
        f"output: {{mode: {mode}, columns: {{{columns}largest: largest}}}}", model=vectors(), columns=None
    )
    assert report.status == "published", report.error
    assert report.rows == {"read": 8_000, "scored": 8_000, "quarantined": 0}
    with database.connect(purpose="test") as connection:
        views = connection.execute(
            "SELECT table_name AS t, array_agg(column_name::text) AS names FROM information_schema.columns"
            " WHERE table_schema = 'predictions' AND table_name LIKE 'j%%' GROUP BY 1 ORDER BY 1"
        ).fetchall()
        types = connection.execute(
            "SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute"
            " WHERE attrelid = 'predictions.j_vectors'::regclass"
        ).fetchall()
        (row,) = connection.execute(
            "SELECT * FROM predictions.j_vectors JOIN t USING (id) WHERE id = 7"
        ).fetchall()
    shown = {each["t"]: bool(set(VECTORS) & set(each["names"])) for each in views}
    assert {"j": False, "j_history": False, "j_vectors": True} == shown
    kept = {each["name"]: each["type"] for each in types}
    one = api.get("/v1/jobs/j/predictions/7").json()["prediction"]
    several = api.post("/v1/jobs/j/predictions:batchGet", json={"keys": [7]}).json()["predictions"][0][
        "prediction"
    ]
    page = api.get("/v1/jobs/j/predictions", params={"limit": 7}).json()["predictions"][-1]
    assert [one, one, 7] == [several, page["prediction"], page["key"]["id"]]
    exported = api.get("/v1/jobs/j/predictions", headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(exported.content).read_all()
    assert table.num_rows == 8_000
    given = [row[name] for name in "abcd"]
    for name, (_, postgres, arrow) in VECTORS.items():
        tolerance = {"half": 1e-3, "whole": 1.0}.get(name, 1e-6)
        assert given == pytest.approx(row[name], abs=tolerance)
        assert row[name] == pytest.approx(one[name], abs=1e-6)
        assert (postgres, arrow) == (kept[name], str(table.schema.field(name).type.value_type))
    lines = api.get("/v1/jobs/j/predictions", headers={"accept": "text/csv"}).text.splitlines()
    assert lines[0] == f"id,{','.join(VECTORS)},largest,run_id"
    assert any(line.startswith('7,"{') for line in lines)


def test_a_check_reads_vectors(project):
    """A job's own checks see the run's vectors as arrays; one that finds rows blocks it."""
    check = 'checks: {sql: {short: "SELECT id, v FROM staged WHERE array_length(v, 1) <> WIDTH"}}'
    vector = {"model": vectors(), "columns": 'v: "single[:]"'}
    first = project(check.replace("WIDTH", "4"), **vector)
    assert ("published", None) == (first.status, first.error)
    report = project(check.replace("WIDTH", "3"), day="2026-01-02", **vector)
    assert ("blocked", 3) == (report.status, report.exit_code)
    assert "short found 8000 rows, such as id " in report.error


def test_a_vector_that_is_not_finite_is_set_aside(project, database):
    """One NaN in a vector sends its row to quarantine with a reason, and no other."""
    with database.connect(purpose="test") as connection:
        connection.execute("UPDATE t SET b = 'NaN' WHERE id = 5")
    report = project(model=vectors(), columns='v: "single[:]"')
    assert report.status == "published", report.error
    assert (7_999, 1) == (report.rows["scored"], report.rows["quarantined"])
    with database.connect(purpose="test", as_writer=True) as connection:
        (row,) = connection.execute("SELECT key, reason FROM batchpred.quarantine").fetchall()
    assert ({"id": 5}, "the model returned NaN for v") == (row["key"], row["reason"])


def test_a_transform(project, database, tmp_path):
    """Python features reach the model, a row left out is set aside, the cost is told, new code is a new run."""
    code = tmp_path / "features.py"
    body = "def build(df):\n    df = df[df.id != 9]\n    return df.assign(a=df.a * {}, e=df.b)\n"
    code.write_text(body.format(1.0), encoding="utf-8")
    plain = project(day="2026-01-02")
    report = project("transform: features:build")
    assert report.status == "published", report.error
    assert (7_999, 1) == (report.rows["scored"], report.rows["quarantined"])
    cost = report.scoring["transform"]
    assert cost["function"] == "features:build"
    assert 0 < cost["share"] < 1
    assert any("features:build took" in line for line in report.notes)
    with database.connect(purpose="test", as_writer=True) as connection:
        (row,) = connection.execute("SELECT key, reason, features FROM batchpred.quarantine").fetchall()
        differ = connection.execute(
            "SELECT id FROM predictions.j_history GROUP BY id HAVING count(DISTINCT p) > 1"
        ).fetchall()
    assert ({"id": 9}, "left out by the transform features:build") == (row["key"], row["reason"])
    assert {"id", "a", "b", "c", "d"} == set(row["features"])
    assert differ == []  # without the change of `a` both days are the same
    assert project("transform: features:build").status == "unchanged"
    code.write_text(body.format(2.0), encoding="utf-8")
    again = project("transform: features:build")
    assert ("published", plain.run_id) < (again.status, again.run_id)


def test_a_transform_that_fails(project, tmp_path):
    """The message names the function, the exception, the line, the chunk and its first key."""
    (tmp_path / "features.py").write_text(
        "def build(df):\n    if (df.id > 6000).any():\n        raise ValueError('too far')\n    return df\n",
        encoding="utf-8",
    )
    report = project("transform: features:build", "chunk_rows: 3000")
    assert ("failed", 1) == (report.status, report.exit_code)
    assert report.error == (
        "transform features:build failed: ValueError: too far (features.py, line 3), "
        "in chunk 2 (from key id=6001)"
    )
