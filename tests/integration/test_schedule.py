"""The schedule on a real ledger: what is missed is made up, what fails rests, what waits waits."""

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

import jobs.rows
import jobs.run
from jobs.onnx_file import prepare
from jobs.stopping import Stop
from storage import canaries, model_life, moves, registry, run_log, runs
from storage.sources import SourceError
from tests.chaos.world import model
from tests.integration.scheduled import at


def test_first_sight_runs_what_is_due_and_then_each_day_once(house):
    """A new job starts with the interval that is due; passes in between do nothing."""
    house.job()
    assert [("tips", "2026-01-05", "published")] == house.tick("2026-01-06T09:00Z")
    assert [] == house.tick("2026-01-07T01:59Z")
    assert [("tips", "2026-01-06", "published")] == house.tick("2026-01-07T02:00Z")
    assert [] == house.tick()


@pytest.mark.parametrize(("catchup", "days"), [("all", [6, 7, 8]), ("newest_first", [8, 7, 6])])
def test_down_for_three_days(house, catchup, days):
    """Three days down and up again: made up in order, or the newest first; and current is the newest in the end."""
    house.job(schedule=f"catchup: {catchup}")
    house.tick("2026-01-06T02:00Z")
    house.tick("2026-01-09T09:00Z")
    assert ["2026-01-05", *(f"2026-01-0{day}" for day in days)] == house.published()
    current = house.do("SELECT DISTINCT to_char(as_of_date, 'YYYY-MM-DD') AS day FROM predictions.tips")
    assert [{"day": "2026-01-08"}] == current


def test_start_date_makes_the_past_up(house):
    """With `start_date` a new job begins there, and moving it back later adds what lies before."""
    house.job(schedule="start_date: 2026-01-04")
    house.tick()
    assert ["2026-01-04", "2026-01-05"] == house.published()
    house.job(schedule="start_date: 2026-01-03")
    house.tick()
    assert ["2026-01-04", "2026-01-05", "2026-01-03"] == house.published()


def test_what_was_rolled_back_is_left_alone(house, database):
    """A person's rollback stays, whatever the schedule says."""
    house.job(schedule="start_date: 2026-01-05")
    house.tick()
    with database.connect(purpose="test", as_writer=True) as connection:
        moves.rollback(connection, "tips", why="wrong")
    assert [] == house.tick()


def test_several_schedulers_run_each_interval_once(house):
    """Four at once, again and again: every interval of the past is published once."""
    house.job(schedule="start_date: 2026-01-03, max_active: 2")
    faults = []

    def schedule():
        try:
            until = time.monotonic() + 30
            while len(house.published()) < 3 and time.monotonic() < until:
                house.ticker(parallel=2).tick()
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=schedule) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == faults
    assert [f"2026-01-0{day}" for day in (3, 4, 5)] == sorted(house.published())


def test_max_active_counts_over_all_schedulers(house, database):
    """While another process runs one interval of the job, a second is not begun."""
    house.job(schedule="start_date: 2026-01-04")
    other = runs.Slot("tips", at("2025-12-01T23:00Z"), at("2025-12-02T23:00Z"), at("2025-12-02").date())
    with database.connect(purpose="test", as_writer=True) as connection:
        with runs.claim(database, connection, other):
            assert [] == house.tick()
            slot = runs.Slot(
                "tips", at("2026-01-03T23:00Z"), at("2026-01-04T23:00Z"), at("2026-01-04").date()
            )
            with pytest.raises(runs.TooManyActiveError, match="max_active is 1"):
                with runs.claim(database, connection, slot, max_active=1):
                    pass
    assert 2 == len(house.tick())


def test_one_job_that_is_wrong_costs_no_other(house, caplog):
    """Ten good job files beside one with an error: ten run, and one is reported, once."""
    for number in range(10):
        house.job(f"good_{number}")
    (house.folder / "bad.job.yaml").write_text("version: 1\nname: bad\nshedule: {}\n", encoding="utf-8")
    ticker = house.ticker(parallel=2)
    with caplog.at_level(logging.ERROR, "batchpred.schedule"):
        reports = ticker.tick()
    assert {f"good_{number}" for number in range(10)} == {each.job for each in reports}
    assert {"published"} == {each.status for each in reports}
    assert ["job file refused"] == [record.message for record in caplog.records]
    assert [2] == [fault.exit_code for fault in house.project.faults]


