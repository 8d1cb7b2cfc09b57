"""What the read API does beside PostgreSQL itself: one key, 64 connections, random and Zipf-distributed keys.

    make bench-api                 1,000,000 predictions, ten seconds a figure
    ROWS=100000 SECONDS=3 make bench-api

Everything runs on this machine in one sitting: pgbench's prepared select on the run's own table, then one
server process without and with its cache, under `wrk` (apt-get install wrk) or, where that is absent, the load
generator below, which costs more than the server and says so. Ratios are what travels; the last line is one
line of JSON.
"""

from __future__ import annotations

import asyncio
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
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from storage import embedded, predictions, runs
from storage.arrow_copy import copy_in
from storage.database import Database
from storage.job_table import Column, JobTable
from storage.upgrade import upgrade

ROWS = int(os.environ.get("ROWS", "1000000"))
SECONDS = int(os.environ.get("SECONDS", "10"))
CONNECTIONS = 64
FORMS = (
    ("csv", "text/csv", "csv"),
    ("arrow", "application/vnd.apache.arrow.stream", "binary"),
    ("ndjson", "application/x-ndjson", "text"),
)
PATH = "/v1/jobs/bench/predictions/"

JOB = JobTable(
    "bench", "Benchmark", "snapshot", "day", "UTC", timedelta(hours=2),
    (Column("id", "bigint", "integer"),), (Column("score", "double precision"), Column("label", "bigint")),
)  # fmt: skip

# Zipf with exponent 1.0 over all keys, by the inverse of its distribution: key = N ** u.
LUA = """
math.randomseed(os.time())
local last, zipf = {rows}, {zipf}
local before, behind = "GET {path}", " HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n"
-- wrk.format costs the generator more than the rest of a request: it shares its cores with the server.
request = function()
  local key = zipf and math.floor(last ^ math.random()) or math.random(1, last)
  return before .. key .. behind
end
done = function(summary, latency)
  io.write(string.format("P50=%d P99=%d ERRORS=%d\\n", latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


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


def pgbench(database: Database, run_id: int, folder: Path) -> dict[str, float]:
    """Select one row by key with a prepared statement: the most that PostgreSQL gives on this machine."""
    binary = shutil.which("pgbench")
    if binary is None:
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
        while self._process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{PATH}1", timeout=5).read()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
            else:
                return self
        raise SystemExit("the server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)

    def peak_memory_mb(self) -> float | None:
        """The most memory it had so far, where the system says it."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]


def load(server: Server, folder: Path, *, zipf: bool, seconds: int = SECONDS) -> dict[str, float]:
    """Ask for keys from 64 connections: rate, p50 and p99 in milliseconds, and errors."""
    if binary := shutil.which("wrk"):
        script = folder / "keys.lua"
        script.write_text(
            LUA.replace("{rows}", str(ROWS)).replace("{zipf}", str(zipf).lower()).replace("{path}", PATH)
        )
        said = subprocess.run(
            [binary, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{server.port}"],
            capture_output=True, text=True, check=True, timeout=seconds + 60,
        ).stdout  # fmt: skip
        rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
        parts = re.search(r"P50=(\d+) P99=(\d+) ERRORS=(\d+)", said)
        assert rate, said
        assert parts, said
        p50, p99, errors = (int(part) for part in parts.groups())
        return {"rate": float(rate.group(1)), "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "errors": errors}
    return asyncio.run(_load(server.port, seconds, zipf=zipf))


async def _load(port: int, seconds: int, *, zipf: bool) -> dict[str, float]:
    took: list[float] = []
    errors = 0
    until = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < until:
            key = int(ROWS ** random.random()) if zipf else random.randint(1, ROWS)
            writer.write(f"GET {PATH}{key} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(size.group(1)) if size else 0)
            errors += not head.startswith(b"HTTP/1.1 200")
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    took.sort()
    return {
        "rate": len(took) / seconds,
        "p50_ms": took[len(took) // 2] * 1e3,
        "p99_ms": took[len(took) * 99 // 100] * 1e3,
        "errors": errors,
    }


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


def batches(server: Server) -> float:
    """Ask for 1,000 random keys twenty times in a row and return the median's seconds."""
    took = []
    for _ in range(20):
        body = json.dumps({"keys": random.sample(range(1, ROWS + 1), 1_000)}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{server.port}{PATH.removesuffix('/')}:batchGet",
            data=body, headers={"Content-Type": "application/json"},
        )  # fmt: skip
        began = time.perf_counter()
        urllib.request.urlopen(asked, timeout=60).read()
        took.append(time.perf_counter() - began)
    return sorted(took)[10]


def copy_out(database: Database, run_id: int, form: str) -> float:
    """Copy the run's table to nothing and return the seconds it took."""
    with database.connect(purpose="bench") as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        table = f"COPY batchpred_data._run_{run_id} TO STDOUT (FORMAT {form})"
        with cursor.copy(table.encode()) as rows:
            for _ in rows:
                pass
        return time.perf_counter() - began


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
        found: dict[str, dict[str, float]] = {"pgbench": pgbench(database, run_id, folder)}
        for name, options, zipf in (("cache off", ("--cache", "0"), False), ("cache on, Zipf", (), True)):
            with Server(database, *options) as server:
                load(server, folder, zipf=zipf, seconds=2)  # warm
                found[name] = load(server, folder, zipf=zipf)
                found[name]["memory_mb"] = server.peak_memory_mb() or 0.0
        with Server(database) as server:
            before = server.peak_memory_mb() or 0.0
            whole = found["whole run"] = {}
            for name, accept, form in FORMS:
                whole[f"copy_{form}_s"] = copy_out(database, run_id, form)
                whole[f"{name}_s"] = export(server, accept)
                whole[f"{name}_of_copy"] = whole[f"{name}_s"] / whole[f"copy_{form}_s"]
            whole["batch_1000_ms"] = batches(server) * 1e3
            whole["memory_before_mb"], whole["memory_mb"] = before, server.peak_memory_mb() or 0.0
        most = found["pgbench"].get("rate")
        for name, figures in found.items():
            if most and "rate" in figures:
                figures["of_pgbench"] = figures["rate"] / most
            print(f"{name:16}", "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()))
        generator = "wrk" if shutil.which("wrk") else "asyncio"
        print(json.dumps({"rows": ROWS, "connections": CONNECTIONS, "load": generator, **found}))
    finally:
        embedded.stop(home)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
