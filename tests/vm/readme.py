"""The README's commands, to be run as they are written: the fenced blocks of one of its sections, in their order."""

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
ADDRESSES = "10.0.0."
"""Of the README's hosts; a test has others, which end alike."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def file(self) -> str:
        """A file's name stands in its first line; empty: these are commands."""
        found = re.match(r"# (\S+\.ya?ml)\n", self.text)
        return found[1] if found and self.language == "yaml" else ""

    def script(self) -> str:
        """What a reader does with it."""
        return f"cat >{self.file} <<'EOF'\n{self.text}EOF\n" if self.file else self.text


def blocks(section: str, *, network: str) -> list[Block]:
    """All blocks under a heading. `network`: its first three numbers and a dot, in the place of ADDRESSES."""
    text = README.read_text()
    after = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^```(sh|yaml)\n(.*?)^```$", after, re.MULTILINE | re.DOTALL)
    return [Block(language, body.replace(ADDRESSES, network)) for language, body in found]
