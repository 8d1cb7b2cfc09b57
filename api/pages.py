"""Pages of predictions: in key order, every page of one reading from the same published state."""

from __future__ import annotations

from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request, Response

from api import answers, cursor
from api.service import job_for
from storage import reads, served
from storage.served import NothingPublishedError, RunGoneError

if TYPE_CHECKING:
    from api.asked import PageAsked
    from api.service import Service
    from storage.database import Connection, Row
    from storage.served import ServedJob, ServedRun


def answer(service: Service, request: Request, name: str, as_of: date | None, page: PageAsked) -> Response:
    """Answer with a page: the first one, or the one behind a cursor.

    The cursor of a snapshot job, or of one date, carries the run. That of an incremental job carries which
    runs there were: newer ones are left out, and where one of them was replaced the reading ends with 410.
    """
    if as_of is not None and page.cursor is not None:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "a cursor carries its run: leave as_of out")
    with service.reading() as connection:
        job = job_for(connection, request, name)
        secret = service.cursor_secret(connection)
        newest = served.run_to_read(connection, job, None)
        place: list[Any]
        if job.mode == "snapshot" or as_of is not None:
            kind, place = "run", [served.run_to_read(connection, job, as_of).run_id]
        else:
            kind, place = "current", [*served.state(connection, job)]
        after = None
        if page.cursor is not None:
            kind, *place, key = cursor.decode(secret, page.cursor, "page", job.name)
            after = tuple(_value(*each) for each in zip(job.key, key, strict=True))
        if kind == "run":
            run = served.run_still_served(connection, job, place[0])
            rows = reads.page_of_run(connection, job, run.run_id, after, page.limit + 1)
            tag, runs = answers.etag(run), {run.run_id: run}
        else:
            rows, runs = _current(connection, job, place, after, page.limit + 1)
            tag = f'"{place[1]}"'
    tag = answers.list_etag(job, tag)
    headers = {"ETag": tag, **answers.freshness(newest, datetime.now(UTC))}
    if kind == "run":
        headers["Batchpred-Run"] = str(place[0])
    if answers.matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    following = None
    if len(rows) > page.limit:
        rows = rows[: page.limit]
        last = [_text(rows[-1][each]) for each in job.key_names]
        following = cursor.encode(secret, "page", job.name, kind, *place, last)
        runs = {run_id: run for run_id, run in runs.items() if any(row["run_id"] == run_id for row in rows)}
    values = [tuple(row.values()) for row in rows]
    return answers.json_response(answers.several(job, values, runs, next_cursor=following), headers)


def _current(
    connection: Connection, job: ServedJob, place: list[Any], after: tuple[Any, ...] | None, limit: int
) -> tuple[list[Row], dict[int, ServedRun]]:
    last, digest = place
    if last is None:
        raise NothingPublishedError(f"nothing of {job.name} is published yet")
    if served.state(connection, job, last)[1] != digest:
        raise RunGoneError(f"a run of {job.name} that this reading began with was replaced; start again")
    rows = reads.page_of_current(connection, job, last, after, limit)
    return rows, served.runs_by_id(connection, job, {row["run_id"] for row in rows})


def _text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _value(column: tuple[str, str], value: Any) -> Any:
    return date.fromisoformat(value) if column[1] == "date" else value
