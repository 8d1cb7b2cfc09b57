"""Readers under full load while the pointer moves: `make chaos-readers` publishes and rolls back under their eyes.

Processes of readers look without a pause. In turns nothing happens for a while, and then a run is published and
rolled back: what commands do, and nothing else. The longest look of either kind comes from the same sitting. It
leaves with 1 where a reader met an error or an answer that no single run would have given; the two times are
printed, with their ratio, for a person to judge: on a busy machine both are the scheduler's.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from storage import moves, predictions, runs
from storage.arrow_copy import copy_in
from storage.database import Database
from storage.job_table import JobTable
from storage.runs import ChunkCounts, Pin, Slot
from tests.chaos import campaign
from tests.chaos.reader import Reader
from tests.chaos.world import ROWS

START = datetime(2026, 1, 2, tzinfo=UTC)
SLOT = Slot("chaos", START, START + timedelta(days=1), date(2026, 1, 2))
PIN = Pin("chaos", 1, "a" * 64, "d" * 64, "CPUExecutionProvider")
QUIET, MOVING = 0, 1


def stage(trial, count):
    """Complete runs of one interval that nobody sees yet, each with other values: [(number, answers)]."""
    database, staged = Database.at(trial.url), []
    with database.connect(purpose="stage", as_writer=True) as connection:
        row = connection.execute("SELECT job_table FROM batchpred.runs ORDER BY run_id LIMIT 1").fetchone()
        job = JobTable.from_json(row["job_table"])
        for number in range(count):
            with runs.claim(database, connection, SLOT) as held:
                run_id = runs.start_run(connection, held, PIN, {"query": "q"}, job.as_json())
                predictions.create_run_table(connection, job, run_id)
                scores = [number + key / 2**20 for key in range(1, ROWS + 1)]
                rows = pa.table({"id": list(range(1, ROWS + 1)), "score": scores})
                copy_in(connection, predictions.run_table(run_id), rows)
                runs.add_chunk(connection, run_id, 0, ChunkCounts(ROWS, ROWS, 0), [])
                runs.finish_scoring(connection, held, run_id)
                predictions.seal(connection, job, run_id)
                predictions.analyze(connection, run_id)
                runs.close_run(connection, held, run_id, "blocked", "staged")
            seen = trial.fetch(f"SELECT id, score, score::numeric FROM batchpred_data._run_{run_id}")
            staged.append((run_id, {key: (score, exact) for key, score, exact in seen}))
    return staged


def read_on(url, answers, phase, stop, told):
    """Look without a pause until `stop` is set, and tell what was seen."""
    with Reader(url, answers, pause=0, phase=lambda: phase.value) as reader:
        stop.wait()
    told.put((reader.reads, reader.errors, reader.torn[:3], reader.longest))


def watch_moves(trial, steps, processes):
    """Publish and roll back `steps` times while readers look on; return what was seen, as a summary."""
    (base, _), *others = staged = stage(trial, steps + 1)
    database = Database.at(trial.url)
    context = multiprocessing.get_context("forkserver")
    phase, stop, told = context.Value("i", QUIET), context.Event(), context.Queue()
    with database.connect(purpose="move", as_writer=True) as connection:
        moves.publish_blocked(database, connection, base, "the first")
        given = (trial.url, [answers for _, answers in staged], phase, stop, told)
        readers = [context.Process(target=read_on, args=given) for _ in range(processes)]
        for reader in readers:
            reader.start()
        time.sleep(2)  # until all of them look
        move_seconds = 0.0
        for run_id, _ in others:
            phase.value = MOVING
            began = time.monotonic()
            moves.publish_blocked(database, connection, run_id, "a step")
            moves.rollback(connection, "chaos")
            move_seconds += (took := time.monotonic() - began)
            time.sleep(0.02)  # a look that was held up belongs to what held it up
            phase.value = QUIET
            time.sleep(took + 0.02)
        stop.set()
        seen = [told.get(timeout=60) for _ in readers]
        for reader in readers:
            reader.join()
    longest = {kind: 1000 * max(each[3].get(kind, 0.0) for each in seen) for kind in (QUIET, MOVING)}
    return {
        "publishes": steps,
        "rollbacks": steps,
        "reads": sum(each[0] for each in seen),
        "errors": [error for each in seen for error in each[1]],
        "mixed": [str(torn) for each in seen for torn in each[2]],
        "longest_ms_without_moves": round(longest[QUIET], 1),
        "longest_ms_with_moves": round(longest[MOVING], 1),
        "ratio": round(longest[MOVING] / max(longest[QUIET], 0.001), 2),
        "move_ms": round(1000 * move_seconds / (2 * steps), 1),
    }


def main():
    """Read how often and how many, do it, print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="publishes, and as many rollbacks")
    parser.add_argument("--processes", type=int, default=2, help="reading processes, of two sessions each")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        campaign.world_of_its_own(folder) as world,
        world.clone() as trial,
    ):
        summary = watch_moves(trial, chosen.n, chosen.processes)
    print(json.dumps(summary))  # noqa: T201
    sys.exit(1 if summary["errors"] or summary["mixed"] else 0)


if __name__ == "__main__":
    main()
