"""A backfill of days of real taxi rides, killed twice and started again, beside one that nothing disturbs."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from jobs.backfill import Backfill, backfill, named, steps
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.onnx_file import prepare
from jobs.plan import Runtime
from jobs.run import run_job
from storage import registry
from storage.database import Database
from storage.upgrade import upgrade
from tests.chaos.world import model
from tests.conftest import new_database

TAXIS = Path(__file__).resolve().parents[3] / "shared" / "data" / "taxis.csv"
JOB = """\
version: 1
name: {name}
interval: day
schedule: {{cron: "0 3 * * *", timezone: America/New_York}}
source:
  query: SELECT ride_id, distance, fare FROM taxis WHERE pickup >= :interval_start AND pickup < :interval_end
key: [ride_id]
features: {{distance: float32, fare: float32}}
model: tips@champion
output: {{columns: {{score: "y[1]"}}, mode: incremental}}
chunk_rows: 50
"""
HISTORY = """
SELECT ride_id, score, interval_start, as_of_date, model_name, model_version
  FROM predictions.{name}_history ORDER BY ride_id
"""
PUBLISHED = "SELECT count(*) FROM batchpred.published WHERE job = '{name}'"
# What must be so of the ledger after a backfill, however often it was killed: each of these finds nothing.
INVARIANTS = {
    "an interval was published twice": """
        SELECT job, interval_start FROM batchpred.publish_moves GROUP BY 1, 2 HAVING count(*) > 1""",
    "a published run of the range is not said to be a backfill's": """
        SELECT run_id FROM batchpred.runs JOIN batchpred.published USING (run_id)
         WHERE NOT is_backfill AND as_of_date <> '2019-03-31'""",
    "the newest interval is not current": """
        SELECT FROM (SELECT max(as_of_date) AS newest FROM predictions.tips) AS s WHERE newest <> '2019-03-31'""",
}


@contextmanager
def project(server_url, folder):
    """Two jobs alike, one to be hurt and one not, on a database with the rides, the model, and the newest day."""
    folder = Path(folder)
    with new_database(server_url) as url:
        database = Database.at(url)
        upgrade(database)
        prepared = prepare(model())
        with database.connect(purpose="chaos") as connection:
            connection.execute(
                "CREATE TABLE taxis (ride_id int, pickup timestamptz, distance real, fare real)"
            )
            connection.execute("SET timezone = 'America/New_York'")
            with (
                TAXIS.open(encoding="utf-8", newline="") as file,
                connection.cursor().copy("COPY taxis FROM STDIN") as copy,
            ):
                for number, ride in enumerate(csv.DictReader(file), start=1):
                    copy.write_row([number, ride["pickup"], ride["distance"], ride["fare"]])
            registry.push(
                connection, "tips", prepared.data, described=prepared.described, source="x", alias="champion"
            )
        for name in ("tips", "calm"):
            (folder / f"{name}.job.yaml").write_text(JOB.format(name=name), encoding="utf-8")
            job_file = load_job(folder / f"{name}.job.yaml", {})
            newest = interval_named("2019-03-31", "day", job_file.job.zone, datetime.now(UTC))
            report = run_job(Runtime(database, folder / "models", threads=1), job_file, newest)
            if report.status != "published":
                raise AssertionError(report.error)
        yield url


def undisturbed(folder, url, days):
    """Do the backfill of the other job in this process, at one go; return how many days it published."""
    runtime = Runtime(Database.at(url), Path(folder) / "models", threads=1)
    job_file = load_job(Path(folder) / "calm.job.yaml", {})
    options = {"model_ref": None, "as_of_date": False}
    range_ = named(job_file, "2019-03-01", f"2019-03-{days:02d}", datetime.now(UTC), **options)
    asked = Backfill(job_file, *range_)
    with runtime.database.connect(purpose="chaos", as_writer=True) as connection:
        planned = steps(connection, asked)
    return sum(report.status == "published" for report in backfill(runtime, asked, planned))


def command(folder, url, days):
    """The command a user types, as a process."""
    environment = {**os.environ, "BATCHPRED_DATABASE_URL": url, "BATCHPRED_HOME": str(Path(folder) / "home")}
    line = [sys.executable, "-m", "batchpred", "backfill", "tips", "--from", "2019-03-01", "--to",
            f"2019-03-{days:02d}", "--parallel", "2", "--json", "-C", str(folder)]  # fmt: skip
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fetch(url, query):
    """The rows of a query."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query).fetchall()


def killed_twice(folder, url, days):
    """Kill the backfill with a third and with two thirds of the days published; then let it end."""
    for share in (1, 2):
        process = command(folder, url, days)
        until = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if fetch(url, PUBLISHED.format(name="tips"))[0][0] - 1 >= share * days // 3:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    out, err = command(folder, url, days).communicate(timeout=120)
    return json.loads(out) if out else {"error": err}


def try_backfill(server_url, folder, days):
    """Do both and return what does not hold, and how many rows were compared."""
    with project(server_url, folder) as url:
        left = killed_twice(folder, url, days)
        faults = [f"it ended with {left['error']}"] if "error" in left else []
        if undisturbed(folder, url, days) != days:
            faults.append("days are missing of the clean one")
        faults += [name for name, query in INVARIANTS.items() if fetch(url, query)]
        found, expected = (fetch(url, HISTORY.format(name=name)) for name in ("tips", "calm"))
    if found != expected:
        faults.append(f"{len(set(found) ^ set(expected))} predictions differ from the clean ones")
    return faults, {"days": days, "rows": len(expected), "skipped_at_last": left.get("skipped")}
