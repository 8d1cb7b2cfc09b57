"""How rows flow: read, score and write as three stages that overlap, with bounded queues between them.

Reading and writing run in threads of their own (they wait for PostgreSQL), scoring in the caller's, which is
the main one: there Ctrl-C arrives. The first error of any stage stops all three and is the one raised.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Generic, TypeVar

import pyarrow as pa

from jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")
Read = TypeVar("Read")
Scored = TypeVar("Scored")

# Bytes that a column of Arrow's strings can hold in one piece.
_MOST_TEXT = 2**31 - 1
# Chunks that may wait between two stages: one keeps the next stage busy, more only cost memory.
_QUEUE_CHUNKS = 1
# A read that can be cancelled ends within this time; one that has not is cancelled again.
_CANCEL_SECONDS = 0.5


def cut_into_chunks(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Regroup record batches of any size into tables of `rows` rows; the last may be shorter, none is empty.

    Each column of a table lies in one piece. Raises JobError where a column's text is too much for one.
    """
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        rest = batch
        while count + rest.num_rows >= rows:
            waiting.append(rest.slice(0, rows - count))
            rest = rest.slice(rows - count)
            count = 0
            yield _in_one_piece(waiting)
        if rest.num_rows:
            waiting.append(rest)
            count += rest.num_rows
    if waiting:
        yield _in_one_piece(waiting)


def _in_one_piece(batches: list[pa.RecordBatch]) -> pa.Table:
    """Make one table of the batches, and let go of them column by column: together they would be two chunks."""
    schema, count = batches[0].schema, sum(batch.num_rows for batch in batches)
    parts = [[batch.column(place) for batch in batches] for place in range(len(schema))]
    batches.clear()
    columns = []
    for field in schema:
        column = parts.pop(0)
        if pa.types.is_string(field.type) and sum(part.nbytes for part in column) > _MOST_TEXT:
            raise JobError(
                f"column {field.name} has more than 2 GB of text in a chunk of {count} rows: lower `chunk_rows` in "
                "the job file"
            )
        columns.append(pa.concat_arrays(column))
    return pa.Table.from_arrays(columns, schema=schema)


def flow(
    read: Iterable[Read],
    score: Callable[[Read], Scored],
    write: Callable[[Scored], None],
    *,
    cancel_read: Callable[[], None],
    meanwhile: Callable[[], object] = lambda: None,
    told_to: Callable[[Callable[[BaseException], None]], AbstractContextManager[None]] = lambda _: (
        nullcontext()
    ),
) -> None:
    """Take every chunk through the three stages, in order; return when the last one is written.

    `cancel_read` makes a read under way in the other thread return; it is called only when the flow stops
    early. `meanwhile` is done while the first chunk is read. `told_to` is given what stops the flow from outside,
    with the error that says why. Raises the first error of any stage, or KeyboardInterrupt, once all three have
    stopped.
    """
    stop = _Stop()
    to_score: _Queue[Read] = _Queue(_QUEUE_CHUNKS, stop)
    to_write: _Queue[Scored] = _Queue(_QUEUE_CHUNKS, stop)

    def reading() -> None:
        to_score.fill(read)

    def scoring() -> None:
        to_write.fill(map(score, to_score))

    def writing() -> None:
        for chunk in to_write:
            write(chunk)
            del chunk  # or it would stay in memory until the next one is scored

    threads = [
        threading.Thread(target=stop.guard(stage), name=f"batchpred-{stage.__name__}")
        for stage in (reading, writing)
    ]

    def all_stages() -> None:
        for thread in threads:
            thread.start()
        meanwhile()
        scoring()
        for thread in threads:
            thread.join()

    with told_to(stop.because):
        stop.guard(all_stages)()
    if stop.error is not None:
        _end(threads, cancel_read)
        raise stop.error


def _end(threads: list[threading.Thread], cancel_read: Callable[[], None]) -> None:
    """Cancel the read until all threads have ended: one that was cancelled before it began begins all the same."""
    cancel_read()
    while alive := [thread for thread in threads if thread.is_alive()]:
        for thread in alive:
            thread.join(_CANCEL_SECONDS)
        if any(thread.is_alive() for thread in alive):
            cancel_read()


class _StoppedError(Exception):
    """Another stage failed: leave what you are doing."""


class _Stop:
    """The first error of any stage, and the word to all queues to let go."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def because(self, error: BaseException) -> None:
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    def guard(self, stage: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                stage()
            except _StoppedError:
                pass
            except BaseException as error:  # noqa: BLE001  # Ctrl-C too; flow() raises it again when all have stopped
                self.because(error)

        return guarded


class _Queue(Generic[T]):
    """A bounded queue of chunks that lets go of both its ends when the flow stops."""

    def __init__(self, size: int, stop: _Stop) -> None:
        self._size = size
        self._stop = stop
        self._chunks: deque[T] = deque()
        self._finished = False

    def fill(self, chunks: Iterable[T]) -> None:
        """Put every chunk in, waiting for room, and then say that there are no more."""
        for chunk in chunks:
            with self._stop.changed:
                self._wait(lambda: len(self._chunks) < self._size)
                self._chunks.append(chunk)
                self._stop.changed.notify_all()
            del chunk  # or it would stay in memory until the next one is made
        with self._stop.changed:
            self._finished = True
            self._stop.changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while self._has_one():
            yield self._taken()  # never a variable here: the queue would hold what its receiver has done with

    def _has_one(self) -> bool:
        with self._stop.changed:
            self._wait(lambda: bool(self._chunks) or self._finished)
            return bool(self._chunks)

    def _taken(self) -> T:
        with self._stop.changed:
            chunk = self._chunks.popleft()
            self._stop.changed.notify_all()
            return chunk

    def _wait(self, ready: Callable[[], bool]) -> None:
        self._stop.changed.wait_for(lambda: ready() or self._stop.error is not None)
        if self._stop.error is not None:
            raise _StoppedError
