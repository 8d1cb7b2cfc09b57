"""The user's own features: a function from DataFrame to DataFrame, applied to each chunk before the model.

What it is given: the source's columns of one chunk, in the order of the key. Integers are Int64, booleans boolean
and text is text, whether or not the chunk has a NULL, so that no dtype depends on the chunk. The index names the
rows, and what comes back must carry it: rows may come in another order, a row left out goes to quarantine with that
reason, and an index that is lost, doubled or unknown is an error, because predictions would go to the wrong keys.

What it must be: a function of each row alone. Chunks are cut by `chunk_rows` and by where a run resumes, so a mean
over the frame would make predictions depend on that. The first chunk tries it: a few rows are transformed again by
themselves, and must come out the same. Random numbers and the clock fail there too.

What it is trusted with: everything. It is the project's own code and runs with the runner's rights, like the
project's queries; nothing of it comes from the database or the model. The project folder is importable only while
it is imported and while it runs. The digest of its source, and of the project's modules it imports, is part of the
run's definition: changed code is a new run. It depends on the function alone, not on which others a process has
imported before; what a function imports only when it runs is not in it.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

log = logging.getLogger("batchpred.run")

# The index begins here, not at 0: an index made anew (reset_index, a frame from bare arrays) is then never mistaken
# for the rows' own.
_FIRST = 1 << 40
_ALONE = 20  # rows of the first chunk that are transformed again by themselves
LEFT_OUT = "left out by the transform {}"


class TransformError(JobError):
    """The transform cannot be imported, failed, or gave back what cannot be scored."""


class TransformNotFoundError(TransformError):
    """The job file names a function that is not there or cannot be imported."""

    exit_code = 2


@dataclass
class Transform:
    """A function by name, the digest of its source, and what it has cost so far in seconds.

    `columns` are those the model takes: the others that it returns are left alone.
    """

    name: str
    function: Callable[[Any], Any]
    source_sha256: str
    folder: Path
    columns: tuple[str, ...] = ()
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _is_tried: bool = False

    @property
    def definition(self) -> dict[str, str]:
        """What decides the rows' values, for the run's definition."""
        return {"function": self.name, "source_sha256": self.source_sha256}

    def apply(self, rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
        """Transform the rows of a chunk; return the model's columns and, for each row, its place in `rows`.

        Places are ascending; those missing were left out. Raises TransformError.
        """
        began = time.perf_counter()
        try:
            table, places = self._transformed(rows)
            if not self._is_tried:
                self._try_alone(rows, table, places)
                self._is_tried = True
            return table, places
        finally:
            self.seconds += time.perf_counter() - began

    def _transformed(self, rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
        import pandas as pd

        if not rows.num_rows:  # all of a chunk were set aside: a function need not bear an empty frame
            return pa.table({name: pa.nulls(0) for name in self.columns}), np.empty(0, dtype=np.int64)
        kept = {pa.bool_(): pd.BooleanDtype()} | {
            getattr(pa, name.lower())(): getattr(pd, f"{name}Dtype")()
            for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
        }
        frame = rows.to_pandas(types_mapper=kept.get, date_as_object=False)
        frame.index = pd.RangeIndex(_FIRST, _FIRST + len(frame), name="row")
        try:
            with _importable(self.folder):
                made = self.function(frame)
        except (Exception, SystemExit) as error:
            log.debug("transform failed", exc_info=True)
            raise TransformError(f"transform {self.name} failed: {_said(error, self.folder)}") from error
        if not isinstance(made, pd.DataFrame):
            raise TransformError(f"transform {self.name} gave back {type(made).__name__}, not a DataFrame")
        places = self._places(made, len(frame))
        missing = [name for name in self.columns if name not in made.columns]
        if missing:
            raise TransformError(
                f"transform {self.name} gave back no column {', '.join(missing)}, which the model takes; it gave "
                f"{', '.join(map(str, made.columns)) or 'none'}"
            )
        order = np.argsort(places, kind="stable")
        in_order = bool((order == np.arange(len(order))).all())
        columns = [
            self._arrow(name, made[name] if in_order else made[name].iloc[order]) for name in self.columns
        ]
        return pa.table(columns, names=list(self.columns)), places[order]

    def _places(self, made: Any, count: int) -> NDArray[np.int64]:
        """Where each row of what came back stood in the chunk, by the index it carries."""
        index = made.index
        if index.nlevels != 1 or index.dtype.kind not in "iu":
            places = np.full(len(made), -1, dtype=np.int64)
        else:
            places = index.to_numpy().astype(np.int64) - _FIRST
        if len(places) and (places.min() < 0 or places.max() >= count):
            raise TransformError(
                f"transform {self.name} lost the index, which says whose row each is: build new frames with "
                "index=df.index, and do not call reset_index or set_index"
            )
        if len(np.unique(places)) < len(places):
            raise TransformError(
                f"transform {self.name} gave some rows back more than once ({len(places)} rows from {count}); "
                "each row has one prediction"
            )
        return places

    def _arrow(self, name: str, values: Any) -> pa.Array:
        if values.ndim != 1:
            raise TransformError(f"transform {self.name} gave column {name!r} back more than once")
        try:
            array = pa.Array.from_pandas(values)
        except (pa.ArrowException, OverflowError) as error:
            said = str(error).splitlines()[0]
            raise TransformError(
                f"transform {self.name} gave column {name!r} back with no one type: {said}"
            ) from error
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    def _try_alone(self, rows: pa.Table, table: pa.Table, places: NDArray[np.int64]) -> None:
        """Transform a few rows without the others. Raises TransformError where they come out different."""
        if rows.num_rows <= _ALONE:
            return
        alone, kept = self._transformed(rows.slice(0, _ALONE))
        among = table.slice(0, int((places < _ALONE).sum()))
        differs = [] if np.array_equal(kept, places[places < _ALONE]) else ["which rows are kept"]
        if not differs:
            differs = [name for name in self.columns if not _is_same(among[name], alone[name])]
        if differs:
            raise TransformError(
                f"transform {self.name} depends on more than each row alone: {', '.join(differs)} of the first "
                f"{_ALONE} rows differs when transformed without the other {rows.num_rows - _ALONE}. Means, "
                "ranks, random numbers and the clock do that: compute them in the query, or fix them beforehand"
            )


def load_transform(name: str, folder: Path) -> Transform:
    """Import the function `MODULE:FUNCTION` from the project folder, or from what is installed.

    Raises TransformNotFoundError.
    """
    module_name, _, function_name = name.partition(":")
    folder = folder.resolve()
    try:
        with _importing:
            found = _imported.get((folder, module_name))
            if found is None or _digest(found.files) != found.sha256:
                found = _imported[folder, module_name] = _import(module_name, folder)
    except (Exception, SystemExit) as error:
        log.debug("transform not imported", exc_info=True)
        raise TransformNotFoundError(
            f"transform {name}: cannot be imported: {_said(error, folder)}; modules are looked for in {folder} "
            "and among the installed packages"
        ) from error
    module = found.module
    function = getattr(module, function_name, None)
    if not callable(function):
        there = [
            each for each in vars(module) if callable(getattr(module, each)) and not each.startswith("_")
        ]
        raise TransformNotFoundError(
            f"transform {name}: {module_name} has no function {function_name}; it has {', '.join(there) or 'none'}"
        )
    return Transform(name, function, found.sha256, folder)


@dataclass(frozen=True)
class _Imported:
    """A function's module, the files it is made of by their modules' names, and the digest they had then."""

    module: Any
    files: dict[str, Path]
    sha256: str


# What was imported, by project folder and module: a schedule lives for weeks, and files change.
_imported: dict[tuple[Path, str], _Imported] = {}
# A schedule's runs begin in threads, and what an import brings in must be told from what another one does.
_importing = threading.Lock()

# Where a project's folder holds batchpred itself: its own modules are nobody's transform.
_HOUSE = ("api", "batchpred", "jobs", "migrations", "storage", "__main__")


def _import(module_name: str, folder: Path) -> _Imported:
    """Import a module with all that it imports of its project, whatever has been imported of it before."""
    stale = {
        name
        for key, each in _imported.items()
        for name, path in each.files.items()
        if key == (folder, module_name) or (key[0] != folder and path.is_relative_to(key[0]))
    }
    is_inside = _files_in(folder)
    for name, module in list(sys.modules.items()):
        if name in stale or is_inside(name, module):
            del sys.modules[name]
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        with _importable(folder):
            module = importlib.import_module(module_name)
    except BaseException:
        for each in set(sys.modules) - before:  # half of a package would be taken for the whole of it
            if is_inside(each, sys.modules[each]):
                del sys.modules[each]
        raise
    files = _sources(module_name, module, folder)
    return _Imported(module, files, _digest(files))


def _sources(module_name: str, module: Any, folder: Path) -> dict[str, Path]:
    """The files of the project's modules that are imported now; of an installed function all of its package."""
    there, file_of = list(sys.modules.items()), _files_in(folder)
    found = {name: path for name, each in there if (path := file_of(name, each))}
    if module_name not in found:
        top = sys.modules[module_name.partition(".")[0]]
        file = Path(getattr(top, "__file__", None) or module.__file__ or "")
        inside = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        for path in (each for each in inside if each.suffix == ".py"):
            parts = path.relative_to(file.parent.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name if file.name == "__init__.py" else module_name] = path
    return dict(sorted(found.items()))


