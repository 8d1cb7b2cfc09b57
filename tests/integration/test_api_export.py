"""Whole runs by `Accept`: CSV, NDJSON, Arrow and Parquet, of one run, and without holding anything back."""

import csv
import io
import json
import math
import socket
import time

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api import exports
from api.app import create_app
from tests.integration.conftest import running

PATH = "/v1/jobs/churn/predictions"
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
ODD = ['a"b', "c,d", "e\nf", "\\.", "ü\t\x01\x02", "", "\\N", "日本"]


def read(content, media_type):
    """Read an export back as {key: score}."""
    if media_type == "text/csv":
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        return {row["k"]: float(row["score"]) for row in rows}
    if media_type == "application/x-ndjson":
        rows = [json.loads(line) for line in content.decode().split("\n") if line]
        return {row["k"]: float(row["score"]) for row in rows}
    file = pa.BufferReader(content)
    table = pa.ipc.open_stream(file).read_all() if media_type == ARROW else pq.read_table(file)
    return dict(zip(table["k"].to_pylist(), table["score"].to_pylist(), strict=True))


@pytest.mark.parametrize("mode", ["snapshot", "incremental"])
def test_every_form_holds_what_is_published(api, publish_rows, make_job, mode):
    """CSV, NDJSON, Arrow and Parquet hold each key once with its prediction, whatever the characters."""
    job = make_job(mode=mode, k="text")
    first = publish_rows(job, 1, {"k": ["old"], "score": [0.25]})
    second = publish_rows(
        job, 2, {"k": ODD, "score": [float(n) for n in range(len(ODD) - 1)] + [float("nan")]}
    )
    tags = {api.get(PATH).headers["etag"]}
    for media_type in ("text/csv", "application/x-ndjson", ARROW, PARQUET):
        answer = api.get(PATH, headers={"Accept": media_type})
        assert (200, media_type) == (answer.status_code, answer.headers["content-type"].partition(";")[0])
        found = read(answer.content, media_type)
        assert math.isnan(found.pop(ODD[-1]))
        assert {key: float(n) for n, key in enumerate(ODD[:-1])} | (
            {} if mode == "snapshot" else {"old": 0.25}
        ) == found
        dated = api.get(f"{PATH}?as_of=2026-01-01", headers={"Accept": media_type})
        assert {"old": 0.25} == read(dated.content, media_type)
        assert str(first) == dated.headers["batchpred-run"]
        again = api.get(PATH, headers={"Accept": media_type, "If-None-Match": answer.headers["etag"]})
        assert 304 == again.status_code
        assert 200 == api.get(PATH, headers={"If-None-Match": answer.headers["etag"]}).status_code
        tags.add(answer.headers["etag"])
    assert 5 == len(tags)  # one for each form
    assert mode == "incremental" or f'W/"{second}-parquet"' == answer.headers["etag"]


@pytest.mark.parametrize(
    ("accept", "status", "given"),
    [
        ("*/*", 200, "application/json"), ("application/json, text/csv;q=0.5", 200, "application/json"),
        ("text/csv;q=0.9, application/json;q=0.1", 200, "text/csv"), ("text/*", 200, "text/csv"),
        ("text/html", 406, "application/problem+json"), ("text/csv;q=0", 406, "application/problem+json"),
        ("text/html, */*;q=0.1", 200, "application/json"), ("x", 406, "application/problem+json"),
        ("text/csv;q=x", 406, "application/problem+json"),
    ],
)  # fmt: skip
def test_the_form_is_the_one_the_client_likes_best(api, publish_rows, make_job, *, accept, status, given):
    """Accept with its weights decides, and what cannot be given is 406 with what can."""
    publish_rows(make_job(), 1, {"id": [1], "score": [0.5]})
    answer = api.get(PATH, headers={"Accept": accept})
    assert (status, given) == (answer.status_code, answer.headers["content-type"].partition(";")[0])


def test_an_export_takes_no_page(api, publish_rows, make_job):
    """A whole run has no limit or cursor, and faults are said before the stream begins."""
    publish_rows(make_job(), 1, {"id": [1], "score": [0.5]})
    accept = {"Accept": "text/csv"}
    assert 422 == api.get(f"{PATH}?limit=5", headers=accept).status_code
    assert 404 == api.get("/v1/jobs/none/predictions", headers=accept).status_code
    assert 404 == api.get(f"{PATH}?as_of=2020-01-01", headers=accept).status_code


def test_without_pyarrow_two_forms_are_left(database, publish_rows, make_job):
    """A server without pyarrow gives CSV and NDJSON and answers 406 to Arrow and Parquet."""
    publish_rows(make_job(), 1, {"id": [1], "score": [0.5]})
    with running(create_app(database, keyless=True)) as address, httpx.Client(base_url=address) as client:
        statuses = [
            client.get(PATH, headers={"Accept": each}).status_code for each in ("text/csv", ARROW, PARQUET)
        ]
    assert [200, 406, 406] == statuses


@pytest.mark.parametrize("media_type", ["text/csv", ARROW])
def test_an_export_that_its_client_leaves_gives_everything_back(api, publish_rows, make_job, media_type):
    """Clients that go away in the middle leave no connection and no place taken: the next ones are served."""
    publish_rows(make_job(), 1, {"id": list(range(300_000)), "score": [0.5] * 300_000})
    headers = {"Accept": media_type}
    left = 0
    while left < 12:
        with api.stream("GET", PATH, headers=headers) as answer:
            # 503: the place of the one before is just being given back
            if answer.status_code == 200:
                next(answer.iter_bytes())
                left += 1
    while (whole := api.get(PATH, headers=headers)).status_code == 503:
        pass
    assert 300_000 == (
        whole.content.count(b"\n") - 1
        if media_type == "text/csv"
        else pa.ipc.open_stream(whole.content).read_all().num_rows
    )
    assert 200 == api.get(f"{PATH}/1").status_code


def test_clients_that_stop_reading_lose_their_places(api, publish_rows, make_job, monkeypatch):
    """An export whose client reads nothing is ended after a time, and the next one is served."""
    publish_rows(make_job(), 1, {"id": list(range(300_000)), "score": [0.5] * 300_000})
    headers = {"Accept": "application/x-ndjson"}
    stalled = [socket.socket() for _ in range(exports.MAX_EXPORTS)]
    with monkeypatch.context() as patch:
        patch.setattr(exports, "EXPORT_SECONDS", 1.0)
        for each in stalled:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.connect((api.base_url.host, api.base_url.port))
            each.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: {headers['Accept']}\r\n\r\n".encode())
            assert b"HTTP/1.1 200" == each.recv(12)
    assert 503 == api.get(PATH, headers=headers).status_code
    until = time.monotonic() + 20
    while (whole := api.get(PATH, headers=headers)).status_code == 503:
        assert time.monotonic() < until
    assert 300_000 == whole.content.count(b"\n")
    for each in stalled:
        each.close()
