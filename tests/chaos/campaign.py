"""The campaign: `make chaos N=500 SEED=7` hurts N runs, tries the mutants, and ends with one line of JSON.

Each kind of fault is there at least once; then every commit point of a run is struck before, after, and in its
reply; what is left of N is drawn. All of it is drawn by the seed before anything begins, so the same seed and N do
the same things to the same points. It leaves with 1 where anything did not hold or a mutant was not caught.
"""

import argparse
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial

from tests.bouncer import bouncing
from tests.chaos import faults, outages
from tests.chaos.server import OwnServer
from tests.chaos.world import COMMITS, POINTS, World

WORKERS = 2

# Faults that end the server, and with it every other trial's: one at a time, when the others are done.
ENDS_SERVER = {outages.server_stopped, outages.server_killed, outages.killed_when_published}
NEEDS_OWN_SERVER = {*ENDS_SERVER, outages.disk_full}

# How often each kind is drawn, by what a trial of it costs: a restart of PostgreSQL and a hole in the network
# take three seconds, the others one.
_KINDS = {
    faults.commit_point: (4, lambda chance: {"at": chance.randrange(POINTS), "when": _when(chance)}),
    faults.random_kill: (6, lambda chance: {"at_share": _share(chance)}),
    faults.terminated: (3, lambda chance: {"at_share": _share(chance)}),
    faults.lost_reply: (3, lambda chance: {"at": chance.randrange(POINTS)}),
    faults.frozen: (2, lambda chance: {"at": chance.randrange(POINTS), "when": _when(chance)}),
    # Not at the last point, behind the publish: what the source said then is what was published.
    faults.changed_and_back: (3, lambda chance: {"at": chance.randrange(POINTS - 1)}),
    faults.two_runners: (3, lambda chance: {"apart": round(chance.uniform(0, 0.1), 3)}),
    outages.network_reset: (3, lambda chance: {"at": chance.randrange(COMMITS)}),
    outages.lost_commit_reply: (3, lambda chance: {"at": chance.randrange(COMMITS)}),
    outages.black_hole: (
        1,
        lambda chance: {"at": chance.randrange(COMMITS), "seconds": round(chance.uniform(0.1, 1), 3)},
    ),
    outages.mute_peer: (1, lambda chance: {"at": chance.randrange(COMMITS)}),
    outages.server_stopped: (1, lambda chance: {"at": chance.randrange(POINTS)}),
    outages.server_killed: (1, lambda chance: {"at": chance.randrange(POINTS)}),
    outages.killed_when_published: (1, lambda _chance: {}),
    outages.disk_full: (1, lambda chance: {"kilobytes": chance.choice(outages.SMALL_DISKS)}),
}


def _when(chance):
    return chance.choice(["before", "after"])


def _share(chance):
    """A moment in a run, as a share of a clean one's time; a little later than its end too."""
    return round(chance.uniform(0, 1.2), 3)


def plan(number, seed):
    """The trials of a campaign, (fault, details) each, known from its size and its seed alone."""
    chance = random.Random(seed)
    planned = [(fault, draw(chance)) for fault, (_, draw) in _KINDS.items()]
    points = [
        trial
        for at in range(POINTS)
        for trial in (
            (faults.commit_point, {"at": at, "when": "before"}),
            (faults.commit_point, {"at": at, "when": "after"}),
            (faults.lost_reply, {"at": at}),
        )
    ]
    chance.shuffle(points)
    planned = (planned + points)[:number]
    kinds, weights = list(_KINDS), [often for often, _ in _KINDS.values()]
    for fault in chance.choices(kinds, weights, k=number - len(planned)):
        planned.append((fault, _KINDS[fault][1](chance)))
    return planned


# For each mutant what it must be caught at, and the faults that may show it; the first that does ends the hunt.
HUNTS = {
    "no_fence": (
        "a runner that had lost its claim published",
        [(faults.frozen, {"at": at, "when": "after"}) for at in (POINTS - 3, POINTS - 2, POINTS - 4)],
    ),
    "gap_in_publish": ("torn", [(faults.undisturbed, {})]),
    "rename_instead_of_pointer": ("torn", [(faults.undisturbed, {})]),
    "no_recheck": ("different", [(faults.changed_and_back, {"at": 12})]),
    "separate_checkpoint": (
        "stand there more than once",
        [(faults.commit_point, {"at": at, "when": "after"}) for at in (5, 9, 14)],
    ),
    "two_transaction_publish": (
        "the status published exactly where",
        [(faults.commit_point, {"at": at, "when": "after"}) for at in (POINTS - 2, POINTS - 3, POINTS - 1)],
    ),
    "publish_without_waiting": (
        "gone after the crash",
        [(outages.killed_when_published, {})] * 3,
    ),
}


