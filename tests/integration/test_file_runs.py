"""Runs over files: what is published, done again, taken up, set aside and refused."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from jobs.compare import compare_models
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.plan import Runtime
from jobs.preview import preview
from jobs.run import run_job
from storage import garbage

JOB = """\
version: 1
name: j
source: {source}
key: [id]
model: file:m.onnx
output: {{columns: {{score: doubled}}}}
chunk_rows: {chunk_rows}
checks: {{max_quarantined: 1, min_rows: {min_rows}}}
"""
DAY = "2026-01-01"


class Project:
    """A folder with a model that doubles x, and runs of a job over files in it."""

    def __init__(self, folder, database):
        self.folder = folder
        self.database = database
        self.runtime = Runtime(database, folder / "cache")
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "x"], ["doubled"])], "double",
            [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 1])],
            [helper.make_tensor_value_info("doubled", TensorProto.DOUBLE, ["N", 1])],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    def job(self, source, chunk_rows=10, min_rows=1, more=""):
        path = self.folder / "j.job.yaml"
        text = JOB.format(source=source, chunk_rows=chunk_rows, min_rows=min_rows)
        path.write_text(text + more, encoding="utf-8")
        job_file = load_job(path, {})
        zone = job_file.job.zone
        return job_file, interval_named(DAY, job_file.job.interval, zone, datetime(2027, 1, 1, tzinfo=UTC))

    def run(self, source, **options):
        on_progress = options.pop("on_progress", lambda _rows: None)
        return run_job(self.runtime, *self.job(source, **options), on_progress=on_progress)

    def query(self, statement):
        with self.database.connect(purpose="test") as connection:
            return connection.execute(statement).fetchall()

    @property
    def scores(self):
        return {row["id"]: row["score"] for row in self.query("SELECT id, score FROM predictions.j")}

    def write(self, name, first, last, **more):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = list(range(first, last))
        pq.write_table(pa.table({"id": numbers, "x": [float(n) for n in numbers], **more}), path)


@pytest.fixture
def project(tmp_path, database):
    return Project(tmp_path, database)


SOURCE = '{path: "d/date={date}/*.parquet"}'
FOLDER = f"d/date={DAY}"


def test_the_same_files_again_are_a_no_op(project):
    """A second run over the same files changes nothing; another file there is another input."""
    project.write(f"{FOLDER}/b.parquet", 50, 60)
    project.write(f"{FOLDER}/a.parquet", 0, 25)
    project.write("d/date=2026-01-02/a.parquet", 90, 99)
    assert ("published", None) == ((first := project.run(SOURCE)).status, first.error)
    assert {n: 2.0 * n for n in [*range(25), *range(50, 60)]} == project.scores
    again = project.run(SOURCE)
    assert ("unchanged", first.run_id) == (again.status, again.run_id)
    project.write(f"{FOLDER}/c.parquet", 70, 71)
    assert "published" == project.run(SOURCE).status
    assert 140.0 == project.scores[70]


def test_what_was_read_is_on_record(project):
    """The run's definition says path and files, with their sizes and times."""
    project.write(f"{FOLDER}/a.parquet", 0, 5)
    run_id = project.run(SOURCE).run_id
    (row,) = project.query(
        "SELECT definition, query FROM predictions._runs JOIN batchpred.definitions"
        f" ON sha256 = definition_sha256 WHERE run_id = {run_id}"
    )
    status = (project.folder / FOLDER / "a.parquet").stat()
    assert "d/date={date}/*.parquet" == row["query"] == row["definition"]["path"]["path"]
    assert [[f"{FOLDER}/a.parquet", status.st_size, status.st_mtime_ns]] == row["definition"]["files"][
        "first"
    ]


class StopAfter:
    """Interrupts a run when some chunks of it are committed."""

    def __init__(self, chunks):
        self.left = chunks

    def __call__(self, _rows):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_run_that_stopped_goes_on_where_it_was(project, ending):
    """Chunks that are committed are kept while the files are the same, across files and bad rows."""
    source = f"{{path: d/*.{ending}, bounded: false, types: {{id: integer}}}}"
    if ending == "csv":
        (project.folder / "d").mkdir()
        for name, numbers in (("a", range(25)), ("b", range(50, 65))):
            rows = "".join(f"{n},{'bad' if n % 12 == 5 else n}\n" for n in numbers)
            (project.folder / "d" / f"{name}.csv").write_text("id,x\n" + rows)
    else:
        project.write("d/a.parquet", 0, 25)
        project.write("d/b.parquet", 50, 65)
    with pytest.raises(KeyboardInterrupt):
        project.run(source, on_progress=StopAfter(2))
    report = project.run(source)
    assert ("published", None) == (report.status, report.error)
    assert 2 <= report.chunks_resumed < report.chunks == 4
    bad = {n for n in [*range(25), *range(50, 65)] if n % 12 == 5} if ending == "csv" else set()
    assert {n: 2.0 * n for n in [*range(25), *range(50, 65)] if n not in bad} == project.scores
    assert {"read": 40, "scored": 40 - len(bad), "quarantined": len(bad)} == report.rows
    assert [len(bad)] == [row["n"] for row in project.query("SELECT count(*) AS n FROM batchpred.quarantine")]


