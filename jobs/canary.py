"""A canary in a run: a candidate scores its share of the keys, the run's model the others, in one table.

    planned    the canary that stands beside the run's alias is pinned on the run with its share, like the model;
               with another one, or none, it is another run. Backfills have none, nor has a run of a version
    each row   is read once and scored by one of the two (jobs/share.py says by which), and says by whom
    checked    as any run; and the canary may not hide in the average: where more of its own rows are in quarantine
               than `max_quarantined` allows, and ten at least, the run is blocked. Drift is that of the rows which
               the run's model scored, from the reference of its version
    blocked    by its checks, and not by drift alone, before any run of the job was published with it: the canary is
               withdrawn, in the transaction that closes the run

A canary costs no run its predictions. One that cannot be loaded or does not fit the job is withdrawn when a run is
planned, and the run's model scores every key. Where a run fails with one, for whatever reason that does not pass by
itself, it is tried once more without; if that publishes, the canary is withdrawn. A candidate that brings the whole
process down is met again by whoever takes the run up, until a person withdraws it: what was committed must not
change sides.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.arrays import arrow_of
from jobs.errors import JobError
from jobs.plan import make_plan
from jobs.score import ARROW_TYPES, ScoredChunk, score_chunk
from jobs.share import is_in_share
from storage import canaries
from storage.database import DatabaseError, DatabaseUnreachableError
from storage.errors import BatchpredError
from storage.job_table import CANARY
from storage.runs import ChunkCounts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jobs.plan import Plan, Runtime
    from jobs.report import RunReport
    from storage.canaries import Canary
    from storage.database import Connection, Row

log = logging.getLogger("batchpred.run")

# Of fewer rows nobody can say whether it is the canary: with a share of 5 % it has 50 rows of a thousand.
_FEW = 10


class CanaryError(JobError):
    """The candidate cannot score a share of this job's keys."""


@dataclass(frozen=True)
class Beside:
    """A canary as a run is planned with it: what is on record, and how the candidate scores."""

    canary: Canary
    plan: Plan

    def __str__(self) -> str:
        return f"{self.plan.model} scores {self.canary.percent} of the keys"

    @property
    def told(self) -> dict[str, Any]:
        """What the run's report says of it."""
        sha256 = self.plan.model.sha256
        return {"model": str(self.canary), "sha256": sha256, "share": self.canary.share, "rows": None}


def with_canary(
    runtime: Runtime, connection: Connection, plan: Plan
) -> tuple[Plan, tuple[Canary, str] | None]:
    """Add to a plan the canary that stands beside its alias; where that cannot score, return it with the reason.

    Raises what passes by itself: a lost connection.
    """
    model = plan.model
    canary = canaries.standing(connection, model.name, model.alias) if model.alias else None
    if canary is None or canary.version == model.version:
        return plan, None
    try:
        with runtime.database.errors(f"run of {plan.table.name}"):
            beside = make_plan(runtime, connection, plan.job_file, plan.interval, model_ref=str(canary))
        _require_fit(plan, beside)
    except (DatabaseError, DatabaseUnreachableError):
        raise
    except Exception as error:  # whatever it is, the run goes on
        if getattr(error, "is_transient", False):
            raise
        return plan, (canary, said(error))
    return replace(
        plan, table=replace(plan.table, has_canary=True), canary=Beside(canary, replace(beside, drift=None))
    ), None


def planned(runtime: Runtime, connection: Connection, plan: Plan) -> Plan:
    """The same for a run: a canary that cannot score is withdrawn, and the plan says so."""
    plan, unfit = with_canary(runtime, connection, plan)
    if unfit is None:
        return plan
    canary, why = unfit
    warning = withdraw(connection, canary, f"job {plan.table.name} could not be scored with it: {why}")
    return replace(plan, warnings=(*plan.warnings, *warning))


def withdraw(connection: Connection, canary: Canary, why: str) -> list[str]:
    """Withdraw a canary and say so; nothing where it stands no more."""
    if not canaries.withdraw(connection, canary, why):
        return []
    log.warning("canary withdrawn", extra={"model": str(canary), "why": why})
    return [f"canary {canary} was withdrawn, {canary.name}@{canary.alias} stays as it is: {why}"]


