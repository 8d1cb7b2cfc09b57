"""What the read API answers to requests that cannot be meant, or must not be."""

import base64
import json
import socket
from datetime import UTC, date, datetime

import pytest

from storage.database import Database
from tests.conftest import new_database
from tests.integration.conftest import job_table, publish, read_api

PATH = "/v1/jobs/churn/predictions"
PROBLEM = {"type", "title", "status", "detail"}


@pytest.fixture(scope="module")
def api(server_url, template_name):
    """One server for all tests, as nothing that is refused changes anything.

    Two published days of a job with an integer key, and one of a job for each other kind of key.
    """
    with new_database(server_url, template_name) as url:
        database = Database.at(url)
        for day in (5, 6):
            rows = {"id": [1, 2, 3], "score": [0.1, 0.2, 0.3]}
            publish(database, job_table(), datetime(2026, 1, day, tzinfo=UTC), rows)
        for kind, value in (("text", "x"), ("uuid", "0" * 8), ("date", date(2026, 1, 1))):
            rows = {"k": [value], "score": [0.5]}
            publish(database, job_table(f"by_{kind}", k=kind), datetime(2026, 1, 5, tzinfo=UTC), rows)
        with read_api(database) as client:
            yield client


def problem(answer):
    """Check that the answer is a problem document without anything internal, and return its status."""
    assert "application/problem+json" == answer.headers["content-type"]
    body = answer.json()
    assert PROBLEM == set(body)
    assert answer.status_code == body["status"]
    for internal in ("Traceback", "psycopg", "SELECT", "batchpred_data", "postgresql://"):
        assert internal not in answer.text
    return answer.status_code


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "a%00b",
        "..%2f",
        "..%2f..%2fetc",
        "1" * 300,
        "1.5",
        "1e3",
        "%ff",
        "9223372036854775808",
        "",
        "1%20",
        "1/2",
        "%D9%A1",
        "0x10",
        "1_000",
        "null",
    ],
)
@pytest.mark.parametrize("rest", ["", "/history"])
def test_a_key_that_its_column_cannot_hold(api, key, rest):
    """A key of the wrong type, length or number of parts is answered 422."""
    assert 422 == problem(api.get(f"{PATH}/{key}{rest}"))


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("text", "a%00b"),
        ("text", "x" * 300),
        ("text", "%ED%A0%80"),
        ("uuid", "5"),
        ("date", "2026-02-30"),
        ("date", "20260228"),
        ("date", "2026-W01-1"),
    ],
)
def test_a_text_that_is_no_key(api, kind, key):
    """NUL, over-long and undecodable texts, and what is no uuid or date, are answered 422."""
    assert 422 == problem(api.get(f"/v1/jobs/by_{kind}/predictions/{key}"))


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=9223372036854775808",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "page=2",
        "as_of=2026-02-30",
        "as_of=20260105",
        "as_of=yesterday",
        "as_of=2026-W01-1",
        "as_of=2026-01-05T00:00:00",
        "as_of=0",
        "as_of=2026-01-05&as_of=2026-01-06",
        "as_of=%D9%A2026-01-05",
    ],
)
def test_parameters_that_cannot_be_meant(api, query):
    """A parameter out of range, unknown, repeated or no date is answered 422."""
    assert 422 == problem(api.get(f"{PATH}?{query}"))


@pytest.mark.parametrize("query", ["limit=5", "as_of=x", "as_of=2026-01-05&as_of=2026-01-05", "x=1"])
def test_parameters_a_key_does_not_take(api, query):
    """A look-up takes `as_of`, once, and nothing else."""
    assert 422 == problem(api.get(f"{PATH}/1?{query}"))
    assert 422 == problem(api.get(f"{PATH}/1/history?{query.replace('limit', 'as_of')}"))


@pytest.mark.parametrize("path", [PATH, "/v1/jobs/churn/runs", f"{PATH}/1/history"])
def test_a_forged_cursor(api, path):
    """A cursor that this list did not give, made up, changed or another list's, is answered 400."""
    own = api.get(f"{path}?limit=1").json()["next_cursor"]
    lists = (PATH, "/v1/jobs/churn/runs", f"{PATH}/1/history")
    others = [api.get(f"{each}?limit=1").json()["next_cursor"] for each in lists if each != path]
    data = base64.urlsafe_b64decode(own + "=" * (-len(own) % 4))
    changed = base64.urlsafe_b64encode(data[:-3] + b"9" + data[-2:]).decode().rstrip("=")
    made_up = base64.urlsafe_b64encode(b"\0" * 16 + json.dumps(["page", "churn"]).encode()).decode()
    for cursor in ("x", "", "%00", "é", own[:-1], own + "A", changed, made_up.rstrip("="), *others):
        assert 400 == problem(api.get(path, params={"limit": 1, "cursor": cursor})), cursor


