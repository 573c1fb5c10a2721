"""Names in /etc/hosts: a marked block of ours; every other byte stays as it is. Pure.

A block whose end was lost ends where our own lines do, so that nobody else's line is ever taken for ours.
"""

import re
from collections.abc import Iterable

from agent.hostd.wanted import Name

BEGIN = "# BEGIN holdfast (kept by holdfast-host.service; changes between these lines are lost)"
END = "# END holdfast"

_BEGIN = re.compile(r"#\s*BEGIN holdfast\b.*")
_END = re.compile(r"#\s*END holdfast\b.*")
_OURS = re.compile(r"127\.\d+\.\d+\.\d+(\s+[a-z0-9.-]+\.mesh)+\s*")


def rewrite(text: str, names: Iterable[Name]) -> str:
    """The file with exactly these names in its block; without any, without a block.

    What it adds it can take away: `rewrite(rewrite(text, names), ())` is `text`, if that has no block.
    """
    rest = _without(text)
    lines = _lines(names)
    if not lines:
        return rest
    ending = "\r\n" if "\r\n" in rest else "\n"
    # A last line without an end gets one, and loses it again with the block: see `_without`.
    joint = "" if not rest or rest.endswith("\n") else ending + _JOINT + ending
    return rest + joint + ending.join((BEGIN, *lines, END)) + ending


_JOINT = "# BEGIN holdfast joint: the line before has no end"


def _lines(names: Iterable[Name]) -> tuple[str, ...]:
    """One line an address, in the order of addresses; a name twice is one name."""
    by_address: dict[str, dict[str, None]] = {}
    for name in names:
        by_address.setdefault(name.address, {})[name.name] = None
    ordered = sorted(by_address.items(), key=lambda item: tuple(int(part) for part in item[0].split(".")))
    return tuple(f"{address} {' '.join(of)}" for address, of in ordered)


def _without(text: str) -> str:
    kept: list[str] = []
    inside = False
    joint, ending = -1, ""
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if bare == _JOINT:
            joint, ending = len(kept), line[len(line.rstrip("\r\n")) :]
        elif _BEGIN.fullmatch(bare):
            inside = True
        elif inside and _END.fullmatch(bare):
            inside = False
        elif inside and _OURS.fullmatch(bare):
            continue
        else:
            inside = False  # somebody else's line: the end of the block was lost
            if not _END.fullmatch(bare):
                kept.append(line)
    if joint == len(kept) > 0:  # else somebody added lines after the block: the one before it keeps its end
        kept[-1] = kept[-1].removesuffix(ending)
    return "".join(kept)
