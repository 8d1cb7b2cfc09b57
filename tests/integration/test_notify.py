"""Being told: each event once, whoever notices it, delivered at least once, and never at a run's cost."""

import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import typer

import jobs.rows
import jobs.run
from batchpred import cli_notify
from jobs import deliver
from jobs.deliver import look_and_deliver, watching
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.onnx_file import prepare
from jobs.plan import Runtime
from jobs.schedule import Ticker
from storage import deliveries, events, moves, registry
from tests.chaos.world import model
from tests.integration.receiver import listening, mailbox

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
JOB = """\
version: 1
name: churn
description: Who leaves
schedule: {{cron: "0 3 * * *", late_after: {late}}}
source: {{query: "SELECT id, a, b FROM people WHERE :date IS NOT NULL"}}
key: [id]
features: {{a: float32, b: float32}}
model: churn@champion
output: {{columns: {{score: "y[1]"}}}}
checks: {{min_rows: {min_rows}}}
notify:
{notify}
"""
WEBHOOK = "  - {{webhook: '{url}/hook?token=t0ken', secret: {secret}}}"


def documented_check():
    """The verifying code that docs/notify.md shows, as it stands there."""
    page = (Path(__file__).parents[2] / "docs" / "notify.md").read_text(encoding="utf-8")
    code: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], code)
    return code["is_genuine"]


@pytest.fixture
def receiver():
    with listening() as receiver:
        yield receiver


@pytest.fixture
def project(database, tmp_path, receiver, monkeypatch):
    """A job of three people, told to the receiver by a webhook unless `notify` says otherwise."""
    monkeypatch.setattr(jobs.run, "RETRY_DELAYS", (0.0, 0.0))
    prepared = prepare(model())
    with database.connect(purpose="test") as connection:
        connection.execute(
            "CREATE TABLE people AS SELECT g::bigint AS id, g::float8 AS a, 1::float8 AS b"
            " FROM generate_series(1, 3) AS g"
        )
        registry.push(
            connection, "churn", prepared.data, described=prepared.described, source="x", alias="champion"
        )

    class Project:
        def job(self, notify=WEBHOOK, min_rows=1, late="9000d"):
            path = tmp_path / "churn.job.yaml"
            notify = notify.format(url=receiver.url, secret=SECRET)
            path.write_text(JOB.format(notify=notify, min_rows=min_rows, late=late), encoding="utf-8")
            return load_job(path, {})

        def run(self, job_file=None, date="2026-01-02", **options):
            job_file = job_file or self.job()
            interval = interval_named(date, "day", job_file.job.zone, datetime.now(UTC))
            runtime = Runtime(database, tmp_path, threads=1)
            with watching(database, [job_file]):
                return jobs.run.run_job(runtime, job_file, interval, **options)

        def look(self, job_file=None):
            look_and_deliver(database, [job_file or self.job()])

        def sql(self, statement):
            with database.connect(purpose="test") as connection:
                cursor = connection.execute(statement)
                return [tuple(row.values()) for row in cursor] if cursor.description else None

        def break_source(self):
            self.sql("ALTER TABLE people RENAME TO gone")

        def mend_source(self):
            self.sql("ALTER TABLE gone RENAME TO people")

        def due_now(self):
            self.sql("UPDATE batchpred.deliveries SET next_attempt_at = now() WHERE status = 'pending'")

    return Project()


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


def test_a_first_run_that_never_ends_is_late(project, receiver, database):
    """Where nothing was ever published, the job is late once its first run began longer ago than late_after."""
    job_file = project.job(
        min_rows=4, late="2h", notify=WEBHOOK.replace("secret:", "events: [late], secret:")
    )
    project.run(job_file)
    assert [] == receiver.requests
    project.sql("UPDATE batchpred.runs SET started_at = now() - interval '121 minutes'")
    project.look(job_file)
    assert ["batchpred.late"] == receiver.types


def test_a_long_run_does_not_keep_its_process_from_telling(project, receiver, database, monkeypatch):
    """While a run goes on its process looks on: a job that is late is told of before the run has ended."""
    monkeypatch.setattr(deliver, "LOOK_SECONDS", 0.05)
    project.run()
    with watching(database, [project.job(late="2h")]):
        until = time.monotonic() + 10
        while not receiver.requests and time.monotonic() < until:
            time.sleep(0.02)
        assert ["batchpred.late"] == receiver.types


