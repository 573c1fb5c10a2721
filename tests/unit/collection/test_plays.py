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


def test_what_is_said_as_a_word_is_made_a_boolean():
    """`-e name=true` gives a text, and Ansible takes no text for a condition (since core 2.19)."""
    names = {"holdfast_etcd_any_size"}
    for path in COLLECTION.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            names |= {name for name, option in (entry.get("options") or {}).items() if option.get("type") == "bool"}
    assert "holdfast_renew_certificates" in names
    used = re.compile(rf"\b({'|'.join(sorted(names))})\b(?!\s*:)(?! \| (?:default\(false\) \| )?bool)")
    parts = (
        "roles/*/tasks/*.yml",
        "roles/*/handlers/*.yml",
        "roles/*/vars/*.yml",
        "roles/*/templates/*",
        "playbooks/**/*.yml",
    )
    found = [
        f"{path.relative_to(COLLECTION)}: {line.strip()}"
        for part in parts
        for path in COLLECTION.glob(part)
        for line in path.read_text().splitlines()
        if used.search(line)
    ]
    assert found == []
