"""One task of the schedule, done: ready or not, changed or not, run, and what it came to written down for all.

A failure is written where all schedulers see it (storage/attempts.py). While the ledger cannot be reached nothing
is written; this process then leaves the interval alone for a moment, and the next pass reads what is so.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs import due, news, slots
from jobs.errors import JobError
from jobs.lookback import has_changed
from jobs.report import RunReport
from jobs.retries import cause_of, files_of, fingerprint, rest_after, with_files
from jobs.run import run_job
from jobs.stopping import HandedOverError, Terms
from jobs.waiting import is_ready
from storage import attempts, moves, runs
from storage.attempts import Failure
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from jobs.due import Task
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime
    from jobs.stopping import Stop
    from storage.database import Connection

log = logging.getLogger("batchpred.schedule")

# How often a `ready` query that said no is asked again.
ASK_READY_EVERY = timedelta(minutes=1)
# Seconds for which a process leaves an interval alone of which it could not write down what became of it.
_BLIND_REST = 30.0


class NotReadyError(JobError):
    """What `ready` asks for did not come in time."""


@dataclass(frozen=True)
class Work:
    """A task on its way: the job file it was chosen by, and the word to stop it."""

    job_file: JobFile
    task: Task
    stop: Stop

    @property
    def key(self) -> tuple[str, datetime]:
        """Job and start of the interval, in UTC."""
        return self.job_file.job.name, due.start(self.task.interval)

    @property
    def slot(self) -> runs.Slot:
        """What the run claims."""
        interval = self.task.interval
        return runs.Slot(self.job_file.job.name, interval.start, interval.end, interval.date)

    def hand_over(self) -> None:
        """Ask the run to stop after the chunk it is at; the next scheduler goes on with it."""
        self.stop.ask(
            HandedOverError(
                f"{self.job_file.job.name}: handed over, because its scheduler was told to stop; what is done is "
                "kept, and the next one goes on from there"
            )
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its report, None where there was nothing to do after all.

    `pause`: seconds for which this process leaves the interval alone, beside what the ledger says.
    """

    report: RunReport | None = None
    pause: float = 0.0