def is_caught(world, mutant):
    """Whether a fault shows that the mutant is wrong, in the way in which it is."""
    symptom, hunt = HUNTS[mutant]
    for fault, details in hunt:
        verdict = trial(world, fault, mutant=mutant, **details)
        if symptom in verdict.symptoms:
            return True
    return False


def trial(world, fault, **details):
    """Do one trial; the reader may lose its server where the fault ends it."""
    return faults.try_fault(world, fault, patient=fault in ENDS_SERVER, **details)


def why_skipped(world):
    """The faults that cannot be tried here, each with the reason."""
    if world.server is None:
        return dict.fromkeys(NEEDS_OWN_SERVER, "the server is not our own (TEST_DATABASE_URL)")
    reason = world.server.why_no_small_disk()
    return {outages.disk_full: f"no small file system: {reason}"} if reason else {}


def try_all(world, planned):
    """Do the trials that can be done: those that end the server one by one, after the others."""
    skipped = why_skipped(world)
    wanted = [each for each in planned if each[0] not in skipped]
    trials = [(fault in ENDS_SERVER, partial(trial, world, fault, **details)) for fault, details in wanted]
    verdicts = faults.in_parallel([each for ends, each in trials if not ends], WORKERS)
    return verdicts + faults.in_parallel([each for ends, each in trials if ends], 1)


def run_campaign(world, number, seed):
    """Do `number` trials and hunt the mutants; return the summary and the verdicts that do not hold."""
    planned, skipped = plan(number, seed), why_skipped(world)
    verdicts = try_all(world, planned)
    hunted = [name for name, (_, hunt) in HUNTS.items() if hunt[0][0] not in skipped]
    caught = {mutant: is_caught(world, mutant) for mutant in hunted}
    bad = [verdict for verdict in verdicts if not verdict.holds]
    seconds = Counter()
    for verdict in verdicts:
        seconds[verdict.kind] += verdict.seconds
    summary = {
        "seed": seed,
        "trials": len(verdicts),
        "kills": sum(verdict.kills for verdict in verdicts),
        "faults": dict(Counter(verdict.kind for verdict in verdicts)),
        **{
            name: sum(getattr(each, name) for each in verdicts)
            for name in ("lost", "duplicate", "different", "torn", "reads")
        },
        "broken": len([verdict for verdict in bad if verdict.broken]),
        "mutants_caught": [mutant for mutant, seen in caught.items() if seen],
        "mutants_missed": [mutant for mutant, seen in caught.items() if not seen],
        "skipped": {fault.__name__: reason for fault, reason in skipped.items()},
        "seconds_by_fault": {kind: round(spent, 1) for kind, spent in seconds.most_common()},
    }
    return summary, bad


@contextmanager
def world_of_its_own(folder, *, pooler=False):
    """The world on a server that the campaign starts, or on that of TEST_DATABASE_URL, which nothing is done to."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        with _built(World(url, folder), pooler=pooler) as world:
            yield world
        return
    with (
        OwnServer.running() as server,
        _built(World(server.url, folder, server), pooler=pooler) as world,
    ):
        yield world


@contextmanager
def _built(world, *, pooler):
    with ExitStack() as stack:
        if pooler:
            # After a server that ended it would not ask the next one for 15 seconds, and refuse everybody.
            world.bouncer = stack.enter_context(
                bouncing(world.server_url, 6, more="server_login_retry = 1\n")
            )
        yield stack.enter_context(world.built())


def main():
    """Read N and the seed, do the campaign, print its summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--pooler", action="store_true", help="let runners through PgBouncer")
    parser.add_argument(
        "--plan", action="store_true", help="print the trials that would be done, and do nothing"
    )
    chosen = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed
    print(f"chaos: {chosen.n} trials, seed {seed}", file=sys.stderr, flush=True)  # noqa: T201
    if chosen.plan:
        for fault, details in plan(chosen.n, seed):
            print(json.dumps({"fault": fault.__name__, **details}))  # noqa: T201
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, world_of_its_own(folder, pooler=chosen.pooler) as world:
        summary, bad = run_campaign(world, chosen.n, seed)
    for verdict in bad:
        print(f"does not hold: {verdict}", file=sys.stderr)  # noqa: T201
    summary["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(summary))  # noqa: T201
    sys.exit(1 if bad or summary["mutants_missed"] else 0)


if __name__ == "__main__":
    main()