@pytest.mark.parametrize("change", ["file", "chunk_rows"])
def test_a_run_whose_files_changed_begins_anew(project, change):
    """Nothing of the old reading is kept where a file changed, or chunks are cut elsewhere."""
    source = "{path: d, bounded: false}"
    project.write("d/a.parquet", 0, 40)
    with pytest.raises(KeyboardInterrupt):
        project.run(source, on_progress=StopAfter(2))
    if change == "file":
        project.write("d/a.parquet", 5, 45)
    report = project.run(source, chunk_rows=10 if change == "file" else 15)
    first = 5 if change == "file" else 0
    assert ("published", 0) == (report.status, report.chunks_resumed)
    assert {n: 2.0 * n for n in range(first, first + 40)} == project.scores


def test_bad_rows_of_a_csv_are_in_quarantine(project):
    """A row that cannot be read is set aside with file, line, key and text; the others are published."""
    (project.folder / "a.csv").write_text("id,x\n1,1.5\n2,oops\n3,3,3\n4,inf\nx,1\n6,6\n")
    source = "{path: a.csv, bounded: false, types: {id: integer}}"
    report = project.run(source)
    assert {"read": 6, "scored": 2, "quarantined": 4} == report.rows
    assert {1: 3.0, 6: 12.0} == project.scores
    rows = project.query("SELECT key, reason, features FROM batchpred.quarantine ORDER BY reason")
    assert [
        ({"id": None}, "a.csv line 4: 3 fields where the header has 2", {"line": "3,3,3"}),
        ({"id": 2}, "a.csv line 3: x 'oops' is no number", {"x": "oops"}),
        ({"id": "x"}, "a.csv line 6: id 'x' is no whole number", {"x": "1"}),
        ({"id": 4}, "x is infinite", {"x": "inf"}),
    ] == sorted(
        ((row["key"], row["reason"], row["features"]) for row in rows),
        key=lambda row: ("fields" not in row[1], row[1]),
    )
    with project.database.connect(purpose="test", as_writer=True) as connection:
        assert {"predictions": 0, "quarantined": 1} == garbage.forget(
            project.database, connection, "j", {"id": 2}
        )


def test_text_that_postgresql_cannot_hold_stops_no_other_row(project):
    """A key with a NUL or broken UTF-8 is set aside, and so is a bad row with a NUL in it; the rest is shown."""
    keys = pa.array([b"a", b"b\0b", b"\xff", b"d", b"e"], pa.binary()).view(pa.string())
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "x"], ["doubled"]), helper.make_node("Identity", ["t"], ["same"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 1]),
             helper.make_tensor_value_info("t", TensorProto.STRING, ["N", 1])],
            [helper.make_tensor_value_info("doubled", TensorProto.DOUBLE, ["N", 1]),
             helper.make_tensor_value_info("same", TensorProto.STRING, ["N", 1])],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    (project.folder / "m.onnx").write_bytes(model.SerializeToString())
    table = {"id": keys, "x": [1.0, 2.0, 3.0, float("inf"), 5.0], "t": ["", "", "", "t\0", "e"]}
    pq.write_table(pa.table(table), project.folder / "a.parquet")
    report = project.run("{path: a.parquet, bounded: false}")
    assert ("published", None) == (report.status, report.error)
    assert {"a": 2.0, "e": 10.0} == project.scores
    rows = project.query("SELECT key, reason, features FROM batchpred.quarantine ORDER BY reason")
    assert [
        ({"id": None}, "a.parquet row 3: id is no UTF-8 text", {"x": 3.0, "t": ""}),
        ({"id": "b␀b"}, "key column id holds a NUL character, which text cannot", {"x": 2.0, "t": ""}),
        ({"id": "d"}, "x is infinite", {"x": "inf", "t": "t␀"}),
    ] == [(row["key"], row["reason"], row["features"]) for row in rows]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_transform_is_given_the_files_columns(project, ending):
    """Whatever the model takes, a function sees every column of a file: of a CSV as text; moments are left out."""
    (project.folder / "features.py").write_text(
        "import pandas as pd\n\n\ndef build(df):\n"
        "    return df.assign(x=pd.to_numeric(df.width) * pd.to_numeric(df.height))\n"
    )
    if ending == "csv":
        rows = "1,2,3,2026-01-01T10:00\n2,4,5,2026-01-01T11:00\n"
        (project.folder / "a.csv").write_text(f"id,width,height,at\n{rows}")
    else:
        moments = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (10, 11)]
        table = {"id": [1, 2], "width": [2, 4], "height": [3.0, 5.0], "at": moments}
        pq.write_table(pa.table(table), project.folder / "a.parquet")
    source = f"{{path: a.{ending}, time_column: at, types: {{id: integer}}}}"
    report = project.run(source, more="transform: features:build\n")
    assert ("published", None) == (report.status, report.error)
    assert {1: 12.0, 2: 40.0} == project.scores
    said = "transform features:build is not given at (timestamp["
    assert (ending == "parquet") == any(said in warning for warning in report.warnings)


