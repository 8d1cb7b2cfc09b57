"""What a run would do, shown without doing it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.canary import with_canary
from jobs.drift import require
from jobs.plan import Runtime, make_plan
from storage import canaries, runs
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.drift_counts import Reference
    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Plan
    from storage.database import Connection


def preview(
    runtime: Runtime,
    job_file: JobFile,
    interval: Interval,
    *,
    model_ref: str | None = None,
    shadow_ref: str | None = None,
) -> dict[str, Any]:
    """Plan a run and count its rows; nothing is claimed or written.

    Returns plain values by name, in the order in which a person reads them. Raises BatchpredError.
    """
    with (
        runtime.database.errors(f"plan of {job_file.job.name}"),
        runtime.database.connect(purpose="plan", as_writer=True) as connection,
    ):
        plan = make_plan(runtime, connection, job_file, interval, model_ref=model_ref)
        require(plan)
        plan, no_canary = with_canary(runtime, connection, plan)
        canary = str(plan.canary) if plan.canary else f"none: {no_canary[1]}" if no_canary else None
        shadow = shadow_ref or job_file.job.shadow
        shadow_plan = partial(make_plan, runtime, connection, job_file, interval, model_ref=shadow)
        return {
            "job": job_file.job.name,
            "interval": interval.describe(),
            **plan.source.shown(),
            "rows": plan.source.count(),
            "model": str(plan.model),
            "sha256": plan.model.sha256,
            **({"canary": canary} if canary else {}),
            **({"shadow": _shadow(shadow_plan)} if shadow else {}),
            "provider": plan.model.model.provider,
            "batches": plan.batches.plan,
            **({"transform": plan.transform.name} if plan.transform else {}),
            **({"drift": _reference(plan.drift)} if plan.drift else {}),
            "reads": [f"{column.name} ({column.type})" for column in plan.reads],
            "writes": [f"{column.name} {column.type}" for column in plan.table.columns],
            "into": f"predictions.{plan.table.name} ({plan.table.mode})",
            "replaces": _replaced(connection, plan),
            "warnings": list(plan.warnings),
        }


def _reference(reference: Reference) -> str:
    columns = f"{len(reference.bins)} columns" if len(reference.bins) > 1 else "1 column"
    return f"{columns} against the reference profile of {reference.name}, of {reference.rows:,} rows"


def _shadow(make: Callable[[], Plan]) -> str:
    try:
        return str(make().model)
    except BatchpredError as error:  # as in a run: the run goes on without it
        return f"none: {error}"


def _replaced(connection: Connection, plan: Plan) -> str:
    done = runs.published_run(connection, plan.slot)
    if done is None:
        return "nothing: this interval has no published run"
    model = done["model_name"] + (f"/{done['model_version']}" if done["model_version"] else "")
    what = f"run {done['run_id']}: {done['rows_scored']} predictions by {model}{canaries.beside(done)}"
    same = f"nothing, unless --force: {what}, same model and definition"
    return same if plan.pin.is_of(done) else what
