"""The registry of kinds, and what an instance is to a Service."""

import pytest

from mesh.model import (
    KINDS,
    Instance,
    InstancePort,
    InstanceSpec,
    Metadata,
    Object,
    Ref,
    Service,
    ServicePort,
    ServiceRef,
    ServiceSpec,
    kind_named,
    selects,
    target_port,
)


def test_every_kind_says_its_own_name_and_version():
    for name, row in KINDS.items():
        assert issubclass(row.struct, Object)
        assert row.struct.__name__ == name
        assert row.api_version in {"holdfast.dev/v1", "v1", "gateway.networking.k8s.io/v1"}


def test_every_word_means_one_kind():
    words = [word for name, row in KINDS.items() for word in {name.casefold(), row.plural, *row.short}]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Service", "Service"),
        ("services", "Service"),
        ("SVC", "Service"),
        ("ns", "Namespace"),
        ("nope", None),
        ("", None),
    ],
)
def test_words_of_operators(word: str, kind: str | None):
    assert kind_named(word) == kind


def test_refs_in_words():
    assert str(Ref("Service", "shop", "api")) == "Service shop/api"
    assert str(Ref("Node", "", "vm-1")) == "Node vm-1"
    assert str(ServiceRef("shop", "api")) == "api.shop"


def instance(*ports: InstancePort, namespace: str = "shop", **labels: str) -> Instance:
    return Instance(
        metadata=Metadata(name="api-vm", namespace=namespace, labels=labels),
        spec=InstanceSpec(node="vm", service="api", service_account="api", address="127.0.0.1", ports=ports),
    )


def service(*ports: ServicePort, name: str = "api", **selector: str) -> Service:
    return Service(metadata=Metadata(name=name, namespace="shop"), spec=ServiceSpec(ports=ports, selector=selector))


def test_a_service_selects_by_labels_or_by_name_in_its_own_namespace():
    assert selects(service(), instance())
    assert not selects(service(name="other"), instance())
    assert selects(service(name="other", app="api"), instance(app="api", track="canary"))
    assert not selects(service(app="api", track="stable"), instance(app="api", track="canary"))
    assert not selects(service(app="api"), instance()), "with a selector the name does not count"
    assert not selects(service(), instance(namespace="other"))


WEB, ADMIN = InstancePort(port=8080, name="web"), InstancePort(port=9000, name="admin")


@pytest.mark.parametrize(
    ("declared", "have", "meant"),
    [
        (ServicePort(port=80, target_port=8080), (WEB, ADMIN), WEB),
        (ServicePort(port=80, target_port="admin"), (WEB, ADMIN), ADMIN),
        (ServicePort(port=8080), (WEB, ADMIN), WEB),
        (ServicePort(port=80, name="admin"), (WEB, ADMIN), ADMIN),
        (ServicePort(port=80), (WEB,), WEB),
        (ServicePort(port=80), (WEB, ADMIN), None),
        (ServicePort(port=80, target_port=81), (WEB,), None),
        (ServicePort(port=80, target_port="x"), (WEB,), None),
        (ServicePort(port=80), (), None),
    ],
    ids=range(9),
)
def test_the_port_of_the_instance_behind_a_services_port(
    declared: ServicePort, have: tuple[InstancePort, ...], meant: InstancePort | None
):
    assert target_port(service(declared), declared.port, instance(*have)) == meant


def test_a_port_that_the_service_does_not_have():
    assert target_port(service(ServicePort(port=80)), 81, instance(WEB)) is None
