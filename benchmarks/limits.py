"""What each stage costs alone: COPY out to nothing, ONNX Runtime on prepared arrays, COPY in plus primary key."""

import os
import sys
from pathlib import Path

import numpy as np
import psycopg

URL, TABLE = os.environ["BENCH_URL"], os.environ["BENCH_TABLE"]


def read() -> None:
    """Send every row over the wire, and drop it."""
    statement = f"COPY (SELECT * FROM {TABLE}) TO STDOUT (FORMAT binary)"
    with psycopg.connect(URL) as connection, connection.cursor().copy(statement) as copy:
        for _ in copy:
            pass


def score() -> None:
    """Score as many prepared rows as the table has, in batches of the size that batchpred uses."""
    import onnxruntime

    from jobs.score import DEFAULT_BATCH_ROWS
    from jobs.threads import available_cpus

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    data = (Path(os.environ["BENCH_FOLDER"]) / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(2).normal(size=(DEFAULT_BATCH_ROWS, 20)).astype("float32")
    name = session.get_inputs()[0].name
    for start in range(0, _count(), DEFAULT_BATCH_ROWS):
        session.run(None, {name: rows[: _count() - start]})


def write() -> None:
    """Write (id, score) by binary COPY and add the primary key."""
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder

    count = _count()
    rows = pa.record_batch({"id": np.arange(count), "score": np.random.default_rng(3).normal(size=count)})
    encoder = ArrowToPostgresBinaryEncoder(rows.schema)
    with psycopg.connect(URL) as connection:
        connection.execute("DROP TABLE IF EXISTS bench_limit")
        connection.execute("CREATE TABLE bench_limit (id bigint, score float8)")
        with connection.cursor().copy("COPY bench_limit FROM STDIN (FORMAT binary)") as copy:
            copy.write(encoder.write_header() + encoder.write_batch(rows) + encoder.finish())
        connection.execute("ALTER TABLE bench_limit ADD PRIMARY KEY (id)")


def _count() -> int:
    return int(TABLE.rsplit("_", 1)[1])


if __name__ == "__main__":
    {"read": read, "score": score, "write": write}[sys.argv[1]]()
