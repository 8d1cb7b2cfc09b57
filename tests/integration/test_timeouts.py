"""Peers that freeze or vanish: how long their sessions and locks can last."""

from datetime import UTC, date, datetime

import psycopg
import pytest

from storage import database as storage_database
from storage import runs
from storage.runs import IntervalHeldError, Slot

SLOT = Slot("tips", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 1))


def test_a_writers_session_ends_by_itself_when_its_client_is_gone(database):
    """Idle transactions, waits for a lock and lost connections all have an end."""
    names = (
        "idle_in_transaction_session_timeout", "lock_timeout", "client_connection_check_interval",
    )  # fmt: skip
    with database.connect(purpose="test", as_writer=True) as connection:
        found = [connection.execute(f"SHOW {name}").fetchone()[name] for name in names]
    assert ["15s", "30s", "2s"] == found


def test_a_holder_frozen_between_its_fence_and_its_commit_is_ended(database, monkeypatch):
    """The open transaction of a frozen holder keeps the claim's row locked until the server ends it."""
    monkeypatch.setattr(storage_database, "_IDLE_IN_TRANSACTION", "300ms")
    with database.connect(purpose="frozen", as_writer=True) as frozen:
        with runs.claim(database, frozen, SLOT) as held:
            frozen.execute("BEGIN")
            held.check(frozen)
            held.stop_renewing()
            with database.connect(purpose="hand") as hand:
                with hand.transaction():
                    hand.execute("SET LOCAL lock_timeout = '10s'")
                    hand.execute("UPDATE batchpred.claims SET lease_until = '-infinity'")
            with database.connect(purpose="next") as other, runs.claim(database, other, SLOT) as taken:
                assert held.fence + 1 == taken.fence
            with pytest.raises(psycopg.Error):
                frozen.execute("COMMIT")


def test_a_claim_that_stays_locked_is_held(database, monkeypatch):
    """A claimer does not wait for ever for another's transaction: the interval is held, says exit code 4."""
    monkeypatch.setattr(storage_database, "_WRITER_LOCK_TIMEOUT", "200ms")
    with (
        database.connect(purpose="first", as_writer=True) as first,
        runs.claim(database, first, SLOT) as held,
    ):
        with first.transaction():
            held.check(first)
            first.execute("UPDATE batchpred.claims SET lease_until = '-infinity'")
            with database.connect(purpose="other", as_writer=True) as other:
                with pytest.raises(IntervalHeldError), runs.claim(database, other, SLOT):
                    pass
