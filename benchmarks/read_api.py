"""What the read API does beside PostgreSQL itself: one key, 64 connections, random and Zipf-distributed keys.

    make bench-api                 1,000,000 predictions, ten seconds a figure, three rounds
    make bench-api ROWS=100000 SECONDS=3 ROUNDS=1 PEERS=0

Everything runs on this machine in one sitting: pgbench's prepared select on the run's own table, then one server
process without and with its cache, and Feast's feature server on rows of the same shape (in an environment of its
own, 600 MB; PEERS=0 leaves it out). A peer that fails is reported as such, and the other figures stand. Of several
rounds each figure is the best, for what else runs on the machine only takes away; `of_pgbench` is the median of the
rounds' own ratios, each beside its neighbour in time. The last line is one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from generators import CONNECTIONS, Asked, load

from storage import embedded, predictions, runs
from storage.arrow_copy import copy_in
from storage.database import Database
from storage.embedded import binaries
from storage.job_table import Column, JobTable
from storage.upgrade import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = int(os.environ.get("ROWS", "1000000"))
SECONDS = int(os.environ.get("SECONDS", "10"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
# Where Feast is installed; its store is filled with so many rows at most, for it takes minutes for a million.
FEAST = os.environ.get("FEAST", "")
FEAST_ROWS = 100_000
FORMS = (
    ("csv", "text/csv", "csv"),
    ("arrow", "application/vnd.apache.arrow.stream", "binary"),
    ("ndjson", "application/x-ndjson", "text"),
)
PATH = "/v1/jobs/bench/predictions/"

# What can go wrong with a peer: it does not start, answers nothing or nonsense, or resets the connection.
PEER_FAULTS = (
    AssertionError,
    EOFError,
    LookupError,
    OSError,
    ValueError,
    subprocess.SubprocessError,
    SystemExit,
)

JOB = JobTable(
    "bench", "Benchmark", "snapshot", "day", "UTC", timedelta(hours=2),
    (Column("id", "bigint", "integer"),), (Column("score", "double precision"), Column("label", "bigint")),
)  # fmt: skip


def publish(database: Database, day: int) -> int:
    """Publish ROWS predictions for a day, as a run does."""
    start = datetime(2026, 1, day, tzinfo=UTC)
    slot = runs.Slot("bench", start, start + timedelta(days=1), start.date())
    ids = np.arange(1, ROWS + 1)
    rows = pa.table({"id": ids, "score": np.random.default_rng(day).random(ROWS), "label": ids % 2})
    with database.connect(purpose="bench") as connection, runs.claim(database, connection, slot) as held:
        run_id = runs.start_run(connection, held, runs.Pin("m", 1, "a" * 64, "d" * 64, "CPU"), {})
        predictions.create_run_table(connection, JOB, run_id)
        copy_in(connection, predictions.run_table(run_id), rows)
        runs.add_chunk(connection, run_id, 0, runs.ChunkCounts(ROWS, ROWS, 0), [])
        runs.finish_scoring(connection, held, run_id)
        predictions.seal(connection, JOB, run_id)
        predictions.attach(connection, JOB, run_id)
        runs.publish(connection, held, run_id, partial(predictions.show, job=JOB))
    with database.connect(purpose="bench") as connection:
        connection.execute(f"VACUUM ANALYZE batchpred_data._run_{run_id}".encode())
    return run_id


def program(name: str) -> str:
    """Find one of PostgreSQL's programs."""
    return shutil.which(name) or binaries.find().program(name)


def pgbench(database: Database, run_id: int, folder: Path) -> dict[str, float]:
    """Select one row by key with a prepared statement: the most that PostgreSQL gives on this machine."""
    binary = program("pgbench")
    if not Path(binary).is_file():
        return {}
    script = folder / "select.sql"
    script.write_text(
        f"\\set id random(1, {ROWS})\nSELECT id, score, label FROM batchpred_data._run_{run_id} WHERE id = :id;\n"
    )
    said = subprocess.run(
        [binary, "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", "2", "-T", str(SECONDS), "-f", str(script),
         database.url],
        capture_output=True, text=True, check=True, timeout=SECONDS + 60,
    ).stdout  # fmt: skip
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found, said
    return {"rate": float(found.group(1))}


