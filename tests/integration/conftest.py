"""Published predictions for tests: jobs of any key, published as a run would."""

import socket
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import pyarrow as pa
import pytest
import uvicorn

import jobs.run
from api.app import create_app
from api.wire import protocol_of
from batchpred.serving import arrow_exports
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.plan import Runtime
from storage import predictions, runs
from storage.arrow_copy import copy_in
from storage.job_table import Column, JobTable
from storage.runs import ChunkCounts, Pin, Slot
from tests.chaos import world
from tests.integration.receiver import listening
from tests.integration.scheduled import House
from tests.integration.told import Told
from tests.pushed import push_model

TYPES = {"integer": "bigint", "text": "text", "uuid": "text", "date": "date"}


@pytest.fixture
def connection(database):
    """A session as runs have it: the writer's role where it may be taken."""
    with database.connect(purpose="test", as_writer=True) as connection:
        yield connection


def job_table(name="churn", mode="snapshot", outputs=("score",), late_after=timedelta(hours=2), **key):
    """A job with keys of the given kinds."""
    columns = tuple(Column(each, TYPES[kind], kind) for each, kind in (key or {"id": "integer"}).items())
    scores = tuple(Column(each, "double precision") for each in outputs)
    return JobTable(name, f"About {name}", mode, "day", "UTC", late_after, columns, scores)


@pytest.fixture
def make_job():
    """Declare a job with keys of the given kinds and one output."""
    return job_table


def publish(database, job, start, rows, version=1):
    """Publish rows of a job for the day that starts then, as a run would, and return the run's number."""
    slot = Slot(job.name, start, start + timedelta(days=1), start.date())
    pin = Pin("churn", version, "a" * 64, "d" * 64, "CPUExecutionProvider")
    with database.connect(purpose="test", as_writer=True) as connection:
        with runs.claim(database, connection, slot) as held:
            run_id = runs.start_run(connection, held, pin, {"query": "SELECT 1"})
            predictions.create_run_table(connection, job, run_id)
            copy_in(connection, predictions.run_table(run_id), pa.table(rows))
            count = len(next(iter(rows.values())))
            runs.add_chunk(connection, run_id, 0, ChunkCounts(count, count, 0), [])
            runs.finish_scoring(connection, held, run_id)
            predictions.seal(connection, job, run_id)
            predictions.attach(connection, job, run_id)
            runs.publish(connection, held, run_id, partial(predictions.show, job=job))
    return run_id


@pytest.fixture
def publish_rows(database):
    """Publish rows of a job for a January day of 2026, or the day that starts at `start`."""

    def publish_for(job, day, rows, version=1, start=None):
        return publish(database, job, start or datetime(2026, 1, day, tzinfo=UTC), rows, version)

    return publish_for


@pytest.fixture
def runner(database, tmp_path, monkeypatch):
    """Make a job of its file's text, its tables and its model; it runs in this process and returns the report.

    `on` is another way to the database.
    """
    monkeypatch.setattr(jobs.run, "RETRY_DELAYS", (0.0, 0.0))

    def made(text, tables, model):
        name = text.partition("name: ")[2].partition("\n")[0]
        path = tmp_path / f"{name}.job.yaml"
        path.write_text(text, encoding="utf-8")
        with database.connect(purpose="test") as connection:
            connection.execute(tables)
        push_model(database, name, model)

        def done(on=database, **options):
            job_file = load_job(path, {})
            interval = interval_named("2026-01-02", "day", job_file.job.zone, datetime.now(UTC))
            return jobs.run.run_job(Runtime(on, tmp_path, threads=1), job_file, interval, **options)

        done.path = path
        return done

    return made


@pytest.fixture
def run(runner):
    """The job of twenty chunks."""
    return runner(world.JOB, world.SOURCE, world.model())


@contextmanager
def running(app, **options):
    """Run the application in a real server on a free port of this machine, and give its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    options = {"http": protocol_of(app), "log_level": "warning", "server_header": False, **options}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def read_api(database):
    """A client of a server of the read API, without a cache: no answer is ever stale."""
    with (
        running(create_app(database, keyless=True, cache_entries=0, exports=arrow_exports())) as address,
        httpx.Client(base_url=address) as client,
    ):
        yield client


@pytest.fixture
def api(database):
    """A client of the read API on the test's database."""
    with read_api(database) as client:
        yield client


@pytest.fixture
def receiver():
    """A receiver of webhooks and pings."""
    with listening() as receiver:
        yield receiver


@pytest.fixture
def project(database, tmp_path, receiver, monkeypatch):
    """A job that the receiver is told of."""
    monkeypatch.setattr(jobs.run, "RETRY_DELAYS", (0.0, 0.0))
    return Told(database, tmp_path, receiver)


@pytest.fixture
def house(database, tmp_path):
    """A project of scheduled jobs with rows for each day of January 2026, and a clock to be set."""
    return House(database, tmp_path)
