"""Scoring a range of past intervals: both ends included, the oldest first, what is done left out.

Done is an interval that readers see predictions of, whatever made them; where a model is named (`--model`,
`--model-as-of-date`), only predictions of that very version count. With `force` nothing is done.

What a failure leaves behind: an interval that fails does not stop those after it; its run is kept, and the same
command, or the one that is printed for it, takes it up at its last chunk. Killed at any moment, the same command
goes on: what was published is done. A forced backfill begins anew: nothing tells its runs from earlier ones.

Readers are never led back in time: what is current is derived from the interval (P6), not from who wrote last.
"""

from __future__ import annotations

import shlex
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs import slots
from jobs.errors import IntervalError
from jobs.interval import interval_named, latest_complete
from jobs.remote_models import is_remote, shown
from jobs.report import RunReport
from jobs.run import run_job
from jobs.stopping import HandedOverError, Stop, Terms
from storage import canaries, registry, runs
from storage.errors import BatchpredError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime
    from storage.database import Connection, Row


@dataclass(frozen=True)
class Step:
    """One interval of a backfill: the model to score it with, the run readers see of it, and what to do.

    `problem` is an error that is known before anything is tried, such as no champion on that date.
    """

    interval: Interval
    model_ref: str | None
    published: Row | None
    is_done: bool
    problem: BatchpredError | None = None

    @property
    def line(self) -> dict[str, object]:
        """The step as one row of a table."""
        seen = self.published
        by = f"{seen['model_name']}/{seen['model_version']}" if seen and seen["model_version"] else ""
        by += canaries.beside(seen) if seen else ""
        act = "cannot" if self.problem else "skip" if self.is_done else "rebuild" if seen else "run"
        return {
            "interval": self.interval.label,
            "do": act,
            "model": self.model_ref,
            "published run": seen["run_id"] if seen else "",
            "by": by,
            "why": str(self.problem or ""),
        }


@dataclass(frozen=True)
class Backfill:
    """What was asked for: the range, the model, and how."""

    job_file: JobFile
    first: Interval
    last: Interval
    model_ref: str | None = None
    as_of_date: bool = False
    force: bool = False
    parallel: int = 1
    project: str = "."


def named(
    job_file: JobFile, first: str, last: str | None, now: datetime, *, model_ref: str | None, as_of_date: bool
) -> tuple[Interval, Interval]:
    """Return the first and the last interval that `--from` and `--to` name; the latest complete one without `--to`.

    Raises IntervalError, and ConfigurationError where the model options contradict each other.
    """
    job = job_file.job
    begin = interval_named(first, job.interval, job.zone, now)
    end = (
        interval_named(last, job.interval, job.zone, now)
        if last
        else latest_complete(job.interval, job.zone, now)
    )
    if begin.start.timestamp() > end.start.timestamp():
        raise IntervalError(f"--from {begin.label} lies after --to {end.label}")
    if as_of_date and model_ref:
        raise ConfigurationError("--model and --model-as-of-date contradict each other; give one of them")
    if as_of_date and ("@" not in job.model or job.model.startswith("file:") or is_remote(job.model)):
        raise ConfigurationError(
            f"--model-as-of-date needs a job whose model is an alias, such as NAME@champion; {job.name} has "
            f"{shown(job.model)}"
        )
    return begin, end


def steps(connection: Connection, asked: Backfill) -> list[Step]:
    """List the intervals of the range, the oldest first, with what is there and what is to be done."""
    job, found = asked.job_file.job, []
    for interval in slots.intervals(job, asked.first, asked.last):
        slot = runs.Slot(job.name, interval.start, interval.end, interval.date)
        published = runs.published_run(connection, slot)
        ref, problem = asked.model_ref, None
        try:
            if asked.as_of_date:
                ref = str(registry.as_of(connection, registry.ModelRef.parse(job.model), interval.end))
            is_done = published is not None and not asked.force and _is_of(connection, published, ref)
        except BatchpredError as error:
            problem, is_done = error, False
        found.append(Step(interval, ref, published, is_done, problem))
    return found


