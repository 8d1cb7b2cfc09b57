"""What is told: each event once, whoever notices it and however often."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

import jobs.rows
import jobs.run
from jobs import deliver
from jobs.deliver import look_and_deliver, watching
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.plan import Runtime
from jobs.schedule import Ticker
from storage import deliveries, events, moves
from tests.integration.told import SECRET, WEBHOOK


def documented_check():
    """The verifying code that docs/notify.md shows, as it stands there."""
    page = (Path(__file__).parents[2] / "docs" / "notify.md").read_text(encoding="utf-8")
    code: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], code)
    return code["is_genuine"]


def test_a_failure_is_told_once_however_often_it_is_tried(project, receiver):
    """Runs that go on failing are one signed message, which says what, where, why and what to do."""
    project.break_source()
    assert ["failed"] * 3 == [project.run().status for _ in range(3)]
    ((method, path, headers, body),) = receiver.requests
    assert ("POST", "/hook?token=t0ken") == (method, path)
    headers = {name.lower(): value for name, value in headers.items()}
    is_genuine = documented_check()
    assert is_genuine(SECRET, headers, body)
    assert not is_genuine(SECRET, headers, body + b" ")
    assert not is_genuine(SECRET, {**headers, "webhook-id": "msg_other"}, body)
    assert not is_genuine(SECRET, {**headers, "webhook-timestamp": "1614265330"}, body)
    document = json.loads(body)
    assert "batchpred.failed" == document["type"]
    data = document["data"]
    assert ("churn", "Who leaves", None) == (data["job"], data["description"], data["run"])
    assert {
        "start": "2026-01-02T00:00:00+00:00", "end": "2026-01-03T00:00:00+00:00", "date": "2026-01-02",
        "timezone": "UTC",
    } == data["interval"]  # fmt: skip
    assert 'relation "people" does not exist' in data["error"]
    assert "batchpred plan churn --date 2026-01-02" == data["look"]


def test_a_recovery_is_told_once_and_a_new_failure_is_news(project, receiver):
    """The publish that ends a failure is told once; failing again after that is told again."""
    project.break_source()
    project.run()
    project.mend_source()
    report = project.run()
    assert "published" == report.status
    assert "unchanged" == project.run().status
    assert ["batchpred.failed", "batchpred.recovered"] == receiver.types
    data = json.loads(receiver.requests[-1][3])["data"]
    assert (["failed"], report.run_id) == (data["after"], data["run"])
    assert {"read": 3, "scored": 3, "quarantined": 0} == data["rows"]
    assert ("churn", 1) == (data["model"]["name"], data["model"]["version"])
    assert f"batchpred runs show {report.run_id}" == data["look"]
    project.break_source()
    project.run(force=True)
    project.run(force=True)
    assert "batchpred.failed" == receiver.types[2]
    assert 3 == len(receiver.requests)


def test_retries_within_a_run_are_not_told(project, receiver, monkeypatch):
    """A run that succeeds after lost connections tells nothing; a try that is not the last tells nothing."""
    real, calls = jobs.rows.copy_in, []

    def failing(*values, **options):
        calls.append(1)
        if len(calls) < 3:
            raise psycopg.OperationalError("the connection is lost")
        return real(*values, **options)

    monkeypatch.setattr(jobs.rows, "copy_in", failing)
    report = project.run()
    assert ("published", 3) == (report.status, report.attempts)
    project.break_source()
    project.run(date="2026-01-03", is_last_try=False)
    assert [] == receiver.requests
    project.run(date="2026-01-03")
    assert ["batchpred.failed"] == receiver.types


def test_a_block_is_told_with_its_run_and_an_override_is_a_recovery(project, receiver, database):
    """A blocked run is told once, with its run; a person's override ends it, whichever process notices that."""
    strict = project.job(min_rows=4)
    blocked = [project.run(strict) for _ in range(2)]
    assert ["blocked"] * 2 == [report.status for report in blocked]
    assert ["batchpred.blocked"] == receiver.types
    data = json.loads(receiver.requests[0][3])["data"]
    assert (blocked[0].run_id, 3) == (data["run"], data["rows"]["scored"])
    assert "3 rows were scored (min_rows 4)" in data["error"]
    with database.connect(purpose="test", as_writer=True) as connection:
        moves.publish_blocked(database, connection, blocked[1].run_id, "fewer people")
    project.look(strict)
    project.look(strict)
    assert ["batchpred.blocked", "batchpred.recovered"] == receiver.types