def test_a_dead_receiver_costs_nothing_and_hears_of_it_later(project, receiver, database, caplog):
    """With nobody there the run is published in time; the message is made up for by whoever is alive then."""
    with listening() as gone:
        pass
    dead = project.job(WEBHOOK.replace("{url}", gone.url).replace("secret:", "events: [published], secret:"))
    began = time.monotonic()
    with caplog.at_level(logging.INFO, logger="batchpred"):
        assert "published" == project.run(dead).status
    assert time.monotonic() - began < 5
    ((kind, target, status, attempts, error),) = project.sql(
        "SELECT kind, target, status, attempts, error"
        " FROM batchpred.deliveries JOIN batchpred.events USING (event_id)"
    )
    assert ("published", "webhook 127.0.0.1", "pending", 1) == (kind, target, status, attempts)
    assert "no answer: Connection refused" == error
    assert "t0ken" not in caplog.text + str([vars(each) for each in caplog.records])
    alive = project.job(WEBHOOK.replace("secret:", "events: [published], secret:"))
    project.look(alive)
    assert [] == receiver.requests
    project.due_now()
    project.look(alive)
    project.look(alive)
    assert ["batchpred.published"] == receiver.types
    assert [("delivered", 2, None)] == project.sql("SELECT status, attempts, error FROM batchpred.deliveries")


def test_a_receiver_that_hangs_is_left_after_a_bounded_time(project, receiver, database, monkeypatch):
    """One that takes the request and never answers delays its process by the patience of a pass at most."""
    monkeypatch.setattr(deliver.senders, "TIMEOUT_SECONDS", 0.5)
    receiver.hang = threading.Event()
    project.break_source()
    began = time.monotonic()
    project.run()
    assert time.monotonic() - began < 3
    assert [("pending", "no answer: timed out")] == project.sql(
        "SELECT status, error FROM batchpred.deliveries"
    )


def test_a_process_that_dies_while_sending_is_followed_by_another(project, receiver, database):
    """What was taken and never answered for is sent again after the lease, with the same id."""
    project.break_source()
    project.run()
    project.sql("UPDATE batchpred.deliveries SET status = 'pending', next_attempt_at = now()")
    with database.connect(purpose="dies", as_writer=True) as connection:
        assert 2 == deliveries.take(connection, "churn", "webhook 127.0.0.1").attempts
        assert None is deliveries.take(connection, "churn", "webhook 127.0.0.1")
    project.look()
    assert 1 == len(receiver.requests)
    project.due_now()
    project.look()
    first, second = (
        {name.lower(): value for name, value in headers.items()} for _, _, headers, _ in receiver.requests
    )
    assert first["webhook-id"] == second["webhook-id"]


def test_after_ten_attempts_in_three_days_it_is_given_up_and_a_person_may_try_again(
    project, receiver, database
):
    """A refused message is tried less and less often, then shown as failed until somebody asks for it again."""
    receiver.status = 503
    project.break_source()
    project.run()
    waits = []
    for _ in range(9):
        waits += project.sql("SELECT next_attempt_at - now() FROM batchpred.deliveries")
        project.due_now()
        project.look()
    assert [("failed", 10, "the receiver answered 503")] == project.sql(
        "SELECT status, attempts, error FROM batchpred.deliveries"
    )
    assert 10 == len(receiver.requests)
    for (wait,), delay in zip(waits, deliver.DELAYS, strict=True):
        assert delay - timedelta(seconds=30) < wait <= delay
    receiver.status = 204
    with database.connect(purpose="test", as_writer=True) as connection:
        assert 1 == deliveries.retry(connection, ["churn"])
    project.look()
    assert [("delivered",)] == project.sql("SELECT status FROM batchpred.deliveries")


def test_no_redirect_is_followed(project, receiver):
    """A message goes to the address in the job file and to no other."""
    with listening() as elsewhere:
        receiver.status, receiver.headers = 307, {"Location": f"{elsewhere.url}/taken"}
        project.break_source()
        project.run()
        assert [] == elsewhere.requests
    assert [("the receiver answered 307; redirects are not followed",)] == project.sql(
        "SELECT error FROM batchpred.deliveries"
    )


