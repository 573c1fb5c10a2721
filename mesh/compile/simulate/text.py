"""Comparing texts as Envoy does: by bytes, letters of ASCII alone have two cases, regular expressions are RE2's."""

import functools
import re
import string
from collections.abc import Callable
from typing import Any

import re2

from mesh.compile.simulate.fields import known
from mesh.compile.simulate.verdict import Unsupported

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.encoding = re2.Options.Encoding.LATIN1  # as Envoy has it: a character is a byte
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_REFERENCE = re.compile(rb"\\([0-9\\])")


def words(text: str) -> frozenset[str]:
    """A set of names, as a text of them."""
    return frozenset(text.split())


def lower(text: str) -> str:
    """Of ASCII's letters only."""
    return text.translate(_LOWER)


def matches(matcher: Any, text: str) -> bool:
    """A StringMatcher: Envoy's, or that of xDS."""
    known(matcher)
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":  # case is the expression's own business
        return full_match(matcher.safe_regex, text)
    if kind not in _COMPARE:
        raise Unsupported(f"{matcher.DESCRIPTOR.full_name}.{kind}")
    pattern = getattr(matcher, kind)
    if matcher.ignore_case:
        pattern, text = lower(pattern), lower(text)
    return _COMPARE[kind](text, pattern)


_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "exact": lambda text, pattern: text == pattern,
    "prefix": lambda text, pattern: text.startswith(pattern),
    "suffix": lambda text, pattern: text.endswith(pattern),
    "contains": lambda text, pattern: pattern in text,
}


def full_match(matcher: Any, text: str) -> bool:
    """A RegexMatcher: the whole text, as in `RE2::FullMatch`."""
    known(matcher)
    return _compiled(matcher.regex).fullmatch(_bytes(text)) is not None


def replace_all(rewrite: Any, text: str) -> str:
    """A RegexMatchAndSubstitute on a text of ASCII, as `RE2::GlobalReplace` does it."""
    known(rewrite)
    known(rewrite.pattern)
    found = _compiled(rewrite.pattern.regex)
    source, substitution = _bytes(text), _bytes(rewrite.substitution)
    out, place, last_end = b"", 0, -1
    while place <= len(source) and (match := found.search(source, place)) is not None:
        begin, end = match.span()
        out += source[place:begin]
        if begin == end == last_end:
            # No empty match right behind another match: one character is kept, and the search goes on.
            out, place = out + source[begin : begin + 1], begin + 1
            continue
        out += _REFERENCE.sub(functools.partial(_referred, match), substitution)
        place = last_end = end
    return (out + source[place:]).decode("utf-8", "surrogateescape")


def _referred(match: Any, reference: re.Match[bytes]) -> bytes:
    r"""Of `\0` to `\9` the group, of `\\` a backslash."""
    if reference[1] == b"\\":
        return reference[1]
    group: bytes | None = match.group(int(reference[1]))
    return group or b""


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    try:
        return re2.compile(_bytes(pattern), _OPTIONS)
    except re2.error as exc:
        raise Unsupported("envoy.type.matcher.v3.RegexMatcher.regex", f"{pattern!r} is not one of RE2: {exc}") from exc


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
