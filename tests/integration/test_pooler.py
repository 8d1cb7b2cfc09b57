"""PgBouncer in transaction mode between us and PostgreSQL: what is promised holds, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import timedelta

import httpx
import psycopg
import pytest
from psycopg import conninfo

from api.app import create_app
from batchpred.doctor import _database as doctors_findings
from batchpred.serving import arrow_exports
from storage import garbage, watch
from storage.database import Database
from storage.upgrade import upgrade
from tests.bouncer import PROGRAM, WHY_NOT, bouncing
from tests.chaos.proxy import Proxy
from tests.chaos.world import CHUNKS, ROWS
from tests.integration.conftest import running

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=WHY_NOT)
# As few sessions as will do: a run reads in one and writes in another, and all that is short shares the third.
SIZE = 3
# The fifth chunk takes so long that its runner can be killed in the middle of its transaction.
STUCK = """
CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
CREATE TRIGGER stuck BEFORE INSERT ON batchpred.chunks FOR EACH ROW WHEN (NEW.chunk = 5) EXECUTE FUNCTION stuck();
"""


@pytest.fixture
def login(database):
    """The database as a login that has the roles of a runner and of the read API, and no other right."""
    name = f"runner_{uuid.uuid4().hex[:12]}"
    with database.connect(purpose="test") as connection:
        connection.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD 'weak' IN ROLE batchpred_writer, batchpred_api"
        )
    parts = {**conninfo.conninfo_to_dict(database.url), "user": name, "password": "weak"}
    yield "postgresql://{user}:{password}@{host}:{port}/{dbname}".format(**parts)
    with database.connect(purpose="test") as connection:
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


@pytest.fixture
def bouncer(login):
    """A pooler that lends three sessions of that login."""
    with bouncing(login, SIZE) as bouncer:
        yield bouncer


@pytest.fixture
def pooled(bouncer):
    """The database behind the pooler."""
    return Database.at(bouncer.address)


def test_settings_hold_for_us_and_for_nobody_else(pooled, bouncer):
    """In a transaction and out of one, role, limits and zone are ours; the sessions keep nothing of it."""
    ask = (
        "SELECT current_user AS role, current_setting('lock_timeout') AS lock, pg_backend_pid() AS pid,"
        " current_setting('idle_in_transaction_session_timeout') AS idle, current_setting('TimeZone') AS zone"
    )
    expected = {"role": "batchpred_writer", "lock": "30s", "idle": "15s", "zone": "UTC"}
    with pooled.connect(purpose="test", as_writer=True) as connection:
        alone = connection.execute(ask).fetchone()
        streamed = next(connection.cursor().stream(ask))
        with connection.transaction():
            inside = connection.execute(ask).fetchone()
            assert inside["pid"] == connection.server_pid
            with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
                connection.execute("SELECT 1 / 0")
            assert inside == connection.execute(ask).fetchone()
        assert 0 == connection.server_pid
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        for found in (alone, streamed, inside):
            assert expected == {name: found[name] for name in expected}
        assert [[], [], []] == bouncer.left_behind()


def test_a_readers_statements_end_and_write_nothing(pooled, bouncer):
    """The pool's transactions have their time limit, their role and no right to write."""
    with (
        pooled.pool(purpose="test", size=1, statement_timeout_ms=100) as pool,
        pool.connection() as connection,
    ):
        with connection.transaction():
            assert {"who": "batchpred_api"} == connection.execute("SELECT current_user AS who").fetchone()
        with pytest.raises(psycopg.errors.QueryCanceled), connection.transaction():
            connection.execute("SELECT pg_sleep(60)")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(60)")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), connection.transaction():
            connection.execute("CREATE TABLE t ()")
    with pooled.connect(purpose="test", read_only=True) as connection:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE t ()")
    assert [[], [], []] == bouncer.left_behind()


def test_a_schema_is_upgraded(empty_database):
    """`db upgrade` needs nothing but its one transaction, and prepares nothing."""
    with bouncing(empty_database.url, SIZE) as bouncer:
        assert upgrade(Database.at(bouncer.address)).is_current
        assert [[], [], []] == bouncer.left_behind()


