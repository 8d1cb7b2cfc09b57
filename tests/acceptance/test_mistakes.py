"""What people get wrong: one clear line, the documented exit code, nothing written."""

import shutil
from pathlib import Path

import onnx
import psycopg
import pytest
from onnx import TensorProto, helper

from tests.pushed import push_model

RIDES = Path(__file__).resolve().parents[2] / "batchpred" / "demo"

JOB = """\
version: 1
name: rides
source: {query_file: rides.sql}
key: [id]
model: rides@champion
output: {columns: {score: doubled}}
"""
QUERY = "SELECT id, x FROM t WHERE at >= :interval_start AND at < :interval_end\n"


def doubling_model(dtype=TensorProto.FLOAT, batch="N") -> bytes:
    """One input x, one output twice as large."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["doubled"])], "double",
        [helper.make_tensor_value_info("x", dtype, [batch, 1])],
        [helper.make_tensor_value_info("doubled", dtype, [batch, 1])],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


@pytest.fixture
def project(batchpred, database):
    """A project whose job would run: ten rows of 2026-01-01, a model that doubles x."""
    with database.connect(purpose="test") as connection:
        connection.execute("CREATE TABLE t (id bigint, at timestamptz, x float8)")
        connection.execute(
            "INSERT INTO t SELECT g, '2026-01-01 12:00+00', g FROM generate_series(1, 10) AS g"
        )
    push_model(database, "rides", doubling_model())
    batchpred.write("rides.job.yaml", JOB)
    batchpred.write("rides.sql", QUERY)
    return batchpred


# Each kind of mistake: a wrong file, argument, query, model, address and option.
MISTAKES = {
    "job file": (["run", "--date", "2026-01-01"], 2, "rides.job.yaml:5:1: unknown key 'modle'"),
    "argument": (["run", "rides", "--date", "2026-02-29"], 2, "there is no such day in the calendar"),
    "query": (["run", "--date", "2026-01-01"], 1, "PostgreSQL says: syntax error"),
    "model": (["models", "push", "bad", "rides.sql"], 1, "is not ONNX"),
    "address": (["models", "list"], 1, "cannot connect to someone@127.0.0.1:1/nowhere"),
    "option": (["run", "--nope"], 2, "(see `batchpred run --help`)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_the_process(project, mistake):
    """A process of its own ends with the code and says one line, as main() does for all the other mistakes here."""
    arguments, code, says = MISTAKES[mistake]
    environment = {}
    if mistake == "job file":
        project.write("rides.job.yaml", JOB.replace("model:", "modle:"))
    if mistake == "query":
        project.write("rides.sql", QUERY.replace("x FROM", "x, FROM"))
    if mistake == "address":
        environment = {"BATCHPRED_DATABASE_URL": "postgresql://someone:s3cret@127.0.0.1:1/nowhere"}
    result = project(*arguments, **environment)
    assert (code, 1) == (result.code, len(errors(result))), result.err
    assert says in result.err
    assert "Traceback" not in result.err


def errors(result):
    """What is said on stderr beside the log, whose lines are JSON."""
    return [line for line in result.err.splitlines() if not line.startswith("{")]


def nothing_published(database):
    with database.connect(purpose="test") as connection:
        tables = connection.execute(
            "SELECT count(*) AS n FROM pg_class WHERE relnamespace = 'batchpred_data'::regnamespace"
        ).fetchone()
        return (
            connection.execute("SELECT count(*) AS n FROM batchpred.published").fetchone()["n"]
            == 0
            == tables["n"]
        )


def test_the_project_is_sound(project):
    """The project that the other tests spoil runs as it is."""
    (run,) = project("run", "--date", "2026-01-01", "--json", check=True).json["runs"]
    assert ("published", {"read": 10, "scored": 10, "quarantined": 0}) == (run["status"], run["rows"])
    wanted = "run_id job interval_start interval_end status model provider rows chunks seconds error"
    assert set(wanted.split()) <= set(run)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("model:", "modle:", "rides.job.yaml:5:1: unknown key 'modle'; did you mean 'model'?"),
        ("key: [id]", "key: [id]\nkey: [id]", "rides.job.yaml:5:1: the key 'key' stands here a second time"),
        ("version: 1", "version: 1\ndescription: no", "put it in quotation marks"),
        ("version: 1", "version: 1\nschedule: {cron: '0 3 * * *', timezone: Europe/Berln}",
         "did you mean Europe/Berlin?"),
        ("version: 1", "version: 1\nschedule: {cron: '0 25 * * *'}", "is no cron schedule"),
        ("name: rides", "name: \"ri'des\"", "cannot name a job"),
        ("name: rides", 'name: "ri\\0des"', "cannot name a job"),
        ("name: rides", f"name: {'r' * 64}", "cannot name a job"),
    ],
)  # fmt: skip
def test_a_wrong_job_file(project, database, old, new, says):
    """A fault in the job file is told with its place, and nothing is run."""
    project.write("rides.job.yaml", JOB.replace(old, new, 1))
    result = project.call("run", "--date", "2026-01-01")
    assert (2, 1) == (result.code, len(errors(result)))
    assert says in result.err
    assert nothing_published(database)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "rides", "--date", "2026-02-29"], "there is no such day in the calendar"),
        (["run", "rides", "--date", "20260101"], "is not a date; write YYYY-MM-DD"),
        (["run", "rides", "--date", "2026-W01-1"], "is not a date; write YYYY-MM-DD"),
        (["run", "rides", "--date", "2100-01-01"], "is not over yet; the latest complete one is"),
        (["run", "ride"], "no job 'ride' in"),
        (["run", "rides", "--date", "2026-01-01", "--model", "rides@nobody"],
         "has no alias 'nobody'; it has champion"),
        (["run", "rides", "--date", "2026-01-01", "--model", "rides"], "write NAME@ALIAS"),
    ],
)  # fmt: skip
def test_wrong_arguments(project, database, arguments, says):
    """A wrong date, job or model is one line; nothing is published."""
    result = project.call(*arguments)
    assert (True, 1) == (result.code in (1, 2), len(errors(result)))
    assert says in result.err
    assert "Traceback" not in result.err
    assert nothing_published(database)


@pytest.mark.parametrize(
    ("query", "code", "says"),
    [
        ("SELECT id, at FROM t WHERE at >= :interval_start", 1,
         "yields no column x, which model rides@champion takes"),
        ("SELECT id, x::text AS x FROM t WHERE at >= :interval_start", 1, "x"),
        ("SELECT id, x, FROM t WHERE at >= :interval_start", 1, "PostgreSQL says: syntax error"),
        ("SELECT NULLIF(id, 3) AS id, x FROM t WHERE at >= :interval_start", 3, "1 × key column id is NULL"),
        ("SELECT id / 2 AS id, x FROM t WHERE at >= :interval_start", 3, "stand there more than once: id "),
        ("SELECT id, x FROM t WHERE at >= :interval_start AND false", 3, "the source gave no rows for 2026-01-01"),
        ("SELECT id, x FROM t WHERE at >= :interval_strat", 2, "rides.sql:1:33: unknown parameter :interval_strat"),
        ("SELECT id, x FROM t", 1, "uses none of :interval_start, :interval_end and :date"),
        ("DELETE FROM t", 2, "a source is one SELECT"),
        ("SELECT id::numeric AS id, x FROM t WHERE at >= :interval_start", 1, "key column id is numeric"),
    ],
)  # fmt: skip
def test_a_wrong_query(project, database, query, code, says):
    """A query the job cannot use is one line with PostgreSQL's or our reason; nothing is published."""
    project.write("rides.sql", query)
    result = project.call("run", "--date", "2026-01-01")
    assert (code, 1) == (result.code, len(errors(result)))
    assert says in result.err
    assert "Traceback" not in result.err
    with database.connect(purpose="test") as connection:
        assert [] == connection.execute("SELECT * FROM batchpred.published").fetchall()
        assert 10 == connection.execute("SELECT count(*) AS n FROM t").fetchone()["n"]


