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
            stopped = time.monotonic()
            world.stop_postgres()
            assert paths_answered(askers, 503, since=stopped)
            world.start_postgres()
            assert paths_answered(askers, 200, since=time.monotonic())
    assert [] == askers.errors
    assert {200, 503} == {answer.status for answer in askers.answers}
    away = [answer for answer in askers.answers if answer.status == 503]
    assert all(b"\r\nretry-after: " in answer.head for answer in away)
    assert max(answer.answered - answer.asked for answer in askers.answers) < LONGEST_SECONDS


def paths_answered(askers, status, since, within=30):
    """Whether every path that is asked for is answered so before the seconds are over."""
    waiting = {f"{PREDICTIONS}/", "/v1/jobs", PREDICTIONS}
    while waiting and time.monotonic() < since + within:
        time.sleep(0.1)
        for answer in list(askers.answers):
            if answer.status == status and answer.asked > since:
                waiting.discard(answer.path.rstrip("0123456789"))
    return not waiting
