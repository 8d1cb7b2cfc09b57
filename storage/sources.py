"""Where a run's rows come from: what a run asks of every source, a query or files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa

# What a key column of a PostgreSQL or Arrow type is.
KEY_KINDS = {
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "uuid": "uuid",
    "date": "date",
    # What Arrow files call them; their int8 is PostgreSQL's int8 in kind, if not in width.
    "int16": "integer",
    "int32": "integer",
    "int64": "integer",
    "uint8": "integer",
    "uint16": "integer",
    "uint32": "integer",
    "string": "text",
    "date32": "date",
}


# The column that holds, as JSON, the reason and the values of a row that could not be read; NULL in good rows. No
# query and no file has a column of this name: it cannot be written in a job file.
FAULT = '"fault"'


class SourceError(StorageError):
    """The source query cannot be read: it is wrong, or gives columns the job cannot use."""


@dataclass(frozen=True)
class SourceColumn:
    """One column the query yields: its name, PostgreSQL type, and the Arrow type it is read as (None: none)."""

    name: str
    type: str
    arrow: str | None


class Reader(Protocol):
    """Rows as Arrow record batches of any size, which jobs.pipeline cuts into chunks."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches, in the thread that reads. Raises SourceError."""

    def cancel(self) -> None:
        """Make a read that is under way in another thread stop."""


class Source(Protocol):
    """What a run asks of where its rows come from, whatever that is.

    `where` is what messages call it, `yields` how they say which columns there are, `mend` what to do about one
    of a wrong type. `is_ordered`: rows are read in the order of the key.
    """

    is_ordered: bool

    @property
    def where(self) -> str: ...  # noqa: D102  # said above
    @property
    def yields(self) -> str: ...  # noqa: D102
    @property
    def mend(self) -> str: ...  # noqa: D102

    def describe(self) -> tuple[SourceColumn, ...]:
        """Say which columns there are, without reading a row. Raises SourceError."""

    def estimate(self) -> int | None:
        """Estimate the rows without reading them; None where nobody knows. Raises SourceError."""

    def count(self) -> int:
        """Count the rows. Raises SourceError."""

    def shown(self) -> dict[str, Any]:
        """Say what a plan shows of it, by name."""

    def inputs(self) -> dict[str, Any]:
        """Say what a run's definition keeps beside the job's own words: what tells one input from another."""

    def read(
        self, columns: Sequence[SourceColumn], order: Sequence[SourceColumn] = ()
    ) -> AbstractContextManager[Reader]:
        """Read these columns of every row, in the order of `order` where `is_ordered`. Raises SourceError."""
