"""What a job file may say, and the line that each fault gets."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from jobs.errors import JobFileError
from jobs.jobfile import job_schema, load_job, load_project
from jobs.jobspec.output import OutputRef, parse_output_ref
from jobs.jobspec.schedule import Schedule

JOB = """\
version: 1
name: churn
source:
  query: select 1
key: [customer_id]
model: churn@champion
output:
  columns: {score: "probabilities[1]"}
"""


@pytest.fixture
def load(tmp_path):
    def load(text=JOB, environ=None, name="churn.job.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_job(path, environ or {})

    return load


@pytest.fixture
def fault(load):
    def fault(text, environ=None, name="churn.job.yaml"):
        with pytest.raises(JobFileError) as error:
            load(text, environ, name)
        return str(error.value)

    return fault


def with_source(line: str) -> str:
    return JOB.replace("  query: select 1\n", f"  query: select 1\n  {line}\n")


def test_a_whole_file(load, tmp_path):
    """Every key of the design's example is read into the type that it stands for."""
    (tmp_path / "churn.sql").write_text("select :date\r\n")
    read = load(
        JOB.replace(
            "query: select 1", "query_file: churn.sql\n  params: {since: 2026-01-01, n: 5, x: 1.5, t: a}"
        )
        + "description: Daily churn\n"
        + 'schedule: {cron: "0 3 * * 7", timezone: Europe/Berlin, late_after: 2h}\n'
        + "interval: week\nfeatures: {tenure: float32, plan: }\nbatch_size: 10\n"
        + "checks: {min_rows: 0, max_rows_change: 0.5, max_null_rate: 1e-3, score_range: [0, 1]}\n"
        + "drift: {metric: psi, warn: 0.1, alert: 0.25}\nretention: {predictions: 400d}\n"
    )
    job = read.job
    assert "select :date\n" == read.query
    assert {"since": date(2026, 1, 1), "n": 5, "x": 1.5, "t": "a"} == job.source.params
    assert timedelta(hours=2) == job.schedule.late_after
    assert timedelta(days=400) == job.retention.predictions
    assert "Europe/Berlin" == job.zone.key
    assert {"tenure": "float32", "plan": None} == job.features
    assert 0.001 == job.checks.max_null_rate
    assert (10, 100_000, "snapshot") == (job.batch_size, job.chunk_rows, job.output.mode)