def backfill(
    runtime: Runtime,
    asked: Backfill,
    planned: Sequence[Step],
    *,
    on_progress: Callable[[int], None] = lambda _rows: None,
    on_report: Callable[[RunReport], None] = lambda _report: None,
) -> list[RunReport]:
    """Do the steps that are not done, `parallel` at once; what went wrong is in the reports, in the order of time.

    KeyboardInterrupt passes through once the runs at work have been handed over.
    """
    waiting = [step for step in planned if not step.is_done]
    reports: dict[str, RunReport] = {}
    active: dict[Future[RunReport], Stop] = {}

    def collect(until: str) -> None:
        done, _ = wait(active, return_when=until)
        for each in done:
            del active[each]
            report = each.result()
            reports[report.interval_start] = report
            on_report(report)

    with ThreadPoolExecutor(asked.parallel, thread_name_prefix="batchpred-backfill") as pool:
        try:
            for step in waiting:
                if len(active) == asked.parallel:
                    collect(until=FIRST_COMPLETED)
                stop = Stop()
                active[pool.submit(_do, runtime, asked, step, stop, on_progress)] = stop
            collect(until=ALL_COMPLETED)
        except BaseException:
            for stop in active.values():
                stop.ask(HandedOverError(f"{asked.job_file.job.name}: interrupted; what is done is kept"))
            wait(active)
            raise
    return [reports[each.interval.start.isoformat()] for each in waiting]


def redo(asked: Backfill, failed: Sequence[RunReport], planned: Sequence[Step]) -> list[str]:
    """Return the commands that do the failed intervals again, one for each stretch of them."""
    wrong = {report.interval_start for report in failed}
    stretches: list[tuple[str, str]] = []
    previous = False
    for step in planned:
        is_wrong = step.interval.start.isoformat() in wrong
        if is_wrong and previous:
            stretches[-1] = (stretches[-1][0], step.interval.label)
        elif is_wrong:
            stretches.append((step.interval.label, step.interval.label))
        previous = is_wrong
    options = f" --model {asked.model_ref}" if asked.model_ref else ""
    options += " --model-as-of-date" if asked.as_of_date else ""
    options += " --force" if asked.force else ""
    options += f" -C {shlex.quote(asked.project)}" if asked.project != "." else ""
    name = asked.job_file.job.name
    return [f"batchpred backfill {name} --from {first} --to {last}{options}" for first, last in stretches]


def _do(
    runtime: Runtime, asked: Backfill, step: Step, stop: Stop, on_progress: Callable[[int], None]
) -> RunReport:
    interval, name = step.interval, asked.job_file.job.name
    if step.problem is not None:
        report = RunReport(
            None, name, interval.start.isoformat(), interval.end.isoformat(), label=interval.label
        )
        report.error, report.exit_code = f"{name}: {step.problem}", step.problem.exit_code
        return report
    slot = runs.Slot(name, interval.start, interval.end, interval.date)

    def is_wanted(connection: Connection) -> bool:
        published = runs.published_run(connection, slot)
        return published is None or asked.force or not _is_of(connection, published, step.model_ref)

    terms = Terms(is_wanted=is_wanted, is_backfill=True, stop=stop)
    return run_job(
        runtime,
        asked.job_file,
        interval,
        model_ref=step.model_ref,
        force=asked.force,
        on_progress=on_progress,
        terms=terms,
    )


def _is_of(connection: Connection, published: Row, ref: str | None) -> bool:
    """Whether a published run is of the model that is asked for, and of no canary; any is, where none was named."""
    if ref is None:
        return True
    if ref.startswith("file:") or is_remote(ref):
        return False  # the run itself compares the digests
    version = registry.resolve(connection, registry.ModelRef.parse(ref))
    found = [published[name] for name in ("model_version", "model_sha256", "canary_version")]
    return found == [version.version, version.sha256, None]
