"""Files as the source of a run: which belong to the interval, what their columns are, and their rows in batches.

Order. Files are read by name, each from its beginning: the same files give the same rows in the same order, and
so the same chunks. They are not sorted by key, as a query's rows are: that would need all of them at once.

When files change. A run records which files it reads, with their sizes and times (`inputs`), as part of its
definition: the same files again are a no-op, other files another run. A run that was killed is taken up only where
its files are still the same; else it begins anew. Each file is looked at again when it has been read: one that was
written meanwhile ends the run, which then begins anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from storage.errors import ConfigurationError
from storage.files import columns as kinds
from storage.files import text as texts
from storage.files.binary import ParquetData, open_binary
from storage.files.csv_rows import CsvData
from storage.files.faults import Fault, with_faults
from storage.files.pattern import FilePathError, Pattern, format_of
from storage.files.places import DataFile, fault, faults, open_store
from storage.sources import FAULT, SourceColumn, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from storage.files.columns import TimeSpan
    from storage.files.places import Store

# Of more files than these a run records how many they were, their bytes, and one digest of all.
_LISTED = 1_000


@dataclass(frozen=True)
class FileSource:
    """The files under a path, for one interval.

    `values` fill the path's placeholders, `folder` is where a relative path begins. `format` and `delimiter`
    stand in for a file's ending. `types` says what key columns are where files do not (KEY_TYPES), `dtypes` what
    the model takes. `span` is the condition on the time column, None without one.
    """

    pattern: Pattern
    folder: Path
    values: Mapping[str, str]
    key: tuple[str, ...]
    format: str | None = None
    delimiter: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    span: TimeSpan | None = None
    is_hourly: bool = False

    # Rows come in the order of files, not of the key.
    is_ordered = False

    @property
    def bound(self) -> str:
        """The path with the interval's values."""
        return self.pattern.bound(self.values)

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.pattern.text

    @property
    def yields(self) -> str:
        """How messages say which columns there are."""
        return f"{self.files[0].name} has" if self.files else "it has"

    @property
    def mend(self) -> str:
        """What to do about a column of a wrong type."""
        return "write it so into the file"

    @cached_property
    def store(self) -> Store:
        """Where the files lie."""
        return open_store(self.pattern, self.folder)

    @cached_property
    def files(self) -> tuple[DataFile, ...]:
        """The files of the interval, found once. Raises SourceError and FilePathError."""
        found = self.store.find(self.bound)
        for file in found:
            self._format(file)
        if (span := self.span) is not None:
            found = tuple(file for file in found if self._may_lie_inside(file, span))
        return found

    def describe(self) -> tuple[SourceColumn, ...]:
        """Describe the columns: those of the first file, then its folders'. Raises SourceError.

        Where no file is there yet, those the job file and the model name.
        """
        if not self.files:
            return self._described_without_files()
        first = self.files[0]
        with self._open(first) as opened:
            return self._columns(first, opened)

    def count(self) -> int:
        """Count the interval's rows; of Parquet without a time column by its footers. Raises SourceError."""
        rows = 0
        columns: tuple[SourceColumn, ...] = ()
        for file in self.files:
            with self._open(file) as opened:
                if isinstance(opened, ParquetData) and not self._filters(file):
                    rows += opened.rows
                    continue
            columns = columns or tuple(each for each in self.describe() if each.name in self.key)
            with self._reader(columns, (file,)) as reader:
                rows += sum(batch.num_rows for batch in reader)
        return rows

    def estimate(self) -> int | None:
        """Nobody knows: most files do not say how many rows they have, let alone in an interval."""
        return None

    def shown(self) -> dict[str, Any]:
        """What a plan shows of it, by name."""
        total = sum(file.size for file in self.files)
        names = [file.name for file in self.files[:5]]
        more = [f"… and {len(self.files) - 5} more"] if len(self.files) > 5 else []
        condition = {"where": self.span.text()} if self.span else {}
        return {
            "path": self.pattern.text.replace(self.pattern.path, self.bound),
            **condition,
            "files": [f"{len(self.files)} file(s), {total:,} bytes", *names, *more],
        }

    def inputs(self) -> dict[str, Any]:
        """Say which files these are, as a run's definition keeps it: names, bytes, nanoseconds since 1970."""
        listed = [[file.name, file.size, file.modified] for file in self.files]
        digest = hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()
        total = sum(file.size for file in self.files)
        return {
            "files": {"count": len(listed), "bytes": total, "sha256": digest, "first": listed[:_LISTED]},
        }

    @contextmanager
    def read(
        self, columns: Sequence[SourceColumn], order: Sequence[SourceColumn] = ()
    ) -> Iterator[FileReader]:
        """Read these columns of the interval's rows, file by file; `order` is not kept. Raises SourceError."""
        del order
        with self._reader(columns, self.files) as reader:
            yield reader

    @contextmanager
    def _reader(self, columns: Sequence[SourceColumn], files: Sequence[DataFile]) -> Iterator[FileReader]:
        reader = FileReader(self, tuple(columns), tuple(files))
        try:
            yield reader
        finally:
            reader.cancel()

    def _format(self, file: DataFile) -> str:
        found = self.format or format_of(file.name)
        if found is None:
            raise FilePathError(
                f"{file.name}: its ending says neither Parquet, CSV nor Arrow; name the files by a pattern such as "
                "data/*.parquet, or say `source: {format: csv}`"
            )
        return found

    def _filters(self, file: DataFile) -> bool:
        return self.span is not None and self.span.column not in file.partition

    def _may_lie_inside(self, file: DataFile, span: TimeSpan) -> bool:
        """Whether a file's folder, where it says the time column's value, is one of the interval's."""
        if span.column not in file.partition:
            return True
        lies, bad = texts.inside(pa.array([file.partition[span.column]], pa.string()), span)
        if bad[0].as_py():
            raise SourceError(
                f"{file.name}: folder {span.column}={file.partition[span.column]} is no date or time"
            )
        return bool(lies[0].as_py())

    @contextmanager
    def _open(self, file: DataFile) -> Iterator[Any]:
        format_, system = self._format(file), self.store.system
        with faults(file.name):
            if format_ != "csv":
                with open_binary(system, file.path, format_, is_remote=self.pattern.kind != "file") as opened:
                    yield opened
                return
            delimiter = self.delimiter or ("\t" if ".tsv" in file.name.lower() else ",")
            with system.open_input_stream(file.path, compression="detect") as stream:
                yield CsvData(stream, file.name, delimiter)

    def _columns(self, file: DataFile, opened: Any) -> tuple[SourceColumn, ...]:
        names = opened.names if isinstance(opened, CsvData) else opened.schema.names
        if self.span is not None and self.span.column not in file.partition:
            self._check_time(file, opened, names)
        described = [
            self._declared(name, file)
            if isinstance(opened, CsvData)
            else self._of_type(name, opened.schema.field(place).type)
            for place, name in enumerate(names)
        ]
        return (*described, *(self._declared(name, file) for name in file.partition if name not in names))

    def _of_type(self, name: str, found: pa.DataType) -> SourceColumn:
        if pa.types.is_null(found):  # a file whose rows have no value there; another one's may
            return kinds.declared(name, self.types.get(name), self.dtypes.get(name)) or SourceColumn(
                name, "null", None
            )
        return kinds.described(name, found)

    def _declared(self, name: str, file: DataFile | None) -> SourceColumn:
        column = kinds.declared(name, self.types.get(name), self.dtypes.get(name))
        if column is None and name in self.key:
            who = (
                f"{file.name}: text says no types"
                if file
                else f"{self.where}: there is no file yet that says it"
            )
            raise UntypedKeyError(
                f"{who}; say what key column {name} is: `source: {{types: {{{name}: integer}}}}` "
                "(integer, text, uuid or date)"
            )
        # What neither key nor model asks for is text, which a job's transform may make something of.
        return column or SourceColumn(name, "string", "string")

    def _described_without_files(self) -> tuple[SourceColumn, ...]:
        names = dict.fromkeys((*self.key, *self.dtypes))
        return tuple(self._declared(name, None) for name in names)

    def _check_time(self, file: DataFile, opened: Any, names: Sequence[str]) -> None:
        assert self.span is not None  # noqa: S101  # the caller looked
        name = self.span.column
        if name not in names:
            raise SourceError(
                f"{file.name}: there is no column {name}, the time_column{_nearest(name, names)}"
            )
        if isinstance(opened, CsvData):
            return
        type_ = opened.schema.field(name).type
        if self.span.bounds(type_) is None:
            raise SourceError(f"{file.name}: time_column {name} is {type_}; it must be a timestamp or a date")
        if self.is_hourly and pa.types.is_date(type_):
            raise SourceError(f"{file.name}: time_column {name} is a date, which tells no hours apart")