def withdraw_blocked(connection: Connection, plan: Plan, run_id: int, why: str) -> list[str]:
    """Withdraw a canary whose run was blocked, where none of the job was published with it yet."""
    if plan.canary is None or not canaries.is_new(connection, plan.canary.canary, plan.table.name):
        return []
    return withdraw(connection, plan.canary.canary, f"run {run_id} was blocked: {why}")


def withdraw_failed(runtime: Runtime, canary: Canary, report: RunReport, error: Exception) -> list[str]:
    """Withdraw a canary with which a run failed that was made without; what goes wrong here costs no run either."""
    why = f"job {report.job} failed with it, and not without: {said(error)}"
    try:
        with (
            runtime.database.errors(f"run of {report.job}"),
            runtime.database.connect(purpose="run", as_writer=True) as connection,
        ):
            return withdraw(connection, canary, why)
    except BatchpredError as fault:
        return [f"canary {canary} still stands, although {why}; it could not be withdrawn: {fault}"]


def faults(plan: Plan, run: Row) -> list[str]:
    """Say where the canary's own rows fail the check of quarantine that the run as a whole may pass."""
    if plan.canary is None or run["canary_scored"] is None:
        return []
    bad, rows = run["canary_quarantined"], run["canary_scored"] + run["canary_quarantined"]
    most = plan.job_file.job.checks.max_quarantined
    if bad < _FEW or bad <= most * rows:
        return []
    return [
        f"{bad} of the {rows} rows of canary {plan.canary.canary} are in quarantine (max_quarantined {most:g})"
    ]


def score_both(plan: Plan, beside: Beside, rows: pa.Table) -> ScoredChunk:
    """Score each row of a chunk by the model whose key it is; predictions in the order of the rows.

    Raises what `score_chunk` raises.
    """
    key = rows.select([column.name for column in plan.table.key])
    typed = pa.table(
        [
            values.cast(ARROW_TYPES[column.type])
            for values, column in zip(key.columns, plan.table.key, strict=True)
        ],
        names=key.column_names,
    )
    is_canary = is_in_share(plan.table.key, typed, beside.plan.model.sha256, beside.canary.share)
    champion, canary = (
        _scored(each, rows, np.flatnonzero(wanted))
        for each, wanted in ((plan, ~is_canary), (beside.plan, is_canary))
    )
    places = np.concatenate([champion.places, canary.places])
    order = np.argsort(places)
    predictions = pa.concat_tables([champion.predictions, canary.predictions]).take(arrow_of(order))
    by = f"(by canary {beside.canary})"
    return ScoredChunk(
        predictions.append_column(CANARY.name, _true_or_null(order >= len(champion.places))),
        [
            *champion.quarantined,
            *((each, f"{reason} {by}", values) for each, reason, values in canary.quarantined),
        ],
        ChunkCounts(*(a + b for a, b in zip(_counts(champion), _counts(canary), strict=True))),
        places[order],
        canary.counts,
        champion.drift_counts,
    )


def said(error: BaseException) -> str:
    """What went wrong, in a line for a person."""
    return str(error) if isinstance(error, BatchpredError) else f"{type(error).__name__}: {error}"


def _require_fit(plan: Plan, beside: Plan) -> None:
    wanted, found = (
        [(each.name, each.type) for each in table.columns] for table in (plan.table, beside.table)
    )
    if wanted != found:
        differing = ", ".join(
            f"{name} is {now} and not {was}"
            for (name, was), (_, now) in zip(wanted, found, strict=True)
            if was != now
        )
        raise CanaryError(f"its predictions are of another type than those of {plan.model}: {differing}")
    more = [column.name for column in beside.own_reads if column not in plan.own_reads]
    if more and not plan.source.is_ordered:
        raise CanaryError(
            "of files a canary reads what the run's own model reads, as the same types; this one reads "
            + ", ".join(more)
        )


def _scored(plan: Plan, rows: pa.Table, at: NDArray[np.int64]) -> ScoredChunk:
    chunk = score_chunk(plan, rows.select([column.name for column in plan.own_reads]).take(arrow_of(at)))
    return replace(chunk, places=at[chunk.places])


def _counts(chunk: ScoredChunk) -> tuple[int, int, int]:
    return chunk.counts.read, chunk.counts.scored, chunk.counts.quarantined


def _true_or_null(values: NDArray[np.bool_]) -> pa.Array:
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [bits, bits])
