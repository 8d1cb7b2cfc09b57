"""How it is told: delivered at least once, to nobody else, and never at a run's cost."""

import json
import logging
import threading
import time
from datetime import timedelta

import pytest
import typer

from batchpred import cli_notify
from jobs import deliver, senders
from storage import deliveries
from tests.integration.receiver import listening, mailbox
from tests.integration.told import SECRET, WEBHOOK


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
    monkeypatch.setattr(senders, "TIMEOUT_SECONDS", 0.5)
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