def test_an_override_and_a_rollback_tell_by_themselves(project, receiver, command):
    """What a person's move ends is told before the command ends, and a publish where each one is asked for."""
    wanted = WEBHOOK.replace("secret:", "events: [blocked, recovered, published, late], secret:")
    first = project.run(project.job(wanted, min_rows=1))
    job_file = project.job(wanted, min_rows=4)
    blocked = project.run(job_file, force=True)
    assert ["batchpred.published", "batchpred.blocked"] == receiver.types
    del receiver.requests[:]
    code, _ = command("runs", "publish", blocked.run_id, "--override", "fewer people", "--json")
    assert 0 == code
    assert {"batchpred.recovered", "batchpred.published"} == set(receiver.types)
    assert blocked.run_id == json.loads(receiver.requests[0][3])["data"]["run"]
    again = project.run(project.job(wanted, min_rows=5), force=True)
    del receiver.requests[:]
    code, moved = command("rollback", "churn", "--json")
    assert (0, first.run_id) == (code, moved["to_run"])
    assert [("batchpred.recovered", first.run_id)] == [
        (kind, json.loads(request[3])["data"]["run"])
        for kind, request in zip(receiver.types, receiver.requests, strict=True)
    ]
    assert "blocked" == again.status


def test_a_move_without_the_job_file_is_told_by_the_next_look(project, receiver, command):
    """A person may move the pointer from anywhere; nobody is told twice, nor never."""
    strict = project.job(min_rows=4)
    blocked = project.run(strict)
    (project.folder / "churn.job.yaml").unlink()
    assert 0 == command("runs", "publish", blocked.run_id, "--override", "fewer people", "--json")[0]
    assert ["batchpred.blocked"] == receiver.types
    project.look(project.job(min_rows=4))
    project.look(project.job(min_rows=4))
    assert ["batchpred.blocked", "batchpred.recovered"] == receiver.types