def test_a_source_that_is_away_is_tried_again_later(house, monkeypatch):
    """A failure that may pass is counted once, rests, is tried `retries` times and then waits for the next slot."""
    monkeypatch.setattr(jobs.run, "RETRY_DELAYS", ())
    house.job(schedule="retries: 1, retry_backoff: 40s")
    away = SourceError("tips: PostgreSQL says: the database system is starting up")
    away.is_transient = True
    monkeypatch.setattr(jobs.run, "make_plan", raising(away))
    assert [("tips", "2026-01-05", "failed")] == house.tick()
    (row,) = house.attempts()
    rest = row["not_before"] - row["failed_at"]
    assert ("passing", 1) == (row["cause"], row["failures"])
    assert timedelta(seconds=20) <= rest <= timedelta(seconds=60)
    assert [] == house.tick(), "another scheduler keeps the same distance"
    house.do("UPDATE batchpred.attempts SET not_before = now()")
    assert 1 == len(house.tick())
    (row,) = house.attempts()
    assert (2, None) == (row["failures"], row["not_before"])
    assert [] == house.tick()
    monkeypatch.undo()
    house.do("UPDATE batchpred.attempts SET failed_at = '2026-01-06 09:00Z'")
    assert [("tips", "2026-01-05"), ("tips", "2026-01-06")] == [
        each[:2] for each in house.tick("2026-01-07T02:00Z")
    ]
    assert [0] == [row["failures"] for row in house.attempts()]


def test_a_release_that_is_taken_back_runs_again_with_the_version_before(house):
    """The interval that a released version was blocked at is scored with what its alias points at again."""
    fault = "SELECT run_id FROM batchpred.runs WHERE status = 'running' AND model_version = 2"
    house.job(more=f'checks: {{sql: {{fault: "{fault}"}}}}')
    house.tick("2026-01-06T09:00Z")
    prepared = prepare(model(doc="a later one"))
    with house.database.connect(purpose="test", as_writer=True) as connection:
        registry.push(connection, "chaos", prepared.data, described=prepared.described, source="x")
        second = registry.ModelRef("chaos", version=2)
        model_life.promote(connection, second, "champion", kind="release")
    expected = [("tips", "2026-01-06", "blocked"), ("tips", "2026-01-06", "published")]
    assert expected == house.tick("2026-01-07T02:00Z")
    assert [] == house.tick()


def test_an_interval_blocked_with_a_canary_runs_again_without(house):
    """Where the first run with a canary is blocked the same tick scores the interval with the champion alone."""
    fault = "SELECT run_id FROM batchpred.runs WHERE status = 'running' AND canary_version = 2"
    house.job(more=f'checks: {{sql: {{fault: "{fault}"}}}}')
    house.tick("2026-01-06T09:00Z")
    prepared = prepare(model(doc="a later one"))
    with house.database.connect(purpose="test", as_writer=True) as connection:
        version, _ = registry.push(
            connection, "chaos", prepared.data, described=prepared.described, source="x"
        )
        canaries.begin(connection, version, "champion", 0.5)
    expected = [("tips", "2026-01-06", "blocked"), ("tips", "2026-01-06", "published")]
    assert expected == house.tick("2026-01-07T02:00Z")
    assert [] == house.tick()
    runs = house.do("SELECT status, canary_version FROM batchpred.runs ORDER BY run_id DESC LIMIT 2")
    assert [("published", None), ("blocked", 2)] == [tuple(row.values()) for row in runs]


def test_a_file_that_comes_late_is_scored_when_it_is_there(house):
    """An interval that was blocked because its files were not there yet is run again once they are; not before."""
    house.job()
    path = house.folder / "tips.job.yaml"
    text = path.read_text(encoding="utf-8")
    begin, end = text.index("source:"), text.index("key:")
    source = 'source: {path: "d/{date}.csv", types: {id: integer}}\n'
    path.write_text(text[:begin] + source + text[end:], encoding="utf-8")
    (house.folder / "d").mkdir()
    assert [("tips", "2026-01-05", "blocked")] == house.tick()
    assert [] == house.tick()
    (house.folder / "d" / "2026-01-05.csv").write_text("id,a,b\n1,1,1\n", encoding="utf-8")
    assert [("tips", "2026-01-05", "published")] == house.tick()


def test_a_wrong_column_is_not_tried_again_until_something_changes(house):
    """What would fail the same way is tried once; with the job file mended it runs at once."""
    house.job(more="batch_size: 5", schedule="retries: 9")
    path = house.folder / "tips.job.yaml"
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace("SELECT id, a, b", "SELECT id, a, c"), encoding="utf-8")
    assert [("tips", "2026-01-05", "failed")] == house.tick()
    assert [("lasting", None)] == [(row["cause"], row["not_before"]) for row in house.attempts()]
    assert [] == house.tick()
    path.write_text(good, encoding="utf-8")
    assert [("tips", "2026-01-05", "published")] == house.tick()


