"""The routes about predictions: one key, its history, several keys, and pages."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from api import answers, cursor, pages
from api.asked import AsOf, Page, PageAsked, key_parts, only
from api.examples import BATCH, FAULTS, GONE, HISTORY, NOT_ACCEPTABLE, PAGE, PREDICTION, TOO_LARGE, shown
from api.exports import JSON
from api.service import job_for
from storage import reads, served
from storage.keytext import KeyFormatError, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from api.exports import Exports
    from api.service import Service
    from storage.database import Connection
    from storage.served import ServedJob, ServedRun

MAX_KEYS = 1_000
_FAR = datetime(9999, 1, 1, tzinfo=UTC)
Part = StrictInt | StrictStr


class KeysAsked(BaseModel):
    """The body of batchGet. A key of one column is its value; one of several a list, or an object by column."""

    model_config = ConfigDict(extra="forbid")

    keys: list[Part | list[Part] | dict[str, Part]] = Field(min_length=1, max_length=MAX_KEYS)
    as_of: str | None = Field(None, pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$", examples=["2019-03-20"])


def routes(service: Service, exports: Exports) -> APIRouter:
    """Make the routes over one service."""
    router = APIRouter(prefix="/v1/jobs/{job}", tags=["predictions"], responses=FAULTS)

    @router.get(
        "/predictions",
        summary="All current predictions: pages by key",
        description="The cursor carries the run: the pages of one reading are of one published run. Asked for "
        f"as {', '.join(exports.media_types[1:])} by Accept, the whole run comes at once, as a stream.",
        responses={**shown(PAGE, **{each: {} for each in exports.media_types[1:]}), **GONE, **NOT_ACCEPTABLE},
        dependencies=[Depends(only("as_of", "limit", "cursor"))],
    )
    def predictions(job: str, request: Request, as_of: AsOf, page: Page) -> Response:
        media_type = exports.wanted(request.headers.get("accept"))
        if media_type == JSON:
            return pages.answer(service, request, job, as_of, page)
        only("as_of")(request)
        return exports.answer(request, job, as_of, media_type)

    @router.post(
        "/predictions:batchGet",
        summary="Up to 1,000 keys, all from one published run",
        responses={**shown(BATCH), **TOO_LARGE},
        dependencies=[Depends(only())],
    )
    def batch_get(
        job: str,
        request: Request,
        asked: Annotated[KeysAsked, Body(examples=[{"keys": [42, 43]}])],
    ) -> Response:
        with service.reading() as connection:
            found = job_for(connection, request, job)
            keys = list(dict.fromkeys(_keys(found, asked.keys)))
            as_of = _date(asked.as_of)
            newest = served.run_to_read(connection, found, None)
            run = _run_read(connection, found, as_of, newest)
            rows = reads.predictions_of(connection, found, keys, run.run_id if run else None)
            runs = {run.run_id: run} if run else _runs_of(connection, found, (row[-1] for row in rows))
        by_key = {row[: len(found.key)]: row for row in rows}
        missing = [dict(zip(found.key_names, key, strict=True)) for key in keys if key not in by_key]
        rows = [by_key[key] for key in keys if key in by_key]
        document = answers.several(found, rows, runs, missing=missing)
        headers = answers.run_headers(run, newest) if run else answers.freshness(newest, datetime.now(UTC))
        if "ETag" in headers:
            headers["ETag"] = answers.list_etag(found, headers["ETag"])
        return answers.json_response(document, {**headers, "Cache-Control": "private, no-cache"})

    # First, because {key:path} takes everything. A key may end in a part `history`: the number of parts decides.
    @router.get(
        "/predictions/{key:path}/history",
        summary="All published predictions of a key, newest interval first",
        responses=shown(HISTORY),
    )
    def history(job: str, key: str, request: Request, as_of: AsOf, page: Page) -> Response:
        del job, key  # decoded already, so a slash inside a part could not be told from one between parts
        return _key_or_history(service, request, as_of, page)

    @router.get(
        "/predictions/{key:path}",
        summary="The current prediction of a key",
        description="A composite key is given as one path part for each of its columns, in their order.",
        responses=shown(PREDICTION),
        dependencies=[Depends(only("as_of"))],
    )
    def prediction(job: str, key: str, request: Request, as_of: AsOf) -> Response:
        del job, key
        return _key_or_history(service, request, as_of, None)

    return router


def _key_or_history(
    service: Service, request: Request, as_of: date | None, page: PageAsked | None
) -> Response:
    parts = key_parts(request.scope["raw_path"])
    with service.reading() as connection:
        job = job_for(connection, request, request.path_params["job"])
        if len(parts) == len(job.key) + 1 and parts[-1] == "history":
            only("limit", "cursor")(request)
            return _history(
                connection, job, parts[:-1], page or PageAsked(), service.cursor_secret(connection)
            )
        only("as_of")(request)
        return _one(connection, request, job, parts, as_of)


def _one(
    connection: Connection, request: Request, job: ServedJob, parts: list[str], as_of: date | None
) -> Response:
    key = parse_key(job, parts)
    newest = served.run_to_read(connection, job, None)
    run = _run_read(connection, job, as_of, newest)
    rows = reads.predictions_of(connection, job, [key], run.run_id if run else None)
    if not rows:
        raise reads.PredictionNotFoundError(job, key, f"published {as_of}" if as_of else "current")
    (row,) = rows
    origin = run or _runs_of(connection, job, row[-1:])[row[-1]]
    headers = answers.run_headers(origin, newest)
    if answers.matches(request.headers.get("if-none-match"), answers.etag(origin)):
        return Response(status_code=304, headers=headers)
    writer = answers.prediction_writer(job, origin)
    return answers.json_response(b"".join((writer.before, writer.values(row), writer.behind)), headers)


def _history(
    connection: Connection, job: ServedJob, parts: list[str], page: PageAsked, secret: bytes
) -> Response:
    key = parse_key(job, parts)
    before = _FAR
    if page.cursor is not None:
        (text,) = cursor.decode(secret, page.cursor, "history", job.name)
        before = datetime.fromisoformat(text)
    rows = reads.history(connection, job, key, before, page.limit + 1)
    if not rows and page.cursor is None:
        raise reads.PredictionNotFoundError(job, key, "published")
    more, rows = len(rows) > page.limit, rows[: page.limit]
    runs = _runs_of(connection, job, (row["run_id"] for row in rows))
    following = None
    if more:
        start = runs[rows[-1]["run_id"]].interval_start.isoformat()
        following = cursor.encode(secret, "history", job.name, start)
    named = dict(zip(job.key_names, key, strict=True))
    values = [tuple(row.values()) for row in rows]
    document = answers.several(job, values, runs, key=named, next_cursor=following)
    return answers.json_response(document, {"Cache-Control": "private, no-cache"})


def _run_read(
    connection: Connection, job: ServedJob, as_of: date | None, newest: ServedRun
) -> ServedRun | None:
    """Return the one run that answers; None for an incremental job's current predictions: they are of many."""
    if as_of is not None:
        return served.run_to_read(connection, job, as_of)
    return newest if job.mode == "snapshot" else None


