"""What people write: an object, or everything that is wrong with it."""

import msgspec
import pytest
from hypothesis import given

from mesh import codec
from mesh.codec.strict import MAX_VIOLATIONS
from mesh.model import KINDS, AuthorizationPolicy, Frozen, MeshConfig, Object, Service, ServiceDefinition, Violation
from tests.support import strategies


def violations(document: object) -> dict[str, str]:
    found = codec.decode_strict(document)
    assert isinstance(found, tuple), f"accepted: {found}"
    return {v.path: v.reason for v in found}


def service(**over: object) -> dict[str, object]:
    return {"apiVersion": "holdfast.dev/v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"}} | over


@given(strategies.documents.filter(lambda d: d["kind"] != "Namespace"))
def test_every_document_that_the_types_allow_is_taken(document: dict):
    obj = codec.decode_strict(document)
    assert isinstance(obj, Object), obj
    assert codec.decode_strict(msgspec.to_builtins(obj)) == obj


@given(strategies.broken())
def test_a_broken_document_gives_violations_or_an_object(document: object):
    result = codec.decode_strict(document)
    assert isinstance(result, Object) or (result and all(isinstance(v, Violation) and v.reason for v in result))


@given(strategies.trees)
def test_arbitrary_trees_give_violations(tree: object):
    assert codec.decode_strict(tree)


def test_all_violations_are_told_at_once():
    document = service(
        metadata={"name": 5, "labels": {"a": 1, 2: "b"}, "namespce": "x"},
        spec={
            "ports": [{"port": "80", "protocol": "htp"}, {"name": "x"}, "no"],
            "selector": [],
            "serviceAccount": ["a"],
        },
        statsu={},
    )
    assert violations(document) == {
        "metadata.name": "expected text, not 5; put it in quotes",
        "metadata.labels.a": "expected text, not 1; put it in quotes",
        "metadata.labels[2]": "the key is not text: put it in quotes",
        "metadata.namespce": "unknown field; did you mean 'namespace'?",
        "spec.ports[0].port": "expected a whole number, not '80'",
        "spec.ports[0].protocol": "expected grpc or http or http2 or tcp, not 'htp'; did you mean 'http'?",
        "spec.ports[1].port": "is missing",
        "spec.ports[2]": "expected a mapping, not 'no'",
        "spec.selector": "expected a mapping, not a list",
        "spec.serviceAccount": "unknown field; did you mean 'serviceAccounts'?",
        "statsu": "unknown field",
    }


def test_violations_of_one_object_are_bounded():
    found = codec.decode_strict(service(**{f"x{n}": 1 for n in range(10_000)}))
    assert isinstance(found, tuple)
    assert len(found) == MAX_VIOLATIONS


@pytest.mark.parametrize("document", [None, 5, "text", [], [{}], True])
def test_what_is_no_mapping_is_no_resource(document: object):
    assert list(violations(document)) == [""]


def test_kind_and_api_version():
    assert violations({}) == {"apiVersion": "is missing", "kind": "is missing"}
    assert violations({"apiVersion": 1, "kind": None}) == {
        "apiVersion": "expected text, not 1",
        "kind": "expected text, not nothing",
    }
    assert violations({"apiVersion": "holdfast.dev/v1", "kind": "Sevice"}) == {
        "kind": "no such kind: 'Sevice'; did you mean 'Service'?"
    }
    assert violations({"apiVersion": "holdfast.dev/v2", "kind": "Service"}) == {
        "apiVersion": "'holdfast.dev/v2' is not that of a Service: write holdfast.dev/v1 or v1"
    }
    assert violations({"apiVersion": "apps/v1", "kind": "Deployment"}).keys() == {"kind", "apiVersion"}


