"""Draw what `make bench` measured: bars for one size, and with more of them how time and memory grow with the rows.

    python benchmarks/picture.py docs/benchmark.svg 100k.json 1m.json 5m.json

Every file is one sitting's JSON (`--out` of end_to_end.py); the bars show the one named first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt  # the back end is chosen before it is imported
from matplotlib.ticker import FuncFormatter, NullFormatter

OURS, THEIRS, INK = "#1f6f54", "#b9c2c9", "#20262b"


def main() -> None:
    """Read the sittings, draw, write the file."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("picture", type=Path)
    options.add_argument("sittings", type=Path, nargs="+")
    chosen = options.parse_args()
    sittings = [json.loads(path.read_text(encoding="utf-8")) for path in chosen.sittings]
    mpl.rcParams.update(
        {"font.family": "sans-serif", "font.size": 9, "text.color": INK, "svg.fonttype": "none",
         "svg.hashsalt": "batchpred", "axes.spines.top": False, "axes.spines.right": False}
    )  # fmt: skip
    panels = 4 if len(sittings) > 1 else 2
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 3.4), layout="constrained")
    limit = sittings[0]["limit"]["seconds"]
    bars(axes[0], sittings[0], "seconds", f"seconds; dotted: the physical limit, {limit:.1f} s")
    axes[0].axvline(limit, color=INK, linewidth=0.8, linestyle=":")
    bars(axes[1], sittings[0], "mib", "peak memory, MiB")
    if panels == 4:
        by_size = sorted(sittings, key=lambda sitting: sitting["rows"])
        lines(axes[2], by_size, "seconds", "seconds")
        lines(axes[3], by_size, "mib", "peak memory, MiB")
        axes[2].legend(fontsize=7, frameon=False)
    machine = sittings[0]["machine"]
    figure.suptitle(
        f"Rows in PostgreSQL to predictions in PostgreSQL: {sittings[0]['model']}, 20 features, "
        f"{machine['cpus']} cores, {sittings[0]['date']}",
        fontsize=10,
    )
    figure.savefig(chosen.picture, metadata={"Date": None})


def bars(axes: plt.Axes, sitting: dict, field: str, title: str) -> None:
    """One bar each, the shortest on top; beside it the value, and how many times batchpred's it is."""
    results = sorted(sitting["results"].items(), key=lambda item: -item[1][field])
    names, values = [name for name, _ in results], [row[field] for _, row in results]
    ours = sitting["results"]["batchpred"][field]
    drawn = axes.barh(names, values, color=[OURS if name == "batchpred" else THEIRS for name in names])
    labels = [f" {value:,.1f}" if field == "seconds" else f" {value:,}" for value in values]
    axes.bar_label(
        drawn,
        [f"{label}, {value / ours:.1f}x" for label, value in zip(labels, values, strict=True)],
        fontsize=8,
    )
    axes.set_title(f"{sitting['rows']:,} rows: {title}", fontsize=9)
    axes.margins(x=0.25)


def lines(axes: plt.Axes, sittings: list[dict], field: str, label: str) -> None:
    """One line each over the number of rows, both axes logarithmic."""
    names = list(dict.fromkeys(name for sitting in sittings for name in sitting["results"]))
    for name in names:
        points = [(s["rows"], s["results"][name][field]) for s in sittings if name in s["results"]]
        ours = name == "batchpred"
        axes.plot(
            *zip(*points, strict=True), marker="o", markersize=3, label=name,
            color=OURS if ours else None, linewidth=2.2 if ours else 1, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([sitting["rows"] for sitting in sittings])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value}")
        )
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rows")
    axes.set_title(label, fontsize=9)


if __name__ == "__main__":
    main()
