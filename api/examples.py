"""The examples of the OpenAPI document: what each answer looks like."""

from __future__ import annotations

from typing import Any

_ORIGIN = {
    "run_id": 7,
    "model": {"name": "tips", "version": 3},
    "interval_start": "2019-03-20T04:00:00Z",
    "interval_end": "2019-03-21T04:00:00Z",
    "as_of_date": "2019-03-20",
    "scored_at": "2019-03-21T07:00:12Z",
}
_RUN = {
    **_ORIGIN,
    "model": {"name": "tips", "version": 3, "sha256": "9f86d081884c7d65…"},
    "predictions": 1984,
    "quarantined": 16,
    "published_at": "2019-03-21T07:00:13Z",
}
_ONE = {"key": {"ride_id": 42}, "prediction": {"tip": 2.15}}

PREDICTION: dict[str, Any] = {"job": "tips", **_ONE, **_ORIGIN}
HISTORY: dict[str, Any] = {
    "job": "tips", "key": {"ride_id": 42}, "runs": [_ORIGIN], "predictions": [{**_ONE, "run_id": 7}],
    "next_cursor": None,
}  # fmt: skip
BATCH: dict[str, Any] = {
    "job": "tips", "runs": [_ORIGIN], "predictions": [{**_ONE, "run_id": 7}], "missing": [{"ride_id": 43}],
}  # fmt: skip
PAGE: dict[str, Any] = {
    "job": "tips", "runs": [_ORIGIN], "predictions": [{**_ONE, "run_id": 7}], "next_cursor": "c2lnbmVk…",
}  # fmt: skip
JOB: dict[str, Any] = {
    "job": "tips",
    "description": "Expected tip of each taxi ride",
    "mode": "snapshot",
    "interval": "day",
    "timezone": "America/New_York",
    "key": [{"name": "ride_id", "type": "integer"}],
    "outputs": [{"name": "tip", "type": "double precision"}],
    "late_after_seconds": 7200,
    "late": False,
    "current": _RUN,
}
JOBS: dict[str, Any] = {"jobs": [JOB]}
RUNS: dict[str, Any] = {"job": "tips", "runs": [_RUN], "next_cursor": None}


def shown(example: dict[str, Any], **more: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Describe a route's answer by an example; `more` are answers of other media types."""
    content = {"application/json": {"schema": {"type": "object"}, "example": example}, **more}
    return {200: {"description": "Found", "content": content}}


def _problem(status: int, title: str, detail: str) -> dict[str, Any]:
    example = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
        "required": ["type", "title", "status", "detail"],
    }
    return {
        "description": title,
        "content": {"application/problem+json": {"schema": schema, "example": example}},
    }


FAULTS: dict[int | str, dict[str, Any]] = {
    400: _problem(400, "Bad Request", "the cursor is not one that this list gave; start again without it"),
    401: _problem(401, "Unauthorized", "a valid API key is needed"),
    404: _problem(404, "Not Found", "no such job is served here"),
    414: _problem(414, "URI Too Long", "an address has 16384 bytes at most"),
    422: _problem(422, "Unprocessable Content", "key part ride_id is of type integer; 'x' is not"),
    429: _problem(429, "Too Many Requests", "this key may send 100 requests a second"),
    503: _problem(503, "Service Unavailable", "the database does not answer just now"),
}
GONE: dict[int | str, dict[str, Any]] = {
    410: _problem(410, "Gone", "run 7 of tips is no longer published; start again")
}
NOT_ACCEPTABLE: dict[int | str, dict[str, Any]] = {
    406: _problem(406, "Not Acceptable", "this list comes as application/json or text/csv")
}
TOO_LARGE: dict[int | str, dict[str, Any]] = {
    413: _problem(413, "Content Too Large", "a request has 1048576 bytes at most")
}