def _files_in(folder: Path) -> Callable[[str, Any], Path | None]:
    """What tells a module's file where it is one of the project's.

    Each folder is resolved once for all its modules: a runner has two thousand, whose paths took 0.1 s each time.
    """
    folders: dict[str, Path] = {}

    def file_of(name: str, module: Any) -> Path | None:
        file = str(getattr(module, "__file__", None) or "")
        if not file.endswith(".py") or name.partition(".")[0] in _HOUSE:
            return None
        if os.path.islink(file):  # noqa: PTH114  # a Path for each module is what took the time
            path = Path(file).resolve()
        else:
            head, tail = os.path.split(file)
            if head not in folders:
                folders[head] = Path(head).resolve()
            if not folders[head].is_relative_to(folder):
                return None
            path = folders[head] / tail
        return path if path.is_relative_to(folder) and "site-packages" not in path.parts else None

    return file_of


def _digest(files: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in files.items():
        text = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name} {len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the project's modules be found, and leave no compiled files among them that could be taken for newer."""
    path, was = str(folder), sys.dont_write_bytecode
    sys.path.insert(0, path)
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = was
        if path in sys.path:
            sys.path.remove(path)


def _said(error: BaseException, folder: Path) -> str:
    """The exception's class and text, and the last line of the project's code it went through."""
    text = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    frames = [
        each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(str(folder))
    ]
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else said


def _is_same(one: pa.ChunkedArray, two: pa.ChunkedArray) -> bool:
    left, right = one.to_pylist(), two.to_pylist()
    return all(a == b or (a != a and b != b) or _is_near(a, b) for a, b in zip(left, right, strict=True))  # noqa: PLR0124  # NaN


def _is_near(one: Any, two: Any) -> bool:
    """Sums of vectorised code may end in another last digit for a shorter array."""
    is_number = all(isinstance(each, float) for each in (one, two))
    return is_number and abs(one - two) <= 1e-9 * max(abs(one), abs(two))


def rows_left_out(count: int, places: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of a chunk of `count` that are not among `places`."""
    return np.setdiff1d(np.arange(count, dtype=np.int64), places, assume_unique=True)
