"""Services whose selector does not lead to this host now, and may with its next change."""

from mesh.compile import Compiler, check, project
from mesh.compile.standby import MAX_SERVICES, standby
from mesh.model import LocalPort, Service, ServicePort
from tests.support.meshes import config, definition, local, policy, rule, service, world

WEB_PORT = LocalPort(port=8080, name="http", protocol="http")
BLUE = definition("api", WEB_PORT, labels={"app": "api", "color": "blue"})


def selecting(name: str = "shopfront", *, accounts=("api",), **labels: str) -> Service:
    return service(name, target="http", accounts=accounts, selector=labels or {"app": "api", "color": "green"})


def inbound(*objects, host=None):
    return project(world(*objects), host or local(BLUE)).frame


def test_a_service_that_may_come_here_has_its_chain_and_is_no_problem():
    frame = inbound(selecting(), policy("a", "shopfront", rule("shop/web")))
    (found,) = frame.inbound
    assert (found.service.name, found.port, found.target, found.identity) == ("shopfront", 80, 8080, "shop/api")
    assert [r.id for r in found.access.allow] == ["shop/a/0"], "its policies apply as always"
    assert frame.problems == ()


def test_a_selector_that_moves_changes_nothing_of_what_a_host_has_in_force():
    objects = [config(), service("api", target="http"), service("z", accounts=["z"]), policy("p", "", rule("shop/web"))]
    compiler, host = Compiler(), local(BLUE)
    digests = set()
    for color in ("blue", "green", "blue", "red"):
        snapshot = compiler.compile(compiler.project(world(*objects, selecting(app="api", color=color)), host))
        assert check(snapshot) == ()
        digests.add(snapshot.digest)
    assert len(digests) == 1


def test_only_those_who_may_stand_behind_a_name_answer_for_it():
    other_account = selecting("one", accounts=["someone", "else"])
    by_name = service("two", target="http", accounts=["api"])
    no_port = service("three", target="admin", accounts=["api"], selector={"app": "x"})
    elsewhere = Service(metadata=selecting().metadata.__class__(name="four", namespace="ops"), spec=selecting().spec)
    frame = inbound(other_account, by_name, no_port, elsewhere)
    assert frame.inbound == ()
    assert frame.problems == ()


def test_of_several_ports_those_that_fit():
    ports = (ServicePort(port=80, target_port="http"), ServicePort(port=81, target_port="admin"))
    frame = inbound(service("x", ports=ports, accounts=["api"], selector={"color": "green"}))
    assert [i.port for i in frame.inbound] == [80]
    assert frame.problems == ()


def test_an_instance_that_is_selected_comes_first_and_alone():
    green = definition("green", LocalPort(port=1, name="http"), labels={"color": "green"}, service_account="api")
    frame = inbound(selecting(color="green"), host=local(BLUE, green))
    assert [i.target for i in frame.inbound] == [1]
    assert frame.problems == ()


def test_of_several_instances_the_one_that_shares_most_labels_stands_by():
    near = definition("near", LocalPort(port=1, name="http"), labels={"app": "api", "tier": "x"}, service_account="api")
    frame = inbound(selecting(app="api", tier="x", color="green"), host=local(BLUE, near))
    assert [i.target for i in frame.inbound] == [1]


def test_an_identity_that_is_only_on_standby_and_not_held_is_no_problem():
    frame = inbound(selecting(), host=local(BLUE, identities={}))
    assert frame.problems == ()
    assert frame.identities == ()


def test_a_bad_policy_is_told_by_those_whom_it_concerns():
    bad = policy("bad", "shopfront", rule("no principal"))
    assert inbound(selecting(), bad).problems == ()
    assert "from[0].principals" in inbound(selecting(color="blue"), bad).problems[0].path


def test_the_bound_holds_and_prefers_those_that_share_labels():
    everything = definition("all", WEB_PORT, labels={"app": "all"}, service_account="default")
    strangers = [service(f"a{n:03}", target="http", accounts=["default"], selector={"x": str(n)}) for n in range(200)]
    kin = [
        service(f"z{n}", target="http", accounts=["default"], selector={"app": "all", "x": str(n)}) for n in range(3)
    ]
    selected = [service(f"s{n:03}", target="http", accounts=["default"], selector={"app": "all"}) for n in range(100)]
    frame = inbound(*strangers, *selected, *kin, host=local(everything))
    names = [i.service.name for i in frame.inbound]
    waiting = [name for name in names if not name.startswith("s")]
    assert len(waiting) == MAX_SERVICES
    assert {"z0", "z1", "z2"} <= set(waiting)
    assert waiting == [f"a{n:03}" for n in range(MAX_SERVICES - 3)] + ["z0", "z1", "z2"]
    assert len(names) == MAX_SERVICES + len(selected), "what is selected has no such bound"


def test_the_order_of_what_is_known_does_not_matter():
    instance = BLUE.instance_on("vm-1", "10.0.0.1")
    services = [selecting(f"s{n}") for n in range(10)]
    assert standby(services, [instance], 4) == standby(services[::-1], [instance], 4)
    assert [ref.name for ref in standby(services, [instance], 4)] == ["s0", "s1", "s2", "s3"]