def test_a_missing_model_is_tried_once_it_is_there(house):
    """A lasting failure is over when the alias names another version."""
    house.job()
    path = house.folder / "tips.job.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("@champion", "@next"), encoding="utf-8")
    assert "failed" == house.tick()[0][2]
    assert [] == house.tick()
    house.do("INSERT INTO batchpred.model_aliases VALUES ('chaos', 'next', 1)")
    assert [("tips", "2026-01-05", "published")] == house.tick()


def test_a_job_waits_for_the_other_jobs_interval(house):
    """With `after` a job runs once the other's intervals cover its own, in the same pass where that is due too."""
    house.job("a_second", more="after: [first]")
    assert [] == house.tick()
    house.job("first")
    assert [("first", "2026-01-05"), ("a_second", "2026-01-05")] == [each[:2] for each in house.tick()]


def test_jobs_that_wait_for_each_other_are_refused(house, caplog):
    """A circle is reported with its way, and the others run."""
    house.job("one", more="after: [two]")
    house.job("two", more="after: [one]")
    house.job("three")
    with caplog.at_level(logging.ERROR, "batchpred.schedule"):
        assert [("three", "2026-01-05", "published")] == house.tick()
    assert "one waits for two waits for one" in caplog.records[0].error


def test_a_job_waits_until_its_data_is_ready(house):
    """`ready` is asked until it says yes; past its time the interval has failed, until the next slot."""
    ready = 'ready: {query: "SELECT count(*) > 0 FROM loads WHERE day = :date", timeout: 2h}'
    house.job(more=ready)
    assert [] == house.tick()
    (row,) = house.attempts()
    assert (0, True) == (row["failures"], row["waiting_since"] is not None)
    assert [] == house.tick(), "it is asked once a minute"
    house.do("UPDATE batchpred.attempts SET not_before = now(), waiting_since = now() - interval '3 hours'")
    house.tick()
    (row,) = house.attempts()
    assert ("not_ready", 1) == (row["cause"], row["failures"])
    assert "not ready within 2:00:00" in row["error"]
    house.do("INSERT INTO loads VALUES ('2026-01-05')")
    assert [] == house.tick()
    house.do("UPDATE batchpred.attempts SET failed_at = '2026-01-06 09:00Z'")
    assert ("tips", "2026-01-05", "published") in house.tick("2026-01-07T02:00Z")


def test_a_ready_query_that_is_no_question_is_said_to_be_none(house):
    """Anything but one boolean is a lasting failure with a message."""
    house.job(more='ready: {query: "SELECT day FROM loads UNION SELECT :date"}')
    assert [("tips", "2026-01-05", "failed")] == house.tick()
    (row,) = house.attempts()
    assert "ready.query of tips.job.yaml: it must give one row of one boolean" in row["error"]


def test_lookback_scores_late_rows_and_nothing_else(house):
    """At a slot the last N intervals are read again; the one with a late row is published anew, once."""
    house.job(schedule="start_date: 2026-01-03, lookback: 2")
    house.tick()
    assert 3 == len(house.published())
    house.do("UPDATE batchpred.runs SET started_at = '2026-01-06 03:00Z'")
    house.do("INSERT INTO rows VALUES (99, '2026-01-04 12:00Z', 1, 1)")
    found = house.tick("2026-01-07T02:00Z")
    assert [("tips", "2026-01-04"), ("tips", "2026-01-06")] == sorted(each[:2] for each in found)
    assert [] == house.tick()
    late = house.do("SELECT count(*) AS n FROM predictions.tips_history WHERE id = 99")
    assert [{"n": 1}] == late


def test_a_run_past_its_deadline_stops_and_goes_on_later(house, monkeypatch):
    """Past `deadline` the run is stopped with a message; the next attempt does only what was left."""
    house.job(schedule="deadline: 2s, retry_backoff: 1s")
    asked, ask = threading.Event(), Stop.ask
    monkeypatch.setattr(Stop, "ask", lambda stop, error: (ask(stop, error), asked.set()))
    at_third_chunk(monkeypatch, lambda: asked.wait(30))
    assert [("tips", "2026-01-05", "failed")] == house.tick()
    (row,) = house.attempts()
    assert "passing" == row["cause"]
    assert "stopped at its deadline of 0:00:02" in row["error"]
    monkeypatch.undo()
    house.do("UPDATE batchpred.attempts SET not_before = now()")
    (report,) = house.ticker().tick()
    assert "published" == report.status
    assert report.chunks_resumed > 0


