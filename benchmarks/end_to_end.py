"""The same work by batchpred and by what people use instead, in one sitting: rows in PostgreSQL to predictions.

    make bench N=1000000 MODEL=lightgbm PEERS="pandas copy polars mlflow dask ray" REPEAT=3 SOURCE=postgres

Each contestant is a process of its own on the same table and model: it reads every row, scores it, and leaves
(id, score) with a primary key. They take turns, so that a machine that slows down slows all. Printed are the
medians, the ratios to batchpred, the peak memory of the contestant's process tree (PostgreSQL's is not in it),
and the lines a user writes; the last line is the same as JSON. A contestant whose scores are not
batchpred's is an error, not a result.

The physical limit of the sitting is the larger of the longest stage alone and the CPU seconds of all stages,
PostgreSQL's included, divided by the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
FEATURES = [f"f{n}" for n in range(20)]
PEERS = {
    "pandas": "pandas_to_sql.py",
    "copy": "pandas_copy.py",
    "polars": "polars_adbc.py",
    "mlflow": "mlflow_pyfunc.py",
    "dask": "dask_frame.py",
    "ray": "ray_data.py",
}
STAGES = ("read", "score", "write")
BATCHPRED = [sys.executable, "-m", "batchpred"]
SOURCES = {
    "postgres": 'query: "SELECT * FROM %s"',
    "parquet": "path: %s.parquet",
    "csv": "path: %s.csv, types: {id: integer}",
}
JOB = """\
version: 1
name: bench
source: {%(source)s, bounded: false}
key: [id]
features: {%(features)s}
model: bench@champion
output: {columns: {score: "%(output)s"}}
"""


def main() -> None:
    """Set up table and models, let the contestants take turns, print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--model", choices=["lightgbm", "logistic"], default="lightgbm")
    options.add_argument("--peers", nargs="*", choices=[*PEERS, "0"], default=["pandas", "copy", "polars"])
    options.add_argument(
        "--peer-python", default=sys.executable, help="the Python that has the peers' libraries"
    )
    options.add_argument(
        "--source", choices=SOURCES, default="postgres", help="where batchpred reads the rows"
    )
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--out", type=Path, help="write the JSON there too")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchpred-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
        url, stop = database(folder)
        try:
            result = sitting(folder, url, chosen)
        finally:
            stop()
    show(result)
    line = json.dumps(result)
    if chosen.out:
        chosen.out.write_text(line + "\n", encoding="utf-8")
    print(line)


def database(folder: Path) -> tuple[str, Callable[[], object]]:
    """BATCHPRED_DATABASE_URL, or an embedded server that lives as long as the benchmark."""
    if url := os.environ.get("BATCHPRED_DATABASE_URL"):
        return url, lambda: None
    from storage import embedded

    return embedded.start(folder / "home").url, lambda: embedded.stop(folder / "home")


