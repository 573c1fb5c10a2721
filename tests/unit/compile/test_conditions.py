"""What an object's status says of it."""

from typing import Any

from mesh.compile.conditions import status
from mesh.model import Ref
from tests.unit.compile.test_attach import a_policy, a_route, a_service, objects


def conditions(text: str, ref: Ref) -> dict[str, tuple[str, str]]:
    known = objects(text)
    found: dict[str, Any] = status(known[ref], known)
    listed = found["parents"][0]["conditions"] if "parents" in found else found["conditions"]
    return {c["type"]: (c["status"], c["reason"]) for c in listed}


ROUTE = Ref("HTTPRoute", "shop", "r")


def test_a_route_in_order():
    assert conditions(a_service("api") + a_route("r"), ROUTE) == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
    }


def test_what_keeps_a_route_from_counting():
    cases = {
        "NoMatchingParent": a_route("r"),
        "UnsupportedProtocol": a_service("api", protocol="tcp") + a_route("r"),
        "Conflicted": a_service("api", protocol="grpc") + a_route("r") + a_route("g", kind="GRPCRoute"),
    }
    for reason, text in cases.items():
        assert conditions(text, ROUTE)["Accepted"] == ("False", reason)
    wrong_port = a_service("api") + a_route("r", parent="name: api, port: 81")
    assert conditions(wrong_port, ROUTE)["Accepted"] == ("False", "NoMatchingParent")


def test_a_backend_that_is_not_there():
    text = a_service("api") + a_route("r", to="{name: api, port: 80}, {name: gone, port: 80}")
    found = conditions(text, ROUTE)
    assert (found["Accepted"][0], found["ResolvedRefs"]) == ("True", ("False", "BackendNotFound"))


def test_a_policy():
    policy = Ref("TrafficPolicy", "shop", "p")
    retries = "retries: {attempts: 1}"
    assert conditions(a_policy("p", retries), policy)["Accepted"] == ("False", "TargetNotFound")
    here = a_service("api") + a_policy("p", retries)
    assert conditions(here, policy)["Accepted"] == ("True", "Accepted")
    older = a_policy("o", retries, created="2025-01-01")
    assert conditions(here + older, policy)["Accepted"] == ("False", "Conflicted")
    assert conditions(a_service("api") + a_policy("p", retries, ", port: 9"), policy)["Accepted"][1] == "TargetNotFound"


def test_a_policy_that_is_honoured_at_some_ports_or_at_none_says_so():
    policy = Ref("TrafficPolicy", "shop", "p")
    both = "loadBalancing: {algorithm: Maglev, hash: [{header: x}]}\n  retries: {attempts: 1}"
    assert conditions(a_service("api") + a_policy("p", both), policy)["Honoured"] == ("True", "Honoured")
    known = objects(a_service("api", protocol="tcp") + a_policy("p", both))
    found = {c["type"]: c for c in status(known[policy], known)["conditions"]}
    assert (found["Accepted"]["status"], found["Honoured"]["status"]) == ("True", "False")
    assert "spec.retries not at 80" in found["Honoured"]["message"]
    assert "spec.loadBalancing.hash not at 80" in found["Honoured"]["message"]


def test_a_route_on_a_name_outside_of_the_mesh_says_so():
    outside = """
---
apiVersion: holdfast.dev/v1
kind: ExternalService
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example], ports: [{port: 80, protocol: http}]}
"""
    known = objects(outside + a_route("r"))
    accepted = status(known[ROUTE], known)["parents"][0]["conditions"][0]
    assert (accepted["status"], accepted["reason"]) == ("False", "NoMatchingParent")
    assert "is an ExternalService" in accepted["message"]


def test_other_kinds_have_none():
    known = objects(a_service("api"))
    assert status(known[Ref("Service", "shop", "api")], known) == {}
