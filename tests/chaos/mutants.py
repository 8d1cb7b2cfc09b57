"""Runners that are wrong in one way each, to show that the campaign can see what it looks for."""

from storage import runs


def no_fence():
    """Never look whether the claim is still held."""
    runs.Claim.check = lambda _claim, _connection: None


def two_transaction_publish():
    """Move the pointer in one transaction and the statuses in another."""

    def publish(connection, claim, run_id):
        ids = {**claim.ids, "run_id": run_id}
        with connection.transaction():
            connection.execute(runs._SQL["supersede"], ids)
            connection.execute(runs._SQL["point"], ids)
        with connection.transaction():
            connection.execute(runs._SQL["mark_published"], ids)
            claim.check(connection)

    runs.publish = publish


MUTANTS = {mutant.__name__: mutant for mutant in (no_fence, two_transaction_publish)}