def _runs_of(connection: Connection, job: ServedJob, run_ids: Iterable[int]) -> dict[int, ServedRun]:
    return served.runs_by_id(connection, job, set(run_ids))


def _keys(job: ServedJob, asked: list[Part | list[Part] | dict[str, Part]]) -> list[tuple[Any, ...]]:
    """Read the keys of a batch. Raises KeyFormatError."""
    if [kind for _, kind in job.key] == ["integer"] and set(map(type, asked)) == {int}:
        # Most batches: what is left to ask is whether a bigint holds the least and the greatest.
        numbers = cast("list[int]", asked)
        for each in (min(numbers), max(numbers)):
            parse_key(job, [each])
        return [(each,) for each in numbers]
    return [_key(job, each) for each in asked]


def _key(job: ServedJob, asked: Part | list[Part] | dict[str, Part]) -> tuple[Any, ...]:
    if isinstance(asked, dict):
        if set(asked) != set(job.key_names):
            raise KeyFormatError(f"a key of {job.name} has the columns {', '.join(job.key_names)}")
        asked = [asked[name] for name in job.key_names]
    return parse_key(job, asked if isinstance(asked, list) else [asked])


def _date(text: str | None) -> date | None:
    if text is None:
        return None
    with suppress(ValueError):
        return datetime.fromisoformat(text).date()
    raise KeyFormatError(f"as_of: {text} is no date")