def test_a_cursor_beside_a_date(api):
    """A cursor carries its run, so a date beside it is answered 422."""
    cursor = api.get(f"{PATH}?limit=1").json()["next_cursor"]
    assert 422 == problem(api.get(f"{PATH}?cursor={cursor}&as_of=2026-01-05"))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"keys": []},
        {"keys": "1"},
        {"keys": [1.5]},
        {"keys": [True]},
        {"keys": [None]},
        {"keys": [[1, 2]]},
        {"keys": [{"id": 1, "x": 2}]},
        {"keys": [{}]},
        {"keys": [1], "more": 1},
        {"keys": [2**63]},
        {"keys": ["a"]},
        {"keys": [1] * 1001},
        {"keys": [1], "as_of": "2026-13-01"},
        {"keys": [1], "as_of": 5},
        [],
        1,
        None,
        "x",
    ],
)
def test_a_batch_that_cannot_be_meant(api, body):
    """A body of the wrong shape, over 1,000 keys, or with keys of the wrong type is answered 422."""
    assert 422 == problem(api.post(f"{PATH}:batchGet", json=body))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"keys": [NaN]}', b'{"keys": ["\\ud800"]}'])
def test_a_body_that_is_no_json(api, content):
    """What is not JSON, or holds half a character, is answered 422 or 400, never 500."""
    answer = api.post(f"{PATH}:batchGet", content=content, headers={"Content-Type": "application/json"})
    assert problem(answer) in (400, 422)


def test_a_body_of_ten_megabytes(api):
    """A body past the limit is answered 413, whether its length is said beforehand or not."""
    big = b'{"keys": [' + b"1," * 5_000_000 + b"1]}"
    kind = {"Content-Type": "application/json"}
    assert 413 == problem(api.post(f"{PATH}:batchGet", content=big, headers=kind))
    pieces = (big[start : start + 100_000] for start in range(0, len(big), 100_000))
    assert 413 == problem(api.post(f"{PATH}:batchGet", content=pieces, headers=kind))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PATH),
        ("DELETE", f"{PATH}/1"),
        ("PUT", "/v1/jobs"),
        ("PATCH", "/v1/jobs/churn"),
        ("GET", f"{PATH}:batchGet"),
        ("POST", "/healthz"),
        ("DELETE", "/v1/jobs/churn/runs"),
    ],
)
def test_methods_that_are_not_there(api, method, path):
    """A method a path does not have is answered 405 with those it has."""
    answer = api.request(method, path)
    assert 405 == problem(answer)
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/jobs/",
        "/healthz/",
        "/v1/jobs/none",
        "/v1/jobs/none/predictions",
        "/v1/jobs/none/predictions/1",
        "/v1/jobs/a%00b",
        "/v1/jobs/none/runs",
        f"{PATH}/99",
        f"{PATH}/1?as_of=2020-01-01",
        f"{PATH}?as_of=2020-01-01",
        "/v1/x",
    ],
)
def test_what_is_not_there(api, path):
    """Unknown paths, jobs, keys and dates are answered 404."""
    assert 404 == problem(api.get(path))


def test_an_address_of_a_megabyte(api):
    """An over-long address is refused, not searched for."""
    assert api.get(f"{PATH}/{'1' * 20_000}").status_code in (414, 422)


def test_every_answer_has_an_id_and_safe_headers(api):
    """Answers of every kind carry a request id, the client's own where it is a plain word, and safe headers."""
    for path in ("/healthz", f"{PATH}/1", f"{PATH}/x", "/none", "/v1/jobs"):
        headers = api.get(path).headers
        assert "nosniff" == headers["x-content-type-options"]
        assert "default-src 'none'; frame-ancestors 'none'" == headers["content-security-policy"]
        assert headers["x-request-id"]
        assert "access-control-allow-origin" not in headers
    assert "mine-1" == api.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"]
    for odd in ("a b", "x" * 65, "a;b"):
        assert odd != api.get("/healthz", headers={"X-Request-Id": odd}).headers["x-request-id"]


def test_a_slow_client_holds_nobody_up(api):
    """While a hundred clients send their bodies drop by drop, others are answered."""
    address = (api.base_url.host, api.base_url.port)
    head = f"POST {PATH}:batchGet HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += "Content-Length: 100\r\n\r\n{"
    slow = [socket.create_connection(address) for _ in range(100)]
    for each in slow:
        each.sendall(head.encode())
    assert 200 == api.get(f"{PATH}/1").status_code
    for each in slow:
        each.close()