class Worker:
    """Does tasks, several at once in threads; `now` tells the time by which slots are told."""

    def __init__(self, runtime: Runtime, now: Callable[[Connection], datetime], *, pause: float) -> None:
        self._runtime = runtime
        self._now = now
        self._pause = pause
        self._chance = random.SystemRandom()

    def do(self, work: Work) -> Outcome:
        """Do one task; what goes wrong is in the outcome."""
        report = None
        try:
            # Before they are read: a file that comes meanwhile is a reason to try again.
            files = files_of(work.job_file, work.task.interval)
            report = self._run(work, files)
            if report is None:
                return Outcome()
            if report.status == "held":  # another scheduler is at it
                log.info("run held", extra={"job": report.job, "interval": report.label})
                return Outcome(report, self._pause)
            self._write_down(work, report, files)
        except BatchpredError as error:  # the ledger is away
            log.error("tick failed", extra={"job": work.key[0], "error": str(error)})  # noqa: TRY400
            return Outcome(report or _failed(work, error), _BLIND_REST)
        except Exception as error:  # one job's surprise must not cost the others their run
            log.exception("tick failed", extra={"job": work.key[0]})
            return Outcome(report or _failed(work, error), _BLIND_REST)
        return Outcome(report)

    def _run(self, work: Work, files: str) -> RunReport | None:
        job_file, interval = work.job_file, work.task.interval
        try:
            if work.task.kind == "missing" and not self._is_ready(work, files):
                return None
            if work.task.kind == "lookback" and not has_changed(self._runtime, job_file, interval):
                self._note_looked_back(work)
                return None
        except BatchpredError as error:
            return _failed(work, error)
        return self._make(work)

    def _write_down(self, work: Work, report: RunReport, files: str) -> None:
        if report.status == "stopped":
            return
        if report.error:
            self._remember(work, report, files)
        else:
            self._forget(work)

    def _make(self, work: Work) -> RunReport:
        job = work.job_file.job
        assert job.schedule is not None  # noqa: S101  # it is on a schedule
        lookback = work.task.kind == "lookback"
        terms = Terms(
            is_wanted=lambda connection: self._is_wanted(connection, work),
            max_active=job.schedule.max_active,
            deadline=job.schedule.deadline,
            stop=work.stop,
        )
        return run_job(
            self._runtime, work.job_file, work.task.interval, force=lookback, terms=terms, is_last_try=False
        )

    def _is_wanted(self, connection: Connection, work: Work) -> bool:
        """Whether nobody has done the task since it was chosen; asked under the claim."""
        if work.task.kind == "missing":
            return not moves.is_settled(connection, work.slot)
        slot = work.slot
        schedule = work.job_file.job.schedule
        assert schedule is not None  # noqa: S101  # it is on a schedule
        read = attempts.last_read(connection, slot.job, slot.interval_start, slot.interval_start)
        last = read.get(due.start(work.task.interval))
        return last is not None and last < slots.latest_slot(schedule, self._now(connection))

    def _is_ready(self, work: Work, files: str) -> bool:
        """Ask `ready`; where it says no, rest, or count a failure once it has said so for too long."""
        ready = work.job_file.job.ready
        if ready is None or is_ready(self._runtime, work.job_file, work.task.interval):
            return True
        database, job, interval = self._runtime.database, work.job_file.job, work.task.interval
        error = NotReadyError(f"{job.name}: not ready within {ready.timeout}: `ready` is still false")
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            if attempts.wait(connection, work.slot, ASK_READY_EVERY) <= ready.timeout:
                return False
            mark = with_files(fingerprint(connection, work.job_file), files)
            failure = Failure(1, "not_ready", str(error), mark, rest=None)
            is_new = attempts.fail(connection, work.slot, work.task.seen, failure)
        if is_new:
            log.error("not ready", extra={"job": job.name, "interval": interval.label})
            news.failed(database, work.job_file, interval, _failed(work, error))
        return False

    def _note_looked_back(self, work: Work) -> None:
        database = self._runtime.database
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            attempts.looked_back(connection, work.slot)

    def _remember(self, work: Work, report: RunReport, files: str) -> None:
        """Write a failure down where all schedulers see it."""
        database = self._runtime.database
        sha256 = report.model["sha256"] if report.model else None
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            failed = fingerprint(connection, work.job_file, model_sha256=sha256, canary=report.beside)
            mark = with_files(failed, files)
            failure = self._failure(work, report, mark)
            is_new = attempts.fail(connection, work.slot, work.task.seen, failure)
        if is_new and failure.rest is None and report.status == "failed":
            news.failed(database, work.job_file, work.task.interval, report)
        if is_new:
            log.error(
                "run %s",
                report.status,
                extra={
                    "job": report.job,
                    "interval": report.label,
                    "error": report.error,
                    "cause": failure.cause,
                    "again_in": failure.rest and round(failure.rest.total_seconds(), 1),
                },
            )

    def _failure(self, work: Work, report: RunReport, mark: str) -> Failure:
        schedule, seen = work.job_file.job.schedule, work.task.seen
        assert schedule is not None  # noqa: S101  # it is on a schedule
        cause = report.cause or "lasting"
        # Another definition, or another slot since the last one, and the count begins anew.
        goes_on = seen.fingerprint == mark and seen.not_before is not None
        failures = seen.failures + 1 if goes_on else 1
        rest = None
        if cause == "passing" and failures <= schedule.retries:
            rest = rest_after(failures, schedule.retry_backoff, self._chance)
        return Failure(failures, cause, report.error or "", mark, rest)

    def _forget(self, work: Work) -> None:
        if work.task.seen.failures or work.job_file.job.ready:
            database = self._runtime.database
            with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
                attempts.clear(connection, work.slot)


def _failed(work: Work, error: Exception) -> RunReport:
    interval = work.task.interval
    start, end = interval.start.isoformat(), interval.end.isoformat()
    report = RunReport(None, work.job_file.job.name, start, end, label=interval.label)
    report.cause = cause_of(error)
    if isinstance(error, BatchpredError):
        report.error, report.exit_code = str(error), error.exit_code
    else:
        report.error, report.exit_code = f"{type(error).__name__}: {error} (a fault in batchpred)", 1
    return report
