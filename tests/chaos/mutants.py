"""Runners that are wrong in one way each, to show that the campaign can see what it looks for."""

from psycopg import sql

import jobs.resume
import jobs.rows
from storage import predictions, runs


def no_fence():
    """Never look whether the claim is still held."""
    runs.Claim.check = lambda _claim, _connection: None


def two_transaction_publish():
    """Move the pointer in one transaction and the statuses in another."""

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
    """Commit a chunk's rows, and its ledger entry in a transaction of its own."""
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
    """Take the old run from readers, and show the new one a moment later."""
    publish = runs.publish

    def with_gap(connection, claim, run_id, show, **options):
        taken = connection.execute(
            "DELETE FROM batchpred.published RETURNING job, interval_start, run_id"
        ).fetchall()
        connection.execute("SELECT pg_sleep(0.1)")
        for row in taken:
            connection.execute(
                "INSERT INTO batchpred.published (job, interval_start, run_id) "
                "VALUES (%(job)s, %(interval_start)s, %(run_id)s)",
                row,
            )
        publish(connection, claim, run_id, show, **options)

    runs.publish = with_gap


def rename_instead_of_pointer():
    """Build the table that readers read and rename it into place: one transaction, as careful scripts do."""
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
            connection.execute("SELECT pg_sleep(0.1)")
        publish(connection, claim, run_id)

    runs.publish = by_renaming


def publish_without_waiting():
    """Say that a run is published before the disk has it."""
    publish = runs.publish

    def hasty(connection, claim, run_id, show, **options):
        def show_hastily(connection):
            show(connection)
            connection.execute("SET LOCAL synchronous_commit = off")

        publish(connection, claim, run_id, show_hastily, **options)

    runs.publish = hasty


def no_recheck():
    """Take chunks on trust: whatever the source gives now, they count as done."""
    jobs.resume.digest_of = lambda _rows: "trusted"


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
