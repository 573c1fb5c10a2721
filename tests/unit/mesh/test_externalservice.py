"""ExternalService: what is taken, and what is refused where."""

import pytest
import yaml

from mesh import codec, validate
from mesh.model import ExternalService
from tests.support.meshes import FAKE_ROOT, TestCa

PEM = TestCa("outside.test").root


def faults(spec: dict[str, object]) -> dict[str, str]:
    document = {
        "apiVersion": "holdfast.dev/v1",
        "kind": "ExternalService",
        "metadata": {"name": "ext", "namespace": "shop"},
        "spec": spec,
    }
    found = codec.decode_strict(document)
    if not isinstance(found, tuple):
        assert isinstance(found, ExternalService)
        found = validate.validate(found)
    return {fault.path: fault.reason for fault in found}


def with_tls(text: str, where: str = "hosts: [a.test]", **more: object) -> dict[str, object]:
    tls = {**yaml.safe_load(text), **more}
    return {**yaml.safe_load(f"{{{where}}}"), "ports": [{"port": 443, "protocol": "http", "tls": tls}]}


@pytest.mark.parametrize(
    "spec",
    [
        "{hosts: [api.a.test], ports: [{port: 443, tls: {mode: Originate}}, {port: 80, targetPort: 8080}]}",
        "{addresses: [192.0.2.1, '2001:db8::1'], ports: [{port: 5432}]}",
        "{addresses: [192.0.2.1], ports: [{port: 443, protocol: grpc, tls: {mode: Originate, sni: a.test}}]}",
    ],
)
def test_what_is_taken(spec: str):
    assert faults(yaml.safe_load(spec)) == {}


def test_roots_and_names_are_taken():
    said = with_tls("{mode: Originate, subjectAltNames: [a.test]}", caCertificates=PEM + "\n" + PEM)
    assert faults(said) == {}
    said = with_tls('{mode: Originate, subjectAltNames: ["spiffe://a.test/x", 192.0.2.1]}', "addresses: [192.0.2.1]")
    assert faults(said) == {}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("{ports: [{port: 80}]}", "spec"),
        ("{hosts: [a.test], addresses: [192.0.2.1], ports: [{port: 80}]}", "spec"),
        ("{hosts: [a.test, b.test], ports: [{port: 80}]}", "spec.hosts"),
        ("{hosts: ['*.a.test'], ports: [{port: 80}]}", "spec.hosts[0]"),
        ("{hosts: [192.0.2.1], ports: [{port: 80}]}", "spec.hosts[0]"),
        ("{hosts: ['a.test:80'], ports: [{port: 80}]}", "spec.hosts[0]"),
        ("{hosts: ['https://a.test/'], ports: [{port: 80}]}", "spec.hosts[0]"),
        ("{addresses: [a.test], ports: [{port: 80}]}", "spec.addresses[0]"),
        ("{addresses: [0.0.0.0], ports: [{port: 80}]}", "spec.addresses[0]"),
        ("{addresses: [224.0.0.1], ports: [{port: 80}]}", "spec.addresses[0]"),
        ("{addresses: [192.0.2.1, 192.0.2.1], ports: [{port: 80}]}", "spec.addresses[1]"),
        ("{hosts: [a.test]}", "spec.ports"),
        ("{hosts: [a.test], ports: [{port: 0}]}", "spec.ports[0].port"),
        ("{hosts: [a.test], ports: [{port: 80}, {port: 80}]}", "spec.ports[1].port"),
        ("{hosts: [a.test], ports: [{port: 80, targetPort: 70000}]}", "spec.ports[0].targetPort"),
        ("{hosts: [a.test], ports: [{port: 80, protocol: https}]}", "spec.ports[0].protocol"),
        ("{hosts: [a.test], ports: [{port: 80, tls: {mode: Skip}}]}", "spec.ports[0].tls.mode"),
        ("{hosts: [a.test], ports: [{port: 80, tls: {insecure: true}}]}", "spec.ports[0].tls.insecure"),
    ],
)
def test_what_is_refused(spec: str, path: str):
    assert path in faults(yaml.safe_load(spec))


@pytest.mark.parametrize(
    ("tls", "where", "field"),
    [
        ("{sni: a.test}", "hosts: [a.test]", "sni"),
        ("{subjectAltNames: [a.test]}", "hosts: [a.test]", "subjectAltNames"),
        ("{mode: Originate, sni: 192.0.2.1}", "hosts: [a.test]", "sni"),
        ("{mode: Originate, subjectAltNames: ['']}", "hosts: [a.test]", "subjectAltNames[0]"),
        ("{mode: Originate, subjectAltNames: ['*']}", "hosts: [a.test]", "subjectAltNames[0]"),
        # Without a name any server that these roots know would do.
        ("{mode: Originate}", "addresses: [192.0.2.1]", "subjectAltNames"),
    ],
)
def test_what_tls_cannot_be(tls: str, where: str, field: str):
    assert f"spec.ports[0].tls.{field}" in faults(with_tls(tls, where))


@pytest.mark.parametrize(
    "pem",
    [
        "trust me",
        FAKE_ROOT,
        PEM + "and more",
        "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
        PEM + "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
        PEM * 65,
    ],
)
def test_roots_are_certificates_and_nothing_else(pem: str):
    found = faults(with_tls("{mode: Originate}", caCertificates=pem))
    assert "spec.ports[0].tls.caCertificates" in found
    assert "MIIB" not in str(found)
