"""One embedded cluster's folder: what lies in it, and how its server is asked.

postgres-18/                of the caller (0700; of root 0755, so that the server's account gets in)
    data/                   of the server's account; exists only when complete
    connection.json         0600: port, password, version
    postgres.log            what initdb, the server and the reaper say
    pinned                  exists from `start` to `stop`
    start.lock              held to create, start or stop
    users.lock              shared by each process that uses the server; also how long it may linger
    reaper.lock             held by the one reaper
    server.lock             held by the postmaster and its children, by inheritance: who can take it knows
                            that none of them lives, in whatever PID namespace and whatever PIDs were reused
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

from storage.embedded import lock
from storage.embedded.errors import EmbeddedStartError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = "batchpred"
# Not "batchpred": PostgreSQL looks first in a schema of the user's own name, and what people create in this
# database would land among our tables.
USER = "owner"

# Our own questions, which are over at once, are told from clients by it.
PROBE = "batchpred probe"

# A server that does not even shake hands in this time is taken for one that does not answer.
CONNECT_SECONDS = 5

# A start is given START_SECONDS (see storage.embedded.server); whoever waits for another's start waits longer.
START_LOCK_SECONDS = 360.0

LOG_BYTES = 10_000_000


@dataclass(frozen=True)
class Connection:
    """How to reach the server; `port` 0 before the first start, `version` that of the last start."""

    port: int
    password: str
    version: str


@dataclass(frozen=True)
class Cluster:
    """The folder of one cluster, `HOME/postgres-MAJOR`, with every link resolved."""

    folder: Path

    @property
    def data(self) -> Path:
        """The data folder; it is there only when it is complete."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What initdb, the server and the reaper said."""
        return self.folder / "postgres.log"

    @property
    def users_lock(self) -> Path:
        """Shared by each process that uses the server."""
        return self.folder / "users.lock"

    @property
    def reaper_lock(self) -> Path:
        """Held by the one reaper."""
        return self.folder / "reaper.lock"

    @property
    def server_lock(self) -> Path:
        """Held by the postmaster and its children."""
        return self.folder / "server.lock"

    @property
    def pin(self) -> Path:
        """There while the server is to stay up until it is told to stop."""
        return self.folder / "pinned"

    @property
    def major(self) -> int:
        """The PostgreSQL that can open the data."""
        return int(self.folder.name.removeprefix("postgres-"))

    @contextmanager
    def starting(self, seconds: float | None = START_LOCK_SECONDS) -> Iterator[None]:
        """Be the one who creates, starts or stops. Raises EmbeddedStartError when another takes too long."""
        with lock.opened(self.folder / "start.lock") as descriptor:
            if not lock.take(descriptor, seconds=seconds):
                raise EmbeddedStartError(
                    f"another process has been starting or stopping the PostgreSQL in {self.folder} for "
                    f"{seconds:.0f} s: find it with `fuser {self.folder / 'start.lock'}` and end it"
                )
            yield

    def connection(self) -> Connection | None:
        """What is known of the server, None where no cluster was made.

        Raises EmbeddedStartError where the file is gone or damaged though there is data.
        """
        path = self.folder / "connection.json"
        if not self.data.is_dir():
            return None
        try:
            return Connection(**json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            raise EmbeddedStartError(
                f"{path} is missing or damaged, and it alone has the password of the data beside it: restore it, "
                f"or move {self.folder} away to begin with an empty database"
            ) from None

    def remember(self, connection: Connection) -> None:
        """Keep how to reach the server: whole or not at all, on disk when this returns."""
        scratch = self.folder / "connection.json.new"
        scratch.unlink(missing_ok=True)
        with open(lock.open_owned(scratch, os.O_WRONLY | os.O_EXCL), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(json.dumps(asdict(connection)).encode())
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.folder / "connection.json")

    def alive(self) -> bool:
        """Whether any process of a server that we started lives, answering or not."""
        return lock.held_by_others(self.server_lock)

    def ask(self, connection: Connection, statement: LiteralString) -> tuple[Any, ...]:
        """The one row that a constant statement gives. Raises psycopg.Error."""
        import psycopg

        # Everything that a PG* variable of the caller could bend is said here. Whoever else may listen on the
        # port is shown no password: SCRAM never sends it, and libpq before 16 cannot be told to insist.
        insist: dict[str, Any] = {"require_auth": "scram-sha-256"} if psycopg.pq.version() >= 160000 else {}
        with psycopg.connect(
            host="127.0.0.1",
            hostaddr="127.0.0.1",
            port=connection.port,
            user=USER,
            password=connection.password,
            dbname=DATABASE,
            sslmode="disable",
            gssencmode="disable",
            channel_binding="prefer",
            application_name=PROBE,
            options="-c search_path=pg_catalog -c statement_timeout=5000",
            connect_timeout=CONNECT_SECONDS,
            autocommit=True,
            **insist,
        ) as session:
            return session.execute(statement).fetchone() or ()

    def refusal(self, connection: Connection) -> str | None:
        """None when the server answers and its data is ours, or else why it is not up, in one line."""
        import psycopg

        if not self.alive():  # whatever is at its port now is not asked
            return "it is not running"
        try:
            answer = self.ask(connection, "SHOW data_directory")
        except psycopg.Error as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
            full = "too many clients" in reason or "remaining connection slots" in reason
            return None if full else reason  # full is up; its data cannot be asked
        try:
            ours = Path(answer[0]).samefile(self.data)
        except OSError:
            ours = False
        return None if ours else f"another server is at port {connection.port}"

    def has_clients(self) -> bool:
        """Whether anybody is connected other than to ask as we do; True when that cannot be told."""
        import psycopg

        connection = self.connection()
        if connection is None:
            return False
        try:
            (clients,) = self.ask(
                connection,
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name <> 'batchpred probe'"
                " AND state IS DISTINCT FROM 'starting'",  # has no name yet
            )
        except psycopg.Error:
            return True
        return bool(clients)

    def open_log(self) -> int:
        """A descriptor that appends to the log; what is past LOG_BYTES is put aside, one file of it."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        return lock.open_owned(self.log, os.O_WRONLY | os.O_APPEND)

    def last_words(self, offset: int = 0) -> str:
        """The last line of the log after `offset` bytes that tells of a failure, or the last line at all."""
        with self.log.open("rb") as file:
            file.seek(max(offset, self.log.stat().st_size - 65536))
            lines = [
                line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()
            ]
        telling = [
            line for line in lines if any(word in line for word in ("FATAL", "PANIC", "rror:", "ERROR"))
        ]
        return (telling or lines or ["(nothing)"])[-1]