class Server:
    """`batchpred serve` in a process of its own, for the length of the block."""

    def __init__(self, database: Database, *options: str) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchpred", "serve", "--port", str(self.port), "--no-access-log", *options],
            env={**os.environ, "BATCHPRED_DATABASE_URL": database.url}, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> Self:
        wait_for(self._process, f"http://127.0.0.1:{self.port}{PATH}1", seconds=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    @property
    def asked(self) -> Asked:
        """How it is asked for a key."""
        return Asked(self.port, ROWS, f"GET {PATH}", " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    def processor_us(self) -> float:
        """The processor time it took so far, in microseconds."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")

    def peak_memory_mb(self) -> float | None:
        """The most memory it had so far, where the system says it."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]


def export(server: Server, accept: str) -> float:
    """Read the whole run and return the seconds it took."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{PATH.removesuffix('/')}", headers={"Accept": accept}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(asked, timeout=600) as answer:
        while answer.read(1 << 20):
            pass
    return time.perf_counter() - began


def batches(server: Server, database: Database, run_id: int) -> tuple[float, float]:
    """Ask for 1,000 random keys forty times: the median seconds, by HTTP and by COPY of the same rows."""
    took, copied = [], []
    for _ in range(40):
        keys = random.sample(range(1, ROWS + 1), 1_000)
        rows = f"(SELECT * FROM batchpred_data._run_{run_id} WHERE id = ANY('{set(keys)}'))"
        copied.append(copy_out(database, rows, "text"))
        body = json.dumps({"keys": keys}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{server.port}{PATH.removesuffix('/')}:batchGet",
            data=body, headers={"Content-Type": "application/json"},
        )  # fmt: skip
        began = time.perf_counter()
        urllib.request.urlopen(asked, timeout=60).read()
        took.append(time.perf_counter() - began)
    return sorted(took)[20], sorted(copied)[20]


def copy_whole(database: Database, table: str, form: str) -> float:
    """Copy a table to nothing by psql, the quickest there is, and return the seconds it took with its start."""
    began = time.perf_counter()
    statement = f"COPY {table} TO STDOUT (FORMAT {form})"
    subprocess.run(
        [program("psql"), database.url, "-qc", statement], stdout=subprocess.DEVNULL, check=True, timeout=600
    )
    return time.perf_counter() - began


def copy_out(database: Database, rows_of: str, form: str) -> float:
    """Copy some rows to nothing by psycopg and return the seconds it took."""
    with database.connect(purpose="bench") as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        table = f"COPY {rows_of} TO STDOUT (FORMAT {form})"
        with cursor.copy(table.encode()) as rows:
            for _ in rows:
                pass
        return time.perf_counter() - began


def feast(database: Database, folder: Path) -> dict[str, float]:
    """Ask Feast's feature server for two features of one key."""
    if not Path(FEAST).is_file():
        return {}
    repository = folder / "feast"
    repository.mkdir()
    with database.connect(purpose="bench") as connection:
        connection.execute("CREATE SCHEMA feast")
    parts = urlsplit(database.url)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    rows = min(ROWS, FEAST_ROWS)
    log = folder / "feast.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [
                FEAST, str(Path(__file__).with_name("peers") / "feast_server.py"), str(repository), parts.hostname,
                str(parts.port), parts.username, parts.path[1:], str(rows), str(port),
            ],
            env={**os.environ, "PGPASSWORD": parts.password or ""}, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        wait_for(process, f"http://127.0.0.1:{port}/health", seconds=600)
        # No number in JSON begins with a zero: a one goes before the eight digits, in the store too.
        before = '{"features": ["predictions:score", "predictions:label"], "entities": {"id": [1'
        length = len(before) + 8 + len("]}}")
        head = (
            "POST /get-online-features HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}"
        )
        asked = Asked(port, rows, f"{head}\r\n\r\n{before}", "]}}")
        load(asked, folder, zipf=False, seconds=2)
        return {"rows": rows, **best(lambda: load(asked, folder, zipf=False, seconds=SECONDS))}
    except PEER_FAULTS:
        print("\n".join(log.read_text(errors="replace").splitlines()[-20:]), file=sys.stderr)
        raise
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()


def peer(measure: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Measure a peer; where it fails, say how."""
    try:
        return measure()
    except PEER_FAULTS as error:
        return {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}


def wait_for(process: subprocess.Popen[bytes], url: str, seconds: float) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=5).read()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"no server at {url}")


def best(measure: Callable[[], dict[str, float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Measure several times and return the round of the highest rate."""
    return max((measure() for _ in range(rounds)), key=lambda figures: figures["rate"])


def key_rates(database: Database, run_id: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Measure pgbench and both servers in turns, so that all meet the same neighbours."""
    found: dict[str, list[dict[str, Any]]] = {"pgbench": [], "cache off": [], "cache on, Zipf": []}
    ways = (("cache off", ("--cache", "0"), False), ("cache on, Zipf", (), True))
    for _ in range(ROUNDS):
        found["pgbench"].append(peer(lambda: pgbench(database, run_id, folder)))
        for name, options, zipf in ways:
            with Server(database, *options) as server:
                load(server.asked, folder, zipf=zipf, seconds=2)  # warm
                before = server.processor_us()
                figures = load(server.asked, folder, zipf=zipf, seconds=SECONDS)
                figures["server_us"] = (server.processor_us() - before) / (figures["rate"] * SECONDS)
                figures["memory_mb"] = server.peak_memory_mb() or 0.0
                if rate := found["pgbench"][-1].get("rate"):
                    figures["of_pgbench"] = figures["rate"] / rate
                found[name].append(figures)
    best_of = {
        name: max(rounds, key=lambda figures: figures.get("rate", 0.0)) for name, rounds in found.items()
    }
    for name, _, _ in ways:
        if ratios := [figures["of_pgbench"] for figures in found[name] if "of_pgbench" in figures]:
            best_of[name] |= {
                "of_pgbench": median(ratios),
                "of_pgbench_each": [round(each, 2) for each in ratios],
            }
    return best_of


def whole_runs(database: Database, run_id: int) -> dict[str, float]:
    """Measure exports and batches beside COPY, and what they do to the server's memory."""
    whole: dict[str, float] = {}
    with Server(database) as server:
        export(server, FORMS[0][1])  # whatever is loaded once is loaded now
        export(server, FORMS[1][1])
        whole["memory_before_mb"] = server.peak_memory_mb() or 0.0
        for name, accept, form in FORMS:
            table = f"batchpred_data._run_{run_id}"
            ways = (
                (export, server, accept),
                (copy_whole, database, table, form),
                (copy_out, database, table, form),
            )
            took = [[way(*given) for way, *given in ways] for _ in range(ROUNDS)]
            ours, psql, psycopg = (min(each) for each in zip(*took, strict=True))
            whole |= {f"{name}_s": ours, f"copy_{form}_s": psql}
            whole |= {f"{name}_of_copy": ours / psql, f"{name}_of_psycopg": ours / psycopg}
        batch, copied = batches(server, database, run_id)
        whole |= {"batch_1000_ms": batch * 1e3, "copy_1000_ms": copied * 1e3, "batch_of_copy": batch / copied}
        whole["memory_mb"] = server.peak_memory_mb() or 0.0
    return whole


def main() -> None:
    """Measure, print a table, and end with one line of JSON."""
    # Not below a folder that is closed to the user the embedded server runs as under root.
    folder = Path(tempfile.mkdtemp(prefix="batchpred-bench-"))
    folder.chmod(0o755)
    home = folder / "home"
    try:
        database = Database.at(embedded.start(home).url)
        upgrade(database)
        print(f"publishing {ROWS:,} predictions", file=sys.stderr)
        run_id = publish(database, 1)
        found = key_rates(database, run_id, folder)
        found["whole run"] = whole_runs(database, run_id)
        found["feast"] = peer(lambda: feast(database, folder))
        for name, figures in found.items():
            if "p99_ms" in figures:
                figures["p99_of_p50"] = figures["p99_ms"] / figures["p50_ms"]
            if (rate := found["feast"].get("rate")) and "rate" in figures and name != "feast":
                figures["of_feast"] = figures["rate"] / rate
            shown = (
                f"{key} {value:,.2f}" if isinstance(value, int | float) else f"{key}: {value}"
                for key, value in figures.items()
            )
            print(f"{name:16}", "  ".join(shown) or "not installed here")
        generator = "wrk" if shutil.which("wrk") else "python"
        about = {"rows": ROWS, "connections": CONNECTIONS, "load": generator, "rounds": ROUNDS}
        said = {
            name: {
                key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()
            }
            for name, figures in found.items()
        }
        print(json.dumps({**about, "load_average": os.getloadavg()[0], **said}))
    finally:
        embedded.stop(home)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
