"""All violations of an object, each with its path."""

import msgspec
import pytest
from hypothesis import given

from mesh import codec, validate
from mesh.model import (
    AuthorizationPolicy,
    Callers,
    Endpoint,
    EndpointSpec,
    HealthCheck,
    Instance,
    InstancePort,
    InstanceSpec,
    LocalPort,
    MeshConfig,
    MeshConfigSpec,
    Metadata,
    Namespace,
    Node,
    NodeSpec,
    Object,
    Service,
    ServiceDefinition,
    ServicePort,
    ServiceSpec,
    TrustBundle,
    TrustBundleSpec,
    Upstream,
)
from tests.support import strategies

SHOP = Metadata(name="api", namespace="shop")
HOSTILE = [
    "..",
    ".",
    "/",
    "a/b",
    "%2f",
    "a\nb",
    "A",
    "-a",
    "a-",
    "a_b",
    "a.b",
    "",
    "é",
    "x" * 64,
    "x" * 10_000,
    "a\0",
    " a",
]


def service(**spec: object) -> Service:
    return Service(metadata=SHOP, spec=ServiceSpec(**({"ports": (ServicePort(port=80),)} | spec)))  # type: ignore[arg-type]


def paths(obj: Object, *existing: Object) -> list[str]:
    return [v.path for v in validate.validate(obj, {o.ref: o for o in existing})]


@given(strategies.any_object)
def test_validation_never_raises(obj: Object):
    for violation in validate.validate(obj):
        assert violation.object
        assert violation.reason


GOOD = [
    service(
        ports=(ServicePort(port=80, name="http", protocol="http", target_port="web"), ServicePort(port=443)),
        selector={"app.kubernetes.io/name": "api"},
        service_accounts=("api",),
    ),
    Namespace(metadata=Metadata(name="shop", labels={"a": "", "example.org/b": "X_y.z-1"})),
    Node(metadata=Metadata(name="vm-1"), spec=NodeSpec(address="10.0.0.1", identities=("shop/api",), roles=("gate",))),
    Node(metadata=Metadata(name="vm-6"), spec=NodeSpec(address="fd00::1")),
    MeshConfig(metadata=Metadata(name="default"), spec=MeshConfigSpec(trust_domain="mesh.test")),
    TrustBundle(metadata=Metadata(name="mesh.test"), spec=TrustBundleSpec(trust_domain="mesh.test", roots=("pem",))),
    Instance(
        metadata=Metadata(name="a" * 63 + "-" + "b" * 63, namespace="shop"),
        spec=InstanceSpec(
            node="vm-1", service="api", service_account="api", address="10.0.0.1", ports=(InstancePort(port=80),)
        ),
    ),
    Endpoint(
        metadata=Metadata(name="api-vm-1", namespace="shop"),
        spec=EndpointSpec(service="api", node="vm-1", address="10.0.0.1", service_account="api", ports=(80,)),
    ),
    AuthorizationPolicy(metadata=SHOP),
]


@pytest.mark.parametrize("obj", GOOD, ids=lambda o: o.kind)
def test_good_objects_have_no_violation(obj: Object):
    assert validate.validate(obj) == ()


@pytest.mark.parametrize("name", HOSTILE, ids=lambda n: ascii(n)[:12])
def test_hostile_names_are_refused_in_short_words(name: str):
    obj = Service(metadata=Metadata(name=name, namespace=name), spec=ServiceSpec(ports=(ServicePort(port=80),)))
    first, second = validate.validate(obj)
    assert (first.path, second.path) == ("metadata.name", "metadata.namespace")
    for violation in (first, second):
        assert len(violation.reason) < 200
        assert len(violation.object) < 200
        assert violation.reason.isprintable()
        assert violation.object.isprintable()


def test_scope():
    assert paths(Namespace(metadata=Metadata(name="a", namespace="b"))) == ["metadata.namespace"]
    assert paths(Service(metadata=Metadata(name="a"), spec=ServiceSpec(ports=(ServicePort(port=1),)))) == [
        "metadata.namespace"
    ]


def test_all_violations_of_a_service_are_told():
    bad = Service(
        metadata=Metadata(
            name="Api",
            namespace="shop",
            labels={"a b": "x", "ok": "no!"},
            annotations={"/": "x"},
            resource_version="-1",
        ),
        spec=ServiceSpec(
            ports=(
                ServicePort(port=0, name="A", target_port="B"),
                ServicePort(port=80, name="x", target_port=70000),
                ServicePort(port=80, name="x"),
            ),
            selector={"a b": "c"},
            service_accounts=("a", "..", "a"),
        ),
    )
    assert paths(bad) == [
        "metadata.name",
        "metadata.labels['a b']",
        "metadata.labels.ok",
        "metadata.annotations['/']",
        "metadata.resourceVersion",
        "spec.ports[0].port",
        "spec.ports[0].name",
        "spec.ports[0].targetPort",
        "spec.ports[1].targetPort",
        "spec.ports[2].port",
        "spec.ports[2].name",
        "spec.selector['a b']",
        "spec.serviceAccounts[1]",
        "spec.serviceAccounts[2]",
    ]


