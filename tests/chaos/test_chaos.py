"""The campaign in short: some of every fault, and every mutant."""

from functools import partial

import pytest

from tests.chaos import campaign, faults
from tests.chaos.mutants import MUTANTS
from tests.chaos.world import CHUNKS, World

SETTLED = 2 + CHUNKS  # the commit point at which all chunks are written


@pytest.fixture(scope="module")
def world(server_url, tmp_path_factory):
    with World(server_url, tmp_path_factory.mktemp("chaos")).built() as built:
        yield built


def test_a_run_comes_to_the_commit_points_it_should(world):
    """A run commits its claim, itself, its table, each chunk, and six times more until the claim is free."""
    assert SETTLED + 6 == len(world.points)


def test_killed_at_a_commit_point_the_next_run_makes_the_clean_table(world):
    """Whatever commit a runner is killed before or after, a re-run publishes what one clean run would have."""
    ends = [0, 1, 12, *range(SETTLED, len(world.points))]
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
        (faults.changed_and_back, {"at": 12}),
        (faults.undisturbed, {}),
    ]
    assert [] == bad(world, trials)


@pytest.mark.parametrize("at", [3, 2 + CHUNKS * 9 // 10, SETTLED + 4])
def test_a_killed_run_repeats_only_the_chunks_in_flight(world, at):
    """Chunks that were committed are neither scored nor written again: at 90 % of 20 chunks two are left."""
    assert [] == bad(world, [(faults.kill_and_count, {"at": at})])


SOURCE_CHANGES = {
    "a row in the middle has another value": "UPDATE rows SET b = 2 WHERE id = 950",
    "a row is gone": "DELETE FROM rows WHERE id = 333",
    "a row is new at the front": "INSERT INTO rows VALUES (0, '2026-01-02 12:00Z', 1, 1)",
    "a row is new at the end": "INSERT INTO rows VALUES (3000, '2026-01-02 12:00Z', 1, 1)",
    "the end is gone": "DELETE FROM rows WHERE id > 700",
    "rows lie in another order": "UPDATE rows SET a = a WHERE id % 3 = 0",
    "the table is sorted": "CREATE TABLE r AS SELECT * FROM rows ORDER BY id DESC; DROP TABLE rows; "
    "ALTER TABLE r RENAME TO rows",
    "a set row is whole now": "UPDATE rows SET a = 1 WHERE id = 107",
}


@pytest.mark.parametrize("change", SOURCE_CHANGES.values(), ids=SOURCE_CHANGES)
def test_a_source_that_changes_between_crash_and_resume_is_read_as_it_is_now(world, change):
    """The resumed run makes what one clean run over the changed source makes, not a mixture of two moments."""
    at = (12, SETTLED + 1, SETTLED + 4)[list(SOURCE_CHANGES.values()).index(change) % 3]
    with world.clone() as trial:
        trial.do(change)
        assert 0 == trial.run()["exit_code"]
        clean = trial.contents()
    with world.clone() as trial:
        trial.run(at=at, when="before", action="kill")
        trial.do(change)
        assert 0 == trial.run_until_done()["exit_code"]
        assert [] == trial.broken_invariants()
        assert clean == trial.contents()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_runner_that_is_wrong_is_caught(world, mutant):
    """The campaign sees what it looks for: each mutant breaks a trial."""
    assert campaign.is_caught(world, mutant, campaign.hunts(world)[mutant])


def bad(world, trials):
    planned = [partial(faults.try_fault, world, fault, **details) for fault, details in trials]
    verdicts = faults.in_parallel(planned, campaign.WORKERS)
    return [verdict for verdict in verdicts if not verdict.holds]
