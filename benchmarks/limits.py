"""What each stage costs alone: COPY out to nothing, ONNX Runtime on prepared arrays, COPY in plus primary key.

Prints one JSON object: `seconds`, the stage's wall time, and `cpu_seconds`, what it took of this process and of
PostgreSQL together. Starting Python is in neither.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

URL, TABLE = os.environ.get("BENCH_URL", ""), os.environ.get("BENCH_TABLE", "_0")
BATCHES = (1_024, 4_096, 16_384, 65_536)
ROWS = int(TABLE.rsplit("_", 1)[1])


def read() -> Callable[[], object]:
    """Send every row over the wire, and drop it."""
    from storage import copy_out

    statement = f"COPY (SELECT * FROM {TABLE}) TO STDOUT (FORMAT binary)".encode()

    def stage() -> None:
        with psycopg.connect(URL) as connection:
            for _ in copy_out.blocks(connection, statement):
                pass

    return stage


def score() -> Callable[[], object]:
    """Score as many prepared rows as the table has, in batches of the size that is quickest here.

    Each batch has one thread, and there are as many as processors: a million rows through 200 trees took 2.4 s on
    two of them, and 4.7 processor seconds; ONNX Runtime as it comes, all threads to a batch, took 2.9 and 5.7.
    """
    import onnxruntime

    from jobs.at_once import at_once
    from jobs.threads import available_cpus

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = (Path(os.environ["BENCH_FOLDER"]) / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(2).normal(size=(max(BATCHES), 20)).astype("float32")
    name = session.get_inputs()[0].name

    def run(batch: int, count: int) -> float:
        began = time.perf_counter()
        sizes = [min(batch, count - start) for start in range(0, count, batch)]
        at_once(lambda size: len(session.run(None, {name: rows[:size]})), sizes, available_cpus())
        return time.perf_counter() - began

    best = min(BATCHES, key=lambda batch: min(run(batch, 2 * max(BATCHES)) for _ in range(2)))
    return lambda: run(best, ROWS)


def write() -> Callable[[], object]:
    """Write (id, score) by binary COPY and add the primary key."""
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder

    rows = pa.record_batch({"id": np.arange(ROWS), "score": np.random.default_rng(3).normal(size=ROWS)})

    def stage() -> None:
        encoder = ArrowToPostgresBinaryEncoder(rows.schema)
        with psycopg.connect(URL) as connection:
            connection.execute("DROP TABLE IF EXISTS bench_limit")
            connection.execute("CREATE TABLE bench_limit (id bigint, score float8)")
            with connection.cursor().copy("COPY bench_limit FROM STDIN (FORMAT binary)") as copy:
                copy.write(encoder.write_header() + encoder.write_batch(rows) + encoder.finish())
            connection.execute("ALTER TABLE bench_limit ADD PRIMARY KEY (id)")

    return stage


def postmaster(url: str) -> psutil.Process | None:
    """Return PostgreSQL's first process where it runs on this machine."""
    with psycopg.connect(url) as connection:
        backend = connection.info.backend_pid
        if psutil.pid_exists(backend) and "postgres" in psutil.Process(backend).name():
            return psutil.Process(backend).parent()
    return None


def cpu_seconds(server: psutil.Process | None) -> float:
    """Return what this process and PostgreSQL, with every backend that ever ended, have used."""
    used = sum(psutil.Process().cpu_times()[:2])
    if server is not None:
        used += sum(server.cpu_times()[:4]) + sum(sum(each.cpu_times()[:2]) for each in server.children())
    return used


def main() -> None:
    """Prepare the stage, then measure it."""
    stage = {"read": read, "score": score, "write": write}[sys.argv[1]]()
    server = postmaster(URL)
    used, began = cpu_seconds(server), time.perf_counter()
    stage()
    seconds = time.perf_counter() - began
    time.sleep(0.2)  # a backend that has just ended is counted once the postmaster has seen it go
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds(server) - used}))


if __name__ == "__main__":
    main()