def test_a_parameter_that_the_query_never_uses(project):
    """A value given in the job file for nothing is a mistake that is told."""
    project.write("rides.job.yaml", JOB.replace("rides.sql}", "rides.sql, params: {city: Berlin}}"))
    result = project("run", "--date", "2026-01-01")
    assert 2 == result.code
    assert "the query never uses :city" in result.err


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "HTML"),
        (b"\x80\x04\x95" + b"x" * 50, "pickle"),
        (doubling_model()[:60], ""),
        (doubling_model(batch=1), "batch"),
    ],
)
def test_a_file_that_is_no_usable_model(batchpred, data, says):
    """What cannot be scored with is refused at push, in one line, and not registered."""
    (batchpred.folder / "bad.onnx").write_bytes(data)
    result = batchpred.call("models", "push", "bad", "bad.onnx")
    assert (1, 1) == (result.code, len(errors(result)))
    assert says.lower() in result.err.lower()
    assert {"models": []} == batchpred.call("models", "list", "--json", check=True).json


def test_unknown_operators_and_versions_are_refused(batchpred):
    """An operator domain or opset that ONNX Runtime does not have is named."""
    for domain, version, says in (("acme.ops", 1, "acme.ops"), ("", 999, "999")):
        model = onnx.load_from_string(doubling_model())
        model.graph.node[0].domain = domain
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid(domain, version))
        (batchpred.folder / "bad.onnx").write_bytes(model.SerializeToString())
        result = batchpred.call("models", "push", "bad", "bad.onnx")
        assert (1, 1) == (result.code, len(errors(result)))
        assert says in result.err