@pytest.mark.parametrize(
    ("expected", "found", "written"),
    [
        ("6:1: unknown key 'modle'; did you mean 'model'?", "model:", "modle:"),
        ("1:10: version: write 1, the only one there is", "version: 1", "version: 2"),
        ("1:10: version: write 1, the only one there is", "version: 1", "version: true"),
        ("1:10: version: write 1, the only one there is", "version: 1", 'version: "1"'),
        (
            "2:7: name: yes, no, on, off, true and false are booleans in YAML; put it in quotation marks",
            "name: churn",
            "name: no",
        ),
        (
            "2:7: name: this is a number, where text belongs; put it in quotation marks",
            "name: churn",
            "name: 12",
        ),
        (
            "2:7: name: this is a date, where text belongs; put it in quotation marks",
            "name: churn",
            "name: 2026-01-01",
        ),
        ("2:6: name: this is empty, where text belongs", "name: churn", "name:"),
        ("2:7: the job is called 'churns', so its file is churns.job.yaml", "name: churn", "name: churns"),
        (
            (
                "2:7: 'Churn' cannot name a job: a lower-case letter, then up to 54 of a-z, 0-9 and _, "
                "not ending in _history or _vectors"
            ),
            "name: churn",
            "name: Churn",
        ),
        ("5:6: key: this is text, where a list, such as [a, b], belongs", "[customer_id]", "customer_id"),
        (
            "5:7: 'Id' cannot name a column: up to 63 of a-z, 0-9 and _, not beginning with a digit",
            "[customer_id]",
            "[Id]",
        ),
        (
            "5:7: 'run_id' cannot name a column: every view has one of that name already",
            "[customer_id]",
            "[run_id]",
        ),
        (
            "5:7: 'xmin' cannot name a column: PostgreSQL has one of that name in every table",
            "[customer_id]",
            "[xmin]",
        ),
        ("5:6: key: column 'a' stands there twice", "[customer_id]", "[a, a]"),
        ("5:6: key: list should have at least 1 item after validation, not 0", "[customer_id]", "[]"),
        (
            "8:13: 'run_id' cannot name a column: every view has one of that name already",
            "{score:",
            "{run_id:",
        ),
        ("8:3: output: column 'customer_id' is in the key already", "{score:", "{customer_id:"),
        (
            (
                "8:20: 'a[x]' is no model output; write its name, NAME[INDEX] for one element, "
                "or NAME[:] for all of them"
            ),
            '"probabilities[1]"',
            '"a[x]"',
        ),
        ("4:3: give either query, query_file or path", "query: select 1", "bounded: false"),
        (
            "4:3: give either query, query_file or path, not query and query_file",
            "query: select 1",
            "query: select 1\n  query_file: a.sql",
        ),
        (
            "4:9: path: unknown placeholder {dates}; did you mean {date}?",
            "query: select 1",
            "path: a/{dates}.csv",
        ),
        (
            "4:3: time_column is for files (path), and this is a query",
            "query: select 1",
            "query: select 1\n  time_column: at",
        ),
        (
            "4:3: params is for a query, and this is a path",
            "query: select 1",
            "path: a.csv\n  params: {a: 1}",
        ),
        (
            "1:1: source: every day would score the same files; put {date} into the path, "  # noqa: ISC004
            "name the `time_column` that tells them apart, or say `bounded: false` if that is meant",
            "query: select 1",
            "path: a/{month}.csv",
        ),
        (
            "1:1: source: types says what x is, which is not in the key; the model says what it takes",
            "query: select 1",
            "path: a/{date}.csv\n  types: {x: integer}",
        ),
        ("4:10: it is empty; write it, or leave the key out", "query: select 1", 'query: ""'),
        (
            "4:15: query_file '../a.sql' lies outside the project folder",
            "query: select 1",
            "query_file: ../a.sql",
        ),
        (
            "4:15: the text holds a NUL or half a character, which PostgreSQL cannot keep",
            "query: select 1",
            'query_file: "a\\0b"',
        ),
        (
            "4:15: there is no file 'churm.sql'; did you mean 'churn.sql'?",
            "query: select 1",
            "query_file: churm.sql",
        ),
    ],
)
def test_refused_values(expected, found, written, fault, tmp_path):
    """A value that cannot be meant gets one line at its place that says what is allowed."""
    (tmp_path / "churn.sql").write_text("select 1")
    assert f"churn.job.yaml:{expected}" == fault(JOB.replace(found, written))


