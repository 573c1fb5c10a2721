"""What systemd, nft and /etc/hosts say, as values. Pure."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from agent.doctor.facts import Unit
from agent.hostd.block import rewrite
from agent.hostd.wanted import Name

UNIT_FIELDS = "Id,LoadState,ActiveState,SubState,Result,NRestarts,UnitFileState"

OWN = ("inet", "holdfast")
NAMES_PRIORITY = -100
"""Of our own nat chain in the output hook: an earlier one of somebody else's decides before it."""


def units(text: str) -> tuple[Unit, ...]:
    """From `systemctl show -p UNIT_FIELDS a b c`: blocks of `key=value`, an empty line between them."""
    found = []
    for block in text.strip().split("\n\n"):
        said = dict(line.partition("=")[::2] for line in block.splitlines())
        if not said.get("Id"):
            continue
        restarts = said.get("NRestarts", "")
        found.append(
            Unit(
                name=said["Id"],
                loaded=said.get("LoadState") == "loaded",
                active=said.get("ActiveState", ""),
                result=said.get("Result", ""),
                restarts=int(restarts) if restarts.isdecimal() else 0,
                enabled=said.get("UnitFileState", "") == "enabled",
            )
        )
    return tuple(found)


def missing_names(hosts: str, wanted: Iterable[Name]) -> tuple[str, ...]:
    """Which of these /etc/hosts has not, or has elsewhere; all of them, if the block was edited."""
    names = tuple(wanted)
    if rewrite(hosts, names) == hosts:
        return ()
    lines = [line.partition("#")[0].split() for line in hosts.splitlines()]
    there = {(line[0], name) for line in lines if line for name in line[1:]}
    missing = tuple(name.name for name in names if (name.address, name.name) not in there)
    return missing or tuple(name.name for name in names)


def has_table(ruleset: str) -> bool:
    """Is our table in what `nft -j list ruleset` prints?"""
    return any((table["family"], table["name"]) == OWN for table in _all(ruleset, "table"))


def rivals(ruleset: str, mtls_port: int, iptables: str = "") -> tuple[str, ...]:
    """Chains of others that may stand before ours, or close the mTLS port.

    Args:
        ruleset: What `nft -j list ruleset` prints.
        mtls_port: Which others have to reach.
        iptables: What `iptables-save` prints: rules that it made are not whole in nft's words.

    """
    rules: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for rule in _all(ruleset, "rule"):
        rules.setdefault((rule["family"], rule["table"]), []).append(rule)
    found = []
    for chain in _all(ruleset, "chain"):
        table = (chain["family"], chain["table"])
        if table == OWN or "hook" not in chain:
            continue
        name = f"{chain['family']} {chain['table']}, chain {chain['name']}"
        if chain["hook"] == "output" and chain.get("type") == "nat" and _priority(chain) < NAMES_PRIORITY:
            found.append(f"{name} redirects before ours does: calls by name may not reach Envoy")
        drops = chain["hook"] == "input" and _refuses_the_rest(chain, rules.get(table, []))
        if drops and not _mentions(rules.get(table, []), mtls_port) and not _named(iptables, mtls_port):
            found.append(f"{name} drops what it does not name, and names no TCP port {mtls_port}: others cannot call")
    return tuple(found)


def _refuses_the_rest(chain: Mapping[str, Any], rules: Iterable[Mapping[str, Any]]) -> bool:
    """By its policy, or as firewalld does: the policy is to accept, and the last rule takes whatever comes to it."""
    if chain.get("policy") == "drop":
        return True
    last: Mapping[str, Any] = {}
    for rule in rules:
        if rule.get("chain") == chain["name"]:
            last = rule
    words = [word for part in last.get("expr", []) if isinstance(part, Mapping) for word in part if word != "counter"]
    return words in (["reject"], ["drop"])


def _named(iptables: str, port: int) -> bool:
    """Does a rule of iptables name this port, alone, in a list or as an end of a range?"""
    return bool(re.search(rf"--dports? (\S*[,:])?{port}(?![0-9])", iptables))


def _priority(chain: Mapping[str, Any]) -> int:
    value = chain.get("prio", 0)
    return value if isinstance(value, int) else 0


def _mentions(rules: Iterable[Mapping[str, Any]], port: int) -> bool:
    """Does any rule name this port: alone, in a set, in a range?"""
    return any(_holds(rule.get("expr", []), port) for rule in rules)


def _holds(tree: Any, port: int) -> bool:
    if isinstance(tree, Mapping):
        bounds = tree.get("range")
        if isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(b, int) for b in bounds):
            return bool(bounds[0] <= port <= bounds[1])
        return any(_holds(inner, port) for inner in tree.values())
    if isinstance(tree, list):
        return any(_holds(inner, port) for inner in tree)
    return bool(tree == port and not isinstance(tree, bool))


def _all(ruleset: str, kind: str) -> list[Mapping[str, Any]]:
    """The objects of one kind; none, where it is not what nft prints."""
    try:
        items = list(json.loads(ruleset)["nftables"])
    except (ValueError, KeyError, TypeError):
        return []
    return [item[kind] for item in items if isinstance(item, dict) and isinstance(item.get(kind), dict)]
