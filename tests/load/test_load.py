"""The read API under load: what a publish and an outage of the database do to those who ask."""

import time
from functools import partial

import pytest

from tests.load.askers import Askers, key_path
from tests.load.publishes import campaign
from tests.load.world import PREDICTIONS, World

# What docs/read-api.md states: three seconds for a connection and five for a statement, and one to spare.
LONGEST_SECONDS = 9.0


@pytest.fixture(scope="module")
def world():
    with World(rows=200) as world:
        yield world


@pytest.mark.parametrize("cache", [1_000, 0])
def test_publishes_under_load_are_never_seen_late_or_mixed(world, cache):
    """No error, no answer of two runs, and none older than the bound after a publish: zero without a cache."""
    seen, faults = campaign(world, 3, cache, connections=16, batches=2)
    assert [] == faults
    assert 1 < seen["runs_seen"]


def test_postgres_stopped_and_started_under_load(world):
    """503 with Retry-After while it is away, answers again by themselves, and nobody waits longer than stated."""
    world.publish()
    with world.serving("--cache", "50") as port:
        others = [
            lambda path=path: f"GET {path} HTTP/1.1\r\n\r\n".encode() for path in ("/v1/jobs", PREDICTIONS)
        ]
        with Askers(port, [partial(key_path, 200)] * 8 + others) as askers:
            time.sleep(0.5)
            world.stop_postgres()
            time.sleep(1.5)
            world.start_postgres()
            back = time.monotonic()
            paths = {f"{PREDICTIONS}/", "/v1/jobs", PREDICTIONS}
            while paths and time.monotonic() < back + 30:
                time.sleep(0.1)
                for answer in askers.answers[-500:]:
                    if answer.status == 200 and answer.asked > back:
                        paths.discard(answer.path.rstrip("0123456789"))
    assert (set(), []) == (paths, askers.errors)
    assert {200, 503} == {answer.status for answer in askers.answers}
    away = [answer for answer in askers.answers if answer.status == 503]
    assert {f"{PREDICTIONS}/", "/v1/jobs", PREDICTIONS} == {each.path.rstrip("0123456789") for each in away}
    assert all(b"\r\nretry-after: " in answer.head for answer in away)
    assert max(answer.answered - answer.asked for answer in askers.answers) < LONGEST_SECONDS
