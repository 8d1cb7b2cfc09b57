"""How a claimed run's rows go from the source into its hidden table, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jobs.canary import score_both
from jobs.pipeline import cut_into_chunks, flow
from jobs.resume import NumberedChunk, Resumption, RowsChangedError
from jobs.score import ScoredChunk, last_named, score_chunk
from jobs.transform import TransformError
from jobs.unreadable import set_unreadable_aside, with_unreadable
from storage import predictions, runs, unfinished
from storage.arrow_copy import copy_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from jobs.plan import Plan
    from jobs.shadow import Shadow
    from jobs.stopping import Stop
    from jobs.unreadable import Quarantined
    from storage.database import Connection
    from storage.sources import SourceColumn


@dataclass(frozen=True)
class Writer:
    """Who writes: the connection, the claim, the run, where it had stopped if taken up again, and its shadow."""

    connection: Connection
    claim: runs.Claim
    run_id: int
    stopped: unfinished.Unfinished | None
    shadow: Shadow | None = None

    @property
    def read_beside(self) -> tuple[SourceColumn, ...]:
        """The columns that only the shadow reads: neither the run's model nor its chunks' digests know them."""
        return self.shadow.more if self.shadow else ()

    def score_beside(self, rows: pa.Table, unreadable: list[Quarantined]) -> ScoredChunk | None:
        """Let the shadow score a chunk's rows, if there is one."""
        return self.shadow.score(rows, unreadable) if self.shadow else None

    def write_beside(self, chunk: FinishedChunk) -> None:
        """Write what the shadow scored."""
        if self.shadow:
            self.shadow.write(chunk.number, chunk.shadowed)


@dataclass(frozen=True)
class FinishedChunk:
    """A chunk on its way to the database: what was read, and what became of it."""

    number: int
    rows_sha256: str
    last_key: dict[str, Any]
    scored: ScoredChunk
    shadowed: ScoredChunk | None = None


def score_rows(writer: Writer, plan: Plan, on_progress: Callable[[int], None], stop: Stop) -> int:
    """Read, score and write every chunk that is not done yet; return how many were done.

    Raises RowsChangedError where the source no longer gives what a complete table was made of, and what `stop` was
    asked with.
    """
    connection, stopped = writer.connection, writer.stopped
    key = [column.name for column in plan.key]
    beside = [column.name for column in writer.read_beside]
    reference = plan.drift.digest if plan.drift else None
    resumption = Resumption(stopped.chunks if stopped else (), beside, reference)

    def score(chunk: NumberedChunk) -> FinishedChunk:
        rows, unreadable = set_unreadable_aside(plan, chunk.rows)
        try:
            own = rows.drop_columns(beside)
            scored = score_chunk(plan, own) if plan.canary is None else score_both(plan, plan.canary, own)
            scored = with_unreadable(scored, unreadable)
        except TransformError as error:
            first = ", ".join(f"{name}={value}" for name, value in chunk.key_at(0, key).items())
            raise type(error)(f"{error}, in chunk {chunk.number} (from key {first})") from error
        last = last_named(plan.table.key, chunk.rows)
        shadowed = writer.score_beside(rows, unreadable)
        return FinishedChunk(chunk.number, chunk.sha256, chunk.key_at(last, key), scored, shadowed)

    def take_back_outdated() -> None:
        if stopped and stopped.is_sealed:
            raise RowsChangedError
        if stopped and resumption.has_outdated and not plan.source.is_ordered and resumption.kept:
            raise RowsChangedError  # which rows came later than a chunk only the order of the key could tell
        if stopped and resumption.has_outdated:
            unfinished.cut_back(connection, plan.table, stopped, resumption.kept)

    written = 0

    def write(chunk: FinishedChunk) -> None:
        nonlocal written
        with connection.transaction():
            if not written:
                take_back_outdated()
            write_chunk(connection, writer.run_id, chunk)
            writer.claim.check(connection)
        written += 1
        writer.write_beside(chunk)
        on_progress(chunk.scored.counts.read)

    with plan.source.read((*plan.reads, *writer.read_beside), plan.key) as rows:
        read = resumption.unscored(cut_into_chunks(rows, plan.job_file.job.chunk_rows))
        flow(read, score, write, cancel_read=rows.cancel, meanwhile=_import_the_rest, told_to=stop.told_to)
    if not written and resumption.has_outdated:  # the source ends before what was done
        with connection.transaction():
            take_back_outdated()
            writer.claim.check(connection)
    return resumption.kept


def _import_the_rest() -> None:
    """Import what only scoring and writing need, 0.05 s, while the source sorts its rows."""
    import_module("pyarrow.compute")
    import_module("pgpq")


def write_chunk(connection: Connection, run_id: int, chunk: FinishedChunk) -> None:
    """Write a chunk's rows and its ledger entry; the caller's transaction commits both or neither."""
    scored = chunk.scored
    copy_in(connection, predictions.run_table(run_id), scored.predictions)
    runs.add_chunk(
        connection,
        run_id,
        chunk.number,
        scored.counts,
        scored.quarantined,
        rows_sha256=chunk.rows_sha256,
        last_key=chunk.last_key,
        canary=scored.canary,
        drift_counts=scored.drift_counts,
    )
