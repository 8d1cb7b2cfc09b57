"""How a query's named parameters are found and bound: `:name`, and nothing that only looks like it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

# What a PostgreSQL query is made of, as far as needed to know where a colon is a parameter. The order counts:
# the first alternative that matches at a place is taken.
_TOKEN = re.compile(
    r"""
    (?P<line_comment>--[^\n]*)
  | (?P<block_comment>/\*)
  | (?P<escape_string>\b[eE]'(?:[^'\\]|\\.|'')*'?
      # it goes on in the next literal, escapes and all, when a line break and at most comments are between
      (?:(?:[ \t\f\v]|--[^\r\n]*)*[\r\n](?:[ \t\r\n\f\v]|--[^\r\n]*[\r\n])*'(?:[^'\\]|\\.|'')*'?)*)
  | (?P<string>'(?:[^']|'')*'?)
  | (?P<identifier>"(?:[^"]|"")*"?)
  | (?P<dollar>(?<![\w$])\$(?P<tag>(?:[A-Za-z_]\w*)?)\$)
  | (?P<positional>(?<![\w$])\$[0-9]+)
  | (?P<cast>::|:=)
  | (?P<parameter>(?<![\w:]):(?P<name>[A-Za-z_]\w*))
  | (?P<end>;)
  | (?P<bracket>[][()])
  | (?P<word>[A-Za-z_]\w*)
  | (?P<other>[\s\S])
    """,
    re.VERBOSE,
)
_BEGINNINGS = ("select", "with", "values", "table")


class QueryTextError(ConfigurationError):
    """A query's text cannot be used as a source; the message begins with file:line:column."""


@dataclass(frozen=True)
class BoundQuery:
    """A query for psycopg: `%(name)s` where it had `:name`, every other % doubled; and the names it uses."""

    text: str
    names: tuple[str, ...]


def bind_named(
    sql: str, available: Collection[str], required: Collection[str] = (), *, where: str
) -> BoundQuery:
    """Find the `:name` parameters of one SELECT and write them as psycopg wants them.

    Casts, strings, comments and quoted names stay as they are. `available` are the names that may be used,
    `required` those that must be. Raises QueryTextError with file:line:column.
    """
    parts: list[str] = []
    names: list[str] = []
    first = ""
    opened: list[tuple[str, int]] = []
    ended = False
    for kind, text, position in _tokens(sql, where):
        if kind in ("bracket", "positional"):
            _stands_alone(sql, text, position, opened, where)
        if kind not in ("line_comment", "block_comment") and text.strip():
            if ended and kind != "end":
                raise _fault(sql, position, where, "a second statement begins here; a source is one SELECT")
            if kind not in ("bracket", "end"):
                first = first or text.lower()
        if kind == "end":
            ended = ended or bool(first)
        elif kind == "parameter":
            names.append(_known(sql, text[1:], position, available, where))
            parts.append(f"%({text[1:]})s")
        else:
            parts.append(text.replace("%", "%%"))
    _is_one_query(sql, first, opened, where)
    unused = [name for name in required if name not in names]
    if unused:
        raise _fault(
            sql, 0, where, f"the query never uses :{', :'.join(unused)}, which the job file gives in `params`"
        )
    return BoundQuery("".join(parts).rstrip(), tuple(dict.fromkeys(names)))


def _tokens(sql: str, where: str) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, text, position) of each piece; the pieces joined are the query."""
    if "\0" in sql:
        raise _fault(sql, sql.index("\0"), where, "the query holds a NUL character")
    position = 0
    while position < len(sql):
        found = _TOKEN.match(sql, position)
        assert found is not None  # noqa: S101  # `other` matches anything
        kind, end = str(found.lastgroup), found.end()
        if kind == "block_comment":
            end = _end_of_comment(sql, position, where)
        elif kind == "dollar":
            end = sql.find(found.group("dollar"), end)
            if end < 0:
                raise _fault(sql, position, where, f"{found.group('dollar')} is never closed")
            end += len(found.group("dollar"))
        elif kind in ("escape_string", "string", "identifier"):
            quote = '"' if kind == "identifier" else "'"
            body = found.group()[found.group().index(quote) :]
            if len(body) < 2 or not _is_closed(body, quote, escapes=kind == "escape_string"):
                raise _fault(sql, position, where, f"the {quote} here is never closed")
        yield kind, sql[position:end], position
        position = end


def _is_closed(body: str, quote: str, *, escapes: bool) -> bool:
    inner = re.sub(r"\\.", "", body[1:], flags=re.DOTALL) if escapes else body[1:]
    return inner.count(quote) % 2 == 1


def _end_of_comment(sql: str, position: int, where: str) -> int:
    """Find the end of a block comment; PostgreSQL's nest."""
    depth = 0
    for found in re.compile(r"/\*|\*/").finditer(sql, position):
        depth += 1 if found.group() == "/*" else -1
        if depth == 0:
            return found.end()
    raise _fault(sql, position, where, "the comment /* here is never closed")


def _is_one_query(sql: str, first: str, opened: list[tuple[str, int]], where: str) -> None:
    if opened:
        raise _fault(sql, opened[-1][1], where, f"the {opened[-1][0]} here is never closed")
    if first not in _BEGINNINGS:
        begins = f"this begins with {first[:30]!r}" if first else "there is none here"
        raise _fault(sql, 0, where, f"a source is one SELECT (or WITH, VALUES, TABLE), and {begins}")


def _stands_alone(sql: str, text: str, position: int, opened: list[tuple[str, int]], where: str) -> None:
    """Refuse what reaches out of the query: it is put in parentheses, and $1 would be the driver's own."""
    if text.startswith("$"):
        raise _fault(sql, position, where, f"{text} is a positional parameter; give it a name, such as :name")
    if text in "([":
        opened.append((text, position))
    elif not opened or opened.pop()[0] + text not in ("()", "[]"):
        raise _fault(sql, position, where, f"the {text} here closes nothing")


def _known(sql: str, name: str, position: int, available: Collection[str], where: str) -> str:
    if name in available:
        return name
    near = get_close_matches(name, available, n=1)
    there = f"did you mean :{near[0]}?" if near else f"there are :{', :'.join(sorted(available))}"
    raise _fault(sql, position, where, f"unknown parameter :{name}; {there}")


def _fault(sql: str, position: int, where: str, what: str) -> QueryTextError:
    line = sql.count("\n", 0, position) + 1
    column = position - (sql.rfind("\n", 0, position) + 1) + 1
    return QueryTextError(f"{where}:{line}:{column}: {what}")
