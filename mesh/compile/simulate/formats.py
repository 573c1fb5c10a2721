"""Texts with commands, as Envoy puts values in them (its "command operators")."""

import re
from collections.abc import Mapping

from mesh.compile.simulate.verdict import Unsupported

_COMMAND = re.compile(r"%(?:%|[^%]+%)?")
_METADATA = re.compile(r"%DYNAMIC_METADATA\(([^:)]+):([^:)]+)\)%\Z")

Metadata = dict[tuple[str, str], str]
"""What filters said of a request: namespace and key -> value."""

STATUS, BODY = "%RESPONSE_CODE%", "%LOCAL_REPLY_BODY%"


def formatted(text: str, metadata: Metadata, more: Mapping[str, str] | None = None, *, missing: str = "") -> str:
    """`more`: values of other commands. `missing`: what stands for a value that there is not."""

    def value(found: re.Match[str]) -> str:
        command = found[0]
        if command == "%%":
            return "%"
        if (named := _METADATA.match(command)) is not None:
            return metadata.get((named[1], named[2]), missing)
        if more is None or command not in more:
            raise Unsupported("command", command)
        return more[command]

    return _COMMAND.sub(value, text)
