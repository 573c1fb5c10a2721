"""What only a run would show of a play, and then only of the one that is run."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.collection import ROOT

COLLECTION = ROOT / "ansible"
PLAYS = [
    pytest.param(play, id=f"{book.stem}: {play['name']}")
    for book in sorted((COLLECTION / "playbooks").glob("*.yml"))
    for play in yaml.safe_load(book.read_text())
    if "hosts" in play
]
_INCLUDED = re.compile(r"(?:include|import)_tasks: ([\w./-]+\.yml)")


def texts(text: str) -> Iterator[str]:
    """Of a play, and of all task files that it includes."""
    yield text
    for name in _INCLUDED.findall(text):
        path = COLLECTION / "playbooks" / name
        path = path if path.exists() else COLLECTION / "playbooks/tasks" / name
        yield from texts(path.read_text())


@pytest.mark.parametrize("play", PLAYS)
def test_a_play_that_uses_the_roles_variables_loads_them(play: dict[str, Any]):
    """Roles that are included do not give theirs to the play: only those that are imported, or listed."""
    names = yaml.safe_load((COLLECTION / "roles/common/vars/main.yml").read_text())
    whole = "\n".join(texts(yaml.safe_dump(play)))
    used = {name for name in names if re.search(rf"\b{name}\b", whole)}
    assert not used or "roles" in play or "ansible.builtin.import_role" in yaml.safe_dump(play), used
