"""What a `source.path` may say: its scheme, its wildcards, and the placeholders that an interval fills."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACEHOLDERS = ("date", "year", "month", "day", "hour")
# Which of them, all together, tell one interval of a unit from the next.
_TELLING = {
    "hour": ({"date", "hour"}, {"year", "month", "day", "hour"}),
    "day": ({"date"}, {"year", "month", "day"}),
    "week": ({"date"}, {"year", "month", "day"}),
    "month": ({"date"}, {"year", "month"}),
}
_SCHEMES = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs", "az": "abfs"}
_OPTIONS = {
    "s3": ("region", "endpoint", "scheme", "anonymous"),
    "gs": ("endpoint", "scheme", "anonymous"),
    "abfs": (),
}
_ENDINGS = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv",
    ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_WILD = re.compile(r"[*?\[]")
_HOLDER = re.compile(r"\{([^{}]*)\}")


class FilePathError(ConfigurationError):
    """A `source.path` that cannot be meant."""


@dataclass(frozen=True)
class Pattern:
    """A path: `kind` (file, s3, gs or abfs), the bucket or container, the path in it, options, placeholders.

    `path` has no scheme and no options; of abfs `bucket` is the container and `account` the account's name.
    """

    text: str
    kind: str
    bucket: str
    account: str
    path: str
    options: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        """The placeholders it has."""
        return set(_HOLDER.findall(self.path))

    def tells_apart(self, unit: str) -> bool:
        """Whether another interval of this unit is another path."""
        return any(needed <= self.names for needed in _TELLING[unit])

    def bound(self, values: Mapping[str, str]) -> str:
        """The path with the interval's values in it."""
        return _HOLDER.sub(lambda found: values[found.group(1)], self.path)

    @property
    def fixed(self) -> str:
        """The folder before the first wildcard or placeholder; the whole path where there is none."""
        found = [at.start() for at in (_WILD.search(self.path), _HOLDER.search(self.path)) if at]
        return self.path if not found else self.path[: self.path.rfind("/", 0, min(found)) + 1]


def parse_path(text: str) -> Pattern:
    """Read a path. Raises FilePathError: unknown scheme, option or placeholder, credentials, no bucket."""
    head, separator, rest = text.partition("://")
    if not separator:
        pattern = Pattern(text, "file", "", "", text, {})
    elif head == "file":
        pattern = Pattern(text, "file", "", "", rest, {})
    else:
        if head not in _SCHEMES:
            near = get_close_matches(head, _SCHEMES, n=1)
            known = (
                f"did you mean {near[0]}://?"
                if near
                else "known are s3://, gs://, abfs:// (or az://) and paths of files"
            )
            raise FilePathError(f"path: unknown scheme {head}://; {known}")
        pattern = _remote(text, _SCHEMES[head], rest)
    if not pattern.path and not pattern.bucket:
        raise FilePathError("path: it names no file")
    if "\0" in text:
        raise FilePathError("path: it holds a NUL character")
    if _HOLDER.sub("", pattern.path).strip("{}") != _HOLDER.sub("", pattern.path) or re.search(
        r"[{}]", _HOLDER.sub("", pattern.path)
    ):
        raise FilePathError("path: a { or } without its partner; placeholders are written {date}")
    for name in sorted(pattern.names):
        if name not in PLACEHOLDERS:
            near = get_close_matches(name, PLACEHOLDERS, n=1)
            all_of_them = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            known = f"did you mean {{{near[0]}}}?" if near else f"there are {all_of_them}"
            raise FilePathError(f"path: unknown placeholder {{{name}}}; {known}")
    return pattern


def _remote(text: str, kind: str, rest: str) -> Pattern:
    options: dict[str, str] = {}
    # A question mark is a wildcard too: options are what looks like them, at the end.
    if found := re.search(r"\?(\w+=[^/?*\[]*)$", rest):
        options = dict(parse_qsl(found.group(1), keep_blank_values=True))
        rest = rest[: found.start()]
    for name in options:
        if name not in _OPTIONS[kind]:
            known = ", ".join(_OPTIONS[kind]) or "none"
            near = get_close_matches(name, _OPTIONS[kind], n=1)
            raise FilePathError(
                f"path: unknown option {name!r}; "
                + (f"did you mean {near[0]}?" if near else f"known are {known}")
            )
    authority, _, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if ":" in user or (at and kind != "abfs"):
        raise FilePathError(
            "path: credentials do not belong here: the path is shown and recorded; give them in the environment"
        )
    if kind == "abfs":
        account = host.partition(".")[0]
        if not user or not account:
            begun = text.partition("://")[0]
            raise FilePathError(f"path: write {begun}://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH")
        return Pattern(text, kind, user, account, path, options)
    if not authority or _WILD.search(authority) or "{" in authority:
        raise FilePathError(f"path: {text!r} names no bucket")
    return Pattern(text, kind, authority, "", path, options)


def format_of(name: str) -> str | None:
    """Tell a file's format by its ending: parquet, csv or arrow; None where it is none of these."""
    name = name.lower()
    for ending in _COMPRESSED:
        plain = name.removesuffix(ending)
        if plain != name:
            return "csv" if _ENDINGS.get(_ending(plain)) == "csv" else None
    return _ENDINGS.get(_ending(name))


def _ending(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""


def matcher(segment: str) -> re.Pattern[str]:
    """The regular expression of one path segment with *, ? and [...]; it matches whole names."""
    import fnmatch

    return re.compile(fnmatch.translate(segment), re.DOTALL)


def is_wild(segment: str) -> bool:
    """Whether it holds a wildcard."""
    return bool(_WILD.search(segment))