def prepare(
    folder: Path, url: str, rows: int, model: str, source: str = "postgres"
) -> tuple[str, dict[str, str]]:
    """Fill the table, train and push the model, write the job; its text and the contestants' environment."""
    table = f"bench_rows_{rows}"
    fill(url, table, rows)
    output = train(folder, model)
    environment = {
        **os.environ,
        "BENCH_URL": url, "BENCH_TABLE": table, "BENCH_FOLDER": str(folder), "BENCH_MODEL": model,
        "BATCHPRED_DATABASE_URL": url, "BATCHPRED_HOME": str(folder / "home"),
    }  # fmt: skip
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody compiles all modules at every start
    if source != "postgres":
        export(url, table, folder / f"{table}.{source}")
    job = JOB % {
        "source": SOURCES[source] % table,
        "features": ", ".join(f"{f}: float32" for f in FEATURES),
        "output": output,
    }
    (folder / "bench.job.yaml").write_text(job, encoding="utf-8")
    for command in (["db", "upgrade"], ["models", "push", "bench", "model.onnx", "--alias", "champion"]):
        line = [*BATCHPRED, *command]
        subprocess.run(line, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return job, environment


def sitting(folder: Path, url: str, chosen: argparse.Namespace) -> dict:
    """Measure everybody, in turns."""
    job, environment = prepare(folder, url, chosen.rows, chosen.model, chosen.source)
    peers = [peer for peer in chosen.peers if peer != "0"]
    scripts = {peer: [chosen.peer_python, str(HERE / "peers" / PEERS[peer])] for peer in peers}
    if "mlflow" in peers:
        save = [chosen.peer_python, str(HERE / "peers" / "mlflow_save.py")]
        subprocess.run(save, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    commands = {"batchpred": [*BATCHPRED, "run", "bench", "--date", "2026-01-01", "--force"], **scripts}
    measured: dict[str, list[dict]] = {name: [] for name in commands}
    alone: dict[str, list[dict]] = {stage: [] for stage in STAGES}
    for turn in range(chosen.repeat):
        for name, command in commands.items():
            measured[name].append(measure(command, environment, folder))
            print(f"turn {turn + 1}: {name} {measured[name][-1]['seconds']:.2f} s", file=sys.stderr)
        for stage in STAGES:
            alone[stage].append(measure_stage(stage, environment))
    results = {name: summary(runs, measured["batchpred"]) for name, runs in measured.items()}
    return {
        "rows": chosen.rows, "model": chosen.model, "source": chosen.source, "repeat": chosen.repeat,
        "date": datetime.now(UTC).date().isoformat(),
        "results": results,
        "limit": physical_limit(alone, results["batchpred"]["seconds"]),
        "lines": {"batchpred": len(job.splitlines()), **{peer: lines(peer) for peer in peers}},
        "differs": {peer: compare(url, peer) for peer in peers},
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()},
        "versions": {name: metadata.version(name) for name in ("onnxruntime", "pandas", "pyarrow", "numpy")},
    }  # fmt: skip


def fill(url: str, table: str, rows: int) -> None:
    """Make the source table: a bigint key and 20 float8 features; kept between sittings on one database."""
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder

    random = np.random.default_rng(0)
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass(%s)", [table]).fetchone()[0]:
            return
        columns = ", ".join(f"{name} float8" for name in FEATURES)
        # A table has a key, and everybody who wants its order is given it by the index.
        connection.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, {columns})")
        for start in range(0, rows, 500_000):
            count = min(500_000, rows - start)
            batch = pa.record_batch(
                {
                    "id": np.arange(start, start + count),
                    **{name: random.normal(size=count) for name in FEATURES},
                }
            )
            encoder = ArrowToPostgresBinaryEncoder(batch.schema)
            with connection.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
                copy.write(encoder.write_header() + encoder.write_batch(batch) + encoder.finish())
        connection.execute(f"VACUUM ANALYZE {table}")


def export(url: str, table: str, path: Path) -> None:
    """Write the source table to a file: CSV as PostgreSQL writes it, Parquet in row groups of 100,000 rows."""
    import pyarrow.parquet as pq
    from adbc_driver_postgresql import dbapi

    if path.suffix == ".csv":
        statement = f"COPY {table} TO STDOUT (FORMAT csv, HEADER)"
        with (
            psycopg.connect(url) as connection,
            path.open("wb") as file,
            connection.cursor().copy(statement) as copy,
        ):
            for piece in copy:
                file.write(piece)
        return
    with dbapi.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        batches = cursor.fetch_record_batch()
        with pq.ParquetWriter(path, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch, row_group_size=100_000)


def train(folder: Path, kind: str) -> str:
    """Train, keep the model for the peers and as ONNX for batchpred; return the ONNX output that is the score."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(50_000, 20)).astype("float32")
    target = (
        2 * rows[:, 0] + np.sin(3 * rows[:, 1]) + rows[:, 2] * rows[:, 3] + random.normal(size=len(rows)) / 10
    )
    if kind == "lightgbm":
        import lightgbm
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        model = lightgbm.LGBMRegressor(n_estimators=200, num_leaves=31, verbose=-1).fit(rows, target)
        model.booster_.save_model(str(folder / "lightgbm.txt"))
        onnx = convert_lightgbm(model, initial_types=[("rows", FloatTensorType([None, 20]))], target_opset=15)
        output = "variable"
    else:
        from skl2onnx import to_onnx
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit(rows, target > 0)
        np.savez(folder / "logistic.npz", coef=model.coef_, intercept=model.intercept_)
        onnx = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset=18)
        output = "probabilities[1]"
    (folder / "model.onnx").write_bytes(onnx.SerializeToString())
    return output


def measure(command: list[str], environment: dict[str, str], folder: Path) -> dict:
    """Run a command; wall and CPU seconds, and the peak of its process tree's resident memory."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peak = [0]
    watcher = threading.Thread(target=watch, args=[process, peak])
    watcher.start()
    _, said = process.communicate()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} left with {process.returncode}:\n{said[-2000:]}")
    return {"seconds": seconds, "mib": peak[0] / 2**20}