@pytest.mark.parametrize(
    ("expected", "line"),
    [
        ("9:1: the key 'name' stands here a second time, first on line 2", "name: churn"),
        (
            "9:1: the key `on` is not read as text (YAML 1.1); put it in quotation marks",
            "on: 1",
        ),
        (
            "9:9: shadow: churn@champion is the job's model already; name another, or leave it out",
            "shadow: churn@champion",
        ),
        (
            (
                "9:9: shadow: model 'candidate' is no reference: write NAME@ALIAS (churn@champion), NAME/VERSION "
                "(churn/3), file:PATH.onnx, mlflow:NAME@ALIAS, s3://BUCKET/PATH.onnx or "
                "hf:OWNER/REPO/PATH.onnx@COMMIT"
            ),
            "shadow: candidate",
        ),
        ("9:1: merge keys (<<) are not allowed here; write the keys out", "<<: {description: x}"),
        (
            "9:14: anchors and aliases (& and *) are not allowed here; write the value out",
            "description: &a x",
        ),
        ("9:14: anchors and aliases (& and *) are not allowed here; write the value out", "description: *a"),
        ("9:14: the tag !x is not allowed here", "description: !x y"),
        ("9:1: a second document begins here; a job file holds one", "---\nversion: 1"),
        ("9:33: more than 20 levels are nested here", f"description: {'[' * 200_000}"),
        ("9:14: `2026-02-30`: day is out of range for month", "description: 2026-02-30"),
        (
            "9:13: `0123`: not a plain decimal number; write one, or put it in quotation marks",
            "chunk_rows: 0123",
        ),
        (
            "9:13: `1:30`: not a plain decimal number; write one, or put it in quotation marks",
            "chunk_rows: 1:30",
        ),
        (
            "9:25: `.nan`: not a plain decimal number; write one, or put it in quotation marks",
            "checks: {max_null_rate: .nan}",
        ),
        ("9:13: chunk_rows: this is text, where a whole number belongs", 'chunk_rows: "5"'),
        ("9:13: chunk_rows: this is a boolean, where a whole number belongs", "chunk_rows: yes"),
        ("9:13: chunk_rows: input should be greater than or equal to 1", "chunk_rows: 0"),
        ("9:13: batch_size: input should be less than or equal to 1000000", "batch_size: 1000001"),
        ("9:9: score_range: the low end comes first", "checks: {score_range: [1, 0]}"),
        ("9:25: checks.max_null_rate: input should be less than or equal to 1", "checks: {max_null_rate: 2}"),
        ("9:8: warn is above alert; it comes first", "drift: {warn: 0.5, alert: 0.1}"),
        ("9:11: 'soon' is not one of 'hour', 'day', 'week' or 'month'", "interval: soon"),
        (
            "9:26: '0d' is no duration; write a number and s, m, h, d or w, such as 2h",
            "retention: {predictions: 0d}",
        ),
        (
            "9:18: '61 * * * *' is no cron schedule: there is no such minute",
            "schedule: {cron: '61 * * * *'}",
        ),
        (
            (
                "9:18: '0 0 3 * * *' is no cron schedule: it has five fields, minute, hour, day, month and "
                "weekday, or is one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually"
            ),
            "schedule: {cron: '0 0 3 * * *'}",
        ),
        (
            "9:38: unknown time zone 'Europe/Berln'; did you mean Europe/Berlin?",
            "schedule: {cron: '@daily', timezone: Europe/Berln}",
        ),
        ("9:11: features: this is a list, where a mapping of keys to values belongs", "features: [a]"),
        (
            "9:12: 'a\"b' cannot name a source column: 1 to 63 bytes, without quotation marks and NUL",
            "features: {'a\"b': bool}",
        ),
        (
            f"9:12: {'é' * 32!r} cannot name a source column: 1 to 63 bytes, without quotation marks and NUL",
            f"features: {{{'é' * 32}: bool}}",
        ),
        (
            (
                "9:21: this is not YAML: expected ',' or '}', but got '{'; "
                "put ${…} and {…} in quotation marks between { } or [ ]"
            ),
            "checks: {min_rows: ${N}}",
        ),
    ],
)
def test_refused_lines(expected, line, fault):
    """YAML that says something else than it seems to, or a key's impossible value, is refused at its place."""
    assert f"churn.job.yaml:{expected}" == fault(f"{JOB}{line}\n")


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("1:1: a job file that is empty", b""),
        ("1:1: a job file is a mapping; it begins with `version: 1` and `name: …`", b"# nothing\n"),
        ("1:1: a job file is a mapping; it begins with `version: 1` and `name: …`", b"- a\n"),
        ("1:1: a job file that is not UTF-8 (byte 1)", b"\xff\xfe"),
        ("1:1: a job file has at most 1,000,000 bytes", b"x: " + b"y" * 1_000_000),
    ],
)
def test_no_job_file(expected, text, fault):
    """A file that is empty, no mapping, no UTF-8 or far too large is no job file."""
    assert f"churn.job.yaml:{expected}" == fault(text)


