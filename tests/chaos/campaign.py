"""The campaign: `make chaos N=500 SEED=7` hurts N runs, tries the mutants, and ends with one line of JSON.

Every commit point of a run is struck before, after, and in its reply; what is left of N is drawn by the seed,
so the same seed does the same things to the same points. It leaves with 1 where anything did not hold.
"""

import argparse
import json
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from functools import partial

from tests import conftest
from tests.chaos import faults
from tests.chaos.world import CHUNKS, World

WORKERS = 2


def enumerated(world):
    """Every commit point, struck in each of three ways."""
    for at in range(len(world.points)):
        for when in ("before", "after"):
            yield faults.commit_point, {"at": at, "when": when}
        yield faults.lost_reply, {"at": at}


def drawn(world, chance):
    """Faults without end, drawn by chance."""
    while True:
        at, when = chance.randrange(len(world.points)), chance.choice(["before", "after"])
        after = round(chance.uniform(0, 1.2 * world.seconds), 3)
        yield chance.choice(
            [
                (faults.commit_point, {"at": at, "when": when}),
                (faults.random_kill, {"after": after}),
                (faults.random_kill, {"after": after}),
                (faults.terminated, {"after": after}),
                (faults.lost_reply, {"at": at}),
                (faults.frozen, {"at": at, "when": when}),
                (faults.changed_and_back, {"at": at}),
                (faults.two_runners, {"apart": round(chance.uniform(0, 0.1), 3)}),
            ]
        )


def hunts(world):
    """For each mutant the faults that may catch it; the first that does ends the hunt."""
    tail = range(2 + CHUNKS, len(world.points) + 2)
    return {
        "no_fence": [(faults.frozen, {"at": at, "when": "after"}) for at in reversed(tail)],
        "gap_in_publish": [(faults.undisturbed, {})],
        "no_recheck": [(faults.changed_and_back, {"at": 12})],
        "separate_checkpoint": [(faults.commit_point, {"at": at, "when": "after"}) for at in (5, 9, 14)],
        "two_transaction_publish": [(faults.commit_point, {"at": at, "when": "after"}) for at in tail],
    }


def is_caught(world, mutant, hunt):
    """Whether one of the faults shows that the mutant is wrong."""
    return any(not faults.try_fault(world, fault, mutant=mutant, **details).holds for fault, details in hunt)


def run_campaign(world, number, seed):
    """Do `number` trials and hunt the mutants; return the summary and the verdicts that do not hold."""
    chance = random.Random(seed)
    planned = list(enumerated(world))
    if len(planned) > number:
        planned = chance.sample(planned, number)
    more = drawn(world, chance)
    planned += [next(more) for _ in range(number - len(planned))]
    trials = [partial(faults.try_fault, world, fault, **details) for fault, details in planned]
    verdicts = faults.in_parallel(trials, WORKERS)
    caught = {mutant: is_caught(world, mutant, hunt) for mutant, hunt in hunts(world).items()}
    bad = [verdict for verdict in verdicts if not verdict.holds]
    summary = {
        "seed": seed,
        "trials": len(verdicts),
        "kills": sum(verdict.kills for verdict in verdicts),
        "faults": dict(Counter(fault.__name__ for fault, _ in planned)),
        **{
            name: sum(getattr(each, name) for each in verdicts) for name in ("lost", "duplicate", "different")
        },
        "torn": sum(verdict.torn for verdict in verdicts),
        "broken": len([verdict for verdict in bad if verdict.broken]),
        "reads": sum(verdict.reads for verdict in verdicts),
        "mutants_caught": [mutant for mutant, seen in caught.items() if seen],
        "mutants_missed": [mutant for mutant, seen in caught.items() if not seen],
    }
    return summary, bad


def main():
    """Read N and the seed, do the campaign, print its summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed
    print(f"chaos: {chosen.n} trials, seed {seed}", file=sys.stderr)  # noqa: T201
    began = time.monotonic()
    url = conftest._start_server()
    try:
        with tempfile.TemporaryDirectory() as folder, World(url, folder).built() as world:
            summary, bad = run_campaign(world, chosen.n, seed)
    finally:
        conftest.pytest_unconfigure(None)
    for verdict in bad:
        print(f"does not hold: {verdict}", file=sys.stderr)  # noqa: T201
    summary["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(summary))  # noqa: T201
    sys.exit(1 if bad or summary["mutants_missed"] else 0)


if __name__ == "__main__":
    main()
