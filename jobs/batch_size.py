"""How many rows a batch has: measured in a short climb, remembered, and the reason said.

How processors share the work. Each batch is scored by one thread, and several batches at once. Threads that share
a batch wait for each other at its end, the longer where the reader or PostgreSQL has one's processor: a whole run
of a million rows through 200 trees, on two processors, took 7.1 s with two threads to a batch and 6.5 s with a
batch to each of two, and 9.7 and 9.2 processor seconds (medians of six, in turns). Where one thread would do, as
for a logistic regression, a second one costs nothing either (2.5 s both ways, medians of six); so there are always
as many as processors, and nothing to measure.

How the climb goes. Real batches of the run are scored with growing sizes, as many at once as there are threads,
and their time is taken; every prediction counts, nothing is thrown away. A size is tried a few times and its
quickest try counts, because other processes only ever slow one down. The climb ends when two sizes in a row gain
nothing, when they take so long that their overhead no longer matters, at the bound of memory, or at the chunk's
size. The smallest size within 3 % of the best is taken: it needs the least memory.

Why predictions do not move with it. Measured on scikit-learn's logistic regression, a perceptron and 200 boosted
trees: batches of 64 to 65,536 rows agree to the last bit; one row at a time differs in the last digit of a
float32, and so do trees between a batch's one thread and several. So a batch has one thread on any machine, a
climb begins at 64 rows, and what waits is cut into even batches without a short last one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

# The first call is slow and trees split the work in another way up to 50 rows, hence 64 as the first size. At
# 65,536 rows a logistic regression gained little (83 against 77 million rows/s at 16,384), a perceptron lost 40 %.
SIZES = (64, 256, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
# Bytes of inputs and outputs of the batches scored at once. On two processors a float32 matrix of 20 columns
# reaches 50,000 rows, half a chunk, with 8 MB; one of 4,096 columns stops at 1,024. What a model needs inside grows
# with its time: the next bound stops that.
_MOST_BYTES = 32 << 20
# Seconds: a call costs some 20 to 100 microseconds beside its rows, so from here on a larger one gains nothing.
_LONG_CALL = 0.25
_TRIES = 3
_TRIES_OF_SHORT = 5  # for calls under half a millisecond, which one interruption spoils
_SHORT_CALL = 0.0005
_TRIES_OF_LARGE = 2  # from 16,384 rows on: a chunk of 100,000 rows has few of them
_LARGE = 16_384
_GAIN = 1.03  # what a size must gain to count as better


@dataclass(frozen=True)
class Choice:
    """The rows of a batch, and the rows a second of all threads that were measured with it."""

    rows: int
    rows_per_second: float | None = None


@dataclass
class _Size:
    rows: int
    tries: int = 0
    rate: float = 0.0
    call: float = math.inf


@dataclass
class Batches:
    """Says which batches come next, and learns from how long they took; one for each run.

    `threads` is how many batches may be scored at once; `row_bytes` what a row takes as inputs and outputs;
    `chunk_rows` the most rows that are ever scored together. With `fixed` rows nothing is measured; `known` is
    what an earlier run found.
    """

    threads: int
    row_bytes: int = 4
    chunk_rows: int = 100_000
    fixed: int | None = None
    known: Choice | None = None
    known_since: str = "before"
    choice: Choice | None = None
    is_measured: bool = False
    shrunk_to: int | None = None
    seconds: float = 0.0
    _tried: list[_Size] = field(default_factory=list)
    _candidates: list[_Size] = field(default_factory=list)
    _rows_measured: int = 0

    def __post_init__(self) -> None:
        """Take what is given, or lay out the climb."""
        if self.fixed is not None:
            self.choice = Choice(self.fixed)
        elif self.known is not None:
            self.choice = Choice(min(self.known.rows, self._cap), self.known.rows_per_second)
        else:
            sizes = [rows for rows in SIZES if rows < self._cap]
            if self._cap <= SIZES[-1]:
                sizes.append(self._cap)
            self._candidates = [_Size(rows) for rows in sizes]

    @property
    def _cap(self) -> int:
        return max(1, min(_MOST_BYTES // max(self.row_bytes, 1), self.chunk_rows) // self.threads)

    def next(self, waiting: int) -> list[int]:
        """Return the sizes of the batches to score now, of the `waiting` rows: `threads` of them at once.

        While the climb goes on they are as many as are scored at once, and `took` wants the time of all together.
        """
        if self.choice is not None:
            return self._even(waiting, self.choice.rows)
        rows = self._within(self._candidates[0].rows)
        return [rows] * self.threads if waiting >= rows * self.threads else self._even(waiting, rows)

    def _even(self, waiting: int, rows: int) -> list[int]:
        """Cut what waits into batches of about `rows`, equal but for one row: a last one of a few could differ
        from the others in the last digit. No thread is left without one, or it would wait for the others.
        """  # noqa: D205  # one sentence
        count = math.ceil(waiting / self._within(rows))
        if waiting >= self.threads * SIZES[0]:
            count = math.ceil(count / self.threads) * self.threads
        edges = [waiting * place // count for place in range(count + 1)]
        return [last - first for first, last in pairwise(edges)]

    def _within(self, rows: int) -> int:
        return rows if self.shrunk_to is None else min(rows, self.shrunk_to)

    def took(self, rows: int, seconds: float, *, counts: bool = True) -> None:
        """Learn that the batches `next` gave, of `rows` in all, took `seconds`.

        Bad rows among them (`counts` false) teach nothing, and neither do short batches at a chunk's end.
        """
        self.seconds += seconds
        if self.choice is not None or not counts:
            return
        self._rows_measured += rows
        size = self._candidates[0]
        if rows * 4 < size.rows * self.threads * 3 and size.rows > SIZES[0]:
            return
        size.tries += 1
        size.call = min(size.call, seconds)
        size.rate = max(size.rate, rows / max(seconds, 1e-9))
        wanted = _TRIES_OF_SHORT if size.call < _SHORT_CALL else _TRIES
        wanted = _TRIES_OF_LARGE if size.rows >= _LARGE else wanted
        if size.tries >= wanted or size.call > _LONG_CALL:
            self._tried.append(self._candidates.pop(0))
            self._go_on(size)

    def _go_on(self, size: _Size) -> None:
        """Leave the sizes that cannot gain any more; with none left, decide."""
        best_before = max((each.rate for each in self._tried[:-2]), default=0.0)
        flat = len(self._tried) > 2 and all(each.rate < best_before * _GAIN for each in self._tried[-2:])
        if flat or size.call > _LONG_CALL:
            self._candidates.clear()
        if not self._candidates:
            self._decide()

    def _decide(self) -> None:
        best = max(each.rate for each in self._tried)
        chosen = next(each for each in self._tried if each.rate * _GAIN >= best)
        self.choice = Choice(chosen.rows, chosen.rate)
        self.is_measured = True

    def out_of_memory(self, rows: int) -> None:
        """Never again give as many rows as the device had no memory for."""
        if self.is_too_large(rows):
            return  # another batch, scored at the same time, found out first
        self.shrunk_to = max(1, rows // 2)
        if self.choice is None:  # the climb ends here: what it had not tried yet is larger still
            self._candidates.clear()
            if self._tried:
                self._decide()
            else:
                self.choice = Choice(self.shrunk_to)

    def is_too_large(self, rows: int) -> bool:
        """Tell whether the device is known to have no memory for so many rows."""
        return self.shrunk_to is not None and rows > self.shrunk_to

    @property
    def is_worth_remembering(self) -> bool:
        """Whether the climb came to its end and was not cut short by this job's own chunks or by memory."""
        return (
            self.is_measured
            and self.choice is not None
            and self.shrunk_to is None
            and self.choice.rows < self.chunk_rows // self.threads
        )

    @property
    def used(self) -> Choice | None:
        """The size the run settled on; None where it had too few rows to find one."""
        if self.choice is None or self.shrunk_to is None:
            return self.choice
        return Choice(self._within(self.choice.rows), self.choice.rows_per_second)

    @property
    def plan(self) -> str:
        """One line for what is to come: the size, or that it will be measured."""
        return "measured as the run begins" if self.choice is None else self.why

    @property
    def why(self) -> str:
        """One line for the run's summary: which size and for which reason."""
        used = self.used
        if used is None:
            return f"{self._rows_measured:,} rows were too few to measure a batch size"
        size = f"{used.rows:,} rows, " + (f"{self.threads} at once" if self.threads > 1 else "one at a time")
        if self.shrunk_to is not None:
            return f"{size}: halved, the device had no memory for more"
        if self.fixed is not None:
            return f"{size}: `batch_size` of the job file"
        rate = f"{used.rows_per_second:,.0f} rows/s" if used.rows_per_second else "no rate"
        if self.is_measured:
            return f"{size}: measured in this run, {rate}"
        return f"{size}: measured {self.known_since}, {rate}"
