"""The ledger: claims, fences, and what a stopped runner leaves behind."""

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pytest
from psycopg.types.json import Jsonb

from storage import runs
from storage.holder import is_known_dead, this_process
from storage.runs import ClaimLostError, IntervalHeldError, Pin, Slot

SLOT = Slot("tips", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 1))
PIN = Pin("tips", 1, "a" * 64, "d" * 64, "CPUExecutionProvider")


def take_over(connection):
    """Do what another machine's runner does once the lease has run out."""
    connection.execute(
        "UPDATE batchpred.claims SET fence = fence + 1, lease_until = now() + interval '1 hour'"
    )


def test_a_second_claimer_is_told_who_holds_the_interval(database, connection):
    """While one runner holds a slot, another leaves with exit code 4 and the holder's name."""
    with runs.claim(database, connection, SLOT), database.connect(purpose="other") as other:
        with pytest.raises(IntervalHeldError, match=f"held by process {os.getpid()} on ") as caught:
            with runs.claim(database, other, SLOT):
                pass
    assert 4 == caught.value.exit_code


def test_a_claim_given_back_can_be_taken_with_a_higher_number(database, connection):
    """The fencing number grows with every claim of a slot."""
    fences = []
    for _ in range(3):
        with runs.claim(database, connection, SLOT) as held:
            fences.append(held.fence)
    assert [1, 2, 3] == fences


def test_a_lease_that_ran_out_can_be_taken(database, connection):
    """A holder on another machine is trusted as long as its lease runs, and no longer."""
    elsewhere = Jsonb({**this_process(), "world": "another machine"})
    for until, free in (("1 hour", False), ("-1 second", True)):
        connection.execute("DELETE FROM batchpred.claims")
        connection.execute(
            "INSERT INTO batchpred.claims VALUES (%s, %s, 7, %s, now() + %s::interval)",
            [SLOT.job, SLOT.interval_start, elsewhere, until],
        )
        if free:
            with runs.claim(database, connection, SLOT) as held:
                assert 8 == held.fence
        else:
            with pytest.raises(IntervalHeldError), runs.claim(database, connection, SLOT):
                pass


def test_a_dead_process_of_this_machine_holds_nothing(database, connection):
    """A runner that was killed a moment ago is taken over at once, its run marked abandoned."""
    dead = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json; from storage.holder import this_process; print(json.dumps(this_process()))",
        ],
        capture_output=True,
        check=True,
        text=True,
    )
    with runs.claim(database, connection, SLOT) as held:
        run_id = runs.start_run(connection, held, PIN, {})
        connection.execute("UPDATE batchpred.claims SET holder = %s::jsonb", [dead.stdout])
        with database.connect(purpose="next") as other, runs.claim(database, other, SLOT) as taken:
            assert held.fence + 1 == taken.fence
    row = connection.execute("SELECT status FROM batchpred.runs WHERE run_id = %s", [run_id]).fetchone()
    assert {"status": "abandoned"} == row


def test_this_process_is_alive_and_a_reused_pid_is_not_it():
    """A pid is believed only with the start time and the process world it came with."""
    me = this_process()
    assert not is_known_dead(me)
    assert is_known_dead({**me, "born": "1"})
    assert not is_known_dead({**me, "world": "elsewhere", "born": "1"})
    assert not is_known_dead(None)


def test_a_runner_without_its_claim_can_publish_nothing(database, connection):
    """A frozen runner that wakes after a takeover moves no pointer and changes no status."""
    with runs.claim(database, connection, SLOT) as held:
        run_id = runs.start_run(connection, held, PIN, {})
        connection.execute(
            "INSERT INTO batchpred.jobs VALUES ('tips', '', 'snapshot', 'day', 'UTC', NULL, '[]', '[]')"
        )
        take_over(connection)
        with pytest.raises(ClaimLostError):
            runs.publish(connection, held, run_id)
    assert runs.published_run(connection, SLOT) is None
    row = connection.execute("SELECT status FROM batchpred.runs WHERE run_id = %s", [run_id]).fetchone()
    assert {"status": "running"} == row


def test_a_runner_without_its_claim_gives_nothing_back(database, connection):
    """Leaving the block does not release a claim that another runner has by now."""
    with runs.claim(database, connection, SLOT):
        take_over(connection)
    assert connection.execute("SELECT lease_until > now() AS held FROM batchpred.claims").fetchone()["held"]


def test_the_lease_is_renewed_while_the_runner_works(database, connection, monkeypatch):
    """A claim held for longer than its lease is still held."""
    monkeypatch.setattr(runs, "LEASE", timedelta(seconds=0.3))
    with runs.claim(database, connection, SLOT) as held:
        connection.execute("SELECT pg_sleep(1)")
        held.check(connection)
        with database.connect(purpose="other") as other, pytest.raises(IntervalHeldError):
            with runs.claim(database, other, SLOT):
                pass


def test_publishing_again_supersedes_the_run_before(database, connection):
    """One run is published for a slot; the one it replaces is kept as superseded."""
    connection.execute(
        "INSERT INTO batchpred.jobs VALUES ('tips', '', 'snapshot', 'day', 'UTC', NULL, '[]', '[]')"
    )
    with runs.claim(database, connection, SLOT) as held:
        first, second = (runs.start_run(connection, held, PIN, {}) for _ in range(2))
        runs.publish(connection, held, first)
        runs.publish(connection, held, second)
    assert second == runs.published_run(connection, SLOT)["run_id"]
    statuses = connection.execute("SELECT status FROM batchpred.runs ORDER BY run_id").fetchall()
    assert ["superseded", "published"] == [row["status"] for row in statuses]


def test_counts_that_do_not_add_up_cannot_be_written(database, connection):
    """Read = scored + quarantined is a constraint of the ledger, not a hope."""
    with runs.claim(database, connection, SLOT) as held:
        run_id = runs.start_run(connection, held, PIN, {})
        with pytest.raises(Exception, match="chunks_reconcile"):
            runs.add_chunk(connection, run_id, 0, runs.ChunkCounts(10, 8, 1), [])