def test_an_integer_is_no_truth_and_a_truth_no_integer():
    assert "spec.ports[0].port" in violations(service(spec={"ports": [{"port": True}]}))
    assert "spec.ports[0].port" in violations(service(spec={"ports": [{"port": 80.0}]}))
    node = {"apiVersion": "holdfast.dev/v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"evicted": 1}}
    assert violations(node) == {"spec.evicted": "expected true or false, not 1"}


@pytest.mark.parametrize("port", [2**63, -(2**70), 10**5000], ids=["63 bits", "70 bits", "5000 digits"])
def test_numbers_beyond_64_bits_are_refused_in_short_words(port: int):
    (reason,) = violations(service(spec={"ports": [{"port": port}]})).values()
    assert len(reason) < 120


@pytest.mark.parametrize("grace", [float("nan"), float("inf"), 2**64])
def test_numbers_that_json_cannot_hold_are_refused(grace: float):
    mesh = {"apiVersion": "holdfast.dev/v1", "kind": "MeshConfig", "metadata": {"name": "default"}}
    assert "spec.livenessGraceSeconds" in violations(
        mesh | {"spec": {"trustDomain": "t", "livenessGraceSeconds": grace}}
    )
    taken = codec.decode_strict(mesh | {"spec": {"trustDomain": "t", "livenessGraceSeconds": 3}})
    assert isinstance(taken, MeshConfig)
    assert taken.spec.liveness_grace_seconds == 3.0


def test_text_that_cannot_be_stored_is_refused():
    assert "metadata.name" in violations(service(metadata={"name": "\ud800"}))
    assert violations(service(metadata={"name": "a", "labels": {"\ud800": "x"}}))


def test_a_union_tells_what_it_takes():
    assert violations(service(spec={"ports": [{"port": 1, "targetPort": []}]})) == {
        "spec.ports[0].targetPort": "expected a whole number or text, not a list"
    }
    for target in (8080, "web"):
        taken = codec.decode_strict(service(spec={"ports": [{"port": 1, "targetPort": target}]}))
        assert isinstance(taken, Service)
        assert taken.spec.ports[0].target_port == target


def test_the_name_in_the_document_counts_not_the_one_in_python():
    policy = {
        "apiVersion": "holdfast.dev/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "n"},
    }
    taken = codec.decode_strict(policy | {"spec": {"rules": [{"from": [{"principals": ["n/web"]}]}]}})
    assert isinstance(taken, AuthorizationPolicy)
    assert taken.spec.rules[0].sources[0].principals == ("n/web",)
    assert violations(policy | {"spec": {"rules": [{"sources": []}]}}) == {"spec.rules[0].sources": "unknown field"}


@pytest.mark.parametrize(
    "hostile",
    ["..", "/", "%2f", "a\nb", "x" * 10_000, "ü" * 10_000, "\x1b[2J" * 5000, "\u202eabc"],
    ids=lambda h: ascii(h)[:20],
)
@pytest.mark.parametrize("place", ["field", "kind", "version", "value"])
def test_hostile_text_is_echoed_short_and_printable(hostile: str, place: str):
    document = {
        "field": service(**{hostile: 1}),
        "kind": service(kind=hostile),
        "version": service(apiVersion=hostile),
        "value": service(spec={"ports": hostile}),
    }[place]
    for path, reason in violations(document).items():
        for words in (path, reason):
            assert len(words) < 220
            assert words.isprintable()
            assert hostile[:81] not in words or len(hostile) <= 80


def test_other_structs_are_read_as_strictly():
    found = codec.convert_strict(ServiceDefinition, {"name": "a", "ports": [{"prot": 1}]}, "web.yaml")
    assert found == (
        Violation(path="web.yaml.ports[0].prot", reason="unknown field; did you mean 'port'?"),
        Violation(path="web.yaml.ports[0].port", reason="is missing"),
    )
    assert codec.convert_strict(ServiceDefinition, {"name": "a"}) == ServiceDefinition(name="a")


def test_every_kind_is_of_types_that_the_walk_knows():
    """A new kind with a type that the walk does not know fails here, not at an operator's terminal."""
    for name, row in KINDS.items():
        known = strategies.values(msgspec.inspect.type_info(row.struct))
        assert not known.is_empty, name


def test_a_type_that_the_walk_does_not_know_is_a_fault_of_ours_not_of_the_document():
    class Odd(Frozen, frozen=True, kw_only=True):
        raw: bytes

    with pytest.raises(NotImplementedError, match="BytesType"):
        codec.convert_strict(Odd, {"raw": "x"})