def test_byte_order_mark(load):
    """A byte order mark, as Windows editors write it, changes nothing."""
    assert load(JOB).job == load(b"\xef\xbb\xbf" + JOB.encode()).job


def test_faults_together(fault):
    """All values that are wrong are told at once, from top to bottom."""
    assert [
        "churn.job.yaml:1:1: the key 'output' is missing",
        "churn.job.yaml:5:7: 'Id' cannot name a column: up to 63 of a-z, 0-9 and _, not beginning with a digit",
        "churn.job.yaml:6:1: unknown key 'modle'; did you mean 'model'?",
        "churn.job.yaml:7:13: chunk_rows: this is text, where a whole number belongs",
    ] == fault(
        "version: 1\nname: churn\nsource:\n  query: select 1\nkey: [Id]\nmodle: a@b\nchunk_rows: '5'\n"
    ).split("\n")


@pytest.mark.parametrize(
    ("expected", "text", "environ"),
    [
        ("a", "${V}", {"V": "a"}),
        ("x", "${V:-x}", {"V": ""}),
        ("", "${V-x}", {"V": ""}),
        ("x", "${V-x}", {}),
        ("a$b ${V}", "a$$b $${V}", {}),
        ("a: [b *c", "${V}", {"V": "a: [b *c"}),
        ("5", '"${V}"', {"V": "5"}),
    ],
)
def test_environment(expected, text, environ, load):
    """Values are filled in from the environment as Compose does it; quoted ones stay text."""
    assert expected == load(f"{JOB}description: {text}\n", environ).job.description


@pytest.mark.parametrize(
    ("expected", "text", "environ"),
    [
        ("the environment variable V is not set", "${V}", {}),
        ("the environment variable V is not set: say which", "${V:?say which}", {"V": ""}),
        ("the environment variable V is not set: say which", "${V?say which}", {}),
        ("a lone $ is not allowed; write $$ for a dollar sign, ${NAME} for a variable", "$V", {"V": "a"}),
        ("the default of V cannot hold a $ or another variable", "${V:-${W}}", {}),
        ("`${V}`: day is out of range for month", "${V}", {"V": "2026-02-30"}),
    ],
)
def test_refused_environment(expected, text, environ, fault):
    """A variable that is missing or cannot be read is told by name, never by value."""
    assert f"churn.job.yaml:9:14: {expected}" == fault(f"{JOB}description: {text}\n", environ)


def test_numbers_from_the_environment(load):
    """A number in a variable is a number where the variable stands without quotation marks."""
    assert 5000 == load(f"{JOB}chunk_rows: ${{N}}\n", {"N": "5000"}).job.chunk_rows


def test_sql_is_not_filled_in(load, tmp_path):
    """The text of a query is never changed, whether it stands in the job file or beside it."""
    sql = "select $$a$$, '${HOME}', $1"
    assert sql == load(JOB.replace("select 1", sql), {"HOME": "/x"}).query
    (tmp_path / "a.sql").write_text(sql)
    assert sql == load(JOB.replace("query: select 1", "query_file: a.sql"), {"HOME": "/x"}).query


@pytest.mark.parametrize(
    "secret", ["postgresql://u:hunter2@h/d", "12345678", "2026-02-30", "~", "a: [hunter2"]
)
def test_secrets_are_text_and_hidden(secret, load):
    """A secret is read as it is, whatever it looks like, and no repr shows it."""
    read = load(with_source("dsn: ${DSN}"), {"DSN": secret})
    assert secret == read.job.source.dsn.get_secret_value()
    assert secret not in repr(read)
    assert secret not in str(read.job.model_dump())


