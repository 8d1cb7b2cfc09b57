"""Where a run's time goes: samples of every thread of `batchpred run`, by what it was doing.

    python benchmarks/profile_run.py --rows 1000000 --model lightgbm docs/profile.svg

py-spy looks at the process 200 times a second. A sample belongs to the first line of KINDS that one of its
frames fits; a thread that waits for another is not counted. PostgreSQL's processes are not sampled: their
CPU seconds are measured and shown beside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import end_to_end
import limits

RATE = 200
# Kind, and what a frame of its stack says: "function (file" as py-spy writes it, the innermost frame last.
KINDS = {
    "wait": ("wait (threading.py", "join (threading.py"),
    "read: COPY, decode to Arrow": ("__iter__ (storage/query_source.py",),
    "read: cut into chunks": ("cut_into_chunks (jobs/pipeline.py",),
    "read: digest": ("digest_of (jobs/resume.py",),
    "score: columns to matrix and back": (
        "batch (jobs/model_inputs.py",
        "values_of (jobs/model_inputs.py",
        "column_of (jobs/model_outputs.py",
    ),
    "score: the model": ("_halve (jobs/model.py",),
    "score: everything else": ("score_chunk (jobs/score.py",),
    "write: COPY": ("copy_in (storage/arrow_copy.py",),
    "write: ledger": ("write_chunk (jobs/rows.py", "write (jobs/rows.py"),
    "primary key": ("seal (storage/predictions.py",),
    "publish": ("publish (storage/runs.py", "attach (storage/predictions.py", "_publish (jobs/run.py"),
    "start: imports": ("_find_and_load",),
}


def main() -> None:
    """Set up as end_to_end.py does, sample one run, print, draw."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("picture", type=Path, nargs="?")
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--model", choices=["lightgbm", "logistic"], default="lightgbm")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchpred-profile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        url, stop = end_to_end.database(folder)
        try:
            _, environment = end_to_end.prepare(folder, url, chosen.rows, chosen.model)
            samples, wall, server = sample(folder, url, environment)
        finally:
            stop()
    counted = by_kind(samples)
    for kind, seconds in counted.most_common():
        print(f"{kind:38}{seconds:7.2f} s")
    print(f"{'PostgreSQL, CPU':38}{server:7.2f} s")
    print(f"{'wall':38}{wall:7.2f} s")
    if chosen.picture:
        draw(chosen.picture, counted, server, f"{chosen.model}, {chosen.rows:,} rows: {wall:.1f} s wall")
    print(json.dumps({"kinds": dict(counted), "postgres_cpu_seconds": server, "wall": wall}))


def sample(folder: Path, url: str, environment: dict[str, str]) -> tuple[list[str], float, float]:
    """Run once unsampled for the wall time, then under py-spy; stacks, wall and PostgreSQL's CPU seconds."""
    command = [sys.executable, "-m", "batchpred", "run", "bench", "--date", "2026-01-01", "--force"]
    wall = end_to_end.measure(command, environment, folder)["seconds"]
    os.environ["BENCH_URL"] = url
    server = limits.postmaster(url)
    used = limits.cpu_seconds(server)
    wall = min(wall, end_to_end.measure(command, environment, folder)["seconds"])
    used = limits.cpu_seconds(server) - used
    stacks = folder / "stacks.txt"
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--rate", str(RATE), "--format", "raw",
           "--threads", "--output", str(stacks), "--", *command]  # fmt: skip
    subprocess.run(spy, env=environment, cwd=folder, check=True, capture_output=True)
    return stacks.read_text(encoding="utf-8").splitlines(), wall, used


def by_kind(samples: list[str]) -> Counter[str]:
    """Seconds of thread time by kind; a stack is `frame;frame;frame count`."""
    counted: Counter[str] = Counter()
    for line in samples:
        stack, _, count = line.rpartition(" ")
        kind = next(
            (kind for kind, marks in KINDS.items() if any(mark in stack for mark in marks)), "everything else"
        )
        counted[kind] += int(count)
    del counted["wait"]
    return Counter({kind: round(count / RATE, 2) for kind, count in counted.items()})


def draw(path: Path, counted: Counter[str], server: float, title: str) -> None:
    """One bar a kind, in the order of the way of a row."""
    from matplotlib import pyplot as plt

    kinds = [kind for kind in [*KINDS, "everything else"] if kind in counted]
    kinds.sort(key=lambda kind: (not kind.startswith("start"), kind == "everything else"))
    names, seconds = [*kinds, "PostgreSQL, CPU"], [*(counted[kind] for kind in kinds), server]
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "batchpred", "font.size": 9})
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    bars = axes.barh(names[::-1], seconds[::-1], color="#1f6f54")
    axes.bar_label(bars, [f" {value:.2f} s" for value in seconds[::-1]], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.set_xlabel("seconds of a thread; stages overlap")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
