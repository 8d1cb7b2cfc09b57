"""A loaded model: rows of Arrow columns go in, predictions come out, and rows it cannot score are named.

Which failure is whose. A batch the model fails on is halved until each bad row stands alone: those go to
quarantine. Before the model ever scored a row, one that fails on every row of a batch is at fault itself. A device
without memory for a batch is nobody's fault: half of it is tried, and no later batch is as large; only where a
single row is too much does the run stop.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.at_once import at_once
from jobs.batch_size import Batches
from jobs.device import Obtained, open_on, runner
from jobs.errors import ModelDamagedError, ModelError
from jobs.model_inputs import Feed, check_columns, values_of
from jobs.model_outputs import Quarantined, Scored, column_of, joined
from jobs.session import is_out_of_memory, reason_of
from jobs.signature import FeatureColumn, OutputColumn, Signature
from jobs.threads import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ["Model", "Quarantined", "Scored", "ScoringPlan", "check_columns"]

log = logging.getLogger("batchpred.run")


@dataclass(frozen=True)
class ScoringPlan:
    """The source columns a model is given and the prediction columns it fills, both from its signature."""

    features: tuple[FeatureColumn, ...]
    outputs: tuple[OutputColumn, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes one row takes as inputs and outputs, counting text as 64."""
        sizes = [_SIZES.get(feature.dtype, 8) for feature in self.features]
        sizes += [_SIZES.get(output.dtype, 8) * (output.width or 1) for output in self.outputs]
        return sum(sizes)


_SIZES = {"string": 64, "bool": 1} | {
    np.dtype(name).name: np.dtype(name).itemsize
    for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
}


@dataclass(frozen=True)
class _Work:
    """What is scored: the rows' values, the columns to fill and the model's outputs for them, and what decides
    the batches.
    """  # noqa: D205  # one sentence

    feed: Feed
    outputs: tuple[OutputColumn, ...]
    wanted: list[str]
    batches: Batches

    def columns(self, returned: list[Any], size: int) -> list[NDArray[Any]]:
        """The columns that are kept of what the model returned for `size` rows. Raises ModelError."""
        by_name = dict(zip(self.wanted, returned, strict=True))
        return [column_of(by_name[output.output_name], output, size) for output in self.outputs]


@dataclass(frozen=True)
class _Batch:
    """What became of a batch: columns with the positions they are for, and the positions the model failed on."""

    answers: list[tuple[int, int, list[NDArray[Any]]]]
    failed: dict[int, str]


