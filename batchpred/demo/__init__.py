"""`batchpred demo`: a project folder, a model, three days of rides, and their published predictions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.interval import interval_containing, latest_complete
from jobs.jobfile import load_job
from jobs.onnx_file import prepare
from jobs.run import run_job
from storage import registry
from storage.sample_table import fill_rides

if TYPE_CHECKING:
    from batchpred.settings import Settings
    from jobs.report import RunReport

FILES = ("rides.job.yaml", "rides.sql", "rides.onnx")
_HERE = Path(__file__).parent
_DAYS = 3


def make_project(folder: Path) -> list[Path]:
    """Write the demo's files into a folder; files that are there stay as they are. Return what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in FILES:
        target = folder / name
        if not target.exists():
            target.write_bytes((_HERE / name).read_bytes())
            written.append(target)
    return written


def run_demo(settings: Settings, folder: Path) -> list[RunReport]:
    """Push the model, fill the source table and run each of the last three whole days (UTC)."""
    from batchpred.demo.rides import rides_of

    job_file = load_job(folder / "rides.job.yaml", settings.environ)
    zone, unit = job_file.job.zone, job_file.job.interval
    intervals = [latest_complete(unit, zone, datetime.now(UTC))]
    while len(intervals) < _DAYS:
        intervals.insert(0, interval_containing(intervals[0].start - timedelta(hours=1), unit, zone))
    runtime = settings.runtime()
    fill_rides(runtime.database, {each.date: rides_of(each.date) for each in intervals})
    prepared = prepare((folder / "rides.onnx").read_bytes())
    with (
        runtime.database.errors("demo"),
        runtime.database.connect(purpose="demo", as_writer=True) as connection,
    ):
        registry.push(
            connection, "rides", prepared.data, described=prepared.described, source="demo", alias="champion"
        )
    return [run_job(runtime, job_file, interval) for interval in intervals]


def sample_key() -> int:
    """Return the key of a ride that the demo has published: the first of yesterday."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    return yesterday.toordinal() * 1_000_000
