"""The campaign in short: some of every fault, and every mutant."""

import pytest

from tests.chaos import campaign, faults
from tests.chaos.world import CHUNKS, World

SETTLED = 3 + CHUNKS  # the commit point at which all chunks are written


@pytest.fixture(scope="module")
def world(server_url, tmp_path_factory):
    with World(server_url, tmp_path_factory.mktemp("chaos")).built() as built:
        yield built


def test_a_run_comes_to_the_commit_points_it_should(world):
    """A run commits its claim, itself, its table, each chunk, and six times more until the claim is free."""
    assert SETTLED + 6 == len(world.points)


def test_killed_at_a_commit_point_the_next_run_makes_the_clean_table(world):
    """Whatever commit a runner is killed before or after, a re-run publishes what one clean run would have."""
    ends = [0, 1, 2, 3, 12, *range(SETTLED - 1, len(world.points))]
    trials = [(faults.commit_point, {"at": at, "when": ("before", "after")[at % 2]}) for at in ends]
    trials += [(faults.commit_point, {"at": len(world.points) - 2, "when": "before"})]
    assert [] == bad(world, trials)


def test_other_faults_leave_the_clean_table_too(world):
    """Kills at any moment, ended sessions, lost replies, a frozen runner that wakes, and two runners at once."""
    trials = [
        (faults.random_kill, {"after": world.seconds / 2}),
        (faults.terminated, {"after": world.seconds / 2}),
        (faults.lost_reply, {"at": 10}),
        (faults.lost_reply, {"at": len(world.points) - 2}),
        (faults.frozen, {"at": 10, "when": "before"}),
        (faults.frozen, {"at": 10, "when": "after"}),
        (faults.frozen, {"at": len(world.points) - 3, "when": "after"}),
        (faults.two_runners, {"apart": 0.05}),
    ]
    assert [] == bad(world, trials)


@pytest.mark.parametrize("mutant", ["no_fence", "two_transaction_publish"])
def test_a_runner_that_is_wrong_is_caught(world, mutant):
    """The campaign sees what it looks for: each mutant breaks a trial."""
    assert campaign.is_caught(world, mutant, campaign.hunts(world)[mutant])


def bad(world, trials):
    verdicts = [faults.try_fault(world, fault, **details) for fault, details in trials]
    return [verdict for verdict in verdicts if not verdict.holds]
