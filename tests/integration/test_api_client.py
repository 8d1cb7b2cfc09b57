"""The Python client, sync and async, against a real server."""

import asyncio
from datetime import date

import httpx
import pytest

from batchpred.client import (
    AsyncClient,
    Client,
    NotFoundError,
    ReadError,
    RetryError,
    TooManyRequestsError,
    UnavailableError,
)

ODD = ["a/b", "..", ".", "ü %?#", "history"]


@pytest.fixture
def url(api, publish_rows, make_job):
    """A server with two jobs: integer keys over two days, and composite keys with odd characters."""
    for day in (1, 2):
        publish_rows(make_job(), day, {"id": list(range(2500)), "score": [float(day)] * 2500})
    pairs = {"a": ODD, "b": [date(2026, 1, 1)] * len(ODD), "score": [0.5] * len(ODD)}
    publish_rows(make_job("pair", a="text", b="date"), 1, pairs)
    return str(api.base_url)


def test_the_client_reads_what_is_published(url):
    """Keys, dates, histories, batches and whole runs come as typed predictions with their run."""
    with Client(url) as client:
        current = client.get("churn", 42)
        assert (2.0, date(2026, 1, 2), "churn") == (
            current["score"],
            current.run.as_of_date,
            current.run.model_name,
        )
        assert 1.0 == client.get("churn", 42, as_of=date(2026, 1, 1))["score"]
        assert [2.0, 1.0] == [each["score"] for each in client.history("churn", 42)]
        batch = client.get_many("churn", [1, 2, 9999])
        assert ([1, 2], [{"id": 9999}]) == ([each.key["id"] for each in batch.predictions], batch.missing)
        assert list(range(2500)) == [each.key["id"] for each in client.all("churn")]
        assert "snapshot" == client.job("churn")["mode"]


def test_odd_keys_arrive_as_they_are(url):
    """A key's parts may hold slashes, dots and spaces; none is folded or split on its way."""
    with Client(url) as client:
        for part in ODD:
            assert {"a": part, "b": "2026-01-01"} == client.get("pair", (part, date(2026, 1, 1))).key


def test_faults_are_told_apart(url):
    """What is not there, what cannot be meant and what passes by itself are errors of their own."""
    with Client(url) as client:
        for job, key in (("none", 1), ("churn", -1)):
            with pytest.raises(NotFoundError):
                client.get(job, key)
        with pytest.raises(ReadError, match="422: key part id is of type integer"):
            client.get("churn", "x")
    for status, kind in ((503, UnavailableError), (429, TooManyRequestsError)):
        later = httpx.Response(status, headers={"Retry-After": "2"})
        with Client(url, transport=httpx.MockTransport(lambda _, answer=later: answer)) as client:
            with pytest.raises(RetryError) as caught:
                client.get("churn", 1)
        assert (kind, status, 2.0) == (type(caught.value), caught.value.status, caught.value.retry_after)


def test_the_async_client_reads_the_same(url):
    """The async client gives the sync one's answers."""

    async def read():
        async with AsyncClient(url) as client:
            one = await client.get("churn", 42)
            history = await client.history("churn", 42)
            batch = await client.get_many("churn", [1, 9999])
            whole = [each async for each in client.all("churn")]
            job = await client.job("churn")
        return one, history, batch, whole, job

    with Client(url) as client:
        expected = (
            client.get("churn", 42), client.history("churn", 42), client.get_many("churn", [1, 9999]),
            list(client.all("churn")), client.job("churn"),
        )  # fmt: skip
    assert expected == asyncio.run(read())
