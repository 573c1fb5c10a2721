"""Responses say what was meant, and requests are read whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.xds import wire
from agent.xds.wire import Send
from mesh import pb
from mesh.compile.types import Resource

resources = st.lists(
    st.builds(Resource, name=st.text(max_size=300), version=st.text(max_size=20), body=st.binary(max_size=70_000)),
    max_size=3,
)


@given(st.builds(Send, st.text(min_size=1), st.text(min_size=1), resources.map(tuple), st.lists(st.text()).map(tuple)))
def test_encoded_response_parses_to_what_was_meant(send):
    message = pb.DeltaDiscoveryResponse.FromString(wire.encode(send))

    assert (message.type_url, message.nonce, tuple(message.removed_resources)) == (
        send.type_url,
        send.nonce,
        send.removed,
    )
    assert [(r.name, r.version, r.resource.value) for r in message.resources] == [
        (r.name, r.version, r.body) for r in send.resources
    ]
    # Envoy refuses a response whose resources are of another type than the response itself.
    assert all(r.resource.type_url == send.type_url for r in message.resources)


def test_request_is_read_whole():
    message = pb.DeltaDiscoveryRequest(
        type_url=pb.ENDPOINT,
        resource_names_subscribe=["a", "b"],
        resource_names_unsubscribe=["c"],
        initial_resource_versions={"a": "1"},
        response_nonce="7",
    )
    message.node.id = "vm1"
    message.error_detail.message = "no"

    assert wire.Request(pb.ENDPOINT, ("a", "b"), ("c",), {"a": "1"}, "7", "no", "vm1") == wire.decode(
        message.SerializeToString()
    )


def test_a_refusal_without_words_is_a_refusal():
    message = pb.DeltaDiscoveryRequest(type_url=pb.CLUSTER)
    message.error_detail.code = 13

    assert wire.decode(message.SerializeToString()).error == "refused"
    assert wire.decode(pb.DeltaDiscoveryRequest(type_url=pb.CLUSTER).SerializeToString()).error is None


@pytest.mark.parametrize("raw", [b"\xff", b"\x12\x05ab", b"\x0a\xff\xff\xff\xff\x0f"])
def test_garbage_is_no_request(raw):
    with pytest.raises(wire.BadRequestError):
        wire.decode(raw)
