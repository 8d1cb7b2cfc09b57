"""Publishes under full load: no error, no answer of two runs, and no answer older than the stated bound.

    make load N=50

64 connections ask for single keys and four for batches, without a pause, while run after run is published. The
clock is one and the same: a request that was sent later than the bound after a publish was committed must be
answered from that run or a newer one. With the cache off the bound is zero.
"""

import argparse
import json
import sys
from bisect import bisect_right
from functools import partial
from time import sleep

from api.answers import STALE_SECONDS
from tests.load.askers import Askers, batch_of, key_path
from tests.load.world import World


def campaign(world, publishes, cache, *, connections=64, batches=4):
    """Publish and ask; return what was seen and a list of faults."""
    bound = STALE_SECONDS if cache else 0.0
    world.publish()
    with world.serving("--cache", str(cache)) as port:
        requests = [partial(key_path, world.rows)] * connections + [partial(batch_of, world.rows)] * batches
        with Askers(port, requests) as askers:
            for _ in range(publishes):
                world.publish()
                sleep(0.05)
            sleep(bound + 0.1)
    committed = world.committed
    faults = [*askers.errors]
    oldest = 0.0
    for answer in askers.answers:
        if answer.status != 200:
            faults.append(f"{answer.path}: {answer.status} {answer.body.decode()}")
            continue
        runs = seen_in(json.loads(answer.body))
        if len(runs) != 1:
            faults.append(f"{answer.path}: of several runs: {runs}")
            continue
        (run,) = runs
        # Runs that were committed so long before the request was sent that it had to know of them.
        if run < bisect_right(committed, answer.asked - bound) - 1:
            faults.append(
                f"{answer.path}: of run {run}, {answer.asked - committed[run + 1]:.3f} s after the next"
            )
        if run + 1 < len(committed):
            oldest = max(oldest, answer.asked - committed[run + 1])
    slowest = sorted(answer.answered - answer.asked for answer in askers.answers)
    return {
        "publishes": publishes,
        "cache": cache,
        "bound_s": bound,
        "answers": len(slowest),
        "runs_seen": len({run for answer in askers.answers for run in seen_in(json.loads(answer.body))}),
        "oldest_s": round(oldest, 4),
        "p50_ms": round(slowest[len(slowest) // 2] * 1e3, 2),
        "longest_ms": round(slowest[-1] * 1e3, 1),
        "faults": len(faults),
    }, faults


def seen_in(document):
    """Return which runs, by their order, a document shows anything of: by its tips and by its day."""
    found = document.get("predictions") or [document]
    tips = {int(each["prediction"]["tip"]) for each in found if "prediction" in each}
    numbers = {each["run_id"] - 1 for each in [*found, *document.get("runs", [])] if "run_id" in each}
    return tips | numbers


def main():
    """Run it with the cache and without; exit with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--publishes", type=int, default=50)
    publishes, wrong = parser.parse_args().publishes, 0
    with World() as world:
        for cache in (200_000, 0):
            seen, faults = campaign(world, publishes, cache)
            sys.stdout.write(json.dumps(seen) + "\n")
            sys.stderr.writelines(f"{fault}\n" for fault in faults[:10])
            wrong += len(faults)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
