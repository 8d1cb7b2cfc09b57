"""Gathered look-ups: what one connection to the database is asked."""

import asyncio

from storage import served
from storage.lookups import Lookups, Target
from storage.pointers import Pointer


def test_a_statement_is_planned_once_for_a_connection(database, publish_rows, make_job):
    """Look-ups of one run are prepared: one parse and one generic plan, however many keys are asked for."""
    publish_rows(make_job(), 5, {"id": [1, 2, 3], "score": [0.1, 0.2, 0.3]})
    with database.connect(purpose="test") as connection:
        job = served.find_job(connection, "churn")
        target = Target(Pointer(job, served.newest_run(connection, job)))

    async def ask():
        lookups = Lookups(database)
        loop, found = asyncio.get_running_loop(), []
        for key in (1, 2, 3, 4, 1, 2):
            done = loop.create_future()
            lookups.find(target, (key,), done.set_result)
            found.append(await done)
        lanes = [lane for lane in lookups._idle if lane is not None]
        rows = []
        for lane in lanes:
            cursor = await lane.execute(
                "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE %s",
                ["%served_runs%"],
            )
            rows += await cursor.fetchall()
        await lookups.close()
        return found, rows

    found, rows = asyncio.run(ask())
    assert [0.1, 0.2, 0.3, None, 0.1, 0.2] == [row and row[1] for row in found]
    assert [(6, 0)] == rows