def test_a_bit_flipped_in_the_store(project, database):
    """A model whose stored bytes changed is never scored with."""
    with database.connect(purpose="test") as connection:
        connection.execute(
            "UPDATE batchpred.model_pieces SET data = set_byte(data, 20, 255 - get_byte(data, 20))"
        )
    shutil.rmtree(Path(project.environment["BATCHPRED_HOME"]), ignore_errors=True)
    result = project("run", "--date", "2026-01-01")
    assert (1, 1) == (result.code, len(errors(result)))
    assert "it is damaged and was not used" in result.err
    assert nothing_published(database)


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        (
            "postgresql://someone:s3cret@127.0.0.1:1/nowhere",
            1,
            "cannot connect to someone@127.0.0.1:1/nowhere",
        ),
        ("postgresql://some one:s3cret@:x/y", 2, "BATCHPRED_DATABASE_URL is not a PostgreSQL address"),
        ("mysql://root:s3cret@127.0.0.1/x", 2, "BATCHPRED_DATABASE_URL is not a PostgreSQL address"),
    ],
)
def test_a_wrong_database_address(project, url, code, says):
    """A dead or malformed address is one line, and its password is never shown."""
    result = project.call("run", "--date", "2026-01-01", BATCHPRED_DATABASE_URL=url)
    assert (code, 1) == (result.code, len(errors(result)))
    assert says in result.err
    assert "s3cret" not in result.out + result.err


def test_a_wrong_password(project, database):
    """A refused login is one line without the password that was tried."""
    parts = psycopg.conninfo.conninfo_to_dict(database.url)
    url = f"postgresql://{parts['user']}:s3cret@{parts['host']}:{parts['port']}/{parts['dbname']}"
    result = project("run", "--date", "2026-01-01", BATCHPRED_DATABASE_URL=url)
    if result.code == 0:
        pytest.skip("this server trusts everybody")
    assert (1, 1) == (result.code, len(errors(result)))
    assert "password authentication failed" in result.err
    assert "s3cret" not in result.out + result.err


def test_a_database_without_the_schema(batchpred, empty_database):
    """A configured database is not changed unasked: the message names the command."""
    result = batchpred("models", "list", BATCHPRED_DATABASE_URL=empty_database.url)
    assert (1, 1) == (result.code, len(errors(result)))
    assert "batchpred db upgrade" in result.err
    with empty_database.connect(purpose="test") as connection:
        assert connection.execute("SELECT to_regnamespace('batchpred') AS ns").fetchone()["ns"] is None


def test_one_broken_job_does_not_stop_the_others(project):
    """The good jobs of a project run; the broken one is told, and the exit code says so."""
    project.write("broken.job.yaml", "version: 1\nnam: broken\n")
    result = project("run", "--date", "2026-01-01", "--json")
    assert (2, ["published"]) == (result.code, [run["status"] for run in result.json["runs"]])
    assert "broken.job.yaml" in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--nope"], "(see `batchpred run --help`)"),
        (["rn"], "No such command 'rn'"),
        (["get", "rides"], "Missing argument 'KEY...'"),
        (["serve", "--port", "0"], "Invalid value for '--port'"),
        (["--log-level", "loud", "schema"], "'loud' is not debug, info or warning"),
        (["models", "push", "m", "missing.onnx"], "'missing.onnx' does not exist"),
        (["db", "start"], "BATCHPRED_DATABASE_URL is set"),
    ],
)
def test_a_wrong_command_line(batchpred, arguments, says):
    """What the command line cannot mean is one line that names the right help, with exit code 2."""
    result = batchpred.call(*arguments)
    assert (2, 1) == (result.code, len(errors(result))), result.err
    assert says in result.err


def test_a_traceback_only_when_asked(project):
    """`--traceback` shows where an error came from; without it there is none."""
    assert "Traceback" not in project("models", "show", "nobody/1").err
    assert "Traceback" in project("--traceback", "models", "show", "nobody/1").err
