"""Reads predictions over HTTP from Python: `Client`, and `AsyncClient` for event loops. Needs httpx.

    from batchpred.client import Client

    with Client("http://127.0.0.1:8000", key="bp_…") as client:
        client.get("churn", 42)["score"]

Both say what to ask and how to read the answer in the same place, and differ in the sending alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Self

Part: TypeAlias = int | str | date
Key: TypeAlias = Part | Sequence[Part]

_PAGE = 1_000


class ReadError(Exception):
    """The API answered with a problem: `status` and `detail` say which."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


class NotFoundError(ReadError):
    """There is no such job, or no such prediction."""


class RetryError(ReadError):
    """It passes by itself; ask again after `retry_after` seconds."""

    def __init__(self, status: int, detail: str, retry_after: float) -> None:
        super().__init__(status, detail)
        self.retry_after = retry_after


class UnavailableError(RetryError):
    """The API's database is away just now."""


class TooManyRequestsError(RetryError):
    """The API is well, and this key has asked more often than it may."""


@dataclass(frozen=True)
class Run:
    """The published run that a prediction comes from, and the version that made it. Times are aware."""

    run_id: int
    model_name: str
    model_version: int | None
    interval_start: datetime
    interval_end: datetime
    as_of_date: date
    scored_at: datetime | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read it from an answer."""
        scored_at = document["scored_at"]
        return cls(
            document["run_id"],
            document["model"]["name"],
            document["model"]["version"],
            datetime.fromisoformat(document["interval_start"]),
            datetime.fromisoformat(document["interval_end"]),
            date.fromisoformat(document["as_of_date"]),
            datetime.fromisoformat(scored_at) if scored_at else None,
        )


@dataclass(frozen=True)
class Prediction:
    """What was predicted for a key, and by which run; `prediction["score"]` is an output."""

    key: Mapping[str, Any]
    values: Mapping[str, Any]
    run: Run

    def __getitem__(self, output: str) -> Any:
        """Return an output by its name."""
        return self.values[output]


@dataclass(frozen=True)
class Batch:
    """The predictions of several keys, all from one published state, and the keys that have none."""

    predictions: list[Prediction] = field(default_factory=list)
    missing: list[Mapping[str, Any]] = field(default_factory=list)


class Client:
    """Reads predictions. `transport` and other keywords go to httpx.Client; the default time limit is 10 s."""

    def __init__(self, url: str, *, key: str | None = None, **options: Any) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(key), **{"timeout": 10.0, **options})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, job: str, key: Key, *, as_of: date | None = None) -> Prediction:
        """Return the current prediction of a key, or that of a date. Raises NotFoundError, ReadError."""
        return _prediction(_checked(self._http.get(_path(job, key), params=_params(as_of))))

    def history(self, job: str, key: Key, *, limit: int = 100) -> list[Prediction]:
        """List a key's published predictions, newest interval first. Raises NotFoundError, ReadError."""
        answer = self._http.get(f"{_path(job, key)}/history", params={"limit": limit})
        return _predictions(_checked(answer))

    def get_many(self, job: str, keys: Sequence[Key], *, as_of: date | None = None) -> Batch:
        """Return the predictions of up to 1,000 keys, all from one published run. Raises ReadError."""
        return _batch(_checked(self._http.post(f"{_job(job)}/predictions:batchGet", json=_body(keys, as_of))))

    def all(self, job: str, *, as_of: date | None = None) -> Iterator[Prediction]:
        """Read every prediction in key order, all from one published state. Raises ReadError."""
        params: dict[str, Any] = {"limit": _PAGE, **_params(as_of)}
        while True:
            page = _checked(self._http.get(f"{_job(job)}/predictions", params=params))
            yield from _predictions(page)
            if page["next_cursor"] is None:
                return
            params = {"limit": _PAGE, "cursor": page["next_cursor"]}

    def job(self, job: str) -> dict[str, Any]:
        """Describe a job: what it serves, how fresh, from which model. Raises NotFoundError, ReadError."""
        return _checked(self._http.get(_job(job)))