def measure_stage(stage: str, environment: dict[str, str]) -> dict:
    """Run one stage alone; wall and CPU seconds."""
    command = [sys.executable, str(HERE / "limits.py"), stage]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} left with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def physical_limit(alone: dict[str, list[dict]], ours: float) -> dict:
    """The least wall time this machine could do the work in, and how many times that batchpred took."""
    seconds = {stage: statistics.median(each["seconds"] for each in runs) for stage, runs in alone.items()}
    cpu = {stage: statistics.median(each["cpu_seconds"] for each in runs) for stage, runs in alone.items()}
    limit = max(*seconds.values(), sum(cpu.values()) / os.cpu_count())
    return {
        "seconds": round(limit, 3),
        "ratio": round(ours / limit, 2),
        "stages": {
            stage: {"seconds": round(seconds[stage], 3), "cpu_seconds": round(cpu[stage], 3)}
            for stage in alone
        },
    }


def watch(process: subprocess.Popen, peak: list[int]) -> None:
    """Look at the tree's resident memory every 20 ms."""
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            tree = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(each.memory_info().rss for each in tree))
        except psutil.Error:
            pass
        time.sleep(0.02)


def compare(url: str, peer: str) -> float:
    """Return the share of keys whose score is not batchpred's within 1e-4; end the sitting where it is 0.1 %.

    A few are to be expected: LightGBM compares its features with thresholds in float64, its ONNX form in
    float32, and a value between the two roundings goes the other way.
    """
    statement = (
        "SELECT count(*), count(b.id), count(*) FILTER (WHERE abs(p.score - b.score) > 1e-4)"
        f" FROM predictions.bench AS b FULL JOIN bench_{peer} AS p USING (id)"
    )
    with psycopg.connect(url) as connection:
        total, matched, different = connection.execute(statement).fetchone()
    if total != matched or different > 0.001 * total:
        raise SystemExit(f"{peer}: {total} rows, {matched} of them batchpred's, {different} scores differ")
    return different / total


def summary(runs: list[dict], ours: list[dict]) -> dict:
    """Medians of a contestant, and how many times batchpred's wall time it took, turn by turn."""
    ratios = [run["seconds"] / mine["seconds"] for run, mine in zip(runs, ours, strict=True)]
    return {
        "seconds": round(statistics.median(run["seconds"] for run in runs), 3),
        "min": round(min(run["seconds"] for run in runs), 3),
        "max": round(max(run["seconds"] for run in runs), 3),
        "mib": round(max(run["mib"] for run in runs)),
        "ratio": round(statistics.median(ratios), 2),
    }


def lines(peer: str) -> int:
    """Lines of code a user writes: without blank lines and the docstring; loading the model is not counted."""
    text = (HERE / "peers" / PEERS[peer]).read_text(encoding="utf-8")
    return sum(1 for line in text.splitlines() if line.strip() and not line.startswith('"""'))


def show(result: dict) -> None:
    """Print the table."""
    what = f"{result['rows']:,} rows x 20 float8 from {result['source']}, {result['model']}"
    print(f"{what}, medians of {result['repeat']}")
    print(f"{'':14}{'seconds':>9}{'min':>8}{'max':>8}{'ratio':>8}{'MiB':>7}{'lines':>7}")
    for name, row in result["results"].items():
        count = result["lines"].get(name, "")
        print(
            f"{name:14}{row['seconds']:9.2f}{row['min']:8.2f}{row['max']:8.2f}{row['ratio']:8.2f}"
            f"{row['mib']:7}{count:>7}"
        )
    limit = result["limit"]
    for stage, alone in limit["stages"].items():
        print(f"{stage + ' alone':14}{alone['seconds']:9.2f}   {alone['cpu_seconds']:.2f} CPU seconds")
    print(f"physical limit{limit['seconds']:9.2f}   batchpred takes {limit['ratio']:.2f} times that")


if __name__ == "__main__":
    main()
