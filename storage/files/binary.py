"""Parquet and Arrow files: opened, described by themselves, and read in batches however large their parts are."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyarrow import fs

    from storage.files.columns import TimeSpan

# Rows decoded at a time. A million rows of 21 columns in one row group took 80 MiB beyond the interpreter with
# 16,384 rows a batch and 106 with 65,536, and the same 0.1 s. The dataset scanner took 0.2 s and 260 to 300 MiB
# (readahead 1), ParquetFile with pre_buffer 0.4 s and 275: both hold whole row groups.
BATCH_ROWS = 16_384
# What is asked for at a time of each column: of a disk little; of object storage more, where an answer takes
# tens of milliseconds however short it is.
_LOCAL_BUFFER = 65_536
_REMOTE_BUFFER = 1_000_000
# Row groups up to this size (compressed, the columns read) are fetched from object storage in one go.
_PREFETCH_BYTES = 32_000_000

_ARROW_FILE = b"ARROW1"


class OpenFile(Protocol):
    """A file that says what its columns are, and gives those asked for."""

    schema: pa.Schema

    def batches(self, names: Sequence[str], span: TimeSpan | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read these columns, each batch with the number of its first row; parts `span` rules out are skipped."""


class ParquetData:
    """A Parquet file: row groups outside the interval are skipped, those inside streamed page by page."""

    def __init__(self, handle: Any, *, is_remote: bool) -> None:
        self._handle = handle
        self._is_remote = is_remote
        buffer = _REMOTE_BUFFER if is_remote else _LOCAL_BUFFER
        self._file = pq.ParquetFile(handle, pre_buffer=False, buffer_size=buffer)
        self.schema = self._file.schema_arrow

    @property
    def rows(self) -> int:
        """How many rows the file says it has."""
        return int(self._file.metadata.num_rows)

    def batches(self, names: Sequence[str], span: TimeSpan | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read these columns, each batch with the number of its first row; parts `span` rules out are skipped."""
        metadata = self._file.metadata
        firsts = [0]
        for group in range(metadata.num_row_groups):
            firsts.append(firsts[-1] + metadata.row_group(group).num_rows)
        for group in self._row_groups(span):
            row = firsts[group]
            file = self._file
            if self._is_remote and metadata.row_group(group).total_byte_size <= _PREFETCH_BYTES:
                file = pq.ParquetFile(self._handle, metadata=metadata, pre_buffer=True)
            for batch in file.iter_batches(
                BATCH_ROWS, row_groups=[group], columns=list(names), use_threads=False
            ):
                yield row, batch
                row += batch.num_rows

    def _row_groups(self, span: TimeSpan | None) -> list[int]:
        metadata = self._file.metadata
        groups = list(range(metadata.num_row_groups))
        if span is None or span.column not in self.schema.names:
            return groups
        bounds = span.bounds(self.schema.field(span.column).type)
        place = next(
            (i for i in range(len(metadata.schema)) if metadata.schema.column(i).path == span.column), None
        )
        if bounds is None or place is None:
            return groups
        start, end = bounds

        def may_hold(group: int) -> bool:
            found = metadata.row_group(group).column(place).statistics
            if found is None or not found.has_min_max:
                return True
            try:
                low, high = pa.scalar(found.min, start.type), pa.scalar(found.max, start.type)
            except (pa.ArrowException, OverflowError, TypeError):
                return True
            return bool(low.as_py() < end.as_py() and high.as_py() >= start.as_py())

        return [group for group in groups if may_hold(group)]


class ArrowData:
    """An Arrow IPC file (Feather) or stream: one record batch at a time, as its writer cut them."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._is_file = handle.read(len(_ARROW_FILE)) == _ARROW_FILE
        handle.seek(0)
        self.schema = self._open(None).schema

    def batches(self, names: Sequence[str], span: TimeSpan | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read these columns, each batch with the number of its first row; nothing tells what to skip."""
        del span
        reader = self._open([self.schema.get_field_index(name) for name in names])
        row = 0
        numbers = range(reader.num_record_batches) if self._is_file else None
        for batch in map(reader.get_batch, numbers) if numbers is not None else reader:
            for first in range(0, batch.num_rows, BATCH_ROWS):
                yield row + first, batch.select(list(names)).slice(first, BATCH_ROWS)
            row += batch.num_rows

    def _open(self, fields: list[int] | None) -> Any:
        # A list that is empty would mean all of them.
        options = pa.ipc.IpcReadOptions(included_fields=fields or None, use_threads=False)
        self._handle.seek(0)
        opened = pa.ipc.open_file if self._is_file else pa.ipc.open_stream
        return opened(self._handle, options=options)


@contextmanager
def open_binary(system: fs.FileSystem, path: str, format_: str, *, is_remote: bool) -> Iterator[OpenFile]:
    """Open a Parquet or Arrow file for the length of the block."""
    with system.open_input_file(path) as handle:
        yield ParquetData(handle, is_remote=is_remote) if format_ == "parquet" else ArrowData(handle)
