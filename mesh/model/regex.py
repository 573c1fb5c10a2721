"""Regular expressions of an input: RE2, as Envoy reads them, and bounded in what they cost.

The library itself is loaded by who judges an expression: an agent, which takes what was judged, saves its 2.4 MB.
"""

import functools
import re

from mesh.model.checks import shown

MAX_PATTERN = 1024
"""Characters."""

MAX_PROGRAM = 1000
"""Instructions of the compiled expression. Envoy holds one for each route, and runs it on each request."""

_SPECIAL = re.compile(r"[^A-Za-z0-9_\x80-\U0010ffff]")


def literal(text: str) -> str:
    """The expression that matches this text alone, as RE2::QuoteMeta writes it."""
    return _SPECIAL.sub(lambda found: f"\\{found[0]}" if found[0] != "\0" else r"\x00", text)


def prefix_expression(prefix: str) -> str:
    """For a path with its query: whole elements, as PathPrefix has them."""
    return f"{literal(prefix.rstrip('/'))}(?:[/?].*)?"


def regex_fault(pattern: str) -> str:
    """What is wrong with it, or ""."""
    if not pattern:
        return "the regular expression is empty: it would match nothing but an empty text"
    if len(pattern) > MAX_PATTERN:
        return f"the regular expression has more than {MAX_PATTERN} characters"
    return _fault(pattern)


@functools.lru_cache(maxsize=4096)
def _fault(pattern: str) -> str:
    import re2

    options = re2.Options()
    options.log_errors = False
    # As Envoy builds its own, which has RE2's defaults else: a character is a byte, so there is no `\x{100}`.
    options.encoding = re2.Options.Encoding.LATIN1
    try:
        compiled = re2.compile(pattern.encode(), options)
    except UnicodeEncodeError:
        return f"{shown(pattern)} has characters that no text in UTF-8 has"
    except re2.error as exc:
        words = exc.args[0].decode("utf-8", "replace") if exc.args and isinstance(exc.args[0], bytes) else str(exc)
        return f"{shown(pattern)} is not a regular expression of RE2: {words[:120]}"
    if compiled.programsize > MAX_PROGRAM:
        return f"{shown(pattern)} is too complex: {compiled.programsize} instructions, {MAX_PROGRAM} at most"
    return ""
