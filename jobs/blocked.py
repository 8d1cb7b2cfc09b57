"""How a run that was refused is closed, and which candidate is taken out of use for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs import canary, checks, news
from storage import model_life, runs

if TYPE_CHECKING:
    from jobs.plan import Plan
    from jobs.report import RunReport
    from storage.database import Connection
    from storage.errors import BatchpredError


def close(
    connection: Connection, claim: runs.Claim, plan: Plan, report: RunReport, error: BatchpredError
) -> None:
    """Close a run as blocked and tell it; withdraw its canary, or take its model's release back, where that is new.

    Keys that stand there twice are the source's fault, and no model's. Drift is no canary's.
    """
    run_id = report.run_id
    assert run_id is not None  # noqa: S101  # the run was written down
    may_be_a_models = isinstance(error, checks.ChecksFailedError)
    may_be_the_canarys = may_be_a_models and plan.canary and not isinstance(error, checks.DriftedError)
    withdrawn: list[str] = []

    def tell(inner: Connection) -> None:
        if may_be_the_canarys:
            withdrawn.extend(canary.withdraw_blocked(inner, plan, run_id, str(error)))
        news.blocked(inner, plan=plan, report=report, error=withdrawn[0] if withdrawn else str(error))

    is_closed = runs.close_run(connection, claim, run_id, "blocked", str(error), tell=tell)
    if is_closed and may_be_a_models:
        # Of two candidates at once the canary is the newer: an alias that moves ends its canary.
        taken_back = [] if may_be_the_canarys else _take_back_unstable(connection, plan, run_id, str(error))
        report.warnings += withdrawn + taken_back


def _take_back_unstable(connection: Connection, plan: Plan, run_id: int, why: str) -> list[str]:
    """Move the model's alias back where this was the first run of a version that was just released."""
    model = plan.model
    if model.alias is None or model.version is None:
        return []
    reason = f"run {run_id} was blocked: {why}"
    move = model_life.take_back_unstable(connection, model.name, model.alias, model.version, reason)
    if move is None:
        return []
    name, alias = model.name, f"{model.name}@{model.alias}"
    said = (
        f"unstable candidate: the first run of {name}/{move.from_version} since its release was blocked, so "
        f"{alias} points at {name}/{move.to_version} again; run again to score with it"
    )
    return [said]
