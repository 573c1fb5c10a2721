from mesh import codec, keys
from mesh.compile import interest, project
from mesh.model import LocalPort, Ref, Revision, ServicePort, ServiceRef, Upstream, World
from mesh.store.protocol import Event
from tests.support.meshes import (
    DOMAIN,
    FAKE_ROOT,
    bundle,
    config,
    definition,
    endpoint,
    local,
    policy,
    rule,
    service,
    world,
)

API = definition("api", LocalPort(port=8080, name="http", protocol="http"))
WEB = definition("web", upstreams=[Upstream(service="api", port=80, listen="127.0.0.1:9001")])


def reasons(view) -> str:
    return "\n".join(f"{p.object} {p.path} {p.reason}" for p in view.frame.problems)


def test_an_endpoint_event_leaves_the_frame_as_it_is():
    host = local(WEB)
    before = project(world(service("api"), endpoint("api", "a", "10.0.0.1")), host)
    newer = world(endpoint("api", "b", "10.0.0.2"), base=world(service("api")), revision=2)
    first = project(newer, host, before)
    again = project(world(endpoint("api", "c", "10.0.0.3"), base=newer, revision=3), host, first)
    assert again.frame is first.frame is before.frame
    assert again.revision == 3


def test_what_does_not_concern_the_host_leaves_the_frame_as_it_is():
    host, base = local(WEB), world(service("api"))
    first = project(base, host)
    assert project(world(service("other"), base=base), host, first).frame is first.frame


def test_a_service_takes_instances_by_name_or_by_labels():
    labelled = definition("api", LocalPort(port=8080, name="http"), labels={"app": "api", "v": "2"})
    canary = service("canary", target="http", accounts=["api"], selector={"app": "api"})
    other = service("other", target="http", accounts=["other"], selector={"app": "api", "v": "1"})
    view = project(world(service("api", target="http"), canary, other), local(labelled))
    assert [(i.service.name, i.port, i.target) for i in view.frame.inbound] == [("api", 80, 8080), ("canary", 80, 8080)]


def test_an_account_that_is_not_listed_gets_no_traffic():
    view = project(world(service("api", target="http", accounts=["someone-else"])), local(API))
    assert view.frame.inbound == ()
    assert "spec.serviceAccounts" in reasons(view)


def test_a_second_instance_behind_the_same_port_is_a_problem():
    one = definition("one", LocalPort(port=1, name="http"), labels={"app": "x"}, service_account="x")
    two = definition("two", LocalPort(port=2, name="http"), labels={"app": "x"}, service_account="x")
    both = service("x", target="http", selector={"app": "x"})
    view = project(world(both), local(two, one))
    assert [i.target for i in view.frame.inbound] == [1]
    assert "not the first" in reasons(view)


def test_a_port_without_target_is_a_problem():
    ports = (ServicePort(port=80, target_port="http"), ServicePort(port=81, target_port="admin"))
    view = project(world(service("api", ports=ports)), local(API))
    assert [i.port for i in view.frame.inbound] == [80]
    assert "spec.ports[1]" in reasons(view)


def test_rules_are_named_and_ordered():
    found = project(
        world(
            config("Allow"),
            service("api", target="http"),
            policy("b", "api", rule("shop/web"), rule(name="all")),
            policy("a", "", rule("spiffe://west.test/ns/x/sa/y", name="far", ports=[80])),
            policy("c", "api", rule(namespaces=["ops"], ports=[81])),
            policy("d", "other", rule("shop/other")),
            policy("z", "api", rule("shop/bad"), action="Deny"),
        ),
        local(API),
    ).frame.inbound[0]
    access = found.access
    assert [r.id for r in access.allow] == ["shop/a/far", "shop/b/0", "shop/b/all", "default-allow"]
    assert access.allow[0].principals == ("spiffe://west.test/ns/x/sa/y",)
    assert access.allow[1].principals == ("spiffe://east.test/ns/shop/sa/web",)
    # Whoever is let in without a name is of this trust domain.
    assert access.allow[2].namespaces == access.allow[3].namespaces == ("spiffe://east.test/",)
    assert [r.id for r in access.deny] == ["shop/z/0"]
    assert {ref.name for ref in access.sources} == {"a", "b", "c", "z"}


def test_without_a_mesh_config_the_default_is_to_deny():
    assert project(world(service("api", target="http")), local(API)).frame.inbound[0].access.allow == ()


