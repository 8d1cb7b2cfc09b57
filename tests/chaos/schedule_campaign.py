"""The schedule's campaign: `make chaos-schedule N=60 SEED=7` ends with one line of JSON, and 1 where a line fails.

schedulers   four of them on one database with a job every second for N seconds, killed, frozen, ended, cut off
             and started again, one by one and all at once; one has a clock that jumps an hour both ways, and the
             database is restarted under them: every slot exactly once, none missing
mutants      schedulers that are wrong in one way each, killed all at once: that must be seen, whatever the seed
zones        every zone of the tz database over the changes of its clocks in two years
backfill     thirty days of taxi rides, killed twice and resumed, beside a clean one
tests        three days down, a clock that jumps, a job file with an error beside ten good ones
"""

import argparse
import json
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from storage import embedded
from tests.chaos import backfill, schedulers, zones

# For each mutant what it must be caught at.
HUNTS = {"unclaimed": "was published more than once", "forgetful": "slots were never published"}
TESTS = "down_for_three_days or clock_that_jumps or wrong_costs_no_other or several_schedulers"


def try_all(server_url, restart, seconds, seed):
    """Do every part; return the faults by part and the figures."""
    parts = {
        "schedulers": lambda: _schedulers(server_url, restart, seconds, seed),
        **{mutant: partial(_mutant, server_url, mutant) for mutant in HUNTS},
        "backfill": lambda: _backfill(server_url),
        "tests": _tests,
        "zones": _zones,
    }
    faults, figures = {}, {}
    for part, do in parts.items():
        began = time.monotonic()
        faults[part], figures[part] = do()
        told = "does not hold" if faults[part] else "holds"
        print(f"{part}: {told} ({time.monotonic() - began:.0f} s) {figures[part]}", file=sys.stderr)  # noqa: T201
    return faults, figures


def _schedulers(server_url, restart, seconds, seed):
    with tempfile.TemporaryDirectory() as folder:
        return schedulers.try_schedulers(server_url, folder, seconds, random.Random(seed), restart=restart)


def _mutant(server_url, mutant):
    caught = is_caught(server_url, mutant)
    return [] if caught else ["the mutant was not noticed"], "noticed" if caught else "missed"


def _backfill(server_url):
    if not backfill.TAXIS.exists():
        return [], f"left out: {backfill.TAXIS} is not here"
    with tempfile.TemporaryDirectory() as folder:
        return backfill.try_backfill(server_url, folder, 30)


def _tests():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", TESTS, "tests/integration/test_schedule.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [done.stdout[-2000:]] if done.returncode else [], done.stdout.strip().splitlines()[-1]


def _zones():
    groups = zones.one_of_each()
    found = [fault for names in groups.values() for fault in zones.faults_of(names[0])]
    return found, {"zones": sum(map(len, groups.values())), "different": len(groups)}


def is_caught(server_url, mutant):
    """Whether schedulers that are wrong in this way are caught at it."""
    with tempfile.TemporaryDirectory() as folder:
        found = schedulers.hunt(server_url, folder, mutant)
    return any(HUNTS[mutant] in fault for fault in found)


def main():
    """Read N and the seed, do the campaign, print its summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if chosen.seed is None else chosen.seed
    print(f"chaos-schedule: {chosen.n} slots, seed {seed}", file=sys.stderr)  # noqa: T201
    began = time.monotonic()
    # A server of its own, because it is restarted; not below a folder that is closed to the user it runs as.
    home = Path(tempfile.mkdtemp(prefix="batchpred-schedule-"))
    home.chmod(0o755)
    url = embedded.start(home).url

    def restart():
        embedded.stop(home)
        if embedded.start(home).url != url:
            raise AssertionError("the server came back at another address")

    try:
        faults, figures = try_all(url, restart, chosen.n, seed)
    finally:
        embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)
    bad = {part: found for part, found in faults.items() if found}
    for part, found in bad.items():
        for fault in found[:20]:
            print(f"does not hold: {part}: {fault}", file=sys.stderr)  # noqa: T201
    holds = {part: not found for part, found in faults.items()}
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"seed": seed, "holds": holds, **figures, "seconds": seconds}))  # noqa: T201
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