def test_a_run_is_killed_taken_up_published_served_and_dropped(run, database, pooled, bouncer, tmp_path):
    """A run's whole life: held against another, no row lost, the writer's role on all it makes."""
    with database.connect(purpose="test") as owner:
        owner.execute("GRANT SELECT ON rows TO PUBLIC")
        owner.execute(STUCK)
        killed = subprocess.Popen(
            [sys.executable, "-m", "batchpred", "run", "--date", "2026-01-02"], cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "BATCHPRED_DATABASE_URL": bouncer.address, "BATCHPRED_HOME": str(tmp_path)},
        )  # fmt: skip
        stuck = (
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        )
        while not owner.execute(stuck).fetchone():
            assert killed.poll() is None
            time.sleep(0.02)
        held = run(on=pooled)
        assert ("held", 4) == (held.status, held.exit_code)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        owner.execute("DROP TRIGGER stuck ON batchpred.chunks")
    with (
        running(create_app(pooled, keyless=True, exports=arrow_exports())) as address,
        httpx.Client(base_url=address) as client,
    ):
        assert 404 == client.get("/v1/jobs/chaos/predictions/1").status_code
        assert [[], [], []] == bouncer.left_behind()
        report = run(on=pooled)
        assert ("published", 5, CHUNKS) == (report.status, report.chunks_resumed, report.chunks)
        # Nobody is told by the pooler: a look-up asks for the newest run with every statement.
        until = time.monotonic() + 60
        while (found := client.get("/v1/jobs/chaos/predictions/1")).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert report.run_id == found.json()["run_id"]
        arrow = {"Accept": "application/vnd.apache.arrow.stream"}
        assert 200 == client.get("/v1/jobs/chaos/predictions", headers=arrow).status_code
        again = run(on=pooled, force=True)
        while client.get("/v1/jobs/chaos/predictions/1").json()["run_id"] != again.run_id:
            assert time.monotonic() < until
            time.sleep(0.02)
    with pooled.connect(purpose="test", as_writer=True) as connection:
        now = timedelta(0)
        collected = garbage.collect(pooled, connection, {}, grace=now, superseded=now)
        assert [report.run_id] == collected.dropped
    with database.connect(purpose="test") as owner:
        owners = owner.execute(
            "SELECT DISTINCT relowner::regrole::text AS who FROM pg_class"
            " WHERE relnamespace = 'batchpred_data'::regnamespace OR relname IN ('chaos', 'chaos_history')"
        )
        assert [{"who": "batchpred_writer"}] == owners.fetchall()
        assert (
            ROWS * 99 // 100 == owner.execute("SELECT count(*) AS n FROM predictions.chaos").fetchone()["n"]
        )
    assert [[], [], []] == bouncer.left_behind()


def test_what_stands_in_between_is_said(pooled):
    """`doctor` says that a pooler does, and that all is well."""
    findings = {finding.check: finding for finding in doctors_findings(pooled)}
    assert findings["database"].ok
    assert "through a pooler" in findings["database"].found
    assert "batchpred_writer" == findings["writes as"].found


@pytest.fixture
def impatient(monkeypatch):
    """Half a second of silence is enough, and a look has half a second."""
    for name, seconds in {"SILENCE": 0.5, "LOOK_EVERY": 0.1, "ANSWER": 0.5}.items():
        monkeypatch.setattr(watch, name, seconds)


@pytest.mark.usefixtures("impatient")
def test_a_commit_whose_reply_never_comes_is_given_up(bouncer):
    """Between us and the pooler, too: the session that did it is known until it has answered."""
    with Proxy(bouncer.address, 0, "mute") as network:
        pooled = Database.at(network.address)
        with watch.kept(), pooled.connect(purpose="test", as_writer=True) as connection:
            with pytest.raises(psycopg.OperationalError), connection.transaction():
                connection.execute("SELECT 1")


@pytest.mark.usefixtures("impatient")
def test_a_statement_alone_whose_reply_never_comes_is_given_up(bouncer, database):
    """Outside of a transaction, too, the session is known that works for us."""

    def mute():
        waiting = (
            "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
        )
        with database.connect(purpose="test") as other:
            while not other.execute(waiting).fetchall():
                time.sleep(0.02)
        network.mute()
        holder.execute("SELECT pg_advisory_unlock(1)")

    with (
        Proxy(bouncer.address, None, "mute") as network,
        database.connect(purpose="test") as holder,
        watch.kept(),
        Database.at(network.address).connect(purpose="test", as_writer=True) as connection,
    ):
        holder.execute("SELECT pg_advisory_lock(1)")
        thread = threading.Thread(target=mute)
        thread.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT pg_advisory_xact_lock(1)")
        thread.join()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_falls_silent_behind_a_pooler_is_given_up(login):
    """A statement that takes long is left alone; a server that says nothing any more is not."""
    with Proxy(login, None, "silence") as network, bouncing(network.address, SIZE) as bouncer:
        pooled = Database.at(bouncer.address)
        with watch.kept(), pooled.connect(purpose="test", as_writer=True) as connection:
            connection.execute("SELECT pg_sleep(1)")
            with connection.transaction():
                connection.execute("SELECT pg_sleep(1)")
            network.fall_silent()
            with pytest.raises(psycopg.OperationalError), connection.transaction():
                connection.execute("SELECT pg_sleep(1)")
