"""A backfill as it is asked for: which intervals, which model, what is left out, and what becomes of failures."""

from datetime import UTC, datetime

import pytest

from jobs.backfill import Backfill, backfill, named, redo, steps
from jobs.onnx_file import prepare
from storage import registry
from storage.errors import ConfigurationError
from tests.chaos.world import model
from tests.integration.scheduled import at


@pytest.fixture
def asked(house):
    """What is asked for of the job of January, and how to do it."""
    house.job()

    def ask(first, last, **options):
        options = {"model_ref": None, "as_of_date": False, **options}
        naming = {name: options[name] for name in ("model_ref", "as_of_date")}
        begin, end = named(house.job_file(), first, last, datetime.now(UTC), **naming)
        return Backfill(house.job_file(), begin, end, **options)

    return ask


def do(house, asked):
    """Do a backfill; its reports as [(interval, status)]."""
    reports = backfill(house.runtime, asked, plan(house, asked))
    return [(report.label, report.status) for report in reports]


def plan(house, asked):
    with house.database.connect(purpose="test", as_writer=True) as connection:
        return steps(connection, asked)


def test_both_ends_are_included_the_oldest_first(house, asked):
    """Three named days are three runs, marked as a backfill's; asked again, nothing is left to do."""
    first = asked("2026-01-03", "2026-01-05")
    assert [(f"2026-01-0{day}", "published") for day in (3, 4, 5)] == do(house, first)
    assert ["2026-01-03", "2026-01-04", "2026-01-05"] == house.published()
    assert [{"n": 3}] == house.do("SELECT count(*) AS n FROM batchpred.runs WHERE is_backfill")
    assert [] == do(house, first)


def test_an_old_interval_never_becomes_current(house, asked):
    """After a backfill of older days the newest published day is current still."""
    house.tick("2026-01-06T09:00Z")
    do(house, asked("2026-01-02", "2026-01-03", parallel=2))
    current = house.do("SELECT DISTINCT to_char(as_of_date, 'YYYY-MM-DD') AS day FROM predictions.tips")
    assert [{"day": "2026-01-05"}] == current


def test_what_is_published_is_left_as_it_is_unless_asked_otherwise(house, asked):
    """Another model alone is no reason; `--force` is one, and so is `--model` for another version."""
    do(house, asked("2026-01-03", "2026-01-04"))
    house.do("UPDATE batchpred.runs SET model_sha256 = 'other', model_version = 9")
    assert [] == do(house, asked("2026-01-03", "2026-01-04"))
    by_model = asked("2026-01-03", "2026-01-04", model_ref="chaos/1")
    assert [("2026-01-03", "published"), ("2026-01-04", "published")] == do(house, by_model)
    assert [] == do(house, by_model)
    assert [("2026-01-03", "published")] == do(house, asked("2026-01-03", "2026-01-03", force=True))


def test_a_model_from_elsewhere_is_compared_by_the_run(house, asked):
    """What a reference into MLflow or object storage names only its run finds out: nothing is done before."""
    do(house, asked("2026-01-03", "2026-01-03"))
    for ref in ("mlflow:chaos@champion", "s3://bucket/m.onnx"):
        (step,) = plan(house, asked("2026-01-03", "2026-01-03", model_ref=ref))
        assert (False, None) == (step.is_done, step.problem)


def test_the_model_as_of_date_is_the_one_that_was_champion_then(house, asked):
    """Each interval is scored by the version the alias named at its end; before the first it fails."""
    second = prepare(model(doc="a later one"))
    with house.database.connect(purpose="test") as connection:
        registry.push(
            connection, "chaos", second.data, described=second.described, source="x", alias="champion"
        )
    house.do("UPDATE batchpred.model_alias_moves SET moved_at = '2026-01-04 12:00Z' WHERE to_version = 1")
    house.do("UPDATE batchpred.model_alias_moves SET moved_at = '2026-01-05 12:00Z' WHERE to_version = 2")
    wanted = asked("2026-01-03", "2026-01-05", as_of_date=True)
    planned = plan(house, wanted)
    assert [None, "chaos/1", "chaos/2"] == [step.model_ref for step in planned]
    reports = backfill(house.runtime, wanted, planned)
    assert ["failed", "published", "published"] == [report.status for report in reports]
    assert [1, 2] == [report.model["version"] for report in reports[1:]]
    assert "named no version on 2026-01-04T00:00:00+01:00" in reports[0].error


def test_failures_are_passed_over_and_named_with_the_command_that_redoes_them(house, asked):
    """Days without rows are blocked and the others published; each stretch of failures has its command."""
    house.do("DELETE FROM rows WHERE t::date IN ('2026-01-03', '2026-01-04', '2026-01-06')")
    wanted = asked("2026-01-02", "2026-01-07", parallel=2)
    planned = plan(house, wanted)
    reports = backfill(house.runtime, wanted, planned)
    assert [0, 3, 3, 0, 3, 0] == [report.exit_code for report in reports]
    assert [
        "batchpred backfill tips --from 2026-01-03 --to 2026-01-04",
        "batchpred backfill tips --from 2026-01-06 --to 2026-01-06",
    ] == redo(wanted, [each for each in reports if each.exit_code], planned)


MISTAKES = {
    "lies after --to": ("2026-01-05", "2026-01-03", {}),
    "is not over yet": ("2026-01-05", "2999-01-03", {}),
    "contradict each other": ("2026-01-05", None, {"model_ref": "a/1", "as_of_date": True}),
}


@pytest.mark.parametrize("says", MISTAKES)
def test_what_cannot_be_meant_is_refused(asked, says):
    """A range that runs backwards or into the future, and models that contradict each other, are usage errors."""
    first, last, options = MISTAKES[says]
    with pytest.raises(ConfigurationError, match=says) as caught:
        asked(first, last, **options)
    assert 2 == caught.value.exit_code


def test_an_open_range_ends_with_the_latest_complete_interval(house):
    """Without `--to` the last interval is the newest that is over."""
    house.job()
    begin, end = named(
        house.job_file(), "2026-01-03", None, at("2026-01-06T09:00Z"), model_ref=None, as_of_date=False
    )
    assert ("2026-01-03", "2026-01-05") == (begin.label, end.label)