class AsyncClient:
    """The same for event loops; keywords go to httpx.AsyncClient."""

    def __init__(self, url: str, *, key: str | None = None, **options: Any) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), **{"timeout": 10.0, **options})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, job: str, key: Key, *, as_of: date | None = None) -> Prediction:
        """Return the current prediction of a key, or that of a date. Raises NotFoundError, ReadError."""
        return _prediction(_checked(await self._http.get(_path(job, key), params=_params(as_of))))

    async def history(self, job: str, key: Key, *, limit: int = 100) -> list[Prediction]:
        """List a key's published predictions, newest interval first. Raises NotFoundError, ReadError."""
        answer = await self._http.get(f"{_path(job, key)}/history", params={"limit": limit})
        return _predictions(_checked(answer))

    async def get_many(self, job: str, keys: Sequence[Key], *, as_of: date | None = None) -> Batch:
        """Return the predictions of up to 1,000 keys, all from one published run. Raises ReadError."""
        answer = await self._http.post(f"{_job(job)}/predictions:batchGet", json=_body(keys, as_of))
        return _batch(_checked(answer))

    async def all(self, job: str, *, as_of: date | None = None) -> AsyncIterator[Prediction]:
        """Read every prediction in key order, all from one published state. Raises ReadError."""
        params: dict[str, Any] = {"limit": _PAGE, **_params(as_of)}
        while True:
            page = _checked(await self._http.get(f"{_job(job)}/predictions", params=params))
            for prediction in _predictions(page):
                yield prediction
            if page["next_cursor"] is None:
                return
            params = {"limit": _PAGE, "cursor": page["next_cursor"]}

    async def job(self, job: str) -> dict[str, Any]:
        """Describe a job: what it serves, how fresh, from which model. Raises NotFoundError, ReadError."""
        return _checked(await self._http.get(_job(job)))


def _headers(key: str | None) -> dict[str, str]:
    return {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def _job(job: str) -> str:
    return f"/v1/jobs/{quote(job, safe='')}"


def _parts(key: Key) -> list[int | str]:
    parts = [key] if isinstance(key, (int, str, date)) else key
    return [part.isoformat() if isinstance(part, date) else part for part in parts]


def _path(job: str, key: Key) -> str:
    # quote leaves dots alone, and `..` as a part of a path is a step up.
    parts = (quote(str(part), safe="").replace(".", "%2E") for part in _parts(key))
    return f"{_job(job)}/predictions/{'/'.join(parts)}"


def _params(as_of: date | None) -> dict[str, str]:
    return {"as_of": as_of.isoformat()} if as_of else {}


def _body(keys: Sequence[Key], as_of: date | None) -> dict[str, Any]:
    return {"keys": [_parts(key) for key in keys], **_params(as_of)}


_RETRY = {503: UnavailableError, 429: TooManyRequestsError}


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        document: dict[str, Any] = answer.json()
        return document
    detail = answer.reason_phrase
    if "json" in answer.headers.get("content-type", ""):
        detail = str(answer.json().get("detail", detail))
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFoundError(answer.status_code, detail)
    if kind := _RETRY.get(answer.status_code):
        after = answer.headers.get("retry-after", "")
        raise kind(answer.status_code, detail, float(after) if after.isdigit() else 1.0)
    raise ReadError(answer.status_code, detail)


def _prediction(document: Mapping[str, Any]) -> Prediction:
    return Prediction(document["key"], document["prediction"], Run.of(document))


def _predictions(document: Mapping[str, Any]) -> list[Prediction]:
    runs = {run["run_id"]: Run.of(run) for run in document["runs"]}
    # Of a job that had a canary each prediction says its own version.
    by_version: dict[tuple[int, int | None], Run] = {}
    found = []
    for each in document["predictions"]:
        run = runs[each["run_id"]]
        version = each.get("model_version", run.model_version)
        if version != run.model_version:
            run = by_version.setdefault((run.run_id, version), replace(run, model_version=version))
        found.append(Prediction(each["key"], each["prediction"], run))
    return found


def _batch(document: Mapping[str, Any]) -> Batch:
    return Batch(_predictions(document), document["missing"])
