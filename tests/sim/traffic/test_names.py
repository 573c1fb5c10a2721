"""Calls by name: what is redirected to an identity's listener goes where an explicit upstream would go."""

import dataclasses
from collections.abc import Iterable

import pytest

from mesh import pb
from mesh.compile import Snapshot, project
from mesh.compile import explain as explaining
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.simulate import Closed, Direct, Fault, To, call, calling, shares
from mesh.model import Callers, NodeLocal, Upstream
from mesh.model.explained import CallQuestion
from tests.golden.test_golden import read_local, read_world
from tests.support.meshes import config, definition, local, service, world

WEB, CRON = "capture|shop/web", "capture|shop/cron"
API, DB = "127.122.217.240", "127.87.92.102"


def compiled(case: str = "names") -> Snapshot:
    return compile_anew(project(read_world(case), read_local(case)))


NAMES = compiled()


@pytest.mark.parametrize("host", ["api.shop.mesh", "api.shop.mesh:80", "api.shop.east.mesh", "api", "x.test", ""])
def test_a_name_reaches_its_service_whatever_the_request_calls_it(host: str):
    verdict = call(NAMES, WEB, "GET", "/x", host=host, to=f"{API}:80", draw=0.9)
    assert isinstance(verdict, To)
    assert (verdict.cluster, verdict.timeout) == ("outbound|80|api.shop|shop/web", 3.0)


def test_each_identity_calls_as_itself():
    verdict = call(NAMES, CRON, host="api.shop.mesh", to=f"{API}:80", draw=0.9)
    assert isinstance(verdict, To)
    assert verdict.cluster == "outbound|80|api.shop|shop/cron"
    assert isinstance(call(NAMES, CRON, to=f"{DB}:5432", draw=0), Closed), "only web calls it"


@pytest.mark.parametrize("path", ["/", "/old"])
def test_what_an_explicit_upstream_does_a_name_does(path: str):
    named = shares(calling(NAMES, WEB, path=path, host="h", to=f"{API}:80"))
    plain = shares(calling(NAMES, "unix:/run/web/api.sock", path=path, host="h"))
    outcomes = [[bare(share.verdict) for share in found] for found in (named, plain)]
    assert outcomes[0] == outcomes[1]
    assert [share.probability for share in named] == [share.probability for share in plain]
    assert any(isinstance(share.verdict, Fault) for share in named)


def bare(verdict: object) -> object:
    return dataclasses.replace(verdict, trace=())  # type: ignore[type-var]


def test_tcp_and_what_is_outside_have_names_too():
    tcp = call(NAMES, WEB, to=f"{DB}:5432", draw=0)
    assert isinstance(tcp, To)
    assert tcp.cluster == "outbound|5432|db.shop|shop/web"
    pay = call(NAMES, WEB, host="pay.shop.mesh:443", to="127.120.144.109:443", draw=0)
    assert isinstance(pay, To)
    assert (pay.cluster, pay.host) == ("external|443|pay.shop|shop/web", "api.pay.test")


def test_a_service_that_is_not_there_says_so():
    verdict = call(NAMES, WEB, to="127.78.178.92:80", draw=0)
    assert isinstance(verdict, Direct)
    assert verdict.status == 503
    assert "there is no Service gone.shop" in verdict.body


@pytest.mark.parametrize("to", [f"{API}:81", "127.122.217.241:80", "127.0.0.1:16530", "10.0.0.2:80", ""])
def test_whatever_has_no_name_is_closed(to: str):
    assert isinstance(call(NAMES, WEB, to=to, draw=0), Closed)


def test_identities_without_names_have_no_listener():
    assert [name for name in NAMES.resources[pb.LISTENER] if name.startswith("capture|")] == [CRON, WEB]


# --- what changes closes nothing else --------------------------------------------------------------------------------


def host(*services: str, more: Iterable[str] = ()) -> NodeLocal:
    web = definition("web", upstreams=[Upstream(service=s, port=80) for s in services], callers=Callers(users=("web",)))
    places = {f"shop/{name}": f"127.64.0.{n + 1}" for n, name in enumerate(sorted((*services, *more)))}
    return local(web, virtual=places, capture_ports={"shop/web": 16400})


def listener(snapshot: Snapshot) -> pb.Listener:
    found = pb.decode(pb.LISTENER, snapshot.resources[pb.LISTENER][WEB].body)
    assert isinstance(found, pb.Listener)
    return found


def test_an_upstream_that_comes_or_goes_changes_no_other_chain():
    known = world(config(), *(service(name) for name in ("a", "b", "c")))
    few = listener(compile_anew(project(known, host("a", "c", more=["b"]))))
    many = listener(compile_anew(project(known, host("a", "b", "c"))))
    assert {c.name: pb.encode(c) for c in few.filter_chains}.items() <= {
        c.name: pb.encode(c) for c in many.filter_chains
    }.items()
    for one in (few, many):
        one.ClearField("filter_chains")
    assert few == many, "Envoy replaces chains in place only if nothing else differs"


def test_routes_and_services_change_without_the_listener():
    before = compile_anew(project(world(config(), service("a")), host("a")))
    gone = compile_anew(project(world(config()), host("a")))
    assert before.resources[pb.LISTENER][WEB].version == gone.resources[pb.LISTENER][WEB].version


# --- other destinations ----------------------------------------------------------------------------------------------


def test_egress_allow_passes_on_what_is_no_virtual_address():
    found = compiled("capture-allow")
    for to in ("192.0.2.10:5432", "203.0.113.9:80", "203.0.113.9:4"):
        verdict = call(found, WEB, to=to, draw=0)
        assert isinstance(verdict, To)
        assert verdict.cluster == "passthrough"
    by_name = call(found, WEB, to=f"{API}:80", draw=0)
    assert isinstance(by_name, To)
    assert by_name.cluster == "outbound|80|api.shop|shop/web"
    for to in ("127.0.0.1:16530", "127.64.0.9:80", "127.64.0.9:4"):
        verdict = call(found, WEB, to=to, draw=0)
        assert getattr(verdict, "cluster", "") == "unavailable", f"{to}: loopback would lead back to here"


def test_egress_registered_only_passes_on_what_is_registered():
    found = compiled("capture-registered")
    for to, cluster in {
        "192.0.2.10:5432": "passthrough", "192.0.2.11:8080": "passthrough", "192.0.2.11:80": "unavailable",
        "203.0.113.9:5432": "unavailable", "127.0.0.1:5432": "unavailable", "127.0.0.1:16530": "unavailable",
    }.items():  # fmt: skip
        assert getattr(call(found, WEB, to=to, draw=0), "cluster", "") == cluster, to
    idle = call(found, "capture|shop/idle", to="192.0.2.10:5432", draw=0)
    assert getattr(idle, "cluster", "") == "passthrough", "whose connections are captured needs no upstream"


# --- explain ---------------------------------------------------------------------------------------------------------


def test_explain_names_the_name_and_its_address():
    here, known = read_local("names"), read_world("names")
    view = project(known, here)
    present = explaining.Present(compile_anew(view), view.frame, known, here)
    asked = CallQuestion(name="web-admin", namespace="shop", service="api", service_namespace="shop", port=80)
    found = explaining.call(present, asked)
    assert found.listen == f"api.shop.mesh:80 ({API}:80)"
    assert found.spiffe_id == "spiffe://east.test/ns/shop/sa/web"
    assert [(o.verdict, o.service) for o in found.outcomes] == [("to", "api.shop:80"), ("fault", "")]
