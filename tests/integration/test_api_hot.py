"""The route of one key beneath the framework: the same answers, fresh after a publish, and back after an outage."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import httpx
import psycopg
import pytest

from api.app import create_app
from storage import garbage, pointers
from tests.integration.conftest import running

PATH = "/v1/jobs/churn/predictions"


@pytest.fixture
def app(database):
    return create_app(database, keyless=True)


@pytest.fixture
def client(app):
    with running(app) as address, httpx.Client(base_url=address) as client:
        yield client


def ask_until(client, path, wanted):
    """Ask until the answer is the wanted one."""
    until = time.monotonic() + 60
    while not wanted(answer := client.get(path)):
        assert time.monotonic() < until, answer.text
        time.sleep(0.01)
    return answer


def test_it_answers_as_the_framework_does(app, client, publish_rows, make_job):
    """Status, body and headers of a look-up are the same beneath the framework and in it."""
    publish_rows(make_job(), 5, {"id": [1, 2], "score": [0.5, float("nan")]})
    publish_rows(
        make_job("pair", a="text", b="date"), 5, {"a": ["a/b"], "b": [date(2026, 1, 1)], "score": [0.5]}
    )
    parts = app.state.parts
    ask_until(client, f"{PATH}/1", lambda _: parts.hot._served)
    paths = [f"{PATH}/{key}" for key in ("1", "2", "%31", "+1", "3", "x", "1/2", "", "1%00", "%ff")]
    paths += ["/v1/jobs/pair/predictions/a%2Fb/2026-01-01", "/v1/jobs/none/predictions/1"]
    hot, parts.hot = parts.hot, None
    in_framework = [client.get(path) for path in paths]
    parts.hot = hot
    beneath = [client.get(path) for path in paths for _ in range(2)]
    own = {"x-request-id", "date"}
    assert [
        (answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k not in own})
        for answer in in_framework
        for _ in range(2)
    ] == [
        (answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k not in own})
        for answer in beneath
    ]


def test_every_asker_of_one_moment_gets_its_own_key(client, publish_rows, make_job):
    """Look-ups gathered into one statement are each answered with the row of their key, or with 404."""
    publish_rows(make_job(), 5, {"id": list(range(500)), "score": [float(n) for n in range(500)]})
    with ThreadPoolExecutor(32) as askers:
        answers = list(askers.map(lambda key: client.get(f"{PATH}/{key}"), range(520)))
    assert [float(n) for n in range(500)] == [
        answer.json()["prediction"]["score"] for answer in answers[:500]
    ]
    assert [404] * 20 == [answer.status_code for answer in answers[500:]]


def test_a_publish_under_load_mixes_nothing(client, publish_rows, make_job):
    """While runs are published every answer is whole, of a run that was the newest, and runs never go back."""
    publish_rows(make_job(), 1, {"id": [1], "score": [1.0]})
    done, wrong = threading.Event(), []

    def ask():
        last = 0.0
        while not done.is_set():
            answer = client.get(f"{PATH}/1")
            body = answer.json()
            score = body["prediction"]["score"] if answer.status_code == 200 else None
            if score is None or f"2026-01-{int(score):02}" != body["as_of_date"] or score < last:
                wrong.append((last, answer.text))
            last = score or last

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for day in range(2, 12):
        publish_rows(make_job(), day, {"id": [1], "score": [float(day)]})
    done.set()
    for thread in threads:
        thread.join()
    assert [] == wrong


def test_a_lost_notification_is_made_up_for(client, publish_rows, make_job, monkeypatch):
    """A publish that nobody was told of is seen by the check that runs besides."""
    monkeypatch.setattr(pointers, "_SQL", {**pointers._SQL, "listen": b"SELECT 1"})
    publish_rows(make_job(), 1, {"id": [1], "score": [0.1]})
    assert 0.1 == client.get(f"{PATH}/1").json()["prediction"]["score"]
    publish_rows(make_job(), 2, {"id": [1], "score": [0.2]})
    ask_until(client, f"{PATH}/1", lambda answer: answer.json()["prediction"]["score"] == 0.2)


def test_what_is_remembered_too_long_is_not_answered_from(client, publish_rows, make_job, monkeypatch):
    """Past the stated bound an answer from memory is checked by the database, even if nothing else works."""
    publish_rows(make_job(), 1, {"id": [1], "score": [0.1]})
    assert 0.1 == client.get(f"{PATH}/1").json()["prediction"]["score"]
    monkeypatch.setattr(pointers, "STALE_SECONDS", 0.0)
    publish_rows(make_job(), 2, {"id": [1], "score": [0.2]})
    assert 0.2 == client.get(f"{PATH}/1").json()["prediction"]["score"]


def test_a_forgotten_key_is_forgotten_by_caches_too(client, database, connection, publish_rows, make_job):
    """Within the stated second a forgotten key is answered neither from memory nor as what a client has already."""
    publish_rows(make_job(), 1, {"id": [1, 2], "score": [0.1, 0.2]})
    ask_until(client, "/readyz", lambda answer: answer.status_code == 200)
    (tag,) = {client.get(f"{PATH}/1").headers["etag"] for _ in range(3)}
    garbage.forget(database, connection, "churn", {"id": 1})
    time.sleep(pointers.STALE_SECONDS)
    said = {"If-None-Match": tag}
    assert [404, 404, 200] == [
        client.get(f"{PATH}/{key}", headers=headers).status_code
        for key, headers in (("1", {}), ("1", said), ("2", said))
    ]


def test_an_outage_is_said_and_passes(client, server_url, database, publish_rows, make_job):
    """While the database takes no connection every route is 503 with Retry-After; then it answers by itself."""
    publish_rows(make_job(), 1, {"id": [1], "score": [0.1]})
    ask_until(client, "/readyz", lambda answer: answer.status_code == 200)
    assert 200 == client.get(f"{PATH}/1").status_code
    name = psycopg.conninfo.conninfo_to_dict(database.url)["dbname"]
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        ask_until(client, "/readyz", lambda answer: answer.status_code == 503)
        for path in (f"{PATH}/1", f"{PATH}/2", "/v1/jobs", PATH, "/readyz"):
            away = client.get(path)
            assert (503, "2") == (away.status_code, away.headers["retry-after"]), path
            assert "application/problem+json" == away.headers["content-type"]
        assert 200 == client.get("/healthz").status_code
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    for path in ("/readyz", f"{PATH}/1", "/v1/jobs"):
        ask_until(client, path, lambda answer: answer.status_code == 200)


def test_a_reading_that_cannot_be_taken_in_is_made_again(database, caplog):
    """Whatever is wrong with it is logged, and costs the trust in what is remembered, not the reading for good."""
    readings = []

    def take_in(found):
        readings.append(found)
        if len(readings) == 1:
            raise TypeError("a column that this server does not know")

    async def follow():
        newest = pointers.Pointers(database, take_in)
        newest.start()
        async with asyncio.timeout(20):
            while not newest.are_trusted(time.monotonic()):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
        await newest.stop()

    asyncio.run(follow())
    assert len(readings) > 1
    assert "a column that this server does not know" in caplog.text
