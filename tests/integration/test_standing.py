"""How jobs stand: published, late, next, running, missing, failed; and the calendar of the last intervals."""

from datetime import timedelta

import pytest

from jobs.backfill import Backfill, backfill, named, steps
from jobs.standing import calendar, standing
from storage import runs
from tests.integration.scheduled import at


def look(house, now):
    with house.database.connect(purpose="test", as_writer=True) as connection:
        return standing(connection, house.job_file(), at(now))


def test_a_promise_is_kept_until_late_after_has_passed(house):
    """The interval behind the newest published one has until its end and `late_after`; from then on it is late."""
    house.job(schedule="late_after: 4h")
    house.tick("2026-01-06T09:00Z")
    kept = look(house, "2026-01-07T02:59Z")
    assert ("2026-01-05", False, at("2026-01-07T03:00Z")) == (
        kept.published.label,
        kept.is_broken,
        kept.late_at,
    )
    broken = look(house, "2026-01-07T05:00Z")
    assert (True, timedelta(hours=2)) == (broken.is_broken, broken.late_by)
    assert ["2026-01-06"] == [each.label for each in broken.missing]
    assert at("2026-01-08T02:00Z") == broken.next_due
    told = broken.as_json()
    assert (True, 7200.0, ["2026-01-06"]) == (told["is_late"], told["late_by_seconds"], told["missing"])


def test_a_job_that_never_published_is_late_too(house):
    """Nothing published yet is no excuse once the first interval's time has passed."""
    house.job(schedule="late_after: 4h, start_date: 2026-01-05")
    assert not look(house, "2026-01-06T02:30Z").is_broken
    assert look(house, "2026-01-06T03:00Z").is_broken


def test_looking_writes_nothing(house):
    """A job that no schedule has seen is looked at as if it were seen now, and that is not noted."""
    house.job()
    assert ["2026-01-05"] == [each.label for each in look(house, "2026-01-06T09:00Z").missing]
    assert [] == house.do("SELECT * FROM batchpred.schedules")


def test_what_runs_fails_and_waits_is_told(house):
    """A run at work, the last failure in one line, and the job that is waited for."""
    house.job(more="after: [other]")
    seen = look(house, "2026-01-06T09:00Z")
    assert ("other", None, ()) == (seen.waits_for, seen.failure, seen.running)
    house.job(more="batch_size: 7")
    path = house.folder / "tips.job.yaml"
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace("SELECT id, a, b", "SELECT id, a, c"), encoding="utf-8")
    house.tick("2026-01-06T09:00Z")
    failure = look(house, "2026-01-06T09:00Z").failure
    assert "lasting" == failure["cause"]
    assert "column" in failure["error"]
    path.write_text(good, encoding="utf-8")
    slot = runs.Slot("tips", at("2026-01-04T23:00Z"), at("2026-01-05T23:00Z"), at("2026-01-05").date())
    pin = runs.Pin("chaos", 1, "a" * 64, "d" * 64, "CPUExecutionProvider")
    with house.database.connect(purpose="test", as_writer=True) as connection:
        with runs.claim(house.database, connection, slot) as held:
            runs.start_run(connection, held, pin, {"query": "SELECT 1"})
            seen = look(house, "2026-01-06T09:00Z")
    assert [(0, None)] == [(run["rows_done"], run["rows_before"]) for run in seen.running]
    assert () == seen.missing


@pytest.mark.parametrize("number", [6])
def test_the_calendar_shows_what_became_of_each_interval(house, number):
    """Published, backfilled, failed, withdrawn, missing, and what nobody asked for."""
    house.job(schedule="start_date: 2026-01-04")
    house.tick("2026-01-05T09:00Z")
    job_file = house.job_file()
    options = {"model_ref": None, "as_of_date": False}
    asked = Backfill(
        job_file, *named(job_file, "2026-01-02", "2026-01-03", at("2026-01-09T09:00Z"), **options)
    )
    with house.database.connect(purpose="test", as_writer=True) as connection:
        backfill(house.runtime, asked, steps(connection, asked))
        house.do("UPDATE batchpred.runs SET status = 'superseded' WHERE as_of_date = '2026-01-03'")
        house.do("DELETE FROM batchpred.published WHERE interval_start = '2026-01-02 23:00Z'")
        house.do(
            "INSERT INTO batchpred.publish_moves (job, interval_start, kind)"
            " VALUES ('tips', '2026-01-02 23:00Z', 'rollback')"
        )
        house.do(
            "INSERT INTO batchpred.attempts VALUES ('tips', '2026-01-04 23:00Z', 1, 'lasting', 'x', 'y', now())"
        )
        last = calendar(connection, job_file, at("2026-01-07T09:00Z"), number)
    assert [
        ("2026-01-01", "none"), ("2026-01-02", "backfilled"), ("2026-01-03", "withdrawn"),
        ("2026-01-04", "published"), ("2026-01-05", "failed"), ("2026-01-06", "missing"),
    ] == [(interval.label, state) for interval, state in last]  # fmt: skip