def test_many_processes_at_once_tell_one_message(project, receiver, database, monkeypatch):
    """Eight that have all found a job late, and then all find its message due, send it once."""
    project.run()
    job_file = project.job(late="2h")
    find_late, due = events.find_late, deliveries.due
    at_once = threading.Barrier(8, timeout=20)

    def together(what):
        def found(*asked):
            answer = what(*asked)
            at_once.wait()
            return answer

        return found

    monkeypatch.setattr(events, "find_late", together(find_late))
    monkeypatch.setattr(deliveries, "due", together(due))
    threads = [threading.Thread(target=look_and_deliver, args=[database, [job_file]]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["batchpred.late"] == receiver.types
    assert [("late", 1)] == project.sql(
        "SELECT kind, attempts FROM batchpred.events JOIN batchpred.deliveries USING (event_id)"
    )


def test_late_is_told_once_until_it_is_not_late_any_more(project, receiver):
    """A lateness is one message, over several intervals and a make-up that does not end it; then one recovery."""
    today = datetime.now(UTC).date()
    day = [(today - timedelta(days=ago)).isoformat() for ago in range(6)]
    job_file = project.job(late="2h")
    project.run(job_file, date=day[5])
    project.look(job_file)
    project.look(job_file)
    assert ["batchpred.late"] == receiver.types
    data = json.loads(receiver.requests[0][3])["data"]
    assert (day[4], None) == (data["interval"]["date"], data["run"])
    promised = f"{day[3]}T02:00:00+00:00"
    assert f"nothing is published that was promised by {promised}" == data["error"]
    project.run(job_file, date=day[4])
    assert ["batchpred.late"] == receiver.types
    project.run(job_file, date=day[1])
    project.look(job_file)
    assert ["batchpred.late", "batchpred.recovered"] == receiver.types
    assert ["late"] == json.loads(receiver.requests[1][3])["data"]["after"]


def test_late_is_what_readers_are_told(project, receiver):
    """The promise is the job file's as it is now, for messages and for readers alike."""
    project.run()
    assert [] == receiver.requests
    assert [(False,)] == project.sql("SELECT is_late FROM predictions._freshness")
    project.look(project.job(late="2h"))
    assert ["batchpred.late"] == receiver.types
    assert [(True,)] == project.sql("SELECT is_late FROM predictions._freshness")


def test_a_long_run_does_not_keep_its_process_from_telling(project, receiver, database, monkeypatch):
    """While a run goes on its process looks on: a job that is late is told of before the run has ended."""
    monkeypatch.setattr(deliver, "LOOK_SECONDS", 0.05)
    project.run()
    with watching(database, [project.job(late="2h")]):
        until = time.monotonic() + 10
        while not receiver.requests and time.monotonic() < until:
            time.sleep(0.02)
        assert ["batchpred.late"] == receiver.types


def test_an_event_that_cannot_be_recorded_undoes_no_publish(project, receiver, monkeypatch):
    """Readers get their predictions although the record of the recovery fails; the next look makes it up."""
    project.break_source()
    project.run()
    project.mend_source()
    real = events.close_over
    monkeypatch.setattr(
        events, "close_over", lambda connection, _jobs: connection.execute("SELECT no_such_column")
    )
    assert "published" == project.run().status
    assert ["batchpred.failed"] == receiver.types
    monkeypatch.setattr(events, "close_over", real)
    project.look()
    assert ["batchpred.failed", "batchpred.recovered"] == receiver.types


def test_who_published_meanwhile_makes_a_failure_no_news(project, receiver, database):
    """A run that fails after another has published the interval is not told: readers miss nothing."""
    job_file = project.job()
    project.run(job_file)
    interval = interval_named("2026-01-02", "day", job_file.job.zone, datetime.now(UTC))
    report = jobs.run.RunReport(None, "churn", "", "", error="too late", seconds=60.0)
    jobs.run.news.failed(database, job_file, interval, report)
    assert [] == project.sql("SELECT 1 FROM batchpred.events WHERE kind = 'failed'")
    report.seconds = 0.0
    jobs.run.news.failed(database, job_file, interval, report)
    assert [(1,)] == project.sql("SELECT 1 FROM batchpred.events WHERE kind = 'failed'")


def test_a_tick_tells_what_it_did(project, receiver, database, tmp_path):
    """A scheduler tells of a failure that it does not try again, once, however many look at it."""
    project.break_source()
    job_file = project.job()
    statuses = []
    for _ in range(2):
        ticker = Ticker(Runtime(database, tmp_path, threads=1), lambda: [job_file])
        statuses += [report.status for report in ticker.tick()]
    assert ["failed"] == statuses
    assert ["batchpred.failed"] == receiver.types


def test_without_a_notify_list_nothing_is_recorded_or_sent(project, database):
    """A job that nobody asked to be told of costs no connection, no row and no call."""
    job_file = project.job()
    path = job_file.path
    path.write_text(path.read_text().partition("notify:")[0], encoding="utf-8")
    project.break_source()
    assert "failed" == project.run(load_job(path, {})).status
    assert [] == project.sql("SELECT * FROM batchpred.events")
    with watching(None, [load_job(path, {})]):
        pass


def test_old_events_are_forgotten_and_open_ones_are_not(project, receiver, database):
    """What is over and long past goes; a trouble that is not over stays, whatever its age."""
    project.break_source()
    project.run(date="2026-01-01")
    project.run()
    project.mend_source()
    project.run()
    project.sql("UPDATE batchpred.events SET happened_at = now() - interval '1 year'")
    with database.connect(purpose="test", as_writer=True) as connection:
        assert 2 == events.forget_old(connection, timedelta(days=90))
    assert [("failed",)] == project.sql("SELECT kind FROM batchpred.events WHERE over_at IS NULL ")
