"""One pass over the jobs: ask the ledger what is due and missing, claim it, run it, and remember failures there.

The clock only wakes this. What is due is a pure function of job file, clock and ledger (jobs/due.py), so a pass too
many does nothing, a pass too few is made up for by the next, and several schedulers at once run each interval once:
before it runs, an interval is claimed, and under the claim it is asked once more whether it is still wanted.

A pass goes on while there is something to run, and looks again whenever a run ends or LOOK_EVERY has passed; job
files are read anew each time. Of several jobs the one that has waited longest comes first, so a long past to make
up for keeps nobody else waiting.

Which time it is: the earlier of this machine's clock and the database's. An interval that is not over by both is
not run, so a clock that jumps ahead brings nothing forward; one that falls back delays this scheduler and no other.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from jobs import due, slots
from jobs.lookback import has_changed
from jobs.retries import cause_of, fingerprint, rest_after
from jobs.run import RunReport, run_job
from jobs.stopping import HandedOverError, Stop, Terms
from jobs.waiting import circles, is_ready, missing_upstream
from storage import attempts, moves, runs
from storage.attempts import Failure
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobs.due import Due, Task
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime
    from storage.database import Connection

log = logging.getLogger("batchpred.schedule")

# How often a pass that has runs at work looks for others that have come due, and asks again for an interval that
# another scheduler holds.
LOOK_EVERY = 5.0
# How often a `ready` query that said no is asked again.
ASK_READY_EVERY = timedelta(minutes=1)
# While the ledger cannot be reached a failure is remembered by this process alone, and not for long.
_BLIND_REST = timedelta(seconds=30)
# Two clocks of one network are closer than this; farther apart one of them is wrong.
CLOCKS_APART = timedelta(minutes=1)


def utc_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class _Work:
    """A task on its way: the job file it was chosen by, and the word to stop it."""

    job_file: JobFile
    task: Task
    stop: Stop

    @property
    def key(self) -> tuple[str, datetime]:
        return self.job_file.job.name, due.start(self.task.interval)

    @property
    def slot(self) -> runs.Slot:
        interval = self.task.interval
        return runs.Slot(self.job_file.job.name, interval.start, interval.end, interval.date)


class Ticker:
    """Runs what is due, `parallel` runs at once; `clock` tells this machine's time, `load` reads the job files."""

    def __init__(
        self,
        runtime: Runtime,
        load: Callable[[], Sequence[JobFile]],
        *,
        parallel: int = 1,
        clock: Callable[[], datetime] = utc_now,
        look_every: float = LOOK_EVERY,
        on_look: Callable[[int], None] = lambda _active: None,
    ) -> None:
        self._runtime = runtime
        self._load = load
        self._parallel = parallel
        self._clock = clock
        self._look_every = look_every
        self._on_look = on_look
        self._stopping = threading.Event()
        self._active: dict[Future[RunReport | None], _Work] = {}
        self._not_before: dict[tuple[str, datetime], float] = {}
        self._served: Counter[str] = Counter()
        self._turn = 0
        self._settled_before: dict[tuple[str, ...], datetime] = {}
        self._chance = random.SystemRandom()

    def tick(self) -> list[RunReport]:
        """Run everything that is due until nothing is, and return what became of each run.

        Raises what reaching the database raises; what goes wrong in a run is in its report.
        """
        reports: list[RunReport] = []
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="batchpred-run") as pool:
            try:
                while not self._stopping.is_set():
                    self._on_look(len(self._active))
                    self._look_around(pool)
                    if not self._active:
                        break
                    reports += self._collect(timeout=self._look_every)
            except BaseException:
                self.stop()
                raise
            finally:
                reports += self._collect(timeout=None)
        return reports

    def stop(self) -> None:
        """Start nothing more, and hand over the runs at work after the chunk each is at. From any thread."""
        self._stopping.set()
        for work in list(self._active.values()):
            _hand_over(work)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def _collect(self, timeout: float | None) -> list[RunReport]:
        """Wait for a run to end, or for all of them without a timeout, and take the reports of those that did."""
        wanted = FIRST_COMPLETED if timeout is not None else "ALL_COMPLETED"
        done, _ = wait(self._active, timeout, return_when=wanted)
        for each in done:
            del self._active[each]
        return [report for each in done if (report := each.result()) is not None]

    def _look_around(self, pool: ThreadPoolExecutor) -> None:
        try:
            self._start_what_is_due(pool)
        except BatchpredError as error:
            if not self._active:
                raise
            # Runs at work meet the same trouble by themselves, and know best what to do about it.
            log.error("tick failed", extra={"error": str(error)})  # noqa: TRY400  # the message is the whole story

    def _start_what_is_due(self, pool: ThreadPoolExecutor) -> None:
        free = self._parallel - len(self._active)
        job_files = {each.job.name: each for each in self._load() if each.job.schedule}
        for name, fault in circles(job_files.values()).items():
            log.error("job file refused", extra={"error": str(fault)})
            del job_files[name]
        database = self._runtime.database
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            now = self._now(connection)
            for name in sorted(job_files, key=lambda name: (self._served[name], name)):
                if free == 0:
                    return
                for work in self._due_of(connection, job_files[name], now)[:free]:
                    self._turn += 1
                    self._served[name] = self._turn
                    self._active[pool.submit(self._run, work)] = work
                    free -= 1
                    if self._stopping.is_set():  # told so in this very moment
                        _hand_over(work)

    def _now(self, connection: Connection) -> datetime:
        here, there = self._clock(), attempts.clock(connection)
        if here - there > CLOCKS_APART:
            log.warning(
                "clock is ahead of the database's",
                extra={"here": here.isoformat(), "database": there.isoformat()},
            )
        return min(here, there)

    def _due_of(self, connection: Connection, job_file: JobFile, now: datetime) -> list[_Work]:
        """List what may be started of a job now, as far as its max_active allows."""
        job = job_file.job
        assert job.schedule is not None  # noqa: S101  # others were left out
        mine = {start for name, start in (work.key for work in self._active.values()) if name == job.name}
        busy = mine | runs.at_work(connection, job.name)
        room = job.schedule.max_active - len(busy)
        if room <= 0:
            return []
        known = (job.name, job.interval, job.zone.key, str(job.schedule.start_date))
        found = look(connection, job_file, now, self._settled_before.get(known))
        if found.newest is not None:
            unsettled = found.missing[0] if found.missing else found.newest
            self._settled_before[known] = due.start(unsettled)
        chosen = []
        rested = [key for key, until in self._not_before.items() if until <= time.monotonic()]
        for key in rested:
            del self._not_before[key]
        for task in found.tasks:
            key = (job.name, due.start(task.interval))
            if key[1] in busy or key in self._not_before:
                continue
            if task.kind == "missing" and missing_upstream(connection, job_file, task.interval):
                continue
            chosen.append(_Work(job_file, task, Stop()))
            if len(chosen) == room:
                break
        return chosen

    def _run(self, work: _Work) -> RunReport | None:
        """Do one task; None where there was nothing to do after all, or nothing is known of it."""
        try:
            return self._do(work)
        except BatchpredError as error:  # the ledger is away: what is so is read by the next pass
            log.error("tick failed", extra={"job": work.key[0], "error": str(error)})  # noqa: TRY400
            self._not_before[work.key] = time.monotonic() + _BLIND_REST.total_seconds()
            return None

    def _do(self, work: _Work) -> RunReport | None:
        job_file, interval = work.job_file, work.task.interval
        try:
            if work.task.kind == "missing" and not self._is_ready(work):
                return None
            if work.task.kind == "lookback" and not has_changed(self._runtime, job_file, interval):
                self._note_looked_back(work)
                return None
        except BatchpredError as error:
            report = _failed(work, error)
        else:
            report = self._make(work)
        if report.status == "held":  # another scheduler is at it
            self._not_before[work.key] = time.monotonic() + self._look_every
            log.info("run held", extra={"job": report.job, "interval": report.label})
        elif report.error and report.status != "stopped":
            self._remember(work, report)
        elif not report.error:
            self._forget(work)
        return report

    def _make(self, work: _Work) -> RunReport:
        job = work.job_file.job
        assert job.schedule is not None  # noqa: S101  # it is on a schedule
        lookback = work.task.kind == "lookback"
        terms = Terms(
            is_wanted=lambda connection: self._is_wanted(connection, work),
            max_active=job.schedule.max_active,
            deadline=job.schedule.deadline,
            stop=work.stop,
        )
        return run_job(self._runtime, work.job_file, work.task.interval, force=lookback, terms=terms)

    def _is_wanted(self, connection: Connection, work: _Work) -> bool:
        """Whether nobody has done the task since it was chosen; asked under the claim."""
        if work.task.kind == "missing":
            return not moves.is_settled(connection, work.slot)
        slot = work.slot
        schedule = work.job_file.job.schedule
        assert schedule is not None  # noqa: S101  # it is on a schedule
        read = attempts.last_read(connection, slot.job, slot.interval_start, slot.interval_start)
        last = read.get(due.start(work.task.interval))
        return last is not None and last < slots.latest_slot(schedule, self._now(connection))

    def _is_ready(self, work: _Work) -> bool:
        """Ask `ready`; where it says no, rest, or count a failure once it has said so for too long."""
        ready = work.job_file.job.ready
        if ready is None or is_ready(self._runtime, work.job_file, work.task.interval):
            return True
        database, job = self._runtime.database, work.job_file.job
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            waited = attempts.wait(connection, work.slot, ASK_READY_EVERY)
            if waited > ready.timeout:
                seen, error = (
                    work.task.seen,
                    f"{job.name}: not ready within {ready.timeout}: `ready` is still false",
                )
                mark = fingerprint(connection, work.job_file)
                attempts.fail(connection, work.slot, seen, Failure(1, "not_ready", error, mark, rest=None))
                log.error("not ready", extra={"job": job.name, "interval": work.task.interval.label})
        return False

    def _note_looked_back(self, work: _Work) -> None:
        database = self._runtime.database
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            attempts.looked_back(connection, work.slot)

    def _remember(self, work: _Work, report: RunReport) -> None:
        """Write a failure down where all schedulers see it."""
        database = self._runtime.database
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            failure = self._failure(work, report, fingerprint(connection, work.job_file))
            is_new = attempts.fail(connection, work.slot, work.task.seen, failure)
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

    def _failure(self, work: _Work, report: RunReport, mark: str) -> Failure:
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

    def _forget(self, work: _Work) -> None:
        if work.task.seen.failures or work.job_file.job.ready:
            database = self._runtime.database
            with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
                attempts.clear(connection, work.slot)


