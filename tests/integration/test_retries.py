"""What a run does about errors of the database: try again where that helps, end clearly where it does not."""

import psycopg
import pytest
from psycopg import errors

import jobs.rows
from storage import query_source, runs
from tests.chaos.world import CHUNKS


def fail_once(monkeypatch, where, name, error, *, call=1, after=False):
    """Let the `call`-th call of a function fail, after it has done its work or instead of that."""
    real, calls = getattr(where, name), []

    def failing(*values, **options):
        calls.append(1)
        result = real(*values, **options) if len(calls) != call or after else None
        if len(calls) == call:
            raise error
        return result

    monkeypatch.setattr(where, name, failing)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        errors.SerializationFailure("x"),
        errors.DeadlockDetected("x"),
        errors.AdminShutdown("x"),
        errors.CrashShutdown("x"),
        errors.CannotConnectNow("x"),
        errors.LockNotAvailable("x"),
        psycopg.OperationalError("the connection is lost"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_is_tried_again(run, monkeypatch, error, force):
    """After a deadlock, a lost connection or a restart the run goes on, scoring no committed chunk twice."""
    fail_once(monkeypatch, jobs.rows, "copy_in", error, call=11)
    report = run(force=force)
    assert ("published", 2, 10) == (report.status, report.attempts, report.chunks_resumed)
    assert "unchanged" == run().status


@pytest.mark.parametrize("force", [False, True])
def test_a_publish_whose_reply_was_lost_is_looked_for(run, monkeypatch, force):
    """The second attempt finds the run published and publishes nothing again."""
    fail_once(monkeypatch, runs, "publish", psycopg.OperationalError("no reply"), after=True)
    report = run(force=force)
    assert ("published", 2, 0) == (report.status, report.attempts, report.exit_code)
    assert CHUNKS == report.chunks


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.DiskFull("could not extend file"), "the server's disk is full"),
        (errors.OutOfMemory("out of memory"), "lower chunk_rows"),
        (errors.InsufficientPrivilege("permission denied"), "grant the right"),
        (MemoryError("4 GB"), "not enough memory for a chunk of 100 rows; lower `chunk_rows`"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_needs_a_person_ends_the_run_and_keeps_its_chunks(run, monkeypatch, error, says):
    """Disk full, out of memory and revoked rights are one clear line; the next run goes on where this one was."""
    fail_once(monkeypatch, jobs.rows, "copy_in", error, call=11)
    report = run()
    assert ("failed", 1, 1) == (report.status, report.exit_code, report.attempts)
    assert says in report.error
    assert "\n" not in report.error
    again = run()
    assert ("published", 10) == (again.status, again.chunks_resumed)


def test_a_locked_source_ends_the_run_with_a_message(run, database, monkeypatch):
    """A table that somebody has locked stops the run after the lock timeout, not never."""
    monkeypatch.setattr(query_source, "_LOCK_TIMEOUT", "100ms")
    with database.connect(purpose="lock") as other, other.transaction():
        other.execute("LOCK TABLE rows")
        report = run()
    assert (1, "failed", 3) == (report.exit_code, report.status, report.attempts)
    assert "lock timeout; something else has a table of the query locked: run again" in report.error
    assert "published" == run().status


def test_revoked_rights_on_the_source_are_one_line(run, database):
    """A source that may not be read any more is named, with PostgreSQL's words."""
    with database.connect(purpose="test") as connection:
        connection.execute("ALTER TABLE rows RENAME TO real; CREATE VIEW rows AS SELECT * FROM real")
        connection.execute("ALTER VIEW rows OWNER TO batchpred_analyst")
    report = run()
    assert (1, "failed", 1) == (report.exit_code, report.status, report.attempts)
    assert "permission denied for table real; grant SELECT on it" in report.error


def test_a_source_that_runs_out_of_disk_in_mid_stream_says_so(run, database):
    """What the server says while rows arrive has its advice too; PostgreSQL itself raises it here."""
    with database.connect(purpose="test") as connection:
        connection.execute(
            "ALTER TABLE rows RENAME TO real; "
            "CREATE FUNCTION full_at(id bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN IF id = 1500 THEN "
            "RAISE disk_full USING MESSAGE = 'could not write to temporary file: No space left on device'; END IF; "
            "RETURN id; END $$; "
            "CREATE VIEW rows AS SELECT full_at(id) AS id, t, a, b FROM real"
        )
    report = run()
    assert (1, "failed", 1) == (report.exit_code, report.status, report.attempts)
    assert "No space left on device; the source's disk is full" in report.error
    assert "\n" not in report.error
