"""Whatever is compiled can be simulated: every listener of every golden case has an answer, and never a guess."""

import pytest

from mesh import pb
from mesh.compile import Snapshot, project
from mesh.compile.compiler import compile as compile_anew
from mesh.compile.simulate import Closed, Verdict, answering, calling, shares
from mesh.model.checks import place
from tests.golden.test_golden import CASES, read_local, read_world

CALLERS = ["spiffe://east.test/ns/shop/sa/web", "spiffe://east.test/ns/other/sa/x", "spiffe://east.test/node/vm-1", ""]
REQUESTS = [
    ("GET", "/", ()),
    ("POST", "/a/b?c=d", (("x-a", "1"), ("origin", "http://a"))),
    ("POST", "/etcdserverpb.KV/Range", (("content-type", "application/grpc"),)),
]


def asked(snapshot: Snapshot) -> dict[str, list[Verdict]]:
    """All outcomes of some requests to each listener."""
    found: dict[str, list[Verdict]] = {}
    for name, resource in snapshot.resources[pb.LISTENER].items():
        listener = pb.decode(pb.LISTENER, resource.body)
        found[name] = []
        for chain in listener.filter_chains:
            for request in REQUESTS:
                if chain.HasField("transport_socket") or chain.filter_chain_match.server_names:
                    sni, source = [*chain.filter_chain_match.server_names, chain.name][0], _source(chain)
                    asks = [answering(snapshot, sni, who, *request, listener=name, source=source) for who in CALLERS]
                else:
                    asks = [calling(snapshot, name, *request, "api.shop", to=_destination(chain))]
                found[name] += [share.verdict for ask in asks for share in shares(ask)]
    return found


def _destination(chain: pb.FilterChain) -> str:
    """An address that is chosen for it; loopback's chains are for those that are nobody's."""
    match = chain.filter_chain_match
    ranges = [one.address_prefix for one in match.prefix_ranges]
    return place(ranges[0], match.destination_port.value or 9) if ranges else ""


def _source(chain: pb.FilterChain) -> str:
    """An address of a caller that it is for."""
    ranges = [one.address_prefix for one in chain.filter_chain_match.source_prefix_ranges]
    return ranges[-1] if ranges else ""


def test_a_gateway_asks_where_a_connection_comes_from():
    snapshot = compile_anew(project(read_world("gateway"), read_local("gateway")))

    def reached(sni: str, source: str) -> str:
        (share,) = shares(answering(snapshot, sni, "", listener="gateway", source=source))
        return " ".join(entry.field for entry in share.verdict.trace if entry.kind == "filter chain")

    offered, passage = "80.api.shop.east.mesh", "80.api.shop.north.mesh"
    anybody, west = reached(offered, "198.51.100.1"), reached(offered, "203.0.113.9")
    assert anybody != west
    assert reached(offered, "") == anybody
    assert reached(offered, "2001:db8:1::7") == west
    assert reached(passage, "10.1.2.3").endswith("filter_chain_match")
    for stranger in ("198.51.100.1", "2001:db8::1", ""):
        assert reached(passage, stranger) == "filter_chains"


@pytest.mark.parametrize("case", CASES)
def test_every_listener_answers(case: str):
    verdicts = asked(compile_anew(project(read_world(case), read_local(case))))
    assert verdicts
    for name, those in verdicts.items():
        assert any(not isinstance(verdict, Closed) for verdict in those), name
        assert all(verdict.trace for verdict in those)


def test_a_listener_is_found_at_each_of_its_addresses():
    snapshot = compile_anew(project(read_world("capture-ipv6"), read_local("capture-ipv6")))

    def reached(listener: str, to: str) -> str:
        (share,) = shares(calling(snapshot, listener, *REQUESTS[0], "", to=to))
        return getattr(share.verdict, "cluster", "closed")

    for here in ("127.0.0.1:16530", "[::1]:16530"):
        assert reached(here, "[2001:db8::1]:5432") == "passthrough"
        assert reached(here, "[2001:db8::2]:5432") == reached(here, "[::1]:5432") == "unavailable"
    assert reached("[::1]:16531", "[2001:db8::1]:5432") == "closed"
