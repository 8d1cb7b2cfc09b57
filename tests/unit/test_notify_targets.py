"""The `notify` list as a job file may and may not say it, and how one message leaves."""

import shutil
import ssl
import subprocess
import uuid
from datetime import UTC, datetime

import pytest

from jobs import senders
from jobs.errors import JobFileError
from jobs.jobfile import load_job
from jobs.jobspec.notify import Target
from jobs.news import one_line
from tests.integration.receiver import listening

JOB = """\
version: 1
name: churn
source: {query: "select 1 where :date is not null"}
key: [id]
model: m@champion
output: {columns: {score: y}}
"""
HOOK = "{webhook: 'https://h.example/x?token=t0ken', secret: 0123456789abcdef}"
INTERVAL = {"start": "2026-01-20T00:00:00+00:00", "end": "2026-01-21T00:00:00+00:00", "date": "2026-01-20"}
MESSAGE = {"job": "churn", "interval": INTERVAL, "error": "oh", "look": "batchpred runs list churn"}


@pytest.fixture
def load(tmp_path):
    def load(notify, environ=None):
        path = tmp_path / "churn.job.yaml"
        path.write_text(f"{JOB}notify: {notify}\n", encoding="utf-8")
        return load_job(path, environ or {})

    return load


def test_targets_are_read_named_and_told_what_they_are_for(load):
    """Each target has a name without a secret and, where the file says nothing else, the events it is for."""
    job_file = load(
        f"[{HOOK}, {{apprise: 'slack://tokenA/tokenB', events: [late]}}, {{ping: '${{PING}}', name: check}}]",
        {"PING": "https://hc.example/uuid"},
    )
    hook, slack, ping = job_file.job.notify
    assert ["webhook h.example", "apprise slack", "check"] == [each.label for each in job_file.job.notify]
    assert ("failed", "blocked", "late", "recovered") == hook.wanted
    assert ("late",) == slack.wanted
    assert ("published", "failed", "blocked", "late") == ping.wanted
    shown = repr(job_file) + str(job_file.definition)
    assert not [each for each in ("t0ken", "0123456789abcdef", "tokenA", "uuid") if each in shown]
    assert load("[]").definition_sha256 == job_file.definition_sha256


def test_a_secret_of_digits_stays_text(load):
    """A secret from the environment is text, whatever it looks like."""
    notify = "\n  - webhook: https://h.example/x\n    secret: ${S}"
    (hook,) = load(notify, {"S": "12345678901234567890"}).job.notify
    assert "12345678901234567890" == hook.secret.get_secret_value()


@pytest.mark.parametrize(
    ("says", "target"),
    [
        ("give one of webhook, apprise and ping", "{name: x}"),
        ("give one of webhook, apprise and ping", "{ping: 'https://h', apprise: 'json://h'}"),
        ("a webhook needs a secret to be signed with, such as secret: ${HOOK_SECRET}", "{webhook: 'https://h'}"),
        ("secret: only a webhook is signed, not ping", "{ping: 'https://h', secret: 0123456789abcdef}"),
        ("a secret has 16 bytes at least; make one with: ", "{webhook: 'https://h', secret: s3cr3t}"),
        ("a secret that begins with whsec_ goes on in Base64", "{webhook: 'https://h', secret: whsec_s3cr3t!}"),
        ("this is no address of a web server", "{ping: 'ftp://s3cr3t'}"),
        ("this is no address of a web server", "{ping: 'https:///s3cr3t'}"),
        ("this is no address of a web server", "{ping: 'https://h:99999/s3cr3t'}"),
        ("this is no address of a web server", "{ping: 'https://h/s3cr3t x'}"),
        ("this is no address of a web server", "{ping: 'https://h/#s3cr3t'}"),
        ("a user and password in the address are not sent", "{ping: 'https://u:s3cr3t@h/'}"),
        ("this is no Apprise address", "{apprise: 's3cr3t'}"),
        ("'fialed' is not one of 'failed', 'blocked', 'recovered', 'late' or 'published'",
         "{ping: 'https://h', events: [fialed]}"),
        ("unknown key 'webhok'; did you mean 'webhook'?", "{webhok: 'https://s3cr3t'}"),
        ("the key `on` is not read as text (YAML 1.1)", "{ping: 'https://h', on: [failed]}"),
    ],
)  # fmt: skip
def test_refused_targets(load, says, target):
    """What cannot be meant is refused at its place, and no secret is repeated."""
    with pytest.raises(JobFileError) as error:
        load(f"[{target}]")
    assert says in str(error.value)
    assert str(error.value).startswith("churn.job.yaml:7:")
    assert "s3cr3t" not in str(error.value)


def test_two_targets_of_one_name_are_refused(load):
    """Deliveries are kept by a target's name, so two cannot share one."""
    with pytest.raises(JobFileError, match=r"two targets are called 'webhook h.example'; give each a name"):
        load(f"[{HOOK}, {HOOK}]")


def test_the_signature_is_that_of_standard_webhooks():
    """The example of the specification's own libraries is signed to the same letter."""
    body = b'{"test": 2432232314}'
    secret, name = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == senders.sign(secret, name, "1614265330", body)


def test_an_error_in_a_message_is_one_line_without_secrets(load):
    """Lines are joined, long ones cut, and what the job file keeps secret is starred out."""
    job_file = load(f"[{HOOK}]")
    assert "a b ***" == one_line("a\n  b 0123456789abcdef", job_file)
    assert 500 == len(one_line("x" * 1000, job_file))


def sent(target):
    with pytest.raises(senders.NotDeliveredError) as error:
        senders.send(
            target, message_id=uuid.uuid4(), kind="late", happened_at=datetime.now(UTC), message=MESSAGE
        )
    return str(error.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    """A receiver whose certificate does not verify gets nothing."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with listening(tls) as receiver:
        said = sent(Target(ping=f"{receiver.url}/t0ken"))
        assert [] == receiver.requests
    assert "certificate verify failed" in said.lower()
    assert "t0ken" not in said


def test_an_address_without_a_host_to_be_found_says_so():
    """A name that does not resolve is a message not delivered, in a few words."""
    said = sent(Target(ping="http://no-such-host.invalid/t0ken"))
    assert said.startswith("no answer: ")
    assert "t0ken" not in said


def test_without_apprise_the_message_says_how_to_get_it(monkeypatch):
    """Where the extra is not installed its name is said."""
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    assert 'pip install "batchpred[notify]"' in sent(Target(apprise="json://127.0.0.1"))
