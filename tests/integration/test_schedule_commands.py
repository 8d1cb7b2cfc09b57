"""`tick`, `backfill`, `status` and `runs logs` as they are typed: tables, documents, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from batchpred.cli import app


@pytest.fixture
def batchpred(house, monkeypatch):
    """The command, in this process, on the house's database and in its folder."""
    monkeypatch.setenv("BATCHPRED_DATABASE_URL", house.database.url)
    monkeypatch.setenv("BATCHPRED_HOME", str(house.folder / "home"))
    monkeypatch.chdir(house.folder)
    old = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        done = CliRunner().invoke(app, [str(each) for each in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    yield run
    signal.signal(signal.SIGTERM, old)


def test_a_range_is_planned_done_told_and_shown(house, batchpred):
    """From the dry run over the backfill to the calendar and a run's log, each says what is so."""
    house.job()
    code, out = batchpred("backfill", "tips", "--from", "2026-01-03", "--to", "2026-01-04", "--dry-run")
    assert 0 == code
    assert "2 intervals: 2 to run; nothing was done" in out
    assert ["run chaos@champion"] * 2 == [" ".join(line.split()[1:]) for line in out.splitlines()[1:3]]
    code, out = batchpred("backfill", "tips", "--from", "2026-01-03", "--to", "2026-01-04", "--json")
    told = json.loads(out)
    assert (0, ["published"] * 2, 0, []) == (
        code, [run["status"] for run in told["runs"]], told["skipped"], told["redo"]
    )  # fmt: skip
    code, out = batchpred("backfill", "tips", "--from", "2026-01-03", "--to", "2026-01-04")
    assert "0 published (0 predictions), 2 were there already, 0 failed" in out
    code, out = batchpred("runs", "logs", told["runs"][0]["run_id"])
    events = [line.split()[2] for line in out.splitlines()[1:] if line]
    assert ["started", "chunks", "published"] == [each for each in dict.fromkeys(events) if each != "pointer"]


def test_status_leaves_with_1_where_a_promise_is_broken(house, batchpred):
    """A job that is late is LATE in the table and the exit code 1; a faulty file makes it 2, a kept promise 0."""
    house.job(schedule="late_after: 1h, start_date: 2026-01-05, catchup: latest")
    code, out = batchpred("status")
    assert 1 == code
    assert "LATE by" in out
    house.job(schedule="start_date: 2026-01-05, catchup: latest")
    code, out = batchpred("status", "tips", "--json")
    assert (0, 30) == (code, len(json.loads(out)["calendar"]))
    (house.folder / "bad.job.yaml").write_text("version: 1\n", encoding="utf-8")
    assert 2 == batchpred("status")[0]
    assert 2 == batchpred("tick")[0]


def test_a_scheduler_leaves_a_health_file_and_ends_in_good_order(house, batchpred):
    """The health file names the process and says that the database answered; SIGTERM ends it with 0."""
    house.job(schedule="catchup: none")
    health = house.folder / "health.json"
    line = [sys.executable, "-m", "batchpred", "schedule", "--every", "1", "--health-file", str(health)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, env=dict(os.environ), text=True)
    until = time.monotonic() + 30
    while not health.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    told = json.loads(health.read_text(encoding="utf-8"))
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert (process.pid, True) == (told["pid"], told["ok"])
    assert 0 == process.returncode, err
    assert ["scheduler started", "scheduler stopping", "scheduler stopped"] == [
        json.loads(each)["event"] for each in err.splitlines()
    ]
