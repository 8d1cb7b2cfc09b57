"""`batchpred schedule`: a timer that wakes the ticker, a file that says it is alive, and an end on SIGTERM.

What is due is for the ledger to say, so a late or doubled tick is harmless; nothing is dropped as misfired.
While a tick is at work the timer's further beats are left out: the tick looks by itself for what has come due.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import TypeAlias

    from jobs.jobfile import JobFile
    from jobs.schedule import Ticker
    from storage.errors import ConfigurationError

    _Stamp: TypeAlias = tuple[tuple[int, int] | None, ...]

log = logging.getLogger("batchpred.schedule")


class Project:
    """The job files of a folder, looked at anew each time, so that an edit counts from then on.

    A file is read again when it or its query has another size or time. A faulty one costs its own job alone; it is
    reported once, and again when its fault is another.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.faults: list[ConfigurationError] = []
        self._environ = environ
        self._said: set[str] = set()
        self._known: dict[Path, tuple[JobFile, _Stamp]] = {}

    def load(self) -> list[JobFile]:
        """Return the job files that can be read."""
        from jobs.errors import JobFileError
        from jobs.jobfile import job_paths, load_job
        from jobs.waiting import circles

        known: dict[Path, tuple[JobFile, _Stamp]] = {}
        self.faults = []
        for path in job_paths(self.folder):
            before = self._known.get(path)
            if before and before[1] == _stamp(before[0]):
                known[path] = before
                continue
            began = time.time()
            try:
                job_file = load_job(path, self._environ)
                stamp = _stamp(job_file)
                # One that was written a moment ago may be written again within the clock tick of its file system.
                is_old = all(each and each[0] < (began - 2.0) * 1e9 for each in stamp)
                known[path] = job_file, stamp if is_old else ()
            except JobFileError as error:
                self.faults.append(error)
        job_files = {job_file.job.name: job_file for job_file, _ in known.values()}
        for name, fault in circles(job_files.values()).items():
            self.faults.append(fault)
            del job_files[name]
        found = {str(fault) for fault in self.faults}
        for said in sorted(found - self._said):
            log.error("job file refused", extra={"error": said})
        self._known, self._said = known, found
        return list(job_files.values())


def _stamp(job_file: JobFile) -> _Stamp:
    """Return size and time of a job file and its query's; None for one that is not there."""
    paths = [job_file.path]
    if job_file.job.source.query_file is not None:
        paths.append(job_file.path.parent / job_file.job.source.query_file)
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None for path in paths)


class HealthFile:
    """A file that is replaced at every look at the ledger: its age says whether the scheduler is alive.

    It holds one JSON document: at, pid, active (runs at work), ok, and error where the last pass had one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._said: dict[str, Any] = {"ok": True, "active": 0}

    def say(self, **said: Any) -> None:
        """Note what is so now; a file that cannot be written is reported and stops nothing."""
        with self._lock:
            self._said |= said
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            document = {"at": now, "pid": os.getpid(), **self._said}
            draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            try:
                draft.write_text(json.dumps(document) + "\n", encoding="utf-8")
                draft.replace(self._path)
            except OSError as error:
                log.warning("no health file", extra={"path": str(self._path), "error": error.strerror})


def run_for_ever(ticker: Ticker, *, every: float, say: Callable[..., None] = lambda **_said: None) -> None:
    """Tick at once and then every so many seconds, until SIGTERM or SIGINT; runs at work are then handed over.

    A second signal ends the process at once. Call it in the main thread.
    """
    from apscheduler.schedulers.background import BackgroundScheduler

    def tick() -> None:
        try:
            ticker.tick()
            say(ok=True, error=None, active=0)
        except BatchpredError as error:  # the database is away, say: the next tick tries again
            log.error("tick failed", extra={"error": str(error)})  # noqa: TRY400  # the message is the whole story
            say(ok=False, error=str(error), active=0)
        except Exception as error:  # the next tick is made all the same
            log.exception("tick failed")
            say(ok=False, error=f"{type(error).__name__}: {error} (a fault in batchpred)", active=0)

    # Waited for, not handled: a handler runs in the middle of whatever the main thread does, and would wait for a
    # lock that the main thread holds. Set before any thread is made, which has the signals blocked from then on.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    timer = BackgroundScheduler(
        timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
    )
    timer.add_job(tick, "interval", seconds=every, next_run_time=datetime.now(UTC))
    # A tick that is still at work is how it should be, not worth a warning at every beat of the timer.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    timer.start()
    number = signal.sigwait(ends)
    for each in ends:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
    log.info("scheduler stopping", extra={"signal": signal.Signals(number).name})
    ticker.stop()
    timer.shutdown()  # waits for the tick at work
