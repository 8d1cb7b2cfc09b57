"""A scheduler to be hurt: `batchpred schedule` in a process of its own, on a clock that goes an hour a second."""

import faulthandler
import logging
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jobs.due
import jobs.run
import jobs.schedule
import jobs.task
from batchpred.scheduler import Project, run_for_ever
from jobs.plan import Runtime
from jobs.schedule import Ticker
from storage import database, runs


def main(spec):
    """Schedule until SIGTERM.

    spec: url, folder, cache, began (seconds since 1970), origin (that moment on the clock), rate (its
    speed), lease (seconds); optional: jumps (its clock is at times an hour off), mutant, meeting (see in_turn).
    """
    faulthandler.register(signal.SIGUSR1)
    logging.getLogger("batchpred").addHandler(logging.NullHandler())
    logging.getLogger("batchpred").propagate = False
    runs.LEASE = timedelta(seconds=spec["lease"])
    database._IDLE_IN_TRANSACTION = f"{int(1000 * spec['lease'])}ms"
    jobs.run.RETRY_DELAYS = (0.1, 0.5)
    if spec.get("mutant"):
        MUTANTS[spec["mutant"]]()
    if spec.get("meeting"):
        in_turn(**spec["meeting"])
    ticker = Ticker(
        Runtime(database.Database.at(spec["url"]), Path(spec["cache"]), threads=1),
        Project(Path(spec["folder"]), {}).load,
        clock=lambda: fast_time(spec),
        look_every=0.3,
    )
    run_for_ever(ticker, every=0.3)


def fast_time(spec):
    """The moment it is on the fast clock."""
    passed = time.time() - spec["began"]
    moment = datetime.fromisoformat(spec["origin"]).astimezone(UTC) + timedelta(seconds=passed * spec["rate"])
    if spec.get("jumps"):  # right for three seconds, an hour ahead for two, right again, an hour behind
        moment += timedelta(hours=(0, 0, 0, 1, 1, 0, 0, 0, -1, -1)[int(passed) % 10])
    return moment


def in_turn(folder, number, of, seconds):
    """Do the first task when all have chosen one and those before this one are done, and go on when all are.

    Any scheduler may be so slow to claim, and a right one loses nothing by it: it asks again under the claim. All
    meet in `folder`, this one as `number` of `of`; after so many seconds it goes on alone.
    """
    do, has_met, meeting = jobs.task.Worker.do, [], Path(folder)
    until = time.monotonic() + seconds

    def await_all(state, count):
        while not all((meeting / f"{state}-{each}").exists() for each in range(count)):
            if time.monotonic() > until:
                return
            time.sleep(0.01)

    def after_the_others(worker, work):
        if has_met:
            return do(worker, work)
        has_met.append(True)
        (meeting / f"chosen-{number}").touch()
        await_all("chosen", of)
        await_all("done", number)
        try:
            return do(worker, work)
        finally:
            (meeting / f"done-{number}").touch()
            await_all("done", of)  # its next run would be one too many at work for those after it

    replace(jobs.task.Worker, "do", after_the_others)


def unclaimed():
    """Run whatever is due without asking, under the claim, whether somebody has done it meanwhile.

    Caught for sure: after all were killed every scheduler has chosen the oldest missed slot before any of them does
    it, and the second does it again.
    """
    replace(jobs.task.Worker, "_is_wanted", lambda _worker, _connection, _work: True)
    replace(jobs.run, "_is_published", lambda *_values, **_options: False)


def forgetful():
    """Run the interval of the newest slot and let go of what was missed.

    Caught for sure: while all were dead more slots went by than there are newest ones by any of their clocks, and
    nobody does the first of them ever.
    """
    what_is_due = jobs.due.what_is_due

    def newest_alone(*values):
        found = what_is_due(*values)
        newest = jobs.due.start(found.newest) if found.newest else None
        kept = tuple(task for task in found.tasks if jobs.due.start(task.interval) == newest)
        return jobs.due.Due(found.newest, found.missing, kept)

    replace(jobs.due, "what_is_due", newest_alone)


def replace(owner, name, made):
    """Put something wrong in the place of what is there: a mutant of what has moved would be none."""
    getattr(owner, name)
    setattr(owner, name, made)


MUTANTS = {mutant.__name__: mutant for mutant in (unclaimed, forgetful)}
