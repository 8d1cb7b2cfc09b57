"""Memory does not grow with the number of rows (P9): whole runs in processes of their own, by their peaks."""

import subprocess
import sys

from tests.chaos.world import model
from tests.pushed import push_model

ROWS = 25_000
# A key of 200 characters: three quarters of the larger run's rows would be 15 MiB of keys alone.
JOB = """\
version: 1
name: rows{rows}
source:
  query: >
    SELECT lpad(g::text, 200, '0') AS id, g::float8 AS a, 1::float8 AS b
      FROM generate_series(1, {rows}) AS g WHERE :date IS NOT NULL
key: [id]
features: {{a: float32, b: float32}}
model: chaos@champion
output: {{columns: {{score: "y[1]"}}}}
chunk_rows: 2000
"""
# With blocks as large as they are the smaller run would end before there are as many of them as there can be.
CHILD = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.plan import Runtime
from jobs.run import run_job
from storage import copy_out
from storage.database import Database

copy_out._BLOCK_BYTES = 400_000
path, url, cache = sys.argv[1:]
job_file = load_job(Path(path), {})
interval = interval_named("2026-01-01", "day", job_file.job.zone, datetime.now(UTC))
report = run_job(Runtime(Database.at(url), Path(cache), threads=1), job_file, interval)
kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(report.rows["scored"], kibibytes / 1024 if sys.platform == "linux" else kibibytes / 1024**2)
"""


def test_four_times_the_rows_take_no_more_memory(database, tmp_path):
    """The larger run's highest mark is the smaller one's, give or take what an allocator keeps."""
    push_model(database, "chaos", model())

    def peak(rows):
        path = tmp_path / f"rows{rows}.job.yaml"
        path.write_text(JOB.format(rows=rows), encoding="utf-8")
        line = [sys.executable, "-c", CHILD, str(path), database.url, str(tmp_path / "cache")]
        scored, mebibytes = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        assert rows == int(scored)
        return float(mebibytes)

    less, more = peak(ROWS), peak(4 * ROWS)
    assert more - less < 8, f"{ROWS} rows took {less:.1f} MiB, four times as many {more:.1f}"
