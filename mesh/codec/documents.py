"""YAML and JSON text -> plain trees of dict, list, str, int, float, bool and None.

The tree is built here from the parser's events, not by the library's loader, since the loader recurses as deep as the
text says, keeps the last of two equal keys, and reads `no` as false and `1:30` as ninety. Scalars follow YAML 1.2's
core schema. Bounded: text size, depth, and the number of values after aliases are spelled out.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
import yaml
from yaml import events as y

from mesh.model.checks import shown

MAX_TEXT = 4 * 1024 * 1024
"""Bytes of one text."""

MAX_DEPTH = 50
"""A resource is at most about ten deep."""

MAX_VALUES = 200_000
"""Of all documents of a text, aliases spelled out. 4 MiB of dense JSON hold about so many useful values."""

MAX_DIGITS = 19
"""Of a whole number: 64 bits, as in JSON readers everywhere."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_BASED = {"0x": (16, re.compile(r"0x[0-9a-fA-F]+\Z")), "0o": (8, re.compile(r"0o[0-7]+\Z"))}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_STR_TAGS = {"tag:yaml.org,2002:str", "!"}


class BadDocument(ValueError):  # noqa: N818 - what the caller was given
    """Text that is not the documents it should be. `line` counts from 1; 0 if the fault has no place."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.line = line
        self.reason = reason


def load_yaml(text: str | bytes) -> list[Any]:
    """All documents of a YAML (or JSON) text; empty ones are left out.

    Raises:
        BadDocument: it is not YAML, too large, too deep, holds a key twice, or aliases that blow it up.

    """
    _check_size(text)
    try:
        parsed = list(_Builder(yaml.parse(text, Loader=_Loader)).documents())
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        problem = exc.problem or exc.context or "cannot be read"
        if "nesting depth" in problem:  # newer scanners have a bound of their own, and meet it first
            raise BadDocument(mark.line + 1 if mark else 0, f"nested deeper than {MAX_DEPTH}") from exc
        raise BadDocument(mark.line + 1 if mark else 0, f"not YAML: {problem[:200]}") from exc
    except (yaml.YAMLError, UnicodeError) as exc:
        raise BadDocument(0, f"not YAML: {str(exc).splitlines()[0][:200]}") from exc
    return [document for document in parsed if document is not None]


def load_json(raw: bytes | str) -> Any:
    """The tree of a JSON text.

    Raises:
        BadDocument: it is not JSON, too large or too deep.

    """
    _check_size(raw)
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise BadDocument(0, f"not JSON: {str(exc)[:200]}") from exc


def _check_size(text: str | bytes) -> None:
    if len(text) > MAX_TEXT:
        raise BadDocument(0, f"the text is longer than {MAX_TEXT // 2**20} MiB")


class _Builder:
    """Builds trees from the events of one text."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._count = 0
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        """Name -> its tree and how many values that holds; None while it is still being read."""

    def documents(self) -> Iterator[Any]:
        for event in self._events:
            if isinstance(event, y.DocumentStartEvent):
                self._anchors.clear()
                yield self._value(next(self._events), 0)

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, y.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            _refuse(event, f"nested deeper than {MAX_DEPTH}")
        before = self._count
        self._add(event, 1)
        if event.anchor:
            self._anchors[event.anchor] = None
        match event:
            case y.ScalarEvent():
                value = _scalar(event)
            case y.SequenceStartEvent():
                _plain_tag(event, "tag:yaml.org,2002:seq")
                value = self._sequence(depth)
            case _:
                _plain_tag(event, "tag:yaml.org,2002:map")
                value = self._mapping(depth)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._count - before)
        return value

    def _sequence(self, depth: int) -> list[Any]:
        items = []
        while not isinstance(event := next(self._events), y.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := next(self._events), y.MappingEndEvent):
            key = self._value(event, depth + 1)
            if not isinstance(key, str):
                _refuse(event, f"the key {shown(key)} is not text: put it in quotes")
            if key == "<<":
                _refuse(event, "merge keys (<<) are not taken: write the entries out")
            if key in entries:
                _refuse(event, f"the key {shown(key)} is there twice")
            entries[key] = self._value(next(self._events), depth + 1)
        return entries

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            _refuse(event, f"the alias {shown(event.anchor)} has no anchor")
        known = self._anchors[event.anchor]
        if known is None:
            _refuse(event, f"the alias {shown(event.anchor)} stands inside its own anchor")
        value, size = known
        self._add(event, size)
        return value

    def _add(self, event: Any, count: int) -> None:
        self._count += count
        if self._count > MAX_VALUES:
            _refuse(event, f"more than {MAX_VALUES} values, aliases spelled out")


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.tag in _STR_TAGS or (event.tag is None and not event.implicit[0]):
        return text
    if event.tag is not None:
        _refuse(event, f"the tag {shown(event.tag)} is not taken")
    return _WORDS[text] if text in _WORDS else _number(event, text)


def _number(event: Any, text: str) -> int | float | str:
    """The number that plain text is, or the text."""
    if _INT.match(text):
        if len(text.lstrip("+-0")) > MAX_DIGITS:
            _refuse(event, f"{shown(text)} has more than {MAX_DIGITS} digits: put it in quotes if it is text")
        return int(text)
    base, pattern = _BASED.get(text[:2], (0, None))
    if pattern and pattern.match(text) and len(text) <= MAX_DIGITS:
        return int(text[2:], base)
    if _FLOAT.match(text) and math.isfinite(number := float(text)):
        return number
    if _FLOAT.match(text) or _SPECIAL.match(text):
        _refuse(event, f"{shown(text)} is not a number that can be stored: put it in quotes if it is text")
    return text


def _plain_tag(event: Any, plain: str) -> None:
    if event.tag not in {None, plain, "!"}:
        _refuse(event, f"the tag {shown(event.tag)} is not taken")


def _refuse(event: Any, reason: str) -> NoReturn:
    raise BadDocument(event.start_mark.line + 1, reason)
