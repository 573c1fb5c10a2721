"""The pure parts of the etcd client: which error means what, what may run twice, how addresses are written."""

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from mesh.store.errors import Compacted, Refused, Unavailable
from mesh.store.etcd.client import once_only
from mesh.store.etcd.faults import Fault, cancelled_watch, classify, too_large_for_us
from mesh.store.etcd.members import target
from mesh.store.protocol import Compare, Delete, Put


def error(code, words=""):
    return AioRpcError(code, Metadata(), Metadata(), words)


@pytest.mark.parametrize(
    ("code", "words", "fault"),
    [
        (StatusCode.UNAVAILABLE, "etcdserver: no leader", Fault(Unavailable, "elsewhere")),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", Fault(Unavailable, "maybe")),
        (StatusCode.UNAVAILABLE, "Socket closed", Fault(Unavailable, "maybe")),
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; x", Fault(Unavailable, "elsewhere")),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Fault(Unavailable, "maybe")),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Fault(Unavailable, "elsewhere")),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Fault(Unavailable, "stop")),
        (StatusCode.RESOURCE_EXHAUSTED, "trying to send message larger than max", Fault(Refused, "stop")),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Fault(Unavailable, "elsewhere")),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", Fault(Refused, "stop")),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", Fault(Refused, "stop")),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", Fault(Refused, "stop")),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Fault(Compacted, "stop")),
        (StatusCode.UNKNOWN, "", Fault(Unavailable, "maybe")),
        (StatusCode.OK, "", Fault(Unavailable, "maybe")),
    ],
)
def test_each_error_has_a_meaning(code, words, fault):
    assert classify(error(code, words)) == fault


def test_our_own_limit_is_told_from_etcds():
    assert too_large_for_us(error(StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (9 vs. 4)"))
    assert not too_large_for_us(error(StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests"))


def test_a_watch_that_is_not_permitted_is_refused():
    assert isinstance(cancelled_watch("rpc error: ... etcdserver: permission denied"), Refused)
    assert isinstance(cancelled_watch("etcdserver: no leader"), Unavailable)
    assert isinstance(cancelled_watch(""), Unavailable)


@pytest.mark.parametrize(
    ("compares", "ops", "verdict"),
    [
        ([Compare("/a", 5)], [Put("/a", b"")], True),
        ([Compare("/a", 5)], [Delete("/a")], True),
        ([Compare("/b", 0), Compare("/a", 5)], [Put("/b", b""), Put("/a", b"")], True),
        ([Compare("/a", 5)], [], True),
        ([Compare("/a", 0)], [Put("/a", b"")], False),
        ([Compare("/leader", 5)], [Put("/a", b"")], False),
        ([], [Put("/a", b"")], False),
    ],
)
def test_only_what_cannot_succeed_twice_is_sent_again(compares, ops, verdict):
    assert once_only(compares, ops) is verdict


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("10.0.0.1:2379", "ipv4:10.0.0.1:2379"),
        ("[::1]:2379", "ipv6:[::1]:2379"),
        ("etcd-1.example:2379", "dns:///etcd-1.example:2379"),
    ],
)
def test_addresses_as_grpc_wants_them(address, written):
    assert target(address) == written
