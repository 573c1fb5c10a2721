"""What Envoy makes of a path before it looks for a route (its HttpConnectionManager, "path normalization")."""

import re

_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_SLASH = re.compile(r"%2[fF]|%5[cC]")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_UNSAFE = re.compile(r'["<>^`{|}]')


def split(target: str) -> tuple[str, str]:
    """The path, and the query with its question mark (or a fragment, which is refused elsewhere)."""
    end = min((place for mark in "?#" if (place := target.find(mark)) >= 0), default=len(target))
    return target[:end], target[end:]


def has_escaped_slash(target: str) -> bool:
    """A slash or a backslash, escaped."""
    return _SLASH.search(split(target)[0]) is not None


def unescape_slashes(target: str) -> str:
    path, query = split(target)
    return _SLASH.sub(lambda found: "/" if found[0][1] == "2" else "\\", path) + query


def normalize(target: str) -> str | None:
    """Dot segments resolved, characters in their one spelling; None: refused."""
    path, query = split(target)
    if not path.startswith("/") or "%00" in path:
        return None
    segments: list[str] = []
    pieces = path[1:].replace("\\", "/").split("/")
    for index, piece in enumerate(pieces):
        segment = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", _ESCAPE.sub(_unescape, piece))
        if segment not in {".", ".."}:
            segments.append(segment)
            continue
        if segment == ".." and segments:
            segments.pop()
        if index == len(pieces) - 1:
            segments.append("")
    return "/" + "/".join(segments) + query


def _unescape(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if char in _UNRESERVED else found[0]


def merge_slashes(target: str) -> str:
    path, query = split(target)
    if "//" not in path:
        return target
    # A slash at the end stays one, also where it is the slash at the beginning: "//" stays "//".
    begin, end = "/" if path.startswith("/") else "", "/" if path.endswith("/") else ""
    return begin + "/".join(piece for piece in path.split("/") if piece) + end + query


def parameters(target: str) -> dict[str, str]:
    """Of the query, as spelled there: the first value of each name counts."""
    found: dict[str, str] = {}
    for piece in split(target)[1][1:].split("&"):
        name, _, value = piece.partition("=")
        found.setdefault(name, value)
    return found
