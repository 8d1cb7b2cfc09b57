"""How a run's rows are scored, decided before and told after: batch size and why, device, seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from jobs.batch_size import Batches, Choice
from jobs.machine import fingerprint
from storage import scoring

if TYPE_CHECKING:
    from jobs.jobspec import Job
    from jobs.model import Model, ScoringPlan
    from jobs.plan import Plan
    from jobs.transform import Transform
    from storage.database import Connection


def batches_for(connection: Connection, job: Job, model: Model, plan: ScoringPlan) -> Batches:
    """Decide how a run finds its batch size: the job file's, what was measured here before, or a climb."""
    known = scoring.batch_size(connection, model.sha256, model.provider, fingerprint())
    return Batches(
        model.threads,
        row_bytes=plan.row_bytes,
        chunk_rows=job.chunk_rows,
        fixed=job.batch_size,
        known=Choice(known["batch_rows"], known["rows_per_second"]) if known else None,
        known_since=f"on {known['measured_at']:%Y-%m-%d}" if known else "before",
    )


def write_down(connection: Connection, run_id: int, plan: Plan) -> dict[str, Any]:
    """Keep with the run how it was scored, remember a measured batch size, and return the account.

    Call it in a transaction that ends with a look at the fence.
    """
    _remember(connection, plan)
    if plan.canary:
        _remember(connection, plan.canary.plan)
    account = {
        "device_asked": list(plan.job_file.job.device),
        **_account(plan),
        "transform": _cost(plan.transform) if plan.transform else None,
    }
    if plan.canary:
        account["canary"] = {"model": str(plan.canary.canary), **_account(plan.canary.plan)}
    scoring.note(connection, run_id, account)
    return account


def _account(plan: Plan) -> dict[str, Any]:
    model, batches = plan.model.model, plan.batches
    used = batches.used
    return {
        "device": model.obtained.device,
        "provider": model.provider,
        "operators": model.obtained.operators,
        "fallback": model.obtained.fallback,
        "batch_rows": used.rows if used else None,
        "threads": model.threads,
        "batch": batches.why,
        "model_seconds": round(batches.seconds, 3),
    }


def _remember(connection: Connection, plan: Plan) -> None:
    model, batches = plan.model.model, plan.batches
    if batches.is_worth_remembering and batches.choice is not None:
        scoring.remember_batch_size(
            connection,
            model.sha256,
            model.provider,
            fingerprint(),
            batch_rows=batches.choice.rows,
            threads=batches.threads,
            rows_per_second=batches.choice.rows_per_second or 0.0,
        )


def _cost(transform: Transform) -> dict[str, Any]:
    """What the transform took, in seconds and as a share of the run up to now."""
    share = transform.seconds / max(time.monotonic() - transform.began, transform.seconds, 1e-9)
    return {"function": transform.name, "seconds": round(transform.seconds, 3), "share": round(share, 3)}


def lines(account: dict[str, Any]) -> list[str]:
    """Say the account to a person, a line a thing."""
    where = f"{account['device']} ({account['provider']})"
    told = [f"scored on {where} in {account['model_seconds']:g} s, batches of {account['batch']}"]
    if transform := account["transform"]:
        cost = f"{transform['seconds']:g} s, {transform['share']:.0%} of the run"
        told.append(f"transform {transform['function']} took {cost}")
    if account["fallback"]:
        told.append(f"fell back to {account['device']}: {account['fallback']}")
    if (canary := account.get("canary")) and canary["fallback"]:
        told.append(f"canary {canary['model']} fell back to {canary['device']}: {canary['fallback']}")
    return told
