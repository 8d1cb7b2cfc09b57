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
import threading
import time
from collections import Counter
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from jobs import due
from jobs.deliver import watching
from jobs.retries import fingerprint, fingerprints
from jobs.stopping import Stop
from jobs.task import Outcome, Work, Worker
from jobs.waiting import missing_upstream
from storage import attempts, runs
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobs.due import Due
    from jobs.jobfile import JobFile
    from jobs.plan import Runtime
    from jobs.report import RunReport
    from storage.database import Connection

log = logging.getLogger("batchpred.schedule")

# How often a pass that has runs at work looks for others that have come due, and asks again for an interval that
# another scheduler holds.
LOOK_EVERY = 5.0
# Two clocks of one network are closer than this; farther apart one of them is wrong.
CLOCKS_APART = timedelta(minutes=1)


def utc_now() -> datetime:
    """Return this machine's time."""
    return datetime.now(UTC)


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
        self._active: dict[Future[Outcome], Work] = {}
        self._not_before: dict[tuple[str, datetime], float] = {}
        self._served: Counter[str] = Counter()
        self._turn = 0
        self._settled_before: dict[tuple[str, ...], datetime] = {}
        self._worker = Worker(runtime, self._now, pause=look_every)

    def tick(self) -> list[RunReport]:
        """Run everything that is due until nothing is, and return what became of each run.

        Raises what reaching the database raises; what goes wrong in a run is in its report.
        """
        reports: list[RunReport] = []
        with (
            watching(self._runtime.database, self._load()),
            ThreadPoolExecutor(self._parallel, thread_name_prefix="batchpred-run") as pool,
        ):
            try:
                while not self._stopping.is_set():
                    self._on_look(len(self._active))
                    self._look_around(pool)
                    if not self._active:
                        break
                    reports += self._collect(timeout=self._look_every)
            except (KeyboardInterrupt, SystemExit):
                self.stop()
                raise
            finally:
                reports += self._collect(timeout=None)
        return reports

    def stop(self) -> None:
        """Start nothing more, and hand over the runs at work after the chunk each is at. From any thread."""
        self._stopping.set()
        for work in list(self._active.values()):
            work.hand_over()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def _collect(self, timeout: float | None) -> list[RunReport]:
        """Wait for a run to end, or for all of them without a timeout, and take the reports of those that did."""
        wanted = FIRST_COMPLETED if timeout is not None else ALL_COMPLETED
        done, _ = wait(self._active, timeout, return_when=wanted)
        reports = []
        for each in done:
            work, outcome = self._active.pop(each), each.result()
            if outcome.pause:
                self._not_before[work.key] = time.monotonic() + outcome.pause
            if outcome.report is not None:
                reports.append(outcome.report)
        return reports

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
        database = self._runtime.database
        with database.errors("tick"), database.connect(purpose="tick", as_writer=True) as connection:
            now = self._now(connection)
            for name in sorted(job_files, key=lambda name: (self._served[name], name)):
                if free == 0:
                    return
                for work in self._due_of(connection, job_files[name], now)[:free]:
                    self._turn += 1
                    self._served[name] = self._turn
                    self._active[pool.submit(self._worker.do, work)] = work
                    free -= 1
                    if self._stopping.is_set():  # told so in this very moment
                        work.hand_over()

    def _now(self, connection: Connection) -> datetime:
        here, there = self._clock(), attempts.clock(connection)
        if here - there > CLOCKS_APART:
            log.warning(
                "clock is ahead of the database's",
                extra={"here": here.isoformat(), "database": there.isoformat()},
            )
        return min(here, there)

    def _due_of(self, connection: Connection, job_file: JobFile, now: datetime) -> list[Work]:
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
            chosen.append(Work(job_file, task, Stop()))
            if len(chosen) == room:
                break
        return chosen


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
    failed = {start: each for start, each in remembered.items() if each.failures}
    general = fingerprint(connection, job_file) if failed else ""
    facts = due.Facts(
        first_seen=seen,
        settled=attempts.settled(connection, job.name, first, last),
        attempts=remembered,
        last_read=attempts.last_read(connection, job.name, behind, last) if job.schedule.lookback else {},
        fingerprint=general,
        fingerprints=fingerprints(general, job_file, failed),
    )
    return due.what_is_due(job, facts, now, settled_before)
