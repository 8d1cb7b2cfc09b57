"""What a run starts with: not what only some runs need."""

import subprocess
import sys

RUN = "import sys, batchpred.cli, jobs.deliver, jobs.run; print(*sys.modules)"
LATER = {
    "alembic",
    "onnx",
    "pandas",
    "psycopg_pool",
    "pyarrow.compute",
    "pyarrow.parquet",
    "smtplib",
    "sqlalchemy",
}


def test_a_run_starts_without_what_only_some_runs_need():
    """Parquet, mail and the pool stay away; pyarrow.compute comes while the rows are sorted."""
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert set() == LATER & set(done.stdout.split())
