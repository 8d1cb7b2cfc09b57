"""What the server says of itself: metrics, and a log line for each request without anybody's key."""

import logging

import httpx

from api.app import create_app
from storage import api_keys
from tests.integration.conftest import running

PATH = "/v1/jobs/churn/predictions"


def test_metrics_name_routes_not_keys(api, publish_rows, make_job):
    """Requests are counted by route pattern and status, jobs by whether they are late."""
    publish_rows(make_job(), 5, {"id": [12345], "score": [0.5]})
    for path in (f"{PATH}/12345", f"{PATH}/99", f"{PATH}/x", f"{PATH}/12345/history", "/none"):
        api.get(path)
    while 'batchpred_job_late{job="churn"} 1.0' not in (page := api.get("/metrics").text):
        pass
    assert '_requests_total{route="/v1/jobs/{job}/predictions/{key}",status="200"} 1.0' in page
    assert '_requests_total{route="/v1/jobs/{job}/predictions/{key}",status="404"} 1.0' in page
    assert '_requests_total{route="/v1/jobs/{job}/predictions/{key}/history",status="200"} 1.0' in page
    assert "batchpred_api_ready 1.0" in page
    assert "12345" not in page


def test_a_line_for_each_request_without_keys(database, publish_rows, make_job, caplog):
    """The access log has route, job, status, time, request id and the key's id, never a key."""
    publish_rows(make_job(), 5, {"id": [12345], "score": [0.5]})
    with database.connect(purpose="test") as connection:
        token = api_keys.create(connection, "service")
    caplog.set_level(logging.INFO, "batchpred.access")
    with running(create_app(database)) as address, httpx.Client(base_url=address) as client:
        headers = {"Authorization": f"Bearer {token}", "X-Request-Id": "mine"}
        client.get(f"{PATH}/12345", headers=headers)
        client.get(f"{PATH}/12345?key={token}", headers={"Authorization": f"Bearer {token}x"})
    first, second = (vars(record) for record in caplog.records if record.name == "batchpred.access")
    expected = {
        "job": "churn",
        "status": 200,
        "request_id": "mine",
        "key_id": token.split("_")[1],
        "method": "GET",
    }
    assert expected == {name: first[name] for name in expected}
    assert (401, None) == (second["status"], second["key_id"])
    assert [] == [
        record for record in (first, second) if token in str(record) or "12345" in str(record["route"])
    ]


def test_metrics_want_a_key_for_every_job(database, publish_rows, make_job):
    """A tenant's key does not open the metrics: they name every job."""
    publish_rows(make_job(), 5, {"id": [1], "score": [0.5]})
    with database.connect(purpose="test") as connection:
        tokens = [api_keys.create(connection, "x", jobs=jobs) for jobs in ((), ("churn",))]
    with running(create_app(database)) as address, httpx.Client(base_url=address) as client:
        statuses = [
            client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code
            for token in tokens
        ]
    assert [200, 404] == statuses