def test_a_ping_says_success_and_failure_as_they_are_now(project, receiver):
    """A publish of the newest interval is a success, a trouble /fail; what waited is overtaken by what is newer."""
    job_file = project.job("  - {{ping: '{url}/uuid?a=b'}}")
    project.break_source()
    receiver.status = 500
    project.run(job_file)
    assert [("POST", "/uuid/fail?a=b")] == receiver.paths
    assert b'relation "people" does not exist' in receiver.requests[0][3]
    project.mend_source()
    receiver.status = 200
    project.run(job_file)
    assert [("GET", "/uuid?a=b")] == receiver.paths[1:]
    project.due_now()
    project.run(job_file, date="2026-01-01")
    project.break_source()
    project.run(job_file, date="2026-01-01", force=True)
    assert 2 == len(receiver.requests)
    project.look(project.job("  - {{ping: '{url}/uuid?a=b'}}", late="2h"))
    # The older interval is no news about now, whichever way it goes, and the failure that waited is of the past.
    assert [("POST", "/uuid/fail?a=b")] == receiver.paths[2:]
    found = project.sql(
        "SELECT kind, status FROM batchpred.deliveries JOIN batchpred.events USING (event_id) ORDER BY event_id"
    )
    assert [("failed", "superseded"), ("published", "delivered"), ("late", "delivered")] == found


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # one of Apprise's hundred services
def test_apprise_speaks_to_the_rest(project, receiver):
    """An Apprise address is told title and text; its faults are said without its tokens."""
    address = receiver.url.replace("http://", "json://user:passw0rd@") + "/t0ken"
    job_file = project.job(f"  - {{{{apprise: '{address}'}}}}")
    project.break_source()
    receiver.status = 403
    project.run(job_file)
    ((target, error),) = project.sql("SELECT target, error FROM batchpred.deliveries")
    assert "apprise json" == target
    assert "403" in error
    assert not [each for each in ("t0ken", "passw0rd", "127.0.0.1") if each in error]
    receiver.status = 200
    project.due_now()
    project.look(job_file)
    said = json.loads(receiver.requests[-1][3])
    assert ("batchpred: churn failed (2026-01-02)", "failure") == (said["title"], said["type"])
    assert "look further: batchpred plan churn --date 2026-01-02" in said["message"]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_mail_is_sent(project):
    """A mailto:// address sends a mail with the title as its subject."""
    with mailbox() as (port, mails):
        job_file = project.job(
            f"  - {{{{apprise: 'mailto://127.0.0.1:{port}?from=a@b.example&to=c@d.example'}}}}"
        )
        project.break_source()
        project.run(job_file)
    assert [("delivered", None)] == project.sql("SELECT status, error FROM batchpred.deliveries")
    (mail,) = mails
    assert "Subject: batchpred: churn failed (2026-01-02)" in mail
    assert 'relation "people" does not exist' in mail


def test_the_outbox_holds_no_address_and_no_secret(project, receiver):
    """What is kept names a target; its address, token and secret stay in the job file."""
    receiver.status = 500
    project.break_source()
    project.run()
    project.mend_source()
    project.run()
    kept = str(
        project.sql(
            "SELECT e::text, d::text FROM batchpred.events e LEFT JOIN batchpred.deliveries d USING (event_id)"
        )
        + project.sql("SELECT definition::text FROM batchpred.definitions")
        + project.sql("SELECT r::text FROM batchpred.runs r")
    )
    assert "webhook 127.0.0.1" in kept
    assert not [each for each in ("t0ken", "whsec", SECRET[6:], receiver.url) if each in kept]


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
    """The scheduler's pass tells of the jobs it ran and of those it left alone."""
    project.break_source()
    job_file = project.job()
    for _ in range(2):
        ticker = Ticker(Runtime(database, tmp_path, threads=1))
        with ticker.watching([job_file]):
            (report,) = ticker.tick([job_file], datetime.now(UTC))
        assert "failed" == report.status
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


@pytest.fixture
def command(database, tmp_path, monkeypatch, capsys):
    """A command of `batchpred notify` on the test's project: its exit code and the document it prints."""
    monkeypatch.setenv("BATCHPRED_DATABASE_URL", database.url)

    def call(name, *arguments, **options):
        code = 0
        try:
            getattr(cli_notify, name)(*arguments, as_json=True, **options)
        except typer.Exit as leave:
            code = leave.exit_code
        return code, json.loads(capsys.readouterr().out)

    return call


def test_the_commands_show_what_waits_try_it_again_and_send_a_test(project, receiver, command, tmp_path):
    """`notify list` shows what has not got there, `deliver` sends it now, `test` sends to every target at once."""
    receiver.status = 500
    project.break_source()
    project.run()
    code, shown = command("list_deliveries", "churn")
    (waiting,) = shown["deliveries"]
    assert (0, "pending", "the receiver answered 500") == (code, waiting["status"], waiting["error"])
    code, shown = command("deliver", project=tmp_path)
    assert (1, 1, 1) == (code, shown["tried"], len(shown["undelivered"]))
    receiver.status = 200
    code, shown = command("deliver", project=tmp_path)
    assert (0, 1, []) == (code, shown["tried"], shown["undelivered"])
    assert (0, {"deliveries": []}) == command("list_deliveries")
    _, shown = command("list_deliveries", everything=True)
    assert ["delivered"] == [each["status"] for each in shown["deliveries"]]
    before = len(receiver.requests)
    project.job(WEBHOOK + "\n  - {{ping: '{url}/uuid'}}")
    code, shown = command("send_test", "churn", project=tmp_path)
    assert (0, ["delivered"] * 2) == (code, [each["status"] for each in shown["targets"]])
    assert [("POST", "/hook?token=t0ken"), ("GET", "/uuid")] == receiver.paths[before:]
    receiver.status = 404
    code, shown = command("send_test", "churn", project=tmp_path)
    assert (1, "the receiver answered 404") == (code, shown["targets"][0]["error"])
    assert "t0ken" not in json.dumps(shown)
