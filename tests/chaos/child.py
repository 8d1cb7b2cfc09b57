"""The runner that is hurt: one run in a process of its own, which strikes itself at a numbered commit point.

A commit point is the end of a transaction or a writing statement outside one, numbered in the order in which
the run comes to them; renewals of the lease are left out, because a clock decides when they come.
"""

import json
import logging
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import pq, sql

import jobs.rows
import jobs.run
from jobs.interval import interval_named
from jobs.jobfile import load_job
from jobs.plan import Runtime
from storage import database, runs, watch
from tests.chaos.mutants import MUTANTS

_WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "ANALYZE", "COPY", "LOCK", "COMMIT")


def main(spec):
    """Run the job as `spec` says and leave what became of it in the file spec["result"].

    spec: url, job, cache, date, result; optional: at, when (before, after), action (kill, stop, drop, mark), lease
    (seconds), silence (seconds after which a mute peer is given up), mutant, force, kill_server (the data folder of
    the server to kill when the run has ended).
    """
    logging.getLogger("batchpred").addHandler(logging.NullHandler())
    points = Points(spec)
    points.watch()
    if "lease" in spec:
        runs.LEASE = timedelta(seconds=spec["lease"])
        database._IDLE_IN_TRANSACTION = f"{int(1000 * spec['lease'])}ms"
    if "silence" in spec:
        watch.SILENCE, watch.LOOK_EVERY = spec["silence"], spec["silence"] / 5
    if spec.get("mutant"):
        MUTANTS[spec["mutant"]]()
    scored = count_scored_chunks()
    job_file = load_job(Path(spec["job"]), {})
    runtime = Runtime(database.Database.at(spec["url"]), Path(spec["cache"]), threads=1)
    interval = interval_named(spec["date"], "day", job_file.job.zone, datetime.now(UTC))
    report = jobs.run.run_job(runtime, job_file, interval, force=spec.get("force", False))
    if "kill_server" in spec:
        os.kill(int(Path(spec["kill_server"], "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
    left = {**report.as_json(), "exit_code": report.exit_code, "points": points.seen, "scored": len(scored)}
    draft = Path(spec["result"]).with_suffix(".draft")
    draft.write_text(json.dumps(left, default=str), encoding="utf-8")
    draft.rename(spec["result"])


def count_scored_chunks():
    """Note each chunk that is really scored."""
    scored, score_chunk = [], jobs.rows.score_chunk

    def counted(plan, chunk):
        scored.append(chunk.num_rows)
        return score_chunk(plan, chunk)

    jobs.rows.score_chunk = counted
    return scored


class Points:
    """The commit points this process has come to, and the one at which it is to be struck."""

    def __init__(self, spec):
        self.spec = spec
        self.seen = []
        self._lock = threading.Lock()

    def watch(self):
        """Put a point around every COMMIT and every writing statement outside a transaction."""
        leave, execute = psycopg.Transaction.__exit__, psycopg.Cursor.execute

        def watched_exit(transaction, kind, error, where):
            if kind is not None or not transaction._outer_transaction or transaction.force_rollback:
                return leave(transaction, kind, error, where)
            return self._around("COMMIT", transaction._conn, lambda: leave(transaction, kind, error, where))

        def watched_execute(cursor, query, *values, **options):
            connection = cursor.connection
            # Behind a pooler a statement goes out in a pipeline with the one that settles its transaction.
            status = connection.pgconn.transaction_status
            idle = status == pq.TransactionStatus.IDLE or connection.pgconn.pipeline_status
            label = _first_word(query, connection)
            if not (idle and connection.autocommit and label in _WRITES):
                return execute(cursor, query, *values, **options)
            return self._around(label, connection, lambda: execute(cursor, query, *values, **options))

        psycopg.Transaction.__exit__ = watched_exit
        psycopg.Cursor.execute = watched_execute

    def _around(self, label, connection, commit):
        if threading.current_thread().name == "batchpred-lease":
            return commit()
        with self._lock:
            number = len(self.seen)
            self.seen.append(label)
        self._strike(number, "before", connection)
        result = commit()
        self._strike(number, "after", connection)
        return result

    def _strike(self, number, when, connection):
        if (self.spec.get("at"), self.spec.get("when")) != (number, when):
            return
        action = self.spec.get("action", "kill")
        if action == "drop":  # what was sent was done, and the answer never came
            connection.pgconn.finish()
            raise psycopg.OperationalError("the connection is lost")
        if action == "mark":  # say so, and go on
            Path(self.spec["result"]).with_suffix(".mark").touch()
            return
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def _first_word(query, connection):
    if isinstance(query, sql.Composable):
        query = query.as_string(connection)
    text = query.decode() if isinstance(query, bytes) else query
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--")]
    return lines[0].split()[0].upper() if lines else ""