def look(
    connection: Connection,
    job_file: JobFile,
    now: datetime,
    settled_before: datetime | None = None,
    *,
    note: bool = True,
) -> Due:
    """Ask the ledger what a job's schedule has to do at `now`. The job has a schedule.

    `note` writes down that the job is scheduled, where that was not known.
    """
    job = job_file.job
    seen = attempts.first_seen(connection, job.name, job.interval, job.zone.key, now, note=note)
    wanted = due.span(job, seen, now)
    if wanted is None or job.schedule is None:
        return due.Due(None, (), ())
    first, last = due.start(wanted[0]), due.start(wanted[1])
    if settled_before is not None:
        first = max(first, settled_before)
    # Lookback may reach behind the first interval of the schedule: an interval has 32 days at most.
    behind = last - timedelta(days=32) * job.schedule.lookback
    remembered = attempts.attempts(connection, job.name, min(first, behind), last)
    facts = due.Facts(
        first_seen=seen,
        settled=attempts.settled(connection, job.name, first, last),
        attempts=remembered,
        last_read=attempts.last_read(connection, job.name, behind, last) if job.schedule.lookback else {},
        fingerprint=fingerprint(connection, job_file)
        if any(each.failures for each in remembered.values())
        else "",
    )
    return due.what_is_due(job, facts, now, settled_before)


def _hand_over(work: _Work) -> None:
    work.stop.ask(
        HandedOverError(
            f"{work.job_file.job.name}: handed over, because its scheduler was told to stop; what is done is kept, "
            "and the next one goes on from there"
        )
    )


def _failed(work: _Work, error: BatchpredError) -> RunReport:
    interval = work.task.interval
    start, end = interval.start.isoformat(), interval.end.isoformat()
    report = RunReport(None, work.job_file.job.name, start, end, label=interval.label)
    report.error, report.exit_code, report.cause = str(error), error.exit_code, cause_of(error)
    return report
