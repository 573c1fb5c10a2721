"""Core v1 Service and Namespace are mapped to ours, or refused with the field that cannot be honoured."""

import pytest

from mesh import codec, validate
from mesh.model import Metadata, Namespace, Service, ServicePort, ServiceSpec

EXPORTED = """
apiVersion: v1
kind: Service
metadata:
  name: api
  namespace: shop
  labels: {app: api}
  annotations: {holdfast.dev/service-accounts: "api, api-canary"}
  creationTimestamp: null
  generation: 3
  managedFields: [{manager: kubectl}]
  ownerReferences: []
  finalizers: [x]
  resourceVersion: "812"
  selfLink: /api/v1/x
  uid: 5f2
spec:
  allocateLoadBalancerNodePorts: null
  clusterIP: 10.0.0.7
  clusterIPs: [10.0.0.7]
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
  - {name: http-web, port: 80, protocol: TCP, targetPort: web}
  - {name: metrics, port: 9090, appProtocol: http}
  - {name: grpc, port: 50051, targetPort: 5000}
  - {name: http2-x, port: 81}
  - {name: http-y, port: 82, appProtocol: kubernetes.io/h2c}
  - {name: https, port: 443}
  - {name: http-z, port: 3306, appProtocol: mysql}
  selector: {app: api}
  sessionAffinity: None
  type: ClusterIP
status:
  loadBalancer: {}
"""


def test_an_exported_service_is_mapped():
    (document,) = codec.load_yaml(EXPORTED)
    expected = Service(
        metadata=Metadata(
            name="api",
            namespace="shop",
            labels={"app": "api"},
            annotations={"holdfast.dev/service-accounts": "api, api-canary"},
        ),
        spec=ServiceSpec(
            ports=(
                ServicePort(port=80, name="http-web", protocol="http", target_port="web"),
                ServicePort(port=9090, name="metrics", protocol="http"),
                ServicePort(port=50051, name="grpc", protocol="grpc", target_port=5000),
                ServicePort(port=81, name="http2-x", protocol="http2"),
                ServicePort(port=82, name="http-y", protocol="http2"),
                ServicePort(port=443, name="https", protocol="tcp"),
                ServicePort(port=3306, name="http-z", protocol="tcp"),
            ),
            selector={"app": "api"},
            service_accounts=("api", "api-canary"),
        ),
    )
    found = codec.decode_strict(document)
    assert found == expected
    assert isinstance(found, Service)
    assert validate.validate(found) == ()


def test_without_the_annotation_pods_default_account_stands_behind_it():
    found = codec.decode_strict(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": []}}
    )
    assert isinstance(found, Service)
    assert found.spec.service_accounts == ("default",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "LoadBalancer"),
        ("type", "NodePort"),
        ("type", "ExternalName"),
        ("externalName", "example.org"),
        ("externalIPs", ["10.0.0.1"]),
        ("sessionAffinity", "ClientIP"),
        ("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 1}}),
        ("internalTrafficPolicy", "Local"),
        ("externalTrafficPolicy", "Local"),
        ("trafficDistribution", "PreferClose"),
        ("loadBalancerIP", "10.0.0.1"),
        ("loadBalancerClass", "x"),
        ("loadBalancerSourceRanges", ["10.0.0.0/8"]),
        ("publishNotReadyAddresses", True),
        ("healthCheckNodePort", 30000),
    ],
)
def test_what_cannot_be_honoured_is_refused(field: str, value: object):
    spec = {"ports": [{"port": 80}], field: value}
    found = codec.decode_strict({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec})
    assert isinstance(found, tuple)
    assert [v.path for v in found] == [f"spec.{field}"]
    assert "cannot be honoured" in found[0].reason


def test_all_that_cannot_be_honoured_is_told_at_once():
    spec = {"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80, "nodePort": 30080}]}
    found = codec.decode_strict({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec})
    assert isinstance(found, tuple)
    assert [v.path for v in found] == ["spec.type", "spec.ports[0].protocol", "spec.ports[1].nodePort"]


def test_its_fields_are_read_as_strictly_as_ours():
    spec = {"ports": [{"port": "80", "tragetPort": 1}], "selectr": {}}
    found = codec.decode_strict({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec})
    assert isinstance(found, tuple)
    assert {v.path: v.reason for v in found} == {
        "spec.ports[0].port": "expected a whole number, not '80'",
        "spec.ports[0].tragetPort": "unknown field; did you mean 'targetPort'?",
        "spec.selectr": "unknown field; did you mean 'selector'?",
    }


def test_namespace():
    document = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"team": "a"}, "resourceVersion": "5", "uid": "x"},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }
    found = codec.decode_strict(document)
    assert found == Namespace(metadata=Metadata(name="shop", labels={"team": "a"}, resource_version="5"))
    assert isinstance(found, Namespace)
    assert codec.decode_strict(codec.to_document(found)) == found