class UntypedKeyError(ConfigurationError):
    """A key column in a file that says no types, of which the job file says none either."""


class FileReader:
    """The rows of files as Arrow record batches: the columns asked for, then FAULT."""

    def __init__(
        self, source: FileSource, columns: tuple[SourceColumn, ...], files: tuple[DataFile, ...]
    ) -> None:
        self._source = source
        self._columns = columns
        self._files = files
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield record batches of a few thousand rows until all files are read. Raises SourceError."""
        for file in self._files:
            with self._source._open(file) as opened:  # noqa: SLF001  # one thing in two classes
                for batch in self._of_file(file, opened):
                    if self._stop.is_set():
                        return
                    if batch.num_rows:
                        yield batch
            if self._source.store.version(file) != file.version:
                changed = SourceError(f"{file.name}: it was changed while it was read; run again")
                changed.is_transient = True
                raise changed

    def cancel(self) -> None:
        """Make a read that is under way in another thread stop at its next batch."""
        self._stop.set()

    def _of_file(self, file: DataFile, opened: Any) -> Iterator[pa.RecordBatch]:
        source = self._source
        there = opened.names if isinstance(opened, CsvData) else opened.schema.names
        own = [column for column in self._columns if column.name in there]
        for column in self._columns:
            if column.name not in there and column.name not in file.partition:
                raise SourceError(
                    f"{file.name}: there is no column {column.name}, which {source.files[0].name} has"
                    + _nearest(column.name, there)
                )
        span = source.span if source.span and source.span.column not in file.partition else None
        if span is not None:
            source._check_time(file, opened, there)  # noqa: SLF001
        if isinstance(opened, CsvData):
            batches = opened.batches(own, source.key, span)
        else:
            batches = self._of_binary(file, opened, own, span)
        constant = [column for column in self._columns if column.name not in there]
        for batch in batches:
            yield self._with_partition(file, batch, constant) if constant else batch

    def _of_binary(
        self, file: DataFile, opened: Any, own: Sequence[SourceColumn], span: TimeSpan | None
    ) -> Iterator[pa.RecordBatch]:
        for column in own:
            found = opened.schema.field(column.name).type
            if not kinds.is_castable(found, column):
                raise SourceError(
                    f"{file.name}: column {column.name} is {found}, and {column.type} in "
                    f"{self._source.files[0].name}"
                )
        names = list(dict.fromkeys([*(column.name for column in own), *([span.column] if span else [])]))
        for first, batch in opened.batches(names, span):
            rows = batch
            places = None
            if span is not None:
                mask = span.mask(batch[span.column])
                places = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
                rows = batch.filter(mask)
            arrays = []
            said: dict[int, str] = {}
            for column in own:
                try:
                    values, bad = texts.checked(kinds.cast(rows[column.name], column))
                except (pa.ArrowException, UnicodeError) as error:
                    raise fault(f"{file.name}: column {column.name}", error) from error
                arrays.append(values)
                for row in bad:
                    said.setdefault(row, f"{column.name} is no UTF-8 text")
            cast = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in own])
            yield with_faults(own, cast, self._bad_rows(file, cast, places, first, said))

    def _bad_rows(
        self, file: DataFile, rows: pa.RecordBatch, places: Any, first: int, said: dict[int, str]
    ) -> list[Fault]:
        """Name the rows of which something is `said` already, and those whose key is NULL.

        They could not be published, and must not stop the others.
        """
        for name in self._source.key:
            if name in rows.schema.names and rows[name].null_count:
                for row in np.flatnonzero(rows[name].is_null().to_numpy(zero_copy_only=False)):
                    said.setdefault(int(row), f"{name} is NULL, and it is in the key")
        return [
            Fault(
                row,
                f"{file.name} row {first + int(places[row] if places is not None else row) + 1}: {what}",
                rows.slice(row, 1).to_pylist()[0],
            )
            for row, what in sorted(said.items())
        ]

    def _with_partition(
        self, file: DataFile, batch: pa.RecordBatch, constant: Sequence[SourceColumn]
    ) -> pa.RecordBatch:
        arrays = {name: batch[name] for name in batch.schema.names}
        for column in constant:
            said = pa.array([file.partition[column.name]], pa.string())
            value, bad = (
                texts.uuids(said) if column.type == "uuid" else texts.parse(said, kinds.arrow_type(column))
            )
            if bad[0].as_py() or (column.name in self._source.key and value.null_count):
                folder = f"folder {column.name}={file.partition[column.name]}"
                what = "uuid" if column.type == "uuid" else texts.what(value.type)
                raise SourceError(f"{file.name}: {folder} is no {what}")
            arrays[column.name] = value.take(pa.array(np.zeros(batch.num_rows, np.int64)))
        names = [*(column.name for column in self._columns), FAULT]
        return pa.RecordBatch.from_arrays([arrays[name] for name in names], names=names)


def _nearest(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names[:20])}"
