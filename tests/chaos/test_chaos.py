"""The campaign in short: some of every fault, and every mutant."""

import pytest

from tests.chaos import campaign, faults, outages, readers
from tests.chaos.mutants import MUTANTS
from tests.chaos.world import CHUNKS, COMMITS, POINTS

SETTLED = 2 + CHUNKS  # the commit point at which all chunks are written


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with campaign.world_of_its_own(tmp_path_factory.mktemp("chaos")) as built:
        # The long form's readers look every 5 ms, which is half of what a trial costs. Mutants that can be seen for
        # a moment only wait for a look, however rare.
        built.pause = 0.02
        yield built


def test_a_run_comes_to_the_commit_points_it_should(world):
    """A run commits its claim, itself, its table, each chunk, and six times more until the claim is free."""
    assert POINTS == len(world.points)
    assert COMMITS == world.points.count("COMMIT")


def test_a_seed_draws_the_same_campaign_again():
    """The plan is drawn before anything begins: the same size and seed give it, and another seed another."""
    again = campaign.plan(150, 7)
    assert campaign.plan(150, 7) == again
    assert campaign.plan(150, 8) != again
    assert set(campaign._KINDS) == {fault for fault, _ in campaign.plan(len(campaign._KINDS), 7)}


def test_killed_at_a_commit_point_the_next_run_makes_the_clean_table(world):
    """Whatever commit a runner is killed before or after, a re-run publishes what one clean run would have."""
    ends = [0, 1, 12, *range(SETTLED, POINTS - 1)]
    trials = [(faults.commit_point, {"at": at, "when": ("before", "after")[at % 2]}) for at in ends]
    assert [] == bad(world, trials)


def test_other_faults_leave_the_clean_table_too(world):
    """Kills at any moment, ended sessions, lost replies, a frozen runner that wakes, and two runners at once."""
    trials = [
        (faults.random_kill, {"at_share": 0.5}),
        (faults.terminated, {"at_share": 0.7}),
        (faults.frozen, {"at": 10, "when": "before"}),
        (faults.two_runners, {"apart": 0.05}),
        (faults.changed_and_back, {"at": 12}),
        (faults.undisturbed, {}),
    ]
    assert [] == bad(world, trials)


def test_a_network_that_fails_costs_an_attempt_at_most(world):
    """Resets, a black hole that heals, and replies that never come: of a chunk's COMMIT and of the publish's."""
    trials = [
        (outages.network_reset, {"at": 7}),
        (outages.black_hole, {"at": 12, "seconds": 0.3}),
        (outages.lost_commit_reply, {"at": 0}),
        (outages.lost_commit_reply, {"at": 9}),
        (outages.lost_commit_reply, {"at": COMMITS - 1}),
        (outages.mute_peer, {"at": 9}),
    ]
    assert [] == bad(world, trials)


SERVER_FAULTS = [
    (outages.server_stopped, {"at": 12}),
    (outages.server_killed, {"at": POINTS - 2}),
    (outages.disk_full, {"kilobytes": outages.SMALL_DISKS[0]}),
]


@pytest.mark.parametrize(
    ("fault", "details"), SERVER_FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_server_that_fails_loses_nothing(world, fault, details):
    """PostgreSQL stopped at once, killed, or out of disk: what was done stays, and a re-run ends it."""
    if reason := campaign.why_skipped(world).get(fault):
        pytest.skip(reason)
    assert [] == bad(world, [(fault, details)])


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
    """The campaign sees what it looks for: each mutant breaks a trial, in the way in which it is wrong."""
    if reason := campaign.why_skipped(world).get(campaign.HUNTS[mutant][1][0][0]):
        pytest.skip(reason)
    assert campaign.is_caught(world, mutant)


def bad(world, trials):
    return [verdict for verdict in campaign.try_all(world, trials) if not verdict.holds]


def test_readers_under_load_meet_no_mixed_answer_while_runs_are_published_and_rolled_back(world):
    """No error, and every lookup, batch, aggregate and transaction is answered by one run."""
    with world.clone() as trial:
        seen = readers.watch_moves(trial, steps=3, processes=1)
    assert ([], []) == (seen["errors"], seen["mixed"])
    assert seen["reads"] > 100
