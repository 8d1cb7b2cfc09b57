"""Strict YAML: one plain mapping, no key twice, and the line and column of everything in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from jobs.errors import JobFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where a value stands: the keys and indexes that lead to it.
Place: TypeAlias = tuple[str | int, ...]

_MAX_BYTES = 1_000_000
# A job file is four levels deep. PyYAML's time grows with the square of the depth: 200,000 brackets took 220 s.
_MAX_DEPTH = 20
# SQL is never filled in from the environment; a secret is text, whatever it looks like.
_SQL_TEXT: Place = ("source", "query")
_SECRETS: tuple[Place, ...] = (("source", "dsn"), ("notify",))
_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map")
}
_STR = "tag:yaml.org,2002:str"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2})?")
_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<rule>:?[-?])(?P<word>[^}]*))?\}|(?P<stray>))"
)


@dataclass(frozen=True)
class Document:
    """What a file says, and where: positions are (line, column) from 1, of each value and of each key."""

    data: dict[str, Any]
    values: Mapping[Place, tuple[int, int]]
    keys: Mapping[Place, tuple[int, int]]

    def position(self, place: Place) -> tuple[int, int]:
        """Find where a place stands, or what holds it where it is missing."""
        while place and place not in self.values:
            place = place[:-1]
        return self.values.get(place, (1, 1))


def read_document(text: str, where: str, environ: Mapping[str, str]) -> Document:
    """Parse one YAML mapping and fill in its ${VARIABLES}, as Compose has them, in values only.

    Raises JobFileError, a line for each fault.
    """
    if len(text.encode()) > _MAX_BYTES:
        raise JobFileError(f"{where}:1:1: a job file has at most {_MAX_BYTES:,} bytes")
    try:
        node = yaml.compose(_checked(text, where), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        flow = str(error.context).startswith("while parsing a flow") and "but got '{'" in str(error.problem)
        hint = "; put ${…} and {…} in quotation marks between { } or [ ]" if flow else ""
        raise JobFileError(f"{where}:{line}:{column}: this is not YAML: {error.problem}{hint}") from None
    except yaml.YAMLError as error:
        raise JobFileError(f"{where}:1:1: this is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(node, yaml.MappingNode):
        raise JobFileError(f"{where}:1:1: a job file is a mapping; it begins with `version: 1` and `name: …`")
    reader = _Reader(where, environ)
    data = reader.read(node, ())
    if reader.faults:
        raise JobFileError("\n".join(reader.faults))
    return Document(data, reader.values, reader.keys)


def _checked(text: str, where: str) -> str:
    """Refuse what a job file has no use for: several documents, anchors, aliases, many levels."""
    documents = depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark = event.start_mark
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise JobFileError(f"{at}: more than {_MAX_DEPTH} levels are nested here")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise JobFileError(f"{at}: a second document begins here; a job file holds one")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise JobFileError(
                f"{at}: anchors and aliases (& and *) are not allowed here; write the value out"
            )
    return text


class _Reader:
    """Turns nodes into plain values, collecting positions and faults on the way."""

    def __init__(self, where: str, environ: Mapping[str, str]) -> None:
        self.values: dict[Place, tuple[int, int]] = {}
        self.keys: dict[Place, tuple[int, int]] = {}
        self.faults: list[str] = []
        self._where = where
        self._environ = environ
        self._loader = yaml.SafeLoader("")

    def read(self, node: yaml.Node, place: Place) -> Any:
        self.values[place] = position = (node.start_mark.line + 1, node.start_mark.column + 1)
        if node.tag not in _TAGS:
            self._fault(
                position, f"the tag {node.tag.removeprefix('tag:yaml.org,2002:')} is not allowed here"
            )
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(each, (*place, index)) for index, each in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # noqa: S101  # the third and last kind there is
        return self._scalar(node, place, position)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for key_node, value_node in node.value:
            position = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                self._fault(position, "merge keys (<<) are not allowed here; write the keys out")
            elif not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _STR:
                self._fault(
                    position, f"the key `{key}` is not read as text (YAML 1.1); put it in quotation marks"
                )
            elif key in read:
                line, _ = self.keys[(*place, key)]
                self._fault(position, f"the key {key!r} stands here a second time, first on line {line}")
            else:
                self.keys[(*place, key)] = position
                read[key] = self.read(value_node, (*place, key))
        return read

    def _scalar(self, node: yaml.ScalarNode, place: Place, position: tuple[int, int]) -> Any:
        tag, text = node.tag, node.value
        if place != ("name",) and any(each == "\0" or "\ud800" <= each <= "\udfff" for each in text):
            self._fault(position, "the text holds a NUL or half a character, which PostgreSQL cannot keep")
            return ""
        if tag == _STR and place != _SQL_TEXT:
            text = _VARIABLE.sub(lambda found: self._variable(found, position), text)
        # `chunk_rows: ${ROWS}` without quotation marks means the number that the variable holds.
        if (
            node.style is None
            and re.fullmatch(r"\$\{[^}]*\}", node.value)
            and not any(place[: len(each)] == each for each in (_SQL_TEXT, *_SECRETS))
        ):
            plain = (True, False)
            tag = self._loader.resolve(yaml.ScalarNode, text, plain) if text.strip() == text != "" else _STR  # type: ignore[no-untyped-call]
        # YAML 1.1 takes 1e-3 for text.
        if tag == _STR and node.style is None and "e" in text.lower() and _FLOAT.fullmatch(text):
            tag = "tag:yaml.org,2002:float"
        try:
            return self._constructed(tag, text)
        except ValueError as error:  # 2026-02-29 looks like a date and is none
            self._fault(position, f"`{node.value[:40]}`: {error}")
            return None

    def _constructed(self, tag: str, text: str) -> Any:
        kind = tag.removeprefix("tag:yaml.org,2002:")
        if kind in ("int", "float"):
            # YAML 1.1 reads 0123 as 83 and 1:30 as 90; nobody means that.
            if not (_INT if kind == "int" else _FLOAT).fullmatch(text):
                raise ValueError("not a plain decimal number; write one, or put it in quotation marks")
            return int(text) if kind == "int" else float(text)
        if kind in ("null", "bool", "timestamp"):
            return self._loader.construct_object(yaml.ScalarNode(tag, text))
        return text

    def _variable(self, found: re.Match[str], position: tuple[int, int]) -> str:
        if found["dollar"]:
            return "$"
        name, rule, word = found["name"], found["rule"] or "", found["word"] or ""
        if not name:
            self._fault(
                position, "a lone $ is not allowed; write $$ for a dollar sign, ${NAME} for a variable"
            )
            return ""
        if "$" in word:
            self._fault(position, f"the default of {name} cannot hold a $ or another variable")
            return ""
        value = self._environ.get(name)
        if value is None or (rule.startswith(":") and not value):
            if rule.endswith("-"):
                return word
            why = f": {word}" if word else ""
            self._fault(position, f"the environment variable {name} is not set{why}")
            return ""
        return value

    def _fault(self, position: tuple[int, int], what: str) -> None:
        self.faults.append(f"{self._where}:{position[0]}:{position[1]}: {what}")
