"""What is stored and sent."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import codec, keys
from mesh.model import KINDS, Endpoint, Metadata, Object, Ref, Revision, Service, ServiceRef, TrustBundle
from mesh.model.world import Commit, EndpointRemoved, EpochChanged, Removed, Undecodable, Upserted
from mesh.store.protocol import Event
from tests.support import strategies

SERVICE = codec.decode("Service", b'{"metadata":{"name":"api","namespace":"shop"},"spec":{"ports":[{"port":80}]}}')
API = Ref("Service", "shop", "api")


def event(key: str, value: bytes | None, revision: int = 7) -> Event:
    return Event(key, value, Revision(revision))


@given(strategies.any_object)
def test_what_was_encoded_decodes_to_the_same(obj: Object):
    stored = msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, resource_version=""))
    raw = codec.encode(obj)
    assert codec.decode(obj.kind, raw) == stored
    assert codec.encode(stored) == raw


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
def test_arbitrary_bytes_are_undecodable_and_nothing_else(kind: str, raw: bytes):
    with pytest.raises(codec.Undecodable):
        codec.decode(kind, raw)


@given(st.sampled_from(sorted(KINDS)), strategies.trees)
def test_arbitrary_json_is_an_object_or_undecodable(kind: str, tree: object):
    try:
        raw = msgspec.json.encode(tree)
    except (UnicodeEncodeError, OverflowError):
        return
    try:
        assert isinstance(codec.decode(kind, raw), KINDS[kind].struct)
    except codec.Undecodable as exc:
        assert str(exc)


def test_equal_objects_encode_to_equal_bytes_whatever_the_order_of_their_labels():
    one = Service(metadata=Metadata(name="a", labels={"x": "1", "b": "2"}))
    two = Service(metadata=Metadata(name="a", labels={"b": "2", "x": "1"}))
    assert codec.encode(one) == codec.encode(two)


def test_the_stored_value_is_readable_and_holds_no_resource_version():
    raw = codec.encode(codec.decode("Service", codec.encode(SERVICE), 41))
    assert raw == (
        b'{"apiVersion":"holdfast.dev/v1","kind":"Service","metadata":{"name":"api","namespace":"shop"},'
        b'"spec":{"ports":[{"port":80}]}}'
    )


def test_the_revision_becomes_the_resource_version():
    assert codec.decode("Service", codec.encode(SERVICE), 41).metadata.resource_version == "41"
    assert codec.to_document(SERVICE, 41)["metadata"]["resourceVersion"] == "41"
    assert "resourceVersion" not in codec.to_document(SERVICE)["metadata"]


def test_a_newer_version_is_readable():
    """Fields that this version does not know are passed over, at every depth."""
    raw = b"""{"apiVersion":"holdfast.dev/v2","kind":"Service","metadata":{"name":"api","namespace":"shop","finer":1},
      "spec":{"ports":[{"port":80,"weight":[1]}],"mirror":{"to":"x"}},"future":true}"""
    newer = codec.decode("Service", raw)
    assert newer == msgspec.structs.replace(SERVICE, api_version="holdfast.dev/v2")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"new":' + b"[" * 100_000, "not JSON"),
        (b"{}", "metadata"),
        (b'{"metadata":{"name":1}}', "$.metadata.name"),
        (b'{"kind":"Node","metadata":{"name":"a"}}', "$.kind"),
    ],
    ids=range(6),
)
def test_undecodable_says_why(raw: bytes, words: str):
    with pytest.raises(codec.Undecodable, match=words.replace("$", r"\$")):
        codec.decode("Service", raw)


def test_a_kind_of_a_newer_version_is_undecodable():
    with pytest.raises(codec.Undecodable, match="no kind 'Waypoint'"):
        codec.decode("Waypoint", b"{}")


def test_other_structs_round_trip():
    assert codec.decode_struct(Commit, codec.encode_struct(Commit(author="x", deleted=3))) == Commit(
        author="x", deleted=3
    )
    with pytest.raises(codec.Undecodable):
        codec.decode_struct(Commit, b"{]")


def test_events_become_changes():
    endpoint = (
        b'{"metadata":{"name":"api-1","namespace":"shop"},'
        b'"spec":{"service":"api","node":"n","address":"::1","serviceAccount":"api"}}'
    )
    bundle = b'{"metadata":{"name":"mesh.test"},"spec":{"trustDomain":"mesh.test"}}'
    found = codec.changes(
        [
            event(keys.key_for(API), codec.encode(SERVICE)),
            event(keys.key_for(Ref("Endpoint", "shop", "api-1"), service="api"), endpoint),
            event(keys.BUNDLES + "mesh.test", bundle),
            event(keys.key_for(Ref("Service", "shop", "old")), None),
            event(keys.ENDPOINTS + "shop/api/api-2", None),
            event(keys.EPOCH, b'"e2"'),
            event(keys.COMMIT, b"{}"),
            event(keys.MESH + "imports/peer/x", b"{}"),
        ]
    )
    service, point, trust, *rest = found
    assert isinstance(service, Upserted)
    assert service.object.ref == API
    assert (service.revision, service.object.metadata.resource_version) == (7, "7")
    assert isinstance(point, Upserted)
    assert isinstance(point.object, Endpoint)
    assert isinstance(trust, Upserted)
    assert isinstance(trust.object, TrustBundle)
    assert rest == [
        Removed(Ref("Service", "shop", "old"), key=keys.OBJECTS + "Service/shop/old"),
        EndpointRemoved(ServiceRef("shop", "api"), "api-2", key=keys.ENDPOINTS + "shop/api/api-2"),
        EpochChanged("e2"),
    ]


def test_bad_data_becomes_a_change_and_its_neighbours_are_read():
    bad, good = keys.key_for(API), keys.key_for(Ref("Service", "shop", "web"))
    web = msgspec.structs.replace(SERVICE, metadata=Metadata(name="web", namespace="shop"))
    first, second = codec.changes([event(bad, b"\x00garbage"), event(good, codec.encode(web))])
    assert isinstance(first, Undecodable)
    assert first.key == bad
    assert isinstance(second, Upserted)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (keys.key_for(Ref("Service", "shop", "web")), codec.encode(SERVICE)),
        (keys.key_for(Ref("Service", "other", "api")), codec.encode(SERVICE)),
        (
            keys.ENDPOINTS + "shop/web/api-1",
            b'{"metadata":{"name":"api-1","namespace":"shop"},"spec":{"service":"api","node":"n","address":"","serviceAccount":"a"}}',
        ),
    ],
)
def test_a_value_cannot_stand_in_for_another_object(key: str, value: bytes):
    (change,) = codec.changes([event(key, value)])
    assert isinstance(change, Undecodable)
    assert "not what its key names" in change.reason


@given(
    st.lists(
        st.tuples(
            st.text(max_size=60) | st.text(max_size=20).map(lambda t: keys.OBJECTS + t),
            st.none() | st.binary(max_size=50),
        )
    )
)
def test_no_event_makes_changes_raise(pairs: list[tuple[str, bytes | None]]):
    codec.changes(event(key, value) for key, value in pairs)
