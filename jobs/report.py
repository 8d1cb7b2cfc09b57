"""What became of a run, for whoever asked for it: as a row of a table, as lines, as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs import drift, summary

if TYPE_CHECKING:
    from storage.attempts import Cause
    from storage.canaries import Canary
    from storage.database import Row

# What of a report is for the program, not for whoever reads it.
_INTERNAL = ("label", "exit_code", "fence", "cause", "beside")


@dataclass
class RunReport:
    """What became of one run, as `batchpred run --json` prints it; times in seconds, counts in rows."""

    run_id: int | None
    job: str
    interval_start: str
    interval_end: str
    status: str = "failed"
    model: dict[str, Any] | None = None
    provider: str | None = None
    rows: dict[str, int] = field(default_factory=lambda: {"read": 0, "scored": 0, "quarantined": 0})
    chunks: int = 0
    chunks_resumed: int = 0
    attempts: int = 0
    seconds: float = 0.0
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    scoring: dict[str, Any] | None = None
    shadow: dict[str, Any] | None = None
    canary: dict[str, Any] | None = None
    drift: dict[str, Any] | None = None
    label: str = field(default="", repr=False)
    exit_code: int = field(default=0, repr=False)
    fence: int = field(default=0, repr=False)
    cause: Cause | None = field(default=None, repr=False)
    beside: Canary | None = field(default=None, repr=False)

    def count(self, run: Row) -> None:
        """Take the counts from the ledger's row of the run."""
        self.run_id = run["run_id"]
        self.rows = {name: run[f"rows_{name}"] for name in ("read", "scored", "quarantined")}
        self.chunks = run["chunks"]
        if self.canary:
            self.canary["rows"] = {name: run[f"canary_{name}"] for name in ("scored", "quarantined")}

    @property
    def line(self) -> dict[str, Any]:
        """The report as one row of a table."""
        model = self.model or {"name": "", "version": None}
        beside = f", {self.beside} {self.beside.percent}" if self.canary and self.beside else ""
        return {
            "job": self.job,
            "interval": self.label,
            "status": self.status,
            "run": self.run_id,
            "model": model["name"] + (f"/{model['version']}" if model["version"] else "") + beside,
            "scored": self.rows["scored"],
            "quarantined": self.rows["quarantined"],
            "seconds": self.seconds,
        }

    @property
    def notes(self) -> list[str]:
        """How it was scored, in lines for a person."""
        lines = summary.lines(self.scoring) if self.scoring else []
        if self.canary and self.canary["rows"]:
            scored, name = self.canary["rows"]["scored"] or 0, self.canary["model"]
            lines.append(f"canary {name} scored {scored:,} of the rows: batchpred runs show {self.run_id}")
        if self.drift:
            lines.append(drift.line(self.drift))
        if self.shadow and self.shadow["status"] == "complete":
            rows = self.shadow["rows"]["scored"]
            lines.append(
                f"shadow {self.shadow['model']} scored {rows:,} of the same rows: "
                f"batchpred models compare --run {self.run_id}"
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """The report as one plain document."""
        return {name: value for name, value in vars(self).items() if name not in _INTERNAL}