def test_a_service_needs_a_port():
    assert paths(Service(metadata=SHOP)) == ["spec.ports"]


def test_an_object_has_at_most_256_kib():
    def sized(count: int) -> Service:
        return Service(metadata=msgspec.structs.replace(SHOP, annotations={"a": "x" * count}), spec=service().spec)

    room = 256 * 1024 - len(codec.encode(sized(0)))
    assert validate.validate(sized(room)) == ()
    assert "256 KiB" in validate.validate(sized(room + 1))[0].reason


def test_many_labels():
    labels = {f"l{n}": "" for n in range(254)}
    assert paths(Namespace(metadata=Metadata(name="a", labels=labels))) == ["metadata.labels"]


def policy(**rule: object) -> Object:
    found = codec.decode_strict(
        {
            "apiVersion": "holdfast.dev/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"rules": [rule]},
        }
    )
    assert isinstance(found, Object)
    return found


@pytest.mark.parametrize(
    "principal", ["shop/web", "spiffe://mesh.test/ns/shop/sa/web", "spiffe://other.test/whatever/A_b"]
)
def test_principals(principal: str):
    assert paths(policy(**{"from": [{"principals": [principal]}]})) == []


@pytest.mark.parametrize(
    "principal",
    [
        "web",
        "shop/",
        "/web",
        "shop/web/x",
        "*",
        "spiffe://",
        "spiffe://A/x",
        "spiffe://a/../b",
        "spiffe:/a/b",
        "Shop/web",
    ],
)
def test_what_is_no_principal(principal: str):
    assert paths(policy(**{"from": [{"principals": ["shop/web", principal]}]})) == [
        "spec.rules[0].from[0].principals[1]"
    ]


def test_all_violations_of_a_policy_are_told():
    bad = policy(**{"name": "A", "ports": [80, 0], "from": [{"namespaces": [".."]}]})
    assert paths(bad) == ["spec.rules[0].name", "spec.rules[0].ports[1]", "spec.rules[0].from[0].namespaces[0]"]


def test_a_mesh_keeps_its_name():
    before = MeshConfig(metadata=Metadata(name="default"), spec=MeshConfigSpec(trust_domain="mesh.test", cluster="a"))
    after = msgspec.structs.replace(before, spec=MeshConfigSpec(trust_domain="other.test", cluster="b"))
    assert paths(after) == []
    assert paths(after, before) == ["spec.trustDomain", "spec.cluster"]
    assert paths(before, before) == []


def test_mesh_config():
    bad = MeshConfig(
        metadata=Metadata(name="mine"),
        spec=MeshConfigSpec(
            trust_domain="Mesh",
            cluster="a.b",
            liveness_grace_seconds=0,
            workload_ttl_seconds=1,
            node_ttl_seconds=10**12,
        ),
    )
    assert paths(bad) == [
        "metadata.name",
        "spec.trustDomain",
        "spec.cluster",
        "spec.livenessGraceSeconds",
        "spec.workloadTtlSeconds",
        "spec.nodeTtlSeconds",
    ]


def test_a_trust_bundle_never_goes_back():
    def bundle(sequence: int) -> TrustBundle:
        spec = TrustBundleSpec(trust_domain="mesh.test", sequence=sequence, roots=("pem",))
        return TrustBundle(metadata=Metadata(name="mesh.test"), spec=spec)

    assert paths(bundle(4), bundle(5)) == ["spec.sequence"]
    assert paths(bundle(6), bundle(5)) == []
    empty = TrustBundle(metadata=Metadata(name=".."), spec=TrustBundleSpec(trust_domain="a"))
    assert paths(empty) == ["metadata.name", "spec.trustDomain", "spec.roots"]


def test_node():
    bad = Node(metadata=Metadata(name="a"), spec=NodeSpec(address="host.example", identities=("shop", "a/b", "a/b")))
    assert paths(bad) == ["spec.address", "spec.identities[0]", "spec.identities[2]"]


def test_instance_and_endpoint():
    instance = InstanceSpec(
        node="..", service="/", service_account="", address="x", mtls_port=0, ports=(InstancePort(port=0, name="A"),)
    )
    assert paths(Instance(metadata=SHOP, spec=instance)) == [
        "spec.node",
        "spec.service",
        "spec.serviceAccount",
        "spec.address",
        "spec.mtlsPort",
        "spec.ports[0].port",
        "spec.ports[0].name",
    ]
    endpoint = EndpointSpec(service="/", node="..", address="x", port=0, service_account="", ports=(0,), weight=0)
    assert paths(Endpoint(metadata=SHOP, spec=endpoint)) == [
        "spec.service",
        "spec.node",
        "spec.serviceAccount",
        "spec.address",
        "spec.port",
        "spec.weight",
        "spec.ports[0]",
    ]


