"""How a run is scored, from the job file to the ledger: batch size, device, and what is remembered."""

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

import jobs.batch_size
import jobs.summary
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
  FROM generate_series(1, 30000) AS g
"""


@pytest.fixture
def project(database, tmp_path):
    """A logistic regression beside its job over 30,000 rows; a call runs the job with these lines and a day."""
    (tmp_path / "m.onnx").write_bytes(models.matrix(zipmap=False)[1])
    with database.connect(purpose="test") as connection:
        connection.execute(TABLE)

    def run(*lines, day="2026-01-01"):
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
                    'output: {columns: {p: "probabilities[1]"}}',
                    *lines,
                )
            ),
            encoding="utf-8",
        )
        job_file = load_job(path, {})
        interval = interval_named(day, "day", job_file.job.zone, datetime.now(UTC))
        return run_job(Runtime(database, tmp_path, threads=2), job_file, interval)

    return run


def batch_sizes(database):
    with database.connect(purpose="test", as_writer=True) as connection:
        return connection.execute("SELECT * FROM batchpred.batch_sizes").fetchall()


def test_a_measured_size_is_remembered(project, database, monkeypatch):
    """What a run measured the next run uses, on this machine alone, and both say so; predictions are the same."""
    monkeypatch.setattr(jobs.batch_size, "SIZES", (64, 256, 1024))
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


def test_the_ledger_says_how(project, database, monkeypatch):
    """Device, provider and batch size stand on the run, and `runs show` shows them."""
    report = project("device: [cuda, cpu]", "batch_size: 700")
    assert report.status == "published", report.error
    assert report.scoring["device"] == "cpu"
    assert "no CUDAExecutionProvider" in report.scoring["fallback"]
    assert report.scoring["batch"] == "700 rows with 2 threads: `batch_size` of the job file"
    assert any("fell back to cpu" in line for line in report.notes)
    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)
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