class Model:
    """One model in memory; `score` may be called from several threads at once."""

    def __init__(self, session: Any, *, name: str, sha256: str, obtained: Obtained, threads: int = 1) -> None:
        self.name = name
        self.sha256 = sha256
        self.signature = Signature.of_session(session)
        self.obtained = obtained
        self.threads = threads if obtained.device == "cpu" else 1  # batches at once: a device has one queue
        self._run: Callable[..., list[Any]] = runner(session, obtained.device)
        # Set for good by the first row that is scored: from then on a failing batch is the rows' fault.
        self._works = False

    @classmethod
    def load(
        cls,
        data: bytes,
        *,
        sha256: str,
        name: str,
        threads: int | None = None,
        device: Sequence[str] = ("cpu",),
    ) -> Model:
        """The model in `data`, whose digest must be `sha256`; `threads` is how many processors it may use.

        `device` names where it is to run, in order of preference (jobs/device.py). The digest is taken of the
        very bytes that are loaded: 899 of 1,000 single flipped bits loaded without complaint and changed
        scores. Raises ModelDamagedError where it differs, ModelError where ONNX Runtime refuses the model, and
        DeviceError where no device of the list takes it.
        """
        actual = hashlib.sha256(data).hexdigest()
        if actual != sha256.lower():
            raise ModelDamagedError(
                f"model {name} is damaged: its sha256 should be {sha256} and is {actual}; the file was not "
                "used. Fetch it again, or push it anew"
            )
        threads = threads or available_cpus()
        session, obtained = open_on(data, threads, device)
        return cls(session, name=name, sha256=actual, obtained=obtained, threads=threads)

    @property
    def provider(self) -> str:
        """The execution provider that scores."""
        return self.obtained.provider

    def score(
        self, features: pa.RecordBatch | pa.Table, plan: ScoringPlan, batch_size: int | Batches
    ) -> Scored:
        """The predictions of N rows, a batch at a time; no prediction depends on the batches' size.

        `features` holds at least the columns of `plan.features`, in any order. A NULL in a float input
        becomes NaN; a row whose values do not fit an input, that the model fails on, or whose prediction is
        not finite is quarantined. Raises ModelError where columns do not fit the model, where it fails on
        every row of the first batch (of more than one row, and before it ever scored any), where it does
        not return one prediction per row, and where the device has no memory for a single row.
        """
        if isinstance(batch_size, int):
            if batch_size < 1:
                raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
            batch_size = Batches(self.threads, fixed=batch_size)
        check_columns(features.schema, plan.features)
        faults: dict[int, str] = {}
        values = [values_of(features.column(f.column), f, faults) for f in plan.features]
        rows = _without(features.num_rows, faults)
        wanted = list(dict.fromkeys(output.output_name for output in plan.outputs))
        work = _Work(Feed(plan.features, values, rows if faults else None), plan.outputs, wanted, batch_size)
        kept: list[NDArray[np.int64]] = []
        parts: list[list[NDArray[Any]]] = []
        first = 0
        while first < len(rows):
            sizes, threads = batch_size.next(len(rows) - first), batch_size.threads
            if not self._works:
                # Of a model that never works each row is tried alone before that is known.
                del sizes[threads:]
            edges = list(accumulate(sizes, initial=first))
            began = time.perf_counter()
            scored = at_once(partial(self._halve, work), list(pairwise(edges)), threads)
            seconds = time.perf_counter() - began
            batch_size.took(sum(sizes), seconds, counts=not any(batch.failed for batch in scored))
            for batch, size in zip(scored, sizes, strict=True):
                self._expect_one_to_work(batch, size)
                for start, stop, columns in batch.answers:
                    parts.append(columns)
                    kept.append(rows[start:stop])
                faults.update(
                    (int(rows[position]), f"the model fails on this row: {reason}")
                    for position, reason in batch.failed.items()
                )
            first = edges[-1]
        return joined(plan.outputs, kept, parts, faults)

    def _expect_one_to_work(self, batch: _Batch, size: int) -> None:
        if len(batch.failed) < size:
            self._works = True
        elif size > 1 and not self._works:
            raise ModelError(
                f"model {self.name} fails on every row of the first batch, {size} rows: "
                f"{next(iter(batch.failed.values()))}"
            )

    def _halve(self, work: _Work, span: tuple[int, int]) -> _Batch:
        """Score the positions of `span`; halve what fails until each bad one stands alone."""
        batch = _Batch([], {})
        pending = [span]
        while pending:
            start, stop = pending.pop()
            if work.batches.is_too_large(stop - start):  # another batch found that out
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
                continue
            try:
                returned = self._run(work.wanted, work.feed.batch(start, stop))
            except Exception as error:  # noqa: BLE001  # ONNX Runtime's errors share no other parent
                if is_out_of_memory(error):
                    self._no_memory(stop - start, error, work.batches)
                if stop - start == 1:
                    batch.failed[start] = reason_of(error)
                else:
                    middle = (start + stop) // 2
                    pending += [(middle, stop), (start, middle)]
            else:
                # At once: a whole chunk may be scored before its batches are joined, and what the model returns may
                # be a hundred times as wide as what is wanted.
                batch.answers.append((start, stop, work.columns(returned, stop - start)))
        return batch

    def _no_memory(self, rows: int, error: Exception, batches: Batches) -> None:
        where = f"{self.obtained.device} ({self.provider})"
        if rows == 1:
            raise ModelError(
                f"model {self.name}: {where} has no memory for one row: {reason_of(error)}; free memory there, or "
                "choose another `device`"
            ) from error
        batches.out_of_memory(rows)
        log.warning(
            "out of memory, batch halved",
            extra={"model": self.name, "device": where, "rows": rows, "error": reason_of(error)},
        )


def _without(count: int, faults: Iterable[int]) -> NDArray[np.int64]:
    good = np.ones(count, dtype=np.bool_)
    good[list(faults)] = False
    return np.flatnonzero(good).astype(np.int64, copy=False)
