"""The schedule's campaign in short: some slots and some days of rides."""

import random

import pytest

from tests.chaos import backfill, schedule_campaign, schedulers


def test_every_slot_is_published_exactly_once(server_url, tmp_path):
    """Four schedulers, killed, frozen, ended, cut off, one by one and all at once: each slot once, none missing."""
    faults, figures = schedulers.try_schedulers(server_url, tmp_path, 3, random.Random(4))
    assert [] == faults
    assert figures["slots"] >= 8


@pytest.mark.parametrize("mutant", schedule_campaign.HUNTS)
def test_a_scheduler_that_is_wrong_is_caught(server_url, mutant):
    """Each mutant is caught at what is wrong with it."""
    assert schedule_campaign.is_caught(server_url, mutant)


@pytest.mark.skipif(not backfill.TAXIS.exists(), reason="the real rides (shared/data/taxis.csv) are not here")
def test_a_backfill_that_was_killed_twice_equals_a_clean_one(server_url, tmp_path):
    """Killed twice and resumed it publishes each day once, with the clean one's rows, and hides nothing newer."""
    faults, figures = backfill.try_backfill(server_url, tmp_path, 3)
    assert [] == faults
    assert figures["rows"] > 100
