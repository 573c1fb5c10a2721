"""Whole hosts as they are compiled: who gets to which application, over TLS; and where local callers get to."""

import pytest

from mesh import pb
from mesh.compile import Snapshot, project
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.parts import network_filter
from mesh.compile.simulate import Closed, Deny, Direct, To, answer, answering, call, calling, shares
from mesh.compile.simulate.tls import chain as tls_chain
from mesh.model import LocalPort, Upstream, World
from tests.sim.traffic.build import LISTENER, config, match, snapshot, to
from tests.support.meshes import (
    bundle,
    definition,
    endpoint,
    local,
    policy,
    rule,
    service,
    world,
)
from tests.support.meshes import (
    config as mesh_config,
)
from tests.support.snapshots import listener_on, snapshot_of, with_messages

WEB, BAD, OTHER = (f"spiffe://east.test/ns/shop/sa/{name}" for name in ("web", "bad", "other"))
HTTP, TCP = "80.api.shop.east.mesh", "5432.db.shop.east.mesh"


def callee(*policies: object, default: str = "Deny") -> Snapshot:
    state = world(
        mesh_config(default),
        bundle("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        service("api", target="http"),
        service("db", port=5432, protocol="tcp", target="tcp"),
        *policies,
    )
    here = [
        definition("api", LocalPort(port=8080, name="http", protocol="http")),
        definition("db", LocalPort(port=5432, name="tcp")),
    ]
    return compile_anew(project(state, local(*here)))


CALLEE = callee(
    policy("callers", "", rule("shop/web", name="web")), policy("never", "", rule("shop/bad"), action="Deny")
)


def test_an_allowed_caller_reaches_the_application():
    verdict = answer(CALLEE, HTTP, WEB, "GET", "//a/../b?c", [("x", "1")], "app", draw=0)
    assert isinstance(verdict, To)
    assert (verdict.cluster, verdict.path, verdict.host, verdict.rule) == (
        "local|80|api.shop",
        "/b?c",
        "app",
        "shop/callers/web",
    )
    assert verdict.headers == (("x", "1"), ("x-forwarded-proto", "https"))


@pytest.mark.parametrize(("caller", "named"), [(BAD, "shop/never/0"), (OTHER, "default-deny")])
def test_http_denies_by_name(caller: str, named: str):
    verdict = answer(CALLEE, HTTP, caller, draw=0)
    assert isinstance(verdict, Deny)
    assert (verdict.rule, verdict.status) == (named, 403)
    (edits,) = [edits for edits in verdict.response if edits.where == "local reply"]
    assert edits.changes[0].value == named


def test_tcp_reaches_the_application():
    verdict = answer(CALLEE, TCP, WEB, draw=0)
    assert (verdict.cluster, verdict.rule) == ("local|5432|db.shop", "shop/callers/web")


@pytest.mark.parametrize("caller", [BAD, OTHER])
def test_tcp_is_refused_in_the_handshake_by_those_who_may_have_refused(caller: str):
    verdict = answer(CALLEE, TCP, caller, draw=0)
    assert isinstance(verdict, Closed)
    assert verdict.reason == f"{caller} is not let in by shop/never/0 or default-deny"


def test_tcp_rules_that_a_handshake_cannot_see_close_later():
    allowed = policy("callers", "", rule(namespaces=["shop"]))
    verdict = answer(callee(allowed, policy("never", "", rule("shop/bad"), action="Deny")), TCP, BAD, draw=0)
    assert isinstance(verdict, Deny)
    assert (verdict.rule, verdict.status) == ("shop/never/0", 0)


@pytest.mark.parametrize("sni", [HTTP, TCP])
@pytest.mark.parametrize("caller", ["", "spiffe://west.test/ns/shop/sa/web", "web", "spiffe://"])
def test_who_is_not_of_the_mesh_gets_through_no_handshake(sni: str, caller: str):
    assert isinstance(answer(CALLEE, sni, caller, draw=0), Closed)


@pytest.mark.parametrize("sni", ["", "81.api.shop.east.mesh", "x." + HTTP])
def test_an_unknown_name_is_closed(sni: str):
    verdict = answer(CALLEE, sni, WEB, draw=0)
    assert isinstance(verdict, Closed)
    assert verdict.trace[-1].kind == "filter chain"


def test_names_have_no_case():
    assert isinstance(answer(CALLEE, HTTP.upper(), WEB, draw=0), To)


def test_a_missing_secret_closes():
    empty = Snapshot(CALLEE.revision, b"", {**CALLEE.resources, pb.SECRET: {}})
    assert isinstance(answer(empty, HTTP, WEB, draw=0), Closed)


def test_a_listener_waits_for_its_routes():
    empty = Snapshot(CALLEE.revision, b"", {**CALLEE.resources, pb.ROUTE: {}})
    assert isinstance(answer(empty, HTTP, WEB, draw=0), Closed)


def test_the_most_specific_name_chooses_the_chain_and_there_is_no_way_back():
    """FilterChainMatch: the destination's name comes before the transport, and what it chose is not tried again."""

    def chain(name: str, *names: str, transport: str = "") -> pb.FilterChain:
        return pb.FilterChain(name=name, filter_chain_match={"server_names": names, "transport_protocol": transport})

    listener = pb.Listener(
        filter_chains=[
            chain("exact", "a.b.c", transport="tls"),
            chain("near", "*.b.c"),
            chain("far", "*.c"),
            chain("any", transport="tls"),
        ]
    )

    def chosen(sni: str, *, tls: bool = True) -> str:
        found = tls_chain(listener, sni, tls=tls)
        return found[0].name if found else ""

    assert [chosen(sni) for sni in ("a.b.c", "x.b.c", "A.B.C", "b.c", "c", "")] == [
        "exact",
        "near",
        "exact",
        "far",
        "any",
        "any",
    ]
    assert chosen("a.b.c", tls=False) == ""
    listener.default_filter_chain.name = "default"
    assert chosen("a.b.c", tls=False) == "default"


# --- outbound ---


def caller(state: World, *upstreams: Upstream) -> Snapshot:
    return compile_anew(project(state, local(definition("web", upstreams=upstreams))))


def test_a_local_caller_gets_to_its_upstream_by_place_or_name():
    state = world(mesh_config(), service("api"), service("web"), endpoint("api", "there", "127.0.0.9"))
    found = caller(state, Upstream(service="api", port=80, listen="unix:/run/api.sock"))
    for listener in ("unix:/run/api.sock", *found.resources[pb.LISTENER]):
        verdict = call(found, listener, "GET", "/a", draw=0)
        assert isinstance(verdict, To)
        assert verdict.cluster == "outbound|80|api.shop|shop/web"
        assert "reset" in verdict.retry.on
    assert "reset" not in call(found, "unix:/run/api.sock", "POST", "/a", draw=0).retry.on


def test_an_upstream_that_is_not_there_says_so():
    verdict = call(
        caller(world(mesh_config()), Upstream(service="no", port=80, listen="127.0.0.1:9")), "127.0.0.1:9", draw=0
    )
    assert isinstance(verdict, Direct)
    assert (verdict.status, verdict.body) == (503, "holdfast: there is no Service no.shop\n")


def test_where_nobody_listens():
    assert isinstance(call(CALLEE, "127.0.0.1:1", draw=0), Closed)


def test_without_tls_there_is_no_way_in():
    assert isinstance(call(CALLEE, "inbound", draw=0), Closed)


def test_with_tls_there_is_none_where_nothing_expects_it():
    found = answer(snapshot(config(to())), "x", WEB, listener=LISTENER, draw=0)
    assert isinstance(found, Closed)


def test_tcp_by_weight():
    """TcpProxy.weighted_clusters."""
    clusters = [{"name": "one", "weight": 1}, {"name": "two", "weight": 3}]
    proxy = pb.TcpProxy(stat_prefix="x", weighted_clusters={"clusters": clusters})
    listener = listener_on(LISTENER, 80, network_filter("tcp", proxy))
    found = snapshot_of(listener, pb.Cluster(name="one"), pb.Cluster(name="two"))
    assert [(s.probability * 4, s.verdict.cluster) for s in shares(calling(found, LISTENER))] == [
        (3, "two"),
        (1, "one"),
    ]
    assert isinstance(call(snapshot_of(listener), LISTENER, draw=0), Closed)


def test_shares_of_an_inbound_request():
    routes = pb.RouteConfiguration(
        name="inbound|80|api.shop", virtual_hosts=config(to("local|80|api.shop", match())).virtual_hosts
    )
    (share,) = shares(answering(with_messages(CALLEE, routes), HTTP, WEB))
    # Those routes bring no rules, so the chain's own stand, and they let nobody in.
    assert share.verdict.rule == "default-deny"
