"""README and docs/: links lead somewhere, what is named is there, and examples are taken."""

import importlib
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

from agent import definitions
from agent import settings as agent_settings
from agent.cli import main as agent
from agent.hostd.cli import COMMANDS as HELPER
from controlplane import settings as node_settings
from controlplane.cli.main import main as holdfast
from controlplane.main import main as controlplane
from mesh.codec import convert_strict
from mesh.model import KINDS
from tests.conformance import evidence

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("ansible/*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PROGRAMS = {"holdfast": holdfast, "holdfast-agent": agent, "holdfast-controlplane": controlplane}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as they are made where Markdown is shown."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tables_are_tables(page):
    """Each has a head, and as many columns in each row."""
    for table in re.findall(r"(?:^\|.*\n)+", FENCE.sub("", page.read_text()), re.MULTILINE):
        rows = table.splitlines()
        assert re.fullmatch(r"\|[-| :]+\|", rows[1] if len(rows) > 1 else ""), rows[0]
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(columns) == 1, rows[0]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tests_and_targets_that_are_named_are_there(page):
    text = page.read_text()
    for file, test in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", text):
        assert (ROOT / file).is_file(), file
        assert f"def {test}" in (ROOT / file).read_text(), test
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def commands(text: str) -> Iterator[list[str]]:
    """What is told to be typed: in code spans, and in fenced blocks of commands."""
    spans = re.findall(r"`((?:holdfast(?:-agent|-controlplane)?) [^`]+)`", FENCE.sub("", text))
    lines = [line.strip() for _, kind, body in FENCE.findall(text) if kind in {"", "sh"} for line in body.splitlines()]
    typed = [line for line in lines if re.match(r"(\w*\$ |# )?holdfast", line)]
    for line in [*spans, *typed]:
        for part in re.split(r"\||&&|;|>", re.sub(r"^\w*[$#] |  #.*|  +[a-z].*$", "", line)):
            words = part.split()
            if words and words[0] in PROGRAMS:
                yield words


def fault(words: list[str]) -> str:
    """A command or an option that is not there. Not every word is judged: an example has names of its own."""
    command: click.Command = PROGRAMS[words[0]]
    rest = words[1:]
    if words[0] == "holdfast-agent" and rest[0] in HELPER:
        return "" if len(rest) == 1 or rest[1].rstrip(",.") in HELPER[rest[0]] else rest[1]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        # `start|stop` is the one and the other; `…` stands for any.
        found = [command.get_command(click.Context(command), name) for name in rest[0].rstrip(",.").split("|")]
        if "…" in rest[0]:
            return ""
        if not found[0] or None in found:
            return rest[0]
        command, rest = found[0], rest[1:]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    given = [word.split("=")[0].rstrip(",.)") for word in rest if re.match(r"-{1,2}[a-z]", word)]
    return next((word for word in given if word not in {*options, "--help", "--version"}), "")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_there(page):
    assert [(words, bad) for words in commands(page.read_text()) if (bad := fault(words))] == []


def test_a_command_that_is_not_there_is_found():
    wrong = (
        "`holdfast node drian vm-7`, `holdfast apply --wiat`, `holdfast-agent drain --no-wait`, `holdfast-agent host x`"
    )
    assert [fault(words) for words in commands(wrong)] == ["drian", "--wiat", "", "x"]


def examples(page: Path) -> Iterator[tuple[str, str]]:
    """The YAML of a page, and the file that its first line names, if it does."""
    text = page.read_text()
    bodies = [textwrap.dedent(body) for _, kind, body in FENCE.findall(text) if kind == "yaml"]
    for body in [*bodies, *re.findall(r"<<EOF\n(.*?)^EOF$", text, re.MULTILINE | re.DOTALL)]:
        named = re.match(r"# (\S+\.ya?ml)", body)
        yield body, named[1] if named else ""


def judged(body: str, file: str) -> object:
    """What is wrong with an example, by whoever reads such a file; None: nobody of ours does."""
    documents = list(yaml.safe_load_all(body))
    if all(isinstance(document, dict) and "kind" in document for document in documents):
        for document in documents:
            # A part of an object stands for the whole: what goes without saying is left out.
            document.setdefault("apiVersion", KINDS[document["kind"]].api_version)
            document.setdefault("metadata", {"name": "example", "namespace": "shop"})
        return [found for document in documents for found in evidence.violations(document)]
    if {"name", "namespace"} <= documents[0].keys():
        return list(definitions.parse([("example.yaml", body.encode())], "example").problems)
    if file == "controlplane.yaml":
        read = node_settings.parse(body, Path("/etc/holdfast"))
        return list(read) if isinstance(read, tuple) else []
    if file == "agent.yaml" or "capture" in documents[0]:
        whole = {"node": "example", "address": "10.0.0.1", **documents[0]}
        parsed = convert_strict(agent_settings.Settings, whole)
        return list(parsed if isinstance(parsed, tuple) else agent_settings.check(parsed))
    return None


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_examples_are_taken(page):
    for body, file in examples(page):
        assert not judged(body, file), body


def test_examples_are_judged():
    found = [judged(*example) for page in PAGES for example in examples(page)]
    assert len([verdict for verdict in found if verdict is not None]) > 20
    assert judged("kind: Service\nspec: {ports: [{prot: 80}]}\n", "")
    assert judged("# agent.yaml\nscrap: ''\n", "agent.yaml")
    assert judged("name: web\nnamespace: shop\nports: [{port: 0}]\n", "")


@pytest.mark.parametrize("package", ["agent", "ca", "controlplane", "controlplane.api", "mesh", "multicluster"])
def test_the_docstring_of_a_package_names_its_modules(package):
    found = importlib.import_module(package)
    modules = {module.name for module in pkgutil.iter_modules(found.__path__)}
    assert found.__doc__
    assert modules - set(re.findall(r"\w+", found.__doc__)) == set()
