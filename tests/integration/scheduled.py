"""A project folder on a database, schedulers in it, and a clock to be set."""

from datetime import datetime

from batchpred.scheduler import Project
from jobs.jobfile import load_job
from jobs.plan import Runtime
from jobs.schedule import Ticker
from tests.chaos.world import model
from tests.pushed import push_model

JOB = """\
version: 1
name: {name}
schedule: {{cron: "0 3 * * *", timezone: Europe/Berlin{schedule}}}
{more}
source: {{query: "SELECT id, a, b FROM rows WHERE t >= :interval_start AND t < :interval_end"}}
key: [id]
features: {{a: float32, b: float32}}
model: chaos@champion
output: {{columns: {{score: "y[1]"}}}}
chunk_rows: 10
"""
# Forty rows on each day of January 2026, by the clocks of Berlin.
ROWS = """
CREATE TABLE rows (id bigint, t timestamptz, a float8, b float8);
INSERT INTO rows
SELECT id, (timestamp '2026-01-01 12:00' + (day * interval '1 day')) AT TIME ZONE 'Europe/Berlin', id, day
  FROM generate_series(1, 40) AS id, generate_series(0, 30) AS day;
CREATE TABLE loads (day date);
"""


def at(text):
    return datetime.fromisoformat(text)


class House:
    """A project folder on a database, schedulers in it, and a clock to be set."""

    def __init__(self, database, folder):
        self.database, self.folder = database, folder
        self.now = at("2026-01-06T09:00Z")
        self.project = Project(folder, {})
        self.runtime = Runtime(database, folder / "models", threads=1)
        with database.connect(purpose="test") as connection:
            connection.execute(ROWS)
        push_model(database, "chaos", model())

    def job(self, name="tips", schedule="", more=""):
        text = JOB.format(name=name, schedule=schedule and f", {schedule}", more=more)
        (self.folder / f"{name}.job.yaml").write_text(text, encoding="utf-8")

    def ticker(self, **options):
        options = {"clock": lambda: self.now, "look_every": 0.2, **options}
        return Ticker(self.runtime, self.project.load, **options)

    def tick(self, now=None, **options):
        """One pass; what it ran as [(job, interval, status)]."""
        self.now = at(now) if now else self.now
        return [(each.job, each.label, each.status) for each in self.ticker(**options).tick()]

    def do(self, statement, *values):
        with self.database.connect(purpose="test") as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def published(self, job="tips"):
        """Published intervals in the order in which they were, by local date."""
        rows = self.do(
            "SELECT to_char(as_of_date, 'YYYY-MM-DD') AS day FROM batchpred.publish_moves"
            " JOIN batchpred.runs ON run_id = to_run WHERE runs.job = %s ORDER BY move_id", job
        )  # fmt: skip
        return [row["day"] for row in rows]

    def job_file(self, name="tips"):
        return load_job(self.folder / f"{name}.job.yaml", {})

    def attempts(self):
        return self.do("SELECT * FROM batchpred.attempts ORDER BY job, interval_start")
