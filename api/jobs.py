"""The routes about jobs and their published runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request, Response

from api import answers, cursor
from api.access import reader_of
from api.asked import Page, only
from api.examples import FAULTS, JOB, JOBS, RUNS, shown
from api.service import job_for
from storage import served

if TYPE_CHECKING:
    from api.service import Service

_FAR = datetime(9999, 1, 1, tzinfo=UTC)


def routes(service: Service) -> APIRouter:
    """Make the routes over one service."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=FAULTS)

    @router.get("", summary="What is served", responses=shown(JOBS), dependencies=[Depends(only())])
    def jobs(request: Request) -> Response:
        reader = reader_of(request)
        with service.reading() as connection:
            visible = [job for job in served.all_jobs(connection) if reader.may_read(job.name)]
            newest = served.newest_runs(connection)
        found = [answers.described_job(job, newest.get(job.name)) for job in visible]
        return answers.json_response({"jobs": found}, {"Cache-Control": "private, no-cache"})

    @router.get(
        "/{job}",
        summary="A job: what it serves, how fresh, from which model",
        responses=shown(JOB),
        dependencies=[Depends(only())],
    )
    def one_job(job: str, request: Request) -> Response:
        with service.reading() as connection:
            found = job_for(connection, request, job)
            newest = served.newest_run(connection, found)
        headers = {"Cache-Control": "private, no-cache"}
        if newest is not None:
            headers |= answers.freshness(newest, datetime.now(UTC)) | headers
        return answers.json_response(answers.described_job(found, newest), headers)

    @router.get(
        "/{job}/runs",
        summary="The published runs, newest interval first",
        responses=shown(RUNS),
        dependencies=[Depends(only("limit", "cursor"))],
    )
    def runs(job: str, request: Request, page: Page) -> Response:
        with service.reading() as connection:
            found = job_for(connection, request, job)
            secret = service.cursor_secret(connection)
            before = _FAR
            if page.cursor is not None:
                (text,) = cursor.decode(secret, page.cursor, "runs", job)
                before = datetime.fromisoformat(text)
            found_runs = served.runs_before(connection, found, before, page.limit + 1)
        following = None
        if len(found_runs) > page.limit:
            found_runs = found_runs[: page.limit]
            following = cursor.encode(secret, "runs", job, found_runs[-1].interval_start.isoformat())
        document = {
            "job": job,
            "runs": [answers.described_run(run) for run in found_runs],
            "next_cursor": following,
        }
        return answers.json_response(document, {"Cache-Control": "private, no-cache"})

    return router