def test_models_are_compared_on_the_rows_that_could_be_read(project):
    """A row that would go to quarantine unread is given to neither model."""
    (project.folder / "a.csv").write_text("id,x\n1,1.5\n2,oops\n3,2\n")
    job_file, interval = project.job("{path: a.csv, bounded: false, types: {id: integer}}")
    with project.database.connect(purpose="test", as_writer=True) as connection:
        found = compare_models(
            project.runtime, connection, job_file, interval, ("file:m.onnx", "file:m.onnx")
        )
    assert (2, 1.0) == (found.rows, found.outputs["score"]["same"])


def test_a_key_in_two_files_is_found(project):
    """A key that two files have blocks the run, and is named; nothing is published."""
    project.write("d/a.parquet", 0, 5)
    project.write("d/b.parquet", 4, 9)
    report = project.run("{path: d, bounded: false}")
    assert (3, "blocked") == (report.exit_code, report.status)
    assert "1 key(s) stand there more than once: id 4 (2 rows)" in report.error


MISTAKES = [
    ("{path: d, bounded: false}", 1, "d/b.parquet: "),
    ("{path: nowhere.parquet, bounded: false}", 1, "nowhere.parquet: there is no nowhere.parquet"),
    ('{path: "d/date={date}/*.parquet", types: {id: integer}}', 3, "the source gave no rows for 2026-01-01"),
    ('{path: "d/date={date}/*.parquet"}', 2, "there is no file yet that says it; say what key column id is"),
    ("{path: a.csv, bounded: false}", 2, "a.csv: text says no types; say what key column id is"),
    (
        "{path: c.csv, types: {id: integer}, bounded: false}",
        1,
        "c.csv: c.csv has no column x, which model file:m.onnx takes; did you mean xx?",
    ),
    ("{path: l.parquet, bounded: false}", 1, "l.parquet: no model takes x (list<element: double>)"),
    ("{path: t.txt, bounded: false}", 2, "t.txt: its ending says neither Parquet, CSV nor Arrow"),
]


def test_what_is_wrong_is_one_line(project):
    """Each mistake has one line that says what and where, and the documented exit code."""
    project.write("d/a.parquet", 0, 5)
    (project.folder / "d/b.parquet").write_bytes(b"PAR1 this is none")
    (project.folder / "a.csv").write_text("id,x\n1,1\n")
    (project.folder / "c.csv").write_text("id,xx\n1,1\n")
    (project.folder / "t.txt").write_text("id,x\n1,1\n")
    pq.write_table(pa.table({"id": [1], "x": [[1.0]]}), project.folder / "l.parquet")
    for source, code, says in MISTAKES:
        report = project.run(source)
        assert says in report.error, source
        assert (code, False) == (report.exit_code, "\n" in report.error), source


def test_no_rows_may_be_meant(project):
    """With min_rows 0 an interval without files publishes nothing for it, as an empty query would."""
    (project.folder / "d").mkdir()
    source = '{path: "d/{date}.parquet", types: {id: integer}}'
    report = project.run(source, min_rows=0)
    assert ("published", {}) == (report.status, project.scores)


def test_a_plan_shows_files_and_rows(project):
    """`plan` says path, condition, files and rows; nothing is written."""
    project.write(f"{FOLDER}/a.parquet", 0, 25)
    job_file, interval = project.job(SOURCE)
    shown = preview(project.runtime, job_file, interval)
    size = (project.folder / FOLDER / "a.parquet").stat().st_size
    assert (f"{FOLDER}/*.parquet", [f"1 file(s), {size:,} bytes", f"{FOLDER}/a.parquet"], 25) == (
        shown["path"], shown["files"], shown["rows"],
    )  # fmt: skip
    assert "nothing: this interval has no published run" == json.loads(json.dumps(shown))["replaces"]