@pytest.mark.parametrize("written", ["[hunter2]", "{hunter2: 1}", '""'])
def test_secrets_in_no_error(written, fault):
    """An error about a secret does not say the secret, and an empty one is an error."""
    said = fault(with_source(f"dsn: {written}"))
    assert said.startswith("churn.job.yaml:5:8: ")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("expected", "written"),
    [
        ("5:15: a parameter's value is text, a number, true, false, a date or null", "{a: [1]}"),
        (
            "5:15: a parameter's value is text, a number, true, false, a date or null",
            "{a: 2026-01-01 10:00:00}",
        ),
        ("4:3: params: date is the interval's own", "{date: 1}"),
    ],
)
def test_refused_parameters(expected, written, fault):
    """A parameter is one plain value, and none of the interval's."""
    assert f"churn.job.yaml:{expected}" == fault(with_source(f"params: {written}"))


def test_definition_digest(load):
    """The digest changes with what decides rows and outputs, and with nothing else."""
    digest = load().definition_sha256
    same = [
        f"{JOB}description: x\n", f"{JOB}checks: {{min_rows: 7}}\n", f"{JOB}retention: {{predictions: 1d}}\n",
        f"{JOB}schedule: {{cron: '@daily'}}\n",
    ]  # fmt: skip
    other = [
        JOB.replace("select 1", "select 2"), JOB.replace("customer_id", "id"), JOB.replace("[1]", "[0]"),
        f"{JOB}interval: hour\n", f"{JOB}features: {{a: bool}}\n", with_source("params: {a: 1}"),
        with_source("dsn: postgresql://h/d"),
        f"{JOB}schedule: {{cron: '@daily', timezone: Europe/Berlin}}\n",
    ]  # fmt: skip
    assert {digest} == {load(text).definition_sha256 for text in same}
    digests = {load(text).definition_sha256 for text in other}
    assert len(other) == len(digests - {digest})


def test_project(load, fault, tmp_path):
    """A faulty file hides none of the others, and a copied job's name is told."""
    load()
    (tmp_path / "copy.job.yaml").write_text(JOB)
    (tmp_path / "broken.job.yaml").write_text("version: [")
    jobs, faults = load_project(tmp_path, {})
    assert ["churn"] == [each.job.name for each in jobs]
    assert ["broken.job.yaml", "copy.job.yaml"] == [str(each).split(":")[0] for each in faults]
    assert "copy.job.yaml:2:7: the job is called 'churn', so its file is churn.job.yaml" == str(faults[1])


@pytest.mark.parametrize("name", ["missing.job.yaml", "folder.job.yaml"])
def test_unreadable(name, tmp_path):
    """A file that is not there, or is a folder, is an error and no traceback."""
    (tmp_path / "folder.job.yaml").mkdir()
    with pytest.raises(JobFileError, match=f"^{name}:1:1: a job file that cannot be read: "):
        load_job(tmp_path / name, {})


def test_schema():
    """The JSON Schema allows no unknown key at any level, and describes the keys."""
    schema = job_schema()
    objects = [schema, *schema["$defs"].values()]
    assert [False] * len(objects) == [each["additionalProperties"] for each in objects]
    assert {"version", "name", "source", "key", "model", "output"} == set(schema["required"])


@pytest.mark.parametrize(
    ("expected", "text"),
    [(OutputRef("label", None), "label"), (OutputRef("out/p:0", 12), "out/p:0[12]")],
)
def test_output_reference(expected, text):
    """An output is named whole, or by one element of it."""
    assert expected == parse_output_ref(text)


@pytest.mark.parametrize("text", ["", " a", "a[-1]", "a[1", "[1]", "a[1][2]", "a[1.0]"])
def test_refused_output_reference(text):
    """What is neither a name nor NAME[INDEX] is refused."""
    with pytest.raises(JobFileError, match="is no model output; write its name, NAME"):
        parse_output_ref(text)


@pytest.mark.parametrize(
    "cron", ["0 3 * * 0", "0 3 * * 7", "*/15 0-6 1,15 JAN mon-FRI", "@weekly", "0 0 29 2 *"]
)
def test_cron(cron):
    """Cron text is what cron(5) takes: both Sundays, names, lists, steps and the @ words."""
    assert 5 == len(Schedule(cron=cron).cron_fields.split())