def test_a_scheduler_that_is_told_to_stop_hands_its_run_over(house, monkeypatch):
    """The chunk at work is committed, the run is abandoned, nothing counts as failed, and the next one goes on."""
    house.job()
    ticker = house.ticker()
    at_third_chunk(monkeypatch, ticker.stop)
    (report,) = ticker.tick()
    assert ("stopped", 130) == (report.status, report.exit_code)
    assert [] == house.attempts()
    assert [{"status": "abandoned"}] == house.do("SELECT status FROM batchpred.runs")
    monkeypatch.undo()
    (report,) = house.ticker().tick()
    assert "published" == report.status
    assert report.chunks_resumed > 0


def test_a_cancelled_run_stops_and_is_left_to_people(house, database, monkeypatch):
    """`runs cancel` stops the run at its next commit; who asked is on record, and no schedule takes it up."""
    house.job()
    at_third_chunk(monkeypatch, lambda: cancel(database))
    (report,) = house.ticker().tick()
    assert ("cancelled", 1) == (report.status, report.exit_code)
    assert "cancelled by" in report.error
    assert [] == house.tick()
    with database.connect(purpose="test", as_writer=True) as connection:
        seen = [each["event"] for each in run_log.events(connection, report.run_id)]
        assert ["started", "cancel", "failed"] == [each for each in seen if each != "chunks"]
        with pytest.raises(run_log.NotRunningError, match="is failed"):
            run_log.cancel(connection, report.run_id)


def test_a_run_in_the_middle_of_a_long_query_is_stopped_too(house, database, monkeypatch):
    """While the source keeps a run waiting its holder hears of `runs cancel` at its next sign of life."""
    monkeypatch.setattr(runs, "LEASE", timedelta(seconds=1))
    house.job()
    path = house.folder / "tips.job.yaml"
    slow = path.read_text(encoding="utf-8").replace("FROM rows WHERE", "FROM rows, pg_sleep(30) WHERE")
    path.write_text(slow, encoding="utf-8")
    canceller = threading.Thread(target=cancel, args=[database])
    canceller.start()
    began = time.monotonic()
    (report,) = house.ticker().tick()
    canceller.join()
    assert "cancelled" == report.status
    assert time.monotonic() - began < 25


def test_a_clock_that_jumps_runs_nothing_early_and_nothing_twice(house):
    """An hour forward and an hour back: an interval that is not over by the database's clock is not run."""
    start = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
    house.job()
    path = house.folder / "tips.job.yaml"
    text = (
        path.read_text(encoding="utf-8")
        .replace('"0 3 * * *"', '"0 * * * *"')
        .replace("key:", "interval: hour\nchecks: {min_rows: 0}\nkey:")
    )
    path.write_text(text, encoding="utf-8")
    house.now = start - timedelta(hours=2)
    assert 1 == len(house.tick())
    before = house.published()
    house.now = start + timedelta(hours=1)  # the machine's clock jumps ahead of the database's
    assert len(house.tick()) in {1, 2}
    newest = house.do("SELECT max(interval_end) AS newest, now() AS now FROM batchpred.runs")[0]
    assert newest["newest"] <= newest["now"]
    seen = house.do("SELECT interval_start FROM batchpred.publish_moves")
    house.now = start - timedelta(hours=1)  # and back
    assert [] == house.tick()
    after = house.do("SELECT interval_start FROM batchpred.publish_moves")
    assert seen == after
    assert len(before) < len(after)
    assert len(after) == len({row["interval_start"] for row in after})


def test_a_ledger_that_is_away_is_an_error_of_the_tick_and_the_next_one_works(house, monkeypatch):
    """While the database does not answer nothing is known and nothing done; no failure is counted for it."""
    house.job()
    ticker = house.ticker()
    monkeypatch.setattr(jobs.rows, "copy_in", raising(psycopg.OperationalError("the connection is lost")))
    monkeypatch.setattr(jobs.run, "RETRY_DELAYS", ())
    assert ["failed"] == [each.status for each in ticker.tick()]
    assert ["passing"] == [row["cause"] for row in house.attempts()]


def cancel(database):
    with database.connect(purpose="test", as_writer=True) as connection:
        until = time.monotonic() + 20
        while (row := connection.execute("SELECT run_id FROM batchpred.runs").fetchone()) is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        run_log.cancel(connection, row["run_id"])


def raising(error):
    def fail(*_values, **_options):
        raise error

    return fail


def at_third_chunk(monkeypatch, act):
    """Do something while the third of four chunks is scored: the first is committed by then, or about to be."""
    score, chunks = jobs.rows.score_chunk, []

    def scored(*values):
        chunks.append(values)
        if len(chunks) == 3:
            act()
        return score(*values)

    monkeypatch.setattr(jobs.rows, "score_chunk", scored)
