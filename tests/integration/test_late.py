"""Late is one thing, whoever says it: `status`, the read API, the analysts' view and the message."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from api import answers
from jobs.standing import standing
from storage import served


def days_ago(number):
    return (datetime.now(UTC) - timedelta(days=number)).date()


@pytest.fixture
def says(project, database, receiver):
    """What each of them says of the job, as [status, API's header, analysts' view, message]: late since when."""

    def ask(job_file):
        project.look(job_file)
        now = datetime.now(UTC)
        with database.connect(purpose="test", as_writer=True) as connection:
            stands = standing(connection, job_file, now)
            job = served.find_job(connection, "churn")
            run = served.newest_run(connection, job) if job else None
        header = answers.freshness(run, now).get("Batchpred-Stale") if run else None
        errors = [json.loads(body)["data"]["error"] for _, _, _, body in receiver.requests]
        return [
            stands.late_at.isoformat() if stands.is_broken else None,
            header and datetime.fromisoformat(header.removeprefix("late since ")).isoformat(),
            [is_late for (is_late,) in project.sql("SELECT is_late FROM predictions._freshness")],
            [each and each.removeprefix("nothing is published that was promised by ") for each in errors],
        ]

    return ask


def test_a_published_job_is_late_for_all_from_the_same_moment(project, says):
    """Once late_after has passed since the interval behind the newest published one was over."""
    kept = project.job(late="73h")
    project.run(kept, date=days_ago(3).isoformat())
    assert [None, None, [False], []] == says(kept)
    since = f"{days_ago(0)}T00:00:00+00:00"
    assert [since, since, [True], [since]] == says(project.job(late="24h"))


def test_a_job_that_never_published_is_late_from_the_end_of_its_first_due_interval(project, says):
    """Whether no run ever began or one was blocked; readers do not know of such a job."""
    start = f"start_date: {days_ago(3)}"
    assert [None, None, [], []] == says(project.job(late=f"3d, {start}"))
    since = f"{days_ago(1)}T06:00:00+00:00"
    assert [since, None, [], [since]] == says(project.job(late=f"30h, {start}"))


def test_a_first_run_that_is_blocked_makes_nothing_of_the_promise(project, says, receiver):
    """A run that was not published is none, whenever it began; the lateness is told beside the block."""
    job_file = project.job(min_rows=4, late=f"30h, start_date: {days_ago(3)}")
    project.run(job_file, date=days_ago(3).isoformat())
    says(job_file)
    assert ["batchpred.blocked", "batchpred.late"] == receiver.types
