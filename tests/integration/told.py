"""A job of three people that somebody is told of, as the tests of being told run it."""

from datetime import UTC, datetime

import jobs.run
from jobs.deliver import look_and_deliver, watching
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.onnx_file import prepare
from jobs.plan import Runtime
from storage import registry
from tests.chaos.world import model

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WEBHOOK = "  - {{webhook: '{url}/hook?token=t0ken', secret: {secret}}}"
_JOB = """\
version: 1
name: churn
description: Who leaves
schedule: {{cron: "0 3 * * *", late_after: {late}}}
source: {{query: "SELECT id, a, b FROM people WHERE :date IS NOT NULL"}}
key: [id]
features: {{a: float32, b: float32}}
model: churn@champion
output: {{columns: {{score: "y[1]"}}}}
checks: {{min_rows: {min_rows}}}
notify:
{notify}
"""


class Told:
    """The project: a job file to write, its run as `batchpred run` does it, and its source to break and mend."""

    def __init__(self, database, folder, receiver):
        self.database, self.folder, self.receiver = database, folder, receiver
        prepared = prepare(model())
        with database.connect(purpose="test") as connection:
            connection.execute(
                "CREATE TABLE people AS SELECT g::bigint AS id, g::float8 AS a, 1::float8 AS b"
                " FROM generate_series(1, 3) AS g"
            )
            registry.push(
                connection, "churn", prepared.data, described=prepared.described, source="x", alias="champion"
            )

    def job(self, notify=WEBHOOK, min_rows=1, late="9000d"):
        """Write the job file, told to the receiver by a webhook unless `notify` says otherwise."""
        path = self.folder / "churn.job.yaml"
        notify = notify.format(url=self.receiver.url, secret=SECRET)
        path.write_text(_JOB.format(notify=notify, min_rows=min_rows, late=late), encoding="utf-8")
        return load_job(path, {})

    def run(self, job_file=None, date="2026-01-02", **options):
        job_file = job_file or self.job()
        interval = interval_named(date, "day", job_file.job.zone, datetime.now(UTC))
        runtime = Runtime(self.database, self.folder, threads=1)
        with watching(self.database, [job_file]):
            return jobs.run.run_job(runtime, job_file, interval, **options)

    def look(self, job_file=None):
        look_and_deliver(self.database, [job_file or self.job()])

    def sql(self, statement):
        with self.database.connect(purpose="test") as connection:
            cursor = connection.execute(statement)
            return [tuple(row.values()) for row in cursor] if cursor.description else None

    def break_source(self):
        self.sql("ALTER TABLE people RENAME TO gone")

    def mend_source(self):
        self.sql("ALTER TABLE gone RENAME TO people")

    def due_now(self):
        self.sql("UPDATE batchpred.deliveries SET next_attempt_at = now() WHERE status = 'pending'")
