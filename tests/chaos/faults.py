"""What is done to a run, and what must hold after it: each fault is one trial on a database of its own."""

import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import psycopg

from tests.chaos.outages import IN_FLIGHT
from tests.chaos.world import CHUNKS, end, wait, wait_until_stopped

# A frozen holder is taken over when its lease and its open transaction have run out: a second in trials.
LEASE = 1.0
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'batchpred%'
"""
DONE_CHUNKS = "SELECT FROM batchpred.chunks JOIN batchpred.runs USING (run_id) WHERE status = 'running'"


@dataclass
class Verdict:
    """What one trial showed."""

    fault: str
    kind: str = ""
    seconds: float = 0.0
    kills: int = 0
    lost: int = 0
    duplicate: int = 0
    different: int = 0
    torn: int = 0
    reads: int = 0
    broken: list = field(default_factory=list)

    @property
    def holds(self):
        """Whether everything that is promised held."""
        return not self.symptoms

    @property
    def symptoms(self):
        """What did not hold, as text: the names of the counts that are not zero, and what else was found."""
        counts = [name for name in ("lost", "duplicate", "different", "torn") if getattr(self, name)]
        return "; ".join(counts + [str(each) for each in self.broken])


def try_fault(world, fault, *, patient=False, **details):
    """Clone the world, do the fault while a reader looks on, run again, and compare with the clean run.

    With `patient` the reader may lose its server, and nothing else.
    """
    named = ", ".join(f"{name}={value}" for name, value in details.items())
    verdict = Verdict(f"{fault.__name__}({named})", fault.__name__)
    began = time.monotonic()
    with world.clone() as trial:
        with trial.reader(patient=patient) as reader:
            fault(trial, verdict, **details)
            verdict.broken += trial.broken_invariants()
            left = trial.run_until_done()
        if left["exit_code"]:
            verdict.broken.append(f"the run after it failed: {left['error']}")
        verdict.torn, verdict.reads = len(reader.torn), reader.reads
        verdict.broken += reader.errors + trial.broken_invariants()
        compare(verdict, world.clean, trial.contents())
    verdict.seconds = time.monotonic() - began
    return verdict


def compare(verdict, clean, found):
    """Count the rows that are missing, there twice, or not the clean run's."""
    expected = {(row[3], row[0]): row for row in clean["predictions"]}
    seen = Counter((row[3], row[0]) for row in found["predictions"])
    actual = {(row[3], row[0]): row for row in found["predictions"]}
    verdict.lost += len(expected.keys() - actual.keys())
    verdict.duplicate += sum(count - 1 for count in seen.values())
    verdict.different += len(actual.keys() - expected.keys())
    verdict.different += sum(expected[key] != actual[key] for key in expected.keys() & actual.keys())
    verdict.different += clean["current"] != found["current"]
    verdict.different += clean["quarantine"] != found["quarantine"]


def commit_point(trial, verdict, *, at, when, mutant=None):
    """The runner is killed just before or just after it commits for the `at`-th time."""
    trial.run(at=at, when=when, action="kill", mutant=mutant)
    verdict.kills += 1


def lost_reply(trial, verdict, *, at, mutant=None):
    """The `at`-th COMMIT is done, and the connection breaks before its reply."""
    left = trial.run(at=at, when="after", action="drop", mutant=mutant)
    verdict.kills += 1
    if left["status"] != "published" or left["scored"] > CHUNKS + IN_FLIGHT:
        verdict.broken.append(
            f"a lost reply ended as {left['status']}: {left['error']}, {left['scored']} chunks"
        )


def undisturbed(trial, verdict, *, mutant=None):
    """Nothing happens at all; the reader sees whether the publish shows."""
    left = trial.run(mutant=mutant)
    if left["status"] != "published":
        verdict.broken.append(f"an undisturbed run ended as {left['status']}: {left['error']}")


def changed_and_back(trial, verdict, *, at, mutant=None):
    """The runner is killed while the source has other values for a while, which are right when it runs again."""
    trial.do("UPDATE rows SET b = -b")
    trial.run(at=at, when="before", action="kill", mutant=mutant)
    verdict.kills += 1
    trial.do("UPDATE rows SET b = -b")
    trial.run_until_done(mutant=mutant)


def kill_and_count(trial, verdict, *, at):
    """The runner is killed before a chunk commits; the next run scores that chunk and those after it alone."""
    trial.run(at=at, when="before", action="kill")
    verdict.kills += 1
    done = len(trial.fetch(DONE_CHUNKS))
    left = trial.run_until_done()
    if (left["scored"], left["chunks_resumed"]) != (CHUNKS - done, done):
        verdict.broken.append(
            f"of {done} chunks done {left['chunks_resumed']} were kept, {left['scored']} scored"
        )


def random_kill(trial, verdict, *, at_share):
    """The runner is killed wherever it is, after so large a share of a clean run's time."""
    process, result = trial.start()
    process.join(at_share * trial.world.seconds)
    end(process)
    verdict.kills += not result.exists()


def terminated(trial, verdict, *, at_share):
    """An administrator ends every session of the runner, three times."""
    process, result = trial.start()
    process.join(at_share * trial.world.seconds)
    with psycopg.connect(trial.url, autocommit=True, application_name="chaos axe") as axe:
        for _ in range(3):
            verdict.kills += len(axe.execute(TERMINATE).fetchall())
            time.sleep(0.02)
    left = wait(process, result)
    if left["status"] != "published":
        verdict.broken.append(f"ended sessions ended as {left['status']}: {left['error']}")


def frozen(trial, verdict, *, at, when, mutant=None):
    """The runner freezes at a commit point, another takes over and ends, and the first wakes up."""
    process, result = trial.start(at=at, when=when, action="stop", lease=LEASE, mutant=mutant)
    try:
        if not wait_until_stopped(process, result):
            return
        verdict.kills += 1
        other = trial.run_until_done(lease=LEASE)
        if other["status"] != "published" and other["status"] != "unchanged":
            verdict.broken.append(f"the takeover did not publish: {other['error']}")
        os.kill(process.pid, signal.SIGCONT)
        woken = wait(process, result)
        # The keys of the tables would hide a missing fence: so what the woken one did is looked at itself.
        if other["status"] == "published" and woken["status"] == "published":
            verdict.broken.append("a runner that had lost its claim published")
    finally:
        end(process)


def two_runners(trial, verdict, *, apart):
    """Two runners start at once: one does the work, the other is told so."""
    first = trial.start()
    time.sleep(apart)
    second = trial.start()
    left = [wait(*first), wait(*second)]
    verdict.kills += 1
    statuses = sorted(each["status"] for each in left)
    if statuses not in (["held", "published"], ["published", "unchanged"]):
        verdict.broken.append(f"two runners ended as {statuses}")


def in_parallel(trials, workers):
    """Do the trials, each a callable that returns a verdict, with so many threads; verdicts in any order."""
    verdicts, waiting, lock = [], list(reversed(trials)), threading.Lock()

    def work():
        while True:
            with lock:
                if not waiting:
                    return
                trial = waiting.pop()
            try:
                verdict = trial()
            except Exception as error:
                verdict = Verdict(f"{trial}", broken=[repr(error)])
            with lock:
                verdicts.append(verdict)
                if len(verdicts) % 50 == 0:
                    print(f"{len(verdicts)} of {len(trials)} trials", file=sys.stderr, flush=True)  # noqa: T201

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return verdicts
