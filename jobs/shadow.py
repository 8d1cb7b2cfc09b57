"""A candidate beside a run: it scores the same rows, read once, into a hidden run of its own, and stands in no way.

    begins       with a run that begins; one that is taken up again goes on without, and its shadow is abandoned
    each chunk   is scored by the run's model and then by the candidate; its rows are written behind the run's own
                 COMMIT, in a transaction of their own
    ends         once the run is published or blocked: complete, with a primary key; never published, never attached

Whatever goes wrong with the candidate (it cannot be loaded, does not fit the job, fails on every row, its table
cannot be written) ends the shadow alone: it is `failed` with the reason, and the run goes on and says so. Where the
run itself fails while a shadow is beside it, it is tried once more without: a column that only the candidate reads,
or the memory that it takes, may have been the reason. A candidate that brings the whole process down does so once,
because whoever takes the run up leaves the shadow behind.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs import summary
from jobs.errors import JobError
from jobs.plan import make_plan
from jobs.remote_models import shown
from jobs.score import score_chunk
from jobs.unreadable import with_unreadable
from storage import predictions, run_log, runs, shadows
from storage.arrow_copy import copy_in
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from jobs.plan import Plan, Runtime
    from jobs.rows import Writer
    from jobs.score import ScoredChunk
    from jobs.unreadable import Quarantined
    from storage.database import Connection

log = logging.getLogger("batchpred.run")

_RESUMED = "the run was taken up again, and a run that is goes on without its shadow"


class ShadowError(JobError):
    """The candidate cannot be the shadow of this run; the run goes on without."""


@dataclass
class Wish:
    """Which model shall score beside a run (None: none), and what came of it, for the run's report."""

    ref: str | None = None
    told: dict[str, Any] | None = None
    may_be_at_fault: bool = False

    def tell(self, status: str, error: str | None = None, **more: Any) -> None:
        """Note what became of the shadow."""
        self.told = {"model": shown(self.ref or ""), "run_id": None, **(self.told or {}), **more}
        self.told |= {"status": status, "error": error}

    @property
    def warning(self) -> str | None:
        """What the run says of a shadow that came to nothing."""
        if self.told is None or self.told["error"] is None:
            return None
        return f"shadow {self.told['model']} {self.told['status']}: {self.told['error']}"


class Shadow:
    """A shadow at work. Nothing it does raises, except what ends the whole process."""

    def __init__(
        self, connection: Connection, claim: runs.Claim, run_id: int, plan: Plan, beside: Plan
    ) -> None:
        self.run_id = run_id
        self._connection = connection
        self._claim = claim
        self._plan = plan
        self._own = [column.name for column in plan.own_reads]
        self.more = tuple(column for column in plan.own_reads if column not in beside.reads)
        self.has_all_rows = False  # set by the run, once its own table is whole
        self._error: Exception | None = None

    def score(self, rows: pa.Table, unreadable: list[Quarantined]) -> ScoredChunk | None:
        """Score a chunk's rows that could be read; None once the shadow has failed."""
        if self._error is not None:
            return None
        try:
            return with_unreadable(score_chunk(self._plan, rows.select(self._own)), unreadable)
        except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
            self._error = error
            return None

    def write(self, number: int, chunk: ScoredChunk | None) -> None:
        """Write a chunk behind the run's own COMMIT."""
        if chunk is None or self._error is not None:
            return
        try:
            with self._connection.transaction():
                copy_in(self._connection, predictions.run_table(self.run_id), chunk.predictions)
                runs.add_chunk(self._connection, self.run_id, number, chunk.counts, chunk.quarantined)
                self._claim.check(self._connection)
        except Exception as error:  # noqa: BLE001
            self._error = error

    def end(self, wish: Wish) -> None:
        """Close the shadow: complete where all of the run's rows were scored, else with the reason."""
        if self._error is None and self.has_all_rows:
            try:
                self._complete(wish)
            except Exception as error:  # noqa: BLE001
                self._error = error
            else:
                return
        reason = "the run stopped before its end" if self._error is None else _said(self._error)
        status = "abandoned" if self._error is None else "failed"
        wish.tell(status, reason)
        with suppress(Exception):  # the next holder of the claim closes it
            if runs.close_run(self._connection, self._claim, self.run_id, status, reason):
                predictions.drop_run_table(self._connection, self.run_id)

    def _complete(self, wish: Wish) -> None:
        connection, claim = self._connection, self._claim
        with connection.transaction():
            summary.write_down(connection, self.run_id, self._plan)
            run = runs.finish_scoring(connection, claim, self.run_id)
        with connection.transaction():
            predictions.seal(connection, self._plan.table, self.run_id)
            claim.check(connection)
        predictions.analyze(connection, self.run_id)
        runs.close_run(connection, claim, self.run_id, "complete", None)
        rows = {name: run[f"rows_{name}"] for name in ("read", "scored", "quarantined")}
        wish.tell("complete", rows=rows)


