"""The reference profile of a version that was pushed without one, made of the rows of a job's interval.

Of many rows a part is profiled, evenly from all of them: every row, then every second, every fourth and so on, as
more come. Which rows those are depends on their order alone, which is that of the key, or of files their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.errors import JobError
from jobs.pipeline import cut_into_chunks
from jobs.plan import make_plan
from jobs.profile import make_profile
from jobs.score import scored_rows
from jobs.unreadable import set_unreadable_aside

if TYPE_CHECKING:
    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.plan import Plan, Runtime
    from storage.database import Connection
    from storage.registry import ModelVersion

# As many rows may be held. A decile of half of them is known to 0.2 % of the rows; memory is bounded.
MOST_ROWS = 100_000


def profile_of(
    runtime: Runtime, connection: Connection, job_file: JobFile, interval: Interval, version: ModelVersion
) -> dict[str, Any]:
    """Read the rows of a job's interval, score a part of them with the version, and profile both.

    Nothing is written. Raises BatchpredError where the version does not fit the job, and JobError without a row.
    """
    plan = make_plan(runtime, connection, job_file, interval, model_ref=str(version))
    rows = _part(plan, MOST_ROWS)
    if rows is None:
        raise JobError(f"{job_file.job.name}: the source gave no rows for {interval.describe()}")
    given: list[pa.Table] = []
    scored = scored_rows(plan, rows, given.append)
    names = dict.fromkeys(feature.column for feature in plan.scoring.features)
    scores = {
        output.ref: values
        for output, values in zip(plan.scoring.outputs, scored.columns.columns, strict=True)
        if not output.is_vector
    }
    return make_profile(
        given[0].select(list(names)),
        {name: values.to_numpy(zero_copy_only=False) for name, values in scores.items()},
    )


def _part(plan: Plan, most: int) -> pa.Table | None:
    """Every row of the source, or every so many from the first on: `most` at most, and half of it at least."""
    parts: list[pa.Table] = []
    step, seen, held = 1, 0, 0
    with plan.source.read(plan.reads, plan.key) as batches:
        for chunk in cut_into_chunks(batches, plan.job_file.job.chunk_rows):
            rows, _ = set_unreadable_aside(plan, chunk)
            parts.append(rows.take(pa.array(range(-seen % step, rows.num_rows, step), pa.int64())))
            seen += rows.num_rows
            held += parts[-1].num_rows
            while held > most:
                whole = pa.concat_tables(parts)
                parts = [whole.take(pa.array(range(0, held, 2), pa.int64()))]
                step, held = step * 2, parts[0].num_rows
    return pa.concat_tables(parts).combine_chunks() if held else None