def test_hostile_names_do_not_get_through():
    bad = rule("../..", "spiffe://EAST/x", "shop/web\n", name="x\ny")
    view = project(
        world(service("api", target="http"), policy("a\r\nb" + "c" * 200, "api", bad), service("a..b")), local(API)
    )
    found = view.frame.inbound[0].access.allow[0]
    assert found.principals == ()
    assert not found.anyone
    assert found.id.isprintable()
    assert found.id.startswith("shop/a__bccc")
    assert found.id.endswith("/0")
    assert len(found.id) < 140
    assert "a..b" in reasons(view)


def test_a_missing_upstream_has_words_for_the_caller():
    calls = [
        Upstream(service="none", port=80, listen="127.0.0.1:1"),
        Upstream(service="api", port=81, listen="127.0.0.1:2"),
        Upstream(service="nobody", port=80, listen="127.0.0.1:3"),
        Upstream(service="api", port=80, listen="127.0.0.1:4"),
    ]
    view = project(world(service("api"), service("nobody", accounts=[])), local(definition("web", upstreams=calls)))
    assert [o.fault for o in view.frame.outbound] == [
        "there is no Service none.shop",
        "Service api.shop has no port 81",
        "Service nobody.shop lists no service account that may stand behind it",
        "",
    ]
    assert len(view.frame.problems) == 3


def test_loopback_ports_are_refused_where_several_identities_live():
    other = definition("cron", upstreams=[Upstream(service="api", port=80, listen="unix:/run/cron/api.sock")])
    view = project(world(service("api")), local(WEB, other))
    assert [o.listen for o in view.frame.outbound] == ["unix:/run/cron/api.sock"]
    assert "several identities" in reasons(view)


def test_two_upstreams_in_one_place():
    one, two = (
        definition(name, service_account="x", upstreams=[Upstream(service=name, port=80, listen="127.0.0.1:1")])
        for name in ("api", "b")
    )
    view = project(world(service("api"), service("b")), local(two, one))
    assert [o.service.name for o in view.frame.outbound] == ["api"]
    assert "another upstream listens there" in reasons(view)


def test_roots_come_from_the_world_if_it_has_good_ones():
    good = FAKE_ROOT.replace("AAAA", "BBBB")
    assert project(world(bundle(good)), local(WEB)).frame.roots == (good,)
    assert project(World(), local(WEB)).frame.roots == (FAKE_ROOT,)
    broken = project(world(bundle("garbage")), local(WEB))
    assert broken.frame.roots == (FAKE_ROOT,)
    assert "spec.roots" in reasons(broken)


def test_interest_is_what_is_called():
    assert interest(local(WEB, API), World()) == {ServiceRef("shop", "api")}


def stored(name: str, value: bytes | None, base: World, revision: int = 9) -> World:
    key = keys.key_for(Ref("AuthorizationPolicy", "shop", name))
    return base.apply(codec.changes([Event(key, value, Revision(revision))]), Revision(revision))


NEWER = (
    b'{"apiVersion": "holdfast.dev/v1", "kind": "AuthorizationPolicy",'
    b' "metadata": {"name": "newer", "namespace": "shop"},'
    b' "spec": {"action": "Allow", "rules": [{"from": [{"jwt": {"iss": "x"}}]}]}}'
)
"""As a version to come may write it. Without what it does not know, a reader would let anybody in."""


def test_a_policy_that_cannot_be_read_denies_everybody_in_its_namespace():
    host, base = local(API), world(service("api", target="http"), policy("open", "api", rule()))
    first = project(base, host)
    assert not first.frame.inbound[0].access.deny
    for unreadable in (NEWER, b"garbage"):
        view = project(stored("newer", unreadable, base), host, first)
        (denied,) = view.frame.inbound[0].access.deny
        assert denied.id == "shop/newer/unreadable"
        assert denied.anyone
        assert "everybody is denied in shop" in reasons(view)


def test_it_heals_when_the_policy_can_be_read_or_is_gone():
    host, base = local(API), world(service("api", target="http"))
    broken = stored("newer", NEWER, base)
    before = project(broken, host)
    readable = NEWER.replace(b'{"jwt": {"iss": "x"}}', b'{"namespaces": ["shop"]}')
    for mended in (readable, None):
        view = project(stored("newer", mended, broken, revision=10), host, before)
        assert not view.frame.inbound[0].access.deny


def test_a_version_that_was_read_before_stays_in_force():
    host = local(API)
    readable = NEWER.replace(b'{"jwt": {"iss": "x"}}', b'{"namespaces": ["shop"]}')
    base = stored("newer", readable, world(service("api", target="http")))
    view = project(stored("newer", NEWER, base, revision=10), host, project(base, host))
    access = view.frame.inbound[0].access
    assert not access.deny
    assert [r.namespaces for r in access.allow] == [(f"spiffe://{DOMAIN}/ns/shop/",)]
