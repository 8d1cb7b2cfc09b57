"""What asks: wrk where it is installed (apt-get install wrk), else 64 connections in Python.

The generator shares the machine with what it measures. One in Python costs more than the server, and its figures
say little of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONNECTIONS = 64


@dataclass(frozen=True)
class Asked:
    """A server on this machine, and a request as it is before and behind its key of eight digits."""

    port: int
    rows: int
    before: str
    behind: str


# Zipf with exponent 1.0 over all keys, by the inverse of its distribution: key = N ** u.
LUA = """
math.randomseed(os.time())
local last, zipf = {rows}, {zipf}
local before, behind = {request}
-- wrk.format costs the generator more than the rest of a request: it shares its cores with the server.
request = function()
  local key = zipf and math.floor(last ^ math.random()) or math.random(1, last)
  return before .. string.format("%08d", key) .. behind
end
done = function(summary, latency)
  io.write(string.format("P50=%d P99=%d ERRORS=%d\\n", latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""


def load(asked: Asked, folder: Path, *, zipf: bool, seconds: int) -> dict[str, float]:
    """Ask for keys from 64 connections: rate, p50 and p99 in milliseconds, and errors."""
    if binary := shutil.which("wrk"):
        script = folder / "keys.lua"
        script.write_text(
            LUA.replace("{rows}", str(asked.rows))
            .replace("{zipf}", str(zipf).lower())
            .replace("{request}", f"{json.dumps(asked.before)}, {json.dumps(asked.behind)}")
        )
        said = subprocess.run(
            [binary, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{asked.port}"],
            capture_output=True, text=True, check=True, timeout=seconds + 60,
        ).stdout  # fmt: skip
        rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
        parts = re.search(r"P50=(\d+) P99=(\d+) ERRORS=(\d+)", said)
        assert rate, said
        assert parts, said
        p50, p99, errors = (int(part) for part in parts.groups())
        return {"rate": float(rate.group(1)), "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "errors": errors}
    return asyncio.run(_load(asked, seconds, zipf=zipf))


async def _load(asked: Asked, seconds: int, *, zipf: bool) -> dict[str, float]:
    took: list[float] = []
    errors = 0
    until = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection("127.0.0.1", asked.port)
        while (began := time.perf_counter()) < until:
            key = int(asked.rows ** random.random()) if zipf else random.randint(1, asked.rows)
            writer.write(f"{asked.before}{key:08}{asked.behind}".encode())
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
