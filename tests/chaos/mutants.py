"""Runners that are wrong in one way each, to show that the campaign can see what it looks for.

Each says why its hunt (campaign.HUNTS) must catch it. None is left to chance: where a mutant is wrong for a moment
only, the moment lasts until the reader has looked, and where it strikes is a numbered commit point.
"""

import time

from psycopg import sql

import jobs.resume
import jobs.rows
from storage import predictions, runs


def no_fence():
    """Never look whether the claim is still held.

    Caught for sure: it stops itself just before the publish, another runner takes the run over and publishes it,
    and the first, woken, has nothing left to do but to publish too.
    """
    runs.Claim.check = lambda _claim, _connection: None


def two_transaction_publish():
    """Move the pointer in one transaction and the statuses in another.

    Caught for sure: it kills itself between the two, and the invariants are looked at before anybody runs again.
    """

    def publish(connection, claim, run_id, _show, **_options):
        ids = {**claim.ids, "run_id": run_id}
        with connection.transaction():
            connection.execute(runs._SQL["supersede"], ids)
            connection.execute(runs._SQL["point"], ids)
        with connection.transaction():
            connection.execute(runs._SQL["mark_published"], ids)
            claim.check(connection)

    runs.publish = publish


def separate_checkpoint():
    """Commit a chunk's rows, and its ledger entry in a transaction of its own.

    Caught for sure: killed after any chunk's commit it has left rows that no entry names, and the next runner
    writes them again.
    """
    runs_add_chunk, waiting = runs.add_chunk, []

    def write_chunk(connection, run_id, chunk):
        for late in waiting:
            late()
        waiting.clear()
        jobs.rows.copy_in(connection, jobs.rows.predictions.run_table(run_id), chunk.scored.predictions)
        # done at the head of the next transaction, or when scoring is summed up
        waiting.append(
            lambda: runs_add_chunk(
                connection,
                run_id,
                chunk.number,
                chunk.scored.counts,
                chunk.scored.quarantined,
                rows_sha256=chunk.rows_sha256,
                last_key=chunk.last_key,
            )
        )

    finish_scoring = runs.finish_scoring

    def finish(connection, claim, run_id):
        for late in waiting:
            late()
        return finish_scoring(connection, claim, run_id)

    jobs.rows.write_chunk, runs.finish_scoring = write_chunk, finish


def gap_in_publish():
    """Take the old run from readers, and show the new one when one of them has looked in between.

    Caught for sure: that look began and ended while there was nothing to see.
    """
    publish = runs.publish

    def with_gap(connection, claim, run_id, show, **options):
        taken = connection.execute(
            "DELETE FROM batchpred.published RETURNING job, interval_start, run_id, clock_timestamp()"
        ).fetchall()
        _wait_for(claim.database, HAS_LOOKED, [taken[0]["clock_timestamp"]])
        for row in taken:
            connection.execute(
                "INSERT INTO batchpred.published (job, interval_start, run_id) "
                "VALUES (%(job)s, %(interval_start)s, %(run_id)s)",
                row,
            )
        publish(connection, claim, run_id, show, **options)

    runs.publish = with_gap


def rename_instead_of_pointer():
    """Build the table that readers read and rename it into place: one transaction, as careful scripts do.

    Caught for sure: it commits when both of the reader's sessions wait for its locks, and the one that looks thrice
    in a transaction goes on in a table that was not there when its transaction began.
    """
    publish = runs.publish

    def by_renaming(connection, claim, run_id, _show, **_options):
        with connection.transaction():
            connection.execute(
                sql.SQL("CREATE TABLE predictions.chaos_next AS TABLE {}").format(
                    predictions.run_table(run_id)
                )
            )
            connection.execute("ALTER VIEW predictions.chaos RENAME TO chaos_before")
            connection.execute("ALTER TABLE predictions.chaos_next RENAME TO chaos")
            _wait_for(claim.database, BOTH_WAIT)
        publish(connection, claim, run_id)

    runs.publish = by_renaming


def publish_without_waiting():
    """Say that a run is published before the disk has it.

    Caught for sure: the server is killed at that word, and the process that writes late what nobody waited for has
    been told to sleep until long after (outages.killed_when_published).
    """
    publish = runs.publish

    def hasty(connection, claim, run_id, show, **options):
        def show_hastily(connection):
            show(connection)
            connection.execute("SET LOCAL synchronous_commit = off")

        publish(connection, claim, run_id, show_hastily, **options)

    runs.publish = hasty


def no_recheck():
    """Take chunks on trust: whatever the source gives now, they count as done.

    Caught for sure: it is killed when ten chunks of wrong values are committed, and keeps them when it runs again.
    """
    jobs.resume.digest_of = lambda _rows: "trusted"


# A look of the reader's single statements that began after a moment is over.
HAS_LOOKED = """
SELECT FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'chaos reader' AND state = 'idle' AND query_start > %s
"""
BOTH_WAIT = """
SELECT FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'chaos reader' AND wait_event_type = 'Lock'
HAVING count(*) = 2
"""


def _wait_for(database, query, values=(), seconds=20):
    """Wait until a query finds something, or for so long that the mutant may go unseen."""
    until = time.monotonic() + seconds
    # Not in the role of the runner, which may not see what others do.
    with database.connect(purpose="mutant") as connection:
        while not connection.execute(query, values).fetchall() and time.monotonic() < until:
            time.sleep(0.002)


MUTANTS = {
    mutant.__name__: mutant
    for mutant in (
        no_fence,
        two_transaction_publish,
        separate_checkpoint,
        gap_in_publish,
        rename_instead_of_pointer,
        publish_without_waiting,
        no_recheck,
    )
}
