"""Four schedulers on one database, with a job every second, killed, frozen, ended and started again at random.

The job is hourly and the schedulers' clock goes an hour a second; it begins so far in the past that it never passes
the database's. What must hold: every slot is published exactly once, none is missing, and its rows are right.

Chance hurts one at a time and may spare what it looks for. So at known moments all of them are killed over some
slots and then choose the oldest of these at once, and all of them are frozen over some more; a mutant is hunted
with the first of the two alone.
"""

import multiprocessing
import os
import signal
import tempfile
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from jobs.onnx_file import prepare
from storage import registry
from storage.database import Database
from storage.upgrade import upgrade
from tests.chaos import scheduler
from tests.chaos.world import model
from tests.conftest import _replace_path

SCHEDULERS = 4
LEASE = 1.5
RATE = 3600
# Slots that go by while no scheduler is at work. One whose clock is an hour off takes another slot for the newest
# than the rest do, and two more are nobody's newest.
DOWN = 4
# Seconds in which schedulers that were started meet, on a machine that is busy with other things.
MEETING = 30
JOB = """\
version: 1
name: ticks
interval: hour
schedule: {cron: "0 * * * *", retry_backoff: 1s, retries: 50}
source: {query: "SELECT id, a, b FROM rows WHERE t >= :interval_start AND t < :interval_end"}
key: [id]
features: {a: float32, b: float32}
model: chaos@champion
output: {columns: {score: "y[1]"}}
checks: {min_rows: 5}
"""
# Five rows in each of the last two thousand hours: so long ago is where the clock of 900 slots begins.
SOURCE = """
CREATE TABLE rows (id bigint, t timestamptz, a float8, b float8);
INSERT INTO rows
SELECT id, date_trunc('hour', now()) - hour * interval '1 hour' + interval '5 minutes', id, hour
  FROM generate_series(1, 5) AS id, generate_series(0, 2000) AS hour;
"""
TWICE = "SELECT interval_start FROM batchpred.publish_moves GROUP BY 1 HAVING count(*) > 1"
# What is known of the slots in a range that are not published.
LEFT = """
SELECT concat_ws(' ', start, 'run', r.run_id, r.status, r.error,
                 'claim', c.fence, c.holder ->> 'pid', c.lease_until,
                 'attempts', a.failures, a.cause, a.error, a.not_before, 'at', clock_timestamp())
  FROM generate_series(%s, %s::timestamptz - interval '1 hour', interval '1 hour') AS start
  LEFT JOIN batchpred.published AS p ON p.interval_start = start
  LEFT JOIN batchpred.runs AS r ON r.interval_start = start
  LEFT JOIN batchpred.claims AS c ON c.interval_start = start
  LEFT JOIN batchpred.attempts AS a ON a.interval_start = start
 WHERE p.run_id IS NULL
 ORDER BY start, r.run_id
"""
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'batchpred%'
"""


class Herd:
    """The schedulers, and what is done to them."""

    def __init__(self, url, folder, seconds, mutant=None):
        self.url, self.folder = url, Path(folder)
        (self.folder / "ticks.job.yaml").write_text(JOB, encoding="utf-8")
        full = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        # Half an hour past a full one, so that the first slot comes half a second from now.
        origin = full - timedelta(hours=seconds * 2 + 100, minutes=30)
        self.spec = {
            "url": url, "folder": str(folder), "cache": str(self.folder / "models"), "began": time.time() + 1.0,
            "origin": origin.isoformat(), "rate": RATE, "lease": LEASE, "mutant": mutant,
        }  # fmt: skip
        self._processes = multiprocessing.get_context("forkserver")
        preload = ["tests.chaos.scheduler", "onnxruntime", "apscheduler.schedulers.background"]
        self._processes.set_forkserver_preload(preload)
        self.at_work = [None] * SCHEDULERS
        self.hurts = {}

    def start(self, number, meeting=None):
        """Start the scheduler of that number; the last one has a clock that jumps. `meeting`: scheduler.in_turn."""
        spec = {**self.spec, "jumps": number == SCHEDULERS - 1}
        if meeting:
            spec["meeting"] = {"folder": str(meeting), "number": number, "of": SCHEDULERS, "seconds": MEETING}
        process = self._processes.Process(target=scheduler.main, args=(spec,))
        process.start()
        self.at_work[number] = process

    def hurt(self, chance):
        """Do something to one of them."""
        number = chance.randrange(SCHEDULERS)
        kind = chance.choice(["kill", "kill", "freeze", "freeze", "end", "sever"])
        self.hurts[kind] = self.hurts.get(kind, 0) + 1
        process = self.at_work[number]
        if kind == "sever":
            fetch(self.url, TERMINATE)
        elif kind == "freeze":
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(chance.uniform(0.1, 3.0))
            os.kill(process.pid, signal.SIGCONT)
        else:
            os.kill(process.pid, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            process.join(20)
            if process.is_alive():
                os.kill(process.pid, signal.SIGUSR1)  # it says on stderr where it is
                raise AssertionError("a scheduler did not end within 20 s of SIGTERM")
            time.sleep(chance.uniform(0, 0.5))
            self.start(number)

    def kill_all(self):
        """Kill them all, let DOWN slots go by, and start them so that all choose before any of them does.

        Nobody is there to look at the clock meanwhile, so it is turned on instead of waited for.
        """
        self.hurts["kill all"] = self.hurts.get("kill all", 0) + 1
        self._wait_until(lambda: fetch(self.url, "SELECT FROM batchpred.publish_moves"), "published nothing")
        for process in self.at_work:
            process.kill()
        for process in self.at_work:
            process.join()
        self.spec["began"] -= DOWN * 3600 / RATE
        meeting = Path(tempfile.mkdtemp(prefix="meeting-", dir=self.folder))
        for number in range(SCHEDULERS):
            self.start(number, meeting)
        self._wait_until(lambda: len(list(meeting.glob("done-*"))) == SCHEDULERS, "did not meet")

    def freeze_all(self):
        """Freeze them all while DOWN slots go by, which is longer than a lease."""
        self.hurts["freeze all"] = self.hurts.get("freeze all", 0) + 1
        for process in self.at_work:
            os.kill(process.pid, signal.SIGSTOP)
        time.sleep(DOWN * 3600 / RATE)
        for process in self.at_work:
            os.kill(process.pid, signal.SIGCONT)

    def _wait_until(self, is_so, trouble):
        until = time.monotonic() + 2 * MEETING
        while not is_so():
            if time.monotonic() > until:
                raise AssertionError(f"the schedulers {trouble} within {2 * MEETING} s")
            time.sleep(0.05)

    def end(self):
        """End them all in good order; return the exit codes that are not 0."""
        for process in self.at_work:
            process.terminate()
        for process in self.at_work:
            process.join(20)
        codes = [process.exitcode for process in self.at_work]
        for process in self.at_work:
            process.kill()
        return [code for code in codes if code != 0]

    def moment(self):
        """What the clock that does not jump says."""
        return scheduler.fast_time(self.spec)


def fetch(url, query, *values):
    """The rows of a query, if need be after a restart of the server."""
    until = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(url, autocommit=True, application_name="chaos") as connection:
                return connection.execute(query, values or None).fetchall()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def try_schedulers(server_url, folder, seconds, chance, *, restart=None):
    """Let the schedulers run for so many slots of a second each; return what does not hold, and figures.

    `restart` restarts the server in the middle of it.
    """
    with _at_work(server_url, folder, seconds) as herd:
        acts = [(0.25, herd.kill_all), (0.5, restart or (lambda: None)), (0.75, herd.freeze_all)]
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            while acts and passed > acts[0][0] * seconds:
                acts.pop(0)[1]()
            herd.hurt(chance)
            time.sleep(chance.uniform(0.1, 0.8))
        for _, act in acts:
            act()
        return _judge(herd, patience=60)


def hunt(server_url, folder, mutant):
    """Let schedulers of this kind meet at slots that were missed; return what does not hold.

    Nothing is left to chance: what each must be caught at, and why, is said of it in scheduler.py.
    """
    with _at_work(server_url, folder, 10, mutant) as herd:
        herd.kill_all()
        return _judge(herd, patience=1)[0]


@contextmanager
def _at_work(server_url, folder, seconds, mutant=None):
    with world(server_url) as url:
        herd = Herd(url, folder, seconds, mutant)
        for number in range(SCHEDULERS):
            herd.start(number)
        try:
            time.sleep(max(0.0, herd.spec["began"] - time.time()))
            yield herd
        finally:
            for process in herd.at_work:
                process.kill()
                process.join()


def _judge(herd, patience):
    """What does not hold of all slots up to now, and the figures."""
    last = herd.moment().replace(minute=0, second=0, microsecond=0)
    (first,) = fetch(herd.url, "SELECT first_seen_at FROM batchpred.schedules")[0]
    begin = first.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    slots = int((last - begin) / timedelta(hours=1))
    missing = _wait_for(herd, begin, last, slots, patience)
    codes = herd.end()
    faults = []
    if missing:
        left = fetch(herd.url, LEFT, begin, last)
        faults.append(f"{missing} of {slots} slots were never published: {'; '.join(row[0] for row in left)}")
    faults += [f"a scheduler left with {code}" for code in codes]
    faults += [f"{start} was published more than once" for (start,) in fetch(herd.url, TWICE)]
    wrong = fetch(
        herd.url,
        "SELECT interval_start, count(*), count(DISTINCT id) FROM predictions.ticks_history"
        " GROUP BY 1 HAVING (count(*), count(DISTINCT id)) <> (5, 5)",
    )
    faults += [f"{start} has {count} rows" for start, count, _ in wrong]
    runs = dict(fetch(herd.url, "SELECT status, count(*) FROM batchpred.runs GROUP BY 1"))
    delay = fetch(herd.url, "SELECT max(fence) FROM batchpred.claims")[0][0]
    return faults, {"slots": slots, "hurts": herd.hurts, "runs": runs, "most_claims_of_a_slot": delay}


def _wait_for(herd, begin, last, slots, patience):
    """Wait until every slot up to the last is published, or none for so many seconds; return how many are not."""
    until, before = time.monotonic() + patience, None
    while True:
        published = fetch(
            herd.url,
            "SELECT count(*) FROM batchpred.published WHERE interval_start BETWEEN %s AND %s - interval '1 second'",
            begin, last,
        )[0][0]  # fmt: skip
        if before is not None and published > before:  # slow is no fault, on a machine that has much to do
            until = time.monotonic() + patience
        before = published
        if published >= slots or time.monotonic() > until:
            return slots - published
        time.sleep(0.2)


@contextmanager
def world(server_url):
    """A database with the rows of ten days, and the model; no connection is kept: the server may be restarted."""
    name = f"bp_{uuid.uuid4().hex[:12]}"
    _do(server_url, f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
    try:
        url = _replace_path(server_url, name)
        base = Database.at(url)
        upgrade(base)
        prepared = prepare(model())
        with base.connect(purpose="chaos") as connection:
            connection.execute(SOURCE)
            registry.push(
                connection, "chaos", prepared.data, described=prepared.described, source="x", alias="champion"
            )
        yield url
    finally:
        _do(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _do(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
