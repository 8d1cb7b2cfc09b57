"""The three stages: order, bounds, and how an error of any stops all."""

import threading
import time
import weakref
from operator import attrgetter

import numpy as np
import pyarrow as pa
import pytest

from jobs.errors import JobError
from jobs.pipeline import cut_into_chunks, flow
from jobs.resume import Resumption


def batches(*sizes):
    """Record batches whose rows count on from 0."""
    start = 0
    for size in sizes:
        yield (
            pa.record_batch({"n": list(range(start, start + size))})
            if size
            else pa.record_batch({"n": pa.array([], pa.int64())})
        )
        start += size


@pytest.mark.parametrize("sizes", [(), (0,), (3,), (10, 1), (1, 1, 1, 1, 1), (25, 0, 7), (10, 10)])
@pytest.mark.parametrize("rows", [1, 4, 10, 1000])
def test_chunks_have_the_size_asked_for_and_lose_nothing(sizes, rows):
    """Whatever the batches, every chunk but the last is full, none is empty, and the rows stay in order."""
    chunks = list(cut_into_chunks(batches(*sizes), rows))
    assert list(range(sum(sizes))) == [n for chunk in chunks for n in chunk["n"].to_pylist()]
    assert all(chunk.num_rows == rows for chunk in chunks[:-1])
    assert all(0 < chunk.num_rows <= rows for chunk in chunks)


def test_too_much_text_for_a_chunk_is_said():
    """Text beyond what one Arrow column can hold names the setting that helps."""
    half = pa.py_buffer(np.zeros(3 << 29, np.uint8))  # pages that nobody touches take no memory
    ends = pa.py_buffer(np.array([0, 3 << 29], np.int32))
    batch = pa.record_batch({"t": pa.Array.from_buffers(pa.string(), 1, [None, ends, half])})
    with pytest.raises(
        JobError, match=r"^column t has more than 2 GB of text in a chunk of 2 rows: lower `chunk_rows`"
    ):
        list(cut_into_chunks([batch, batch], 2))


def test_chunks_go_through_in_order():
    """What is written is every chunk, scored, in the order it was read."""
    written = []
    flow(range(50), lambda n: n * n, written.append, cancel_read=lambda: None)
    assert [n * n for n in range(50)] == written


def test_a_slow_writer_holds_the_reader_back():
    """The queues are bounded: the reader is never more than a few chunks ahead of what is written."""
    ahead, read = [], []

    def reading():
        for n in range(30):
            read.append(n)
            yield n

    def write(n):
        ahead.append(len(read) - n)

    flow(reading(), lambda n: n, write, cancel_read=lambda: None)
    assert max(ahead) <= 6


def test_a_chunk_is_let_go_of_as_soon_as_the_next_stage_is_done_with_it():
    """What was read is gone once it is scored, and what was scored once it is written, also without a next one."""
    read, scored = [], []

    def made(kind):
        chunk = pa.table({"id": [1]})
        kind.append(weakref.ref(chunk))
        return chunk

    def wait_until_gone(kind):
        until = time.monotonic() + 20
        while [each for each in kind if each() is not None]:
            assert time.monotonic() < until
            time.sleep(0.001)

    def reading():
        for _ in range(4):
            wait_until_gone(read)
            yield made(read)

    def score(_):
        wait_until_gone(scored)
        return made(scored)

    chunks = map(attrgetter("rows"), Resumption(()).unscored(reading()))
    flow(chunks, score, lambda _: None, cancel_read=lambda: None)
    assert (4, 4) == (len(read), len(scored))


@pytest.mark.parametrize("broken", ["read", "score", "write"])
def test_the_first_error_stops_all_stages(broken):
    """An error of any stage ends the flow with that very error, and no stage is left running."""
    before = threading.active_count()
    error = ZeroDivisionError(broken)
    cancelled = []

    def fail(stage, n):
        if stage == broken and n == 5:
            raise error
        return n

    with pytest.raises(ZeroDivisionError) as caught:
        flow(
            (fail("read", n) for n in range(10_000)),
            lambda n: fail("score", n),
            lambda n: fail("write", n),
            cancel_read=lambda: cancelled.append(True),
        )
    assert caught.value is error
    assert [True] == cancelled
    assert before == threading.active_count()


def test_a_read_that_hangs_is_cancelled():
    """When a later stage fails, a read that waits in the database is told to stop rather than waited for."""
    let_go = threading.Event()

    def reading():
        yield 1
        let_go.wait(timeout=60)
        raise OSError("cancelled")

    def write(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        flow(reading(), lambda n: n, write, cancel_read=let_go.set)
    assert let_go.is_set()


def test_ctrl_c_passes_through():
    """A KeyboardInterrupt while scoring stops reader and writer and is raised."""

    def score(n):
        if n == 3:
            raise KeyboardInterrupt
        return n

    with pytest.raises(KeyboardInterrupt):
        flow(range(100), score, lambda _: None, cancel_read=lambda: None)
