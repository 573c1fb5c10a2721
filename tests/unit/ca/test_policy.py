"""What a node may be given, and what it may not."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ca import policy
from ca.policy import Claims, Denied, Grant, Lifetimes, Standing
from mesh.model import MeshConfigSpec, Metadata, Node, NodeSpec
from tests.support.ca import DOMAIN, NOW

LIFE = Lifetimes()
HOSTILE = (
    "..",
    "../vm-2",
    "vm-1/../vm-2",
    "vm-1%2fvm-2",
    "vm-1\n",
    "\nvm-1",
    "VM-1",
    "vm_1",
    "vm-1 ",
    "*",
    "",
    "vm-1.",
    "-vm",
    "vm\N{CYRILLIC SMALL LETTER A}",
    "a" * 64,
    "a" * 10_000,
    "vm-1\0",
    "node",
)


def node(name: str = "vm-1", **spec) -> Node:
    spec.setdefault("identities", ("shop/web", "shop/api"))
    return Node(metadata=Metadata(name=name), spec=NodeSpec(address="10.0.0.1", **spec))


def ask(
    wanted: str,
    record: Node | None = None,
    name: str = "vm-1",
    method: policy.Method = "node_certificate",
    issued: float = NOW,
    since: float = 0.0,
):
    return policy.authorize(Claims(name, method, issued), wanted, Standing(record, since), DOMAIN, LIFE)


def test_a_node_gets_its_own_identity_without_dns_names():
    grant = ask("node", node())
    assert isinstance(grant, Grant)
    assert (str(grant.spiffe_id), grant.dns_names, grant.ttl) == (f"spiffe://{DOMAIN}/node/vm-1", (), 30 * 86400)


def test_a_node_gets_the_workloads_of_its_record():
    grant = ask("shop/api", node())
    assert isinstance(grant, Grant)
    assert (str(grant.spiffe_id), grant.dns_names, grant.ttl) == (f"spiffe://{DOMAIN}/ns/shop/sa/api", (), 3 * 86400)


@pytest.mark.parametrize(
    "wanted", ["shop/db", "shop/we", "shop/web2", "other/web", "web", "shop/web/x", "/web", "shop/"]
)
def test_nothing_that_the_record_does_not_have(wanted):
    assert isinstance(ask(wanted, node()), Denied)


def test_the_gate_name_needs_the_role():
    assert isinstance(ask("gate", node()), Denied)
    grant = ask("gate", node(roles=("agent", "gate")))
    assert isinstance(grant, Grant)
    assert (str(grant.spiffe_id), grant.dns_names) == (f"spiffe://{DOMAIN}/node/vm-1", ("gate.holdfast",))


@pytest.mark.parametrize("wanted", ["node", "gate", "shop/web"])
@pytest.mark.parametrize("method", ["join_token", "node_certificate", "expired_certificate"])
def test_an_evicted_or_unknown_node_gets_nothing(wanted, method):
    assert isinstance(ask(wanted, node(evicted=True, roles=("gate",)), method=method), Denied)
    assert isinstance(ask(wanted, None, method=method), Denied)


@pytest.mark.parametrize("wanted", ["node", "gate", "shop/web"])
def test_a_certificate_from_before_the_last_join_is_void(wanted):
    record = node(roles=("gate",))
    refused = ask(wanted, record, issued=NOW - 1, since=NOW)
    assert isinstance(refused, Denied)
    assert "void" in refused.reason
    assert isinstance(ask(wanted, record, issued=NOW, since=NOW), Grant)
    assert isinstance(ask(wanted, record, issued=NOW, since=math.inf), Denied)


@pytest.mark.parametrize("wanted", ["node", "gate"])
def test_what_a_node_gets_is_dated_no_earlier_than_its_join(wanted):
    grant = ask(wanted, node(roles=("gate",)), issued=NOW + 5, since=NOW + 5)
    assert isinstance(grant, Grant)
    assert grant.since == NOW + 5


def test_the_record_of_another_node_is_no_help():
    assert isinstance(ask("node", node("vm-2")), Denied)


def test_an_expired_certificate_renews_the_node_only():
    assert isinstance(ask("node", node(), method="expired_certificate"), Grant)
    assert isinstance(ask("shop/web", node(), method="expired_certificate"), Denied)
    assert isinstance(ask("gate", node(roles=("gate",)), method="expired_certificate"), Denied)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_never_reach_an_identity(name):
    """Even if the record itself carries them."""
    if name != "node":
        assert isinstance(ask("node", node(name), name=name), Denied)
        assert isinstance(policy.replica(name, DOMAIN, LIFE), Denied)
    for wanted in (f"shop/{name}", f"{name}/web") if name != "node" else (f"shop/{name}/x",):
        assert isinstance(ask(wanted, node(identities=(wanted,))), Denied)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_answered_with_a_short_printable_reason(text):
    refused = ask(text, node())
    if isinstance(refused, Denied):
        assert refused.reason.isprintable()
        assert len(refused.reason) < 400
    else:
        assert text in {"node", "shop/web", "shop/api"}


def test_a_replica_gets_the_control_planes_name():
    grant = policy.replica("cp-1", DOMAIN, LIFE)
    assert isinstance(grant, Grant)
    assert (str(grant.spiffe_id), grant.dns_names) == (
        f"spiffe://{DOMAIN}/controlplane/cp-1",
        ("controlplane.holdfast",),
    )


def test_no_request_leads_to_the_control_planes_name():
    everything = ("controlplane", "controlplane/cp-1", "controlplane.holdfast", "gate.holdfast")
    for wanted in everything:
        assert isinstance(ask(wanted, node(identities=everything, roles=("agent", "gate"))), Denied) or wanted.count(
            "/"
        )
    grant = ask("controlplane/cp-1", node(identities=everything))
    assert isinstance(grant, Grant)
    assert str(grant.spiffe_id) == f"spiffe://{DOMAIN}/ns/controlplane/sa/cp-1"
    assert grant.dns_names == ()


def test_lifetimes_come_from_the_mesh_and_have_a_floor():
    life = policy.lifetimes(MeshConfigSpec(trust_domain=DOMAIN, workload_ttl_seconds=120, node_ttl_seconds=-5))
    assert (life.workload, life.node, life.intermediate) == (120, 60, 30 * 86400)
