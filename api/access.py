"""Who is reading, and which jobs that reader may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

_SCOPE = "batchpred.reader"


@dataclass(frozen=True)
class Reader:
    """Someone who reads: the id of the key (None where no key is wanted) and the jobs it opens (None: all)."""

    key_id: str | None = None
    jobs: frozenset[str] | None = None

    def may_read(self, job: str) -> bool:
        """Say whether this reader may know of the job at all."""
        return self.jobs is None or job in self.jobs


ANYBODY = Reader()


def reader_of(request: HTTPConnection) -> Reader:
    """Return who sent the request."""
    reader = request.scope.get(_SCOPE, ANYBODY)
    assert isinstance(reader, Reader)  # noqa: S101  # nothing else is put there
    return reader
