"""What `batchpred init` writes: a job file and a query that say what to fill in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.jobspec.job import check_job_name
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

_JOB = """\
# Every key is described by: batchpred schema
version: 1
name: {name}
description: What one prediction says, in a sentence
interval: day                      # hour, day, week or month
schedule: {{cron: "0 3 * * *", timezone: UTC, late_after: 2h}}
source:
  query_file: {name}.sql           # or files: path: "data/{{date}}/*.parquet"; see docs/files.md
key: [id]                          # the columns that name a prediction
# features: {{age: float32, plan: string}}   # for a model with one matrix input: its columns, in order
model: {name}@champion             # or {name}/3, or file:model.onnx
output:
  columns: {{score: "probabilities[1]"}}     # column: model output, or one element of it
  mode: snapshot                   # incremental: current is the newest interval's row of each key
checks: {{min_rows: 1, max_quarantined: 0.01}}
"""

_QUERY = """\
-- The rows to score: the key, and each column the model takes, under its own name.
SELECT id,
       age,
       plan
  FROM my_table
 WHERE updated_at >= :interval_start
   AND updated_at < :interval_end
"""


def scaffold(folder: Path, name: str) -> list[Path]:
    """Write NAME.job.yaml and NAME.sql; return their paths. Raises ConfigurationError where one exists."""
    check_job_name(name)
    files = {folder / f"{name}.job.yaml": _JOB.format(name=name), folder / f"{name}.sql": _QUERY}
    for path in files:
        if path.exists():
            raise ConfigurationError(f"{path} exists already; nothing was written")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)
