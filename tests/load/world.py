"""A PostgreSQL and a `batchpred serve` of its own, to be loaded, stopped and started."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage import embedded
from storage.database import Database
from storage.job_table import Column, JobTable
from storage.upgrade import upgrade
from tests.integration.conftest import publish

JOB = JobTable(
    "tips", "Expected tip of each taxi ride", "snapshot", "day", "America/New_York", timedelta(hours=2),
    (Column("ride_id", "bigint", "integer"),), (Column("tip", "double precision"),),
)  # fmt: skip
PREDICTIONS = "/v1/jobs/tips/predictions"
FIRST = datetime(2019, 3, 20, 4, tzinfo=UTC)


class World:
    """The server's home and its database. Every tip of a run is the run's place in the order of publishes."""

    def __init__(self, rows=2_000):
        # Not below a folder that is closed to the user the embedded server runs as under root.
        self.home = Path(tempfile.mkdtemp(prefix="batchpred-load-"))
        self.home.chmod(0o755)
        self.rows = rows
        # When each run was committed, by the clock that all who ask have too.
        self.committed = []

    def __enter__(self):
        self.database = Database.at(embedded.start(self.home).url)
        upgrade(self.database)
        return self

    def __exit__(self, *_):
        embedded.stop(self.home)
        shutil.rmtree(self.home, ignore_errors=True)

    def publish(self):
        """Publish a run for the next day."""
        ids = list(range(1, self.rows + 1))
        number = len(self.committed)
        rows = {"ride_id": ids, "tip": [float(number)] * self.rows}
        publish(self.database, JOB, FIRST + timedelta(days=number), rows)
        self.committed.append(time.monotonic())

    def stop_postgres(self):
        embedded.stop(self.home)

    def start_postgres(self):
        """Start it again; it keeps its address."""
        assert self.database.url == embedded.start(self.home).url

    @contextmanager
    def serving(self, *options):
        """Serve on a free port of this machine and give it."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "batchpred", "serve", "--port", str(port), "--no-access-log", *options],
            env={**os.environ, "BATCHPRED_DATABASE_URL": self.database.url},
            stderr=subprocess.PIPE,
        )
        try:
            until = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < until:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.05)
                else:
                    break
            else:
                raise RuntimeError(f"the server did not start: {process.stderr.read().decode()}")
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