@contextmanager
def shadowed(runtime: Runtime, writer: Writer, plan: Plan, wish: Wish) -> Iterator[Writer]:
    """Let the model that is wished for score beside a run that begins, and close its run when the block has ended.

    The block says when all rows are there (`Shadow.has_all_rows`). A run that is taken up again gets no shadow.
    """
    shadow = None
    wish.may_be_at_fault = False
    if writer.stopped is not None:
        _leave(writer.connection, writer.run_id, wish)
    elif wish.ref is not None:
        shadow = _begin(runtime, writer, plan, wish)
    try:
        yield replace(writer, shadow=shadow)
    finally:
        if shadow is not None:
            wish.may_be_at_fault = not shadow.has_all_rows
            shadow.end(wish)
            _note(writer.connection, writer.run_id, wish)


def _begin(runtime: Runtime, writer: Writer, plan: Plan, wish: Wish) -> Shadow | None:
    connection, claim, run_id = writer.connection, writer.claim, writer.run_id
    try:
        beside = make_plan(runtime, connection, plan.job_file, plan.interval, model_ref=wish.ref)
        beside = replace(beside, drift=None)  # nobody reads a shadow: what it says is compared, not judged
        if beside.model.sha256 == plan.model.sha256:
            log.info("no shadow: it is the run's own model", extra={"model": str(beside.model)})
            return None
        more = [column.name for column in beside.reads if column not in plan.reads]
        if more and not plan.source.is_ordered:
            raise ShadowError(
                "of files a shadow reads what the run's own model reads, as the same types; this one reads "
                + ", ".join(more)
            )
        with connection.transaction():
            definition, table = beside.definition, beside.table.as_json()
            shadow_id = runs.start_run(connection, claim, beside.pin, definition, table, shadow_of=run_id)
            predictions.create_run_table(connection, beside.table, shadow_id)
            claim.check(connection)
    except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
        wish.tell("failed", _said(error))
        _note(connection, run_id, wish)
        return None
    wish.tell("running", model=_named(beside.model.name, beside.model.version), run_id=shadow_id)
    log.info("shadow started", extra={"job": plan.table.name, "run_id": shadow_id, "shadow_of": run_id})
    return Shadow(connection, claim, shadow_id, beside, plan)


def _leave(connection: Connection, run_id: int, wish: Wish) -> None:
    with suppress(Exception):
        left = shadows.abandon(connection, run_id, _RESUMED)
        if left or (wish.ref is not None and wish.told is None):
            wish.tell("abandoned", _RESUMED)
            for each in left:  # its model, too: this run may have been asked for without a shadow
                model = _named(each["model_name"], each["model_version"])
                wish.tell("abandoned", _RESUMED, model=model, run_id=each["run_id"])
            _note(connection, run_id, wish)


def _note(connection: Connection, run_id: int, wish: Wish) -> None:
    if wish.told is not None:
        told = {name: value for name, value in wish.told.items() if value is not None and name != "rows"}
        with suppress(Exception):
            run_log.note(connection, run_id, "shadow", told)


def _named(name: str, version: int | None) -> str:
    return f"{name}/{version}" if version else name


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, BatchpredError) else f"{type(error).__name__}: {error}"
