"""Where files lie: the file systems behind a path, and the files that a bound path names."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

import pyarrow as pa
from pyarrow import fs

from storage.files.pattern import is_wild, matcher
from storage.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.files.pattern import Pattern

# A wrong endpoint is worth a message, not a run that hangs: by itself Google's client would try for 15 minutes.
_RETRY_SECONDS = 60

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class DataFile:
    """One file as it was found: the name people know it by, the store's path, bytes, and when it was written.

    `modified` is in nanoseconds since 1970; `partition` holds the values of folders such as `date=2026-01-01`,
    None for Hive's word for NULL.
    """

    name: str
    path: str
    size: int
    modified: int | None
    partition: dict[str, str | None] = field(default_factory=dict)

    @property
    def version(self) -> tuple[int, int | None]:
        """What changes when the file is written again."""
        return self.size, self.modified


@dataclass(frozen=True)
class Store:
    """A file system, and how a pattern's paths are said in it: `folder` is where relative ones begin."""

    pattern: Pattern
    folder: Path
    system: fs.FileSystem

    def at(self, path: str) -> str:
        """The store's own path of a pattern's path."""
        if self.pattern.kind == "file":
            return os.path.normpath(self.folder / path)
        return f"{self.pattern.bucket}/{path}".rstrip("/")

    def name(self, path: str) -> str:
        """How a file of the store is shown: as the job file would say it."""
        if self.pattern.kind == "file":
            return path if Path(self.pattern.path).is_absolute() else os.path.relpath(path, self.folder)
        begun = self.pattern.text.partition("://")[0] + "://"
        if self.pattern.kind == "abfs":
            authority = self.pattern.text.removeprefix(begun).partition("/")[0]
            return begun + authority + path.removeprefix(self.pattern.bucket)
        return begun + path

    def find(self, path: str) -> tuple[DataFile, ...]:
        """Find the files of a bound path, by name: one, all below a folder, or those that match.

        Nothing is found where the path has wildcards or placeholders and the folder before them is there.
        Names that begin with . or _ are left out, as everywhere. Raises SourceError.
        """
        with faults(self.pattern.text):
            # A folder may match and what is in it too, as a folder x.parquet does under data/**/*.parquet.
            found = [info for _, info in sorted({info.path: info for info in self._walk(path)}.items())]
            if not found:
                self._explain_nothing()
        return tuple(self._data_file(info) for info in found)

    def version(self, file: DataFile) -> tuple[int, int | None] | None:
        """Look at a file again; None where it is gone. Raises SourceError."""
        with faults(file.name):
            info = self.system.get_file_info(file.path)
        return None if info.type != fs.FileType.File else (info.size, info.mtime_ns)

    def _data_file(self, info: fs.FileInfo) -> DataFile:
        name = self.name(info.path)
        steps = [step.partition("=") for step in name.split("/")[:-1] if "=" in step]
        partition = {key: None if value == _HIVE_NULL else unquote(value) for key, _, value in steps if key}
        return DataFile(name, info.path, info.size, info.mtime_ns, partition)

    def _walk(self, path: str) -> Iterator[fs.FileInfo]:
        plain = self.at(path)
        info = self.system.get_file_info(plain)
        if info.type == fs.FileType.File:
            yield info
        elif info.type == fs.FileType.Directory:
            yield from self._below(plain)
        elif is_wild(path):
            steps = path.rstrip("/").split("/")
            first = next(place for place, step in enumerate(steps) if is_wild(step))
            yield from self._matching(
                self.at("/".join(steps[:first]) or ("/" if first else "")), steps[first:]
            )

    def _below(self, folder: str) -> Iterator[fs.FileInfo]:
        for info in self._list(folder, recursive=True):
            inner = info.path[len(folder) :].strip("/").split("/")
            if info.type == fs.FileType.File and not any(step.startswith((".", "_")) for step in inner):
                yield info

    def _matching(self, folder: str, steps: list[str]) -> Iterator[fs.FileInfo]:
        """Go down step by step, so that only folders that match are listed."""
        step, rest = steps[0], steps[1:]
        if step == "**":
            if not rest:
                yield from self._below(folder)
                return
            yield from self._matching(folder, rest)
            for info in self._list(folder):
                if info.type == fs.FileType.Directory and not info.base_name.startswith((".", "_")):
                    yield from self._matching(info.path, steps)
            return
        if not is_wild(step) and rest:
            yield from self._matching(f"{folder}/{step}", rest)
            return
        pattern = matcher(step)
        for info in self._list(folder):
            hidden = info.base_name.startswith((".", "_")) and not step.startswith((".", "_"))
            if hidden or not pattern.match(info.base_name):
                continue
            if rest and info.type == fs.FileType.Directory:
                yield from self._matching(info.path, rest)
            elif not rest:
                yield from [info] if info.type == fs.FileType.File else self._below(info.path)

    def _list(self, folder: str, *, recursive: bool = False) -> list[fs.FileInfo]:
        listed: list[fs.FileInfo] = self.system.get_file_info(
            fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
        )
        return listed

    def _explain_nothing(self) -> None:
        """Raise SourceError where no interval could ever have a file: the fixed part of the path is not there."""
        fixed = self.at(self.pattern.fixed)
        info = self.system.get_file_info(fixed)
        if info.type != fs.FileType.NotFound:
            return
        bucket = self.pattern.bucket
        if bucket and self.system.get_file_info(bucket).type == fs.FileType.NotFound:
            raise SourceError(f"{self.pattern.text}: there is no bucket {bucket!r}, or it may not be seen")
        parent, _, last = fixed.rstrip("/").rpartition("/")
        near = get_close_matches(last, [each.base_name for each in self._list(parent or "/")], n=1)
        raise SourceError(
            f"{self.pattern.text}: there is no {self.name(fixed)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )


def open_store(pattern: Pattern, folder: Path) -> Store:
    """Make the file system of a path; nothing is asked of it yet.

    Who we are to an object store its own SDK finds out as everywhere else: AWS_* variables and profiles
    (AWS_ENDPOINT_URL too), GOOGLE_APPLICATION_CREDENTIALS, the Azure default credential. Raises SourceError.
    """
    options = dict(pattern.options)
    anonymous = options.get("anonymous", "false") == "true"
    with faults(pattern.text):
        system: Any
        if pattern.kind == "file":
            system = fs.LocalFileSystem()
        elif pattern.kind == "s3":
            system = _s3(pattern.bucket, options, anonymous=anonymous)
        elif pattern.kind == "gs":
            system = fs.GcsFileSystem(
                anonymous=anonymous, endpoint_override=options.get("endpoint"), scheme=options.get("scheme"),
                retry_time_limit=timedelta(seconds=_RETRY_SECONDS),
            )  # fmt: skip
        else:
            system = fs.AzureFileSystem(pattern.account)
    return Store(pattern, folder, system)


def _s3(bucket: str, options: dict[str, str], *, anonymous: bool) -> Any:
    words = {"region": options.get("region"), "scheme": options.get("scheme")}
    if anonymous:
        return fs.S3FileSystem(anonymous=True, endpoint_override=options.get("endpoint"), **words)
    # By an URI, because only so pyarrow 26 heeds AWS_ENDPOINT_URL; it also asks for the bucket's region where
    # neither region nor endpoint is given.
    words["endpoint_override"] = options.get("endpoint")
    query = urlencode({name: value for name, value in words.items() if value})
    return fs.FileSystem.from_uri(f"s3://{bucket}" + (f"?{query}" if query else ""))[0]


@contextmanager
def faults(name: str) -> Iterator[None]:
    """Say in one line what a file system or a format had against a file."""
    try:
        yield
    except SourceError:
        raise
    except (pa.ArrowException, OSError, ValueError, UnicodeError) as error:
        raise fault(name, error) from error


def fault(name: str, error: Exception) -> SourceError:
    """Make the one line of an error about a file: which, what was said, what next."""
    said = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0]
    # The SDK's own words come last and say most; before them it repeats what we know.
    said = said.removeprefix("[Errno 13] ")
    hint = ""
    if isinstance(error, PermissionError) or any(
        word in said
        for word in ("ACCESS_DENIED", "AccessDenied", "HTTP status 403", "Forbidden", "INVALID_ACCESS_KEY")
    ):
        hint = "; check the credentials in the environment, and that they may list and read there"
    elif "PermanentRedirect" in said or "HTTP status 301" in said:
        hint = "; the bucket lies in another region: set AWS_REGION, or end the path with ?region=…"
    elif "NO_SUCH_BUCKET" in said or "NoSuchBucket" in said:
        hint = "; is the bucket's name right?"
    raised = SourceError(f"{name}: {said}{hint}")
    raised.is_transient = any(
        word in said
        for word in ("NETWORK_CONNECTION", "SlowDown", "HTTP status 503", "HTTP status 500", "timed out")
    )
    return raised