def test_an_object_that_is_there_twice():
    found = validate.validate_all([service(), service(), Namespace(metadata=Metadata(name="A"))])
    assert [(v.object, v.path) for v in found] == [
        ("Service shop/api", "metadata.name"),
        ("Namespace A", "metadata.name"),
    ]


def test_a_good_definition():
    web = ServiceDefinition(
        name="web",
        namespace="shop",
        labels={"app": "web"},
        ports=(LocalPort(port=8080, name="http", protocol="http"),),
        health=HealthCheck(type="http", port="http"),
        upstreams=(
            Upstream(service="api", port=80, listen="127.0.0.1:9001"),
            Upstream(service="db", port=5432, listen="unix:/run/web/db.sock", namespace="data"),
            Upstream(service="db", port=5432, listen="[::1]:9002"),
        ),
    )
    assert validate.definition(web) == ()


def test_all_violations_of_a_definition_are_told():
    bad = ServiceDefinition(
        name="..",
        namespace="A",
        service_account="/",
        instance="a/b",
        labels={"": ""},
        ports=(LocalPort(port=0, name="A", address="localhost"), LocalPort(port=80), LocalPort(port=80)),
        health=HealthCheck(
            port="none", path="x", interval_seconds=0, timeout_seconds=-1, healthy_threshold=0, unhealthy_threshold=0
        ),
        upstreams=(
            Upstream(service="/", port=0, listen="0.0.0.0:80", namespace=".."),
            Upstream(service="a", port=1, listen="127.0.0.1:1"),
            Upstream(service="b", port=1, listen="127.0.0.1:1"),
        ),
    )
    assert [v.path for v in validate.definition(bad)] == [
        "name",
        "namespace",
        "serviceAccount",
        "instance",
        "labels['']",
        "ports[0].port",
        "ports[0].address",
        "ports[0].name",
        "ports[2].port",
        "health.port",
        "health.path",
        "health.intervalSeconds",
        "health.timeoutSeconds",
        "health.healthyThreshold",
        "health.unhealthyThreshold",
        "upstreams[0].service",
        "upstreams[0].port",
        "upstreams[0].namespace",
        "upstreams[0].listen",
        "upstreams[2].listen",
    ]


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:\u0663", "10.0.0.1:80", "::1",
     "localhost:80", "unix:relative", "unix:/a/../b", "unix:/a\nb", "unix:" + "/x" * 100, "unix:",
     "127.0.0.1:" + "9" * 5000],
    ids=range(14),
)  # fmt: skip
def test_what_cannot_be_listened_on(listen: str):
    web = ServiceDefinition(name="web", upstreams=(Upstream(service="api", port=80, listen=listen),))
    (violation,) = validate.definition(web)
    assert violation.path == "upstreams[0].listen"
    assert len(violation.reason) < 220


def test_calls_by_name_need_callers_and_every_fault_has_its_path():
    found = ServiceDefinition(
        name="web",
        upstreams=(
            Upstream(service="api", port=80),
            Upstream(service="api", port=80, mode="0600"),
            Upstream(service="api", port=80, listen="unix:/run/a.sock", mode="0660"),
            Upstream(service="api", port=80, listen="unix:/run/b.sock", mode="0770"),
            Upstream(service="api", port=80, listen="unix:/run/b.sock", mode="99"),
            Upstream(service="api", port=81, namespace="default"),
        ),
    )
    assert [(v.path, v.reason[:30]) for v in validate.definition(found)] == [
        ("upstreams[0].listen", "without it the Service is call"),
        ("upstreams[1].mode", "only a unix socket has a mode"),
        ("upstreams[1].listen", "without it the Service is call"),
        ("upstreams[3].mode", "'0770' is not a socket's mode,"),
        ("upstreams[4].mode", "'99' is not a socket's mode, s"),
        ("upstreams[5].listen", "without it the Service is call"),
        ("upstreams[1].listen", "port 80 of that Service, by na"),
        ("upstreams[4].listen", "'unix:/run/b.sock' is there tw"),
    ]


def test_who_may_be_named_as_a_caller():
    users = ("web", "www-data", "1000", "root", "0", "holdfast", "holdfast-envoy", "a b", "-x", "web", "\u0661")
    units = (
        "web.service",
        "app@1.service",
        "user.slice",
        "run-1.scope",
        "web",
        "web.timer",
        "a/b.service",
        "web.service",
    )
    faults = validate.definition(ServiceDefinition(name="web", callers=Callers(users=users, units=units)))
    assert [v.path for v in faults] == [
        *(f"callers.users[{n}]" for n in (2, 3, 4, 5, 6, 7, 8, 10, 9)),
        *(f"callers.units[{n}]" for n in (4, 5, 6, 7)),
    ]
    many = Callers(users=tuple(f"u{n}" for n in range(65)))
    assert [v.path for v in validate.definition(ServiceDefinition(name="web", callers=many))] == ["callers.users"]
