"""Whatever a peer says, each decision is a value or the one exception that is named; nothing else is ever thrown."""

import contextlib

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import keys
from multicluster import imports, tokens, trust, wire
from multicluster.session import Exporter, Importer, Me, ProtocolError
from multicluster.wire import Ack, Digests, Hello, Offer, Welcome
from tests.unit.multicluster.pieces import EAST
from tests.unit.multicluster.roots import root

WEST = Me("west", "west.test")
PEER = Me("east", "east.test")

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
words = st.sampled_from(
    ["services", "endpoints", "shop", "api", "..", "", "a.b", "x" * 70, "API", "é", "objects", "\x00"]
)
key = st.lists(words, max_size=5).map("/".join) | st.text(max_size=30)
service = st.fixed_dictionaries(
    {},
    optional={
        "ports": json
        | st.lists(st.fixed_dictionaries({"port": st.integers() | json}, optional={"name": json}), max_size=4),
        "accounts": json | st.lists(st.text(max_size=5), max_size=3),
        "protocol": json,
    },
)
endpoint = st.fixed_dictionaries(
    {"node": st.text(max_size=5) | json, "address": st.sampled_from(["10.0.0.1", "::1", "x"]) | json},
    optional={
        "port": st.integers() | json,
        "account": json,
        "ports": json,
        "weight": st.integers() | json,
        "health": json,
    },
)
value = (json | service | endpoint).map(msgspec.json.encode) | st.binary(max_size=40)
good = [
    ("services/shop/api", msgspec.json.encode({"ports": [{"port": 80}], "accounts": ["api"]})),
    ("endpoints/shop/api/gw", msgspec.json.encode({"node": "gw", "address": "10.0.0.1", "port": 1, "account": "api"})),
]


@given(st.lists(st.tuples(key, value), max_size=8), st.lists(key, max_size=4))
@settings(max_examples=400, deadline=None)
def test_any_offer_is_planned_and_stays_in_the_peers_place(put, gone):
    holding = imports.Holding()
    imports.plan(holding, EAST, good, ())
    plan = imports.plan(holding, EAST, put, gone)
    written = {**plan.create, **plan.update}
    for place in (*written, *plan.delete):
        assert place.startswith("/holdfast/v1/mesh/imports/east/")
        assert keys.parse(place) is not None
        assert ".." not in place.split("/")
    assert not set(written) & set(plan.delete)
    for place, obj in written.items():
        assert imports.key_of(obj) == place
    # What the holding says it is, is what a store would hold; and every endpoint has its service.
    assert imports.Holding.of(holding.objects) == holding
    assert holding.endpoints.keys() <= holding.services
    assert set(plan.rejected) <= {one for one, _ in put}


@given(st.binary(max_size=60) | json.map(msgspec.json.encode))
def test_any_bundle_is_read_or_refused(raw):
    with contextlib.suppress(trust.Refused):
        trust.read(raw, "east.test")


GOOD = msgspec.json.decode(trust.document(3, [root()]))


@given(st.sampled_from(["keys", "spiffe_sequence", "spiffe_refresh_hint"]), json)
def test_a_bundle_with_any_field_replaced_is_read_or_refused(field, replaced):
    try:
        found = trust.read(msgspec.json.encode(GOOD | {field: replaced}), "east.test")
    except trust.Refused:
        return
    assert len(found.roots) == 1


@given(st.sampled_from(sorted(GOOD["keys"][0])), json)
def test_a_bundle_with_any_part_of_its_key_replaced_is_read_or_refused(field, replaced):
    changed = GOOD | {"keys": [GOOD["keys"][0] | {field: replaced}]}
    with contextlib.suppress(trust.Refused):
        trust.read(msgspec.json.encode(changed), "east.test")


@given(st.text(max_size=60) | st.text(max_size=60).map(lambda text: tokens.PREFIX + text))
def test_any_text_is_a_token_or_none(text):
    with contextlib.suppress(tokens.BadToken):
        tokens.parse(text)


digests = st.dictionaries(key, st.text(max_size=16), max_size=4)
to_exporter = st.one_of(
    st.builds(
        Hello,
        versions=st.lists(st.integers(), max_size=3).map(lambda v: (1, *v)),
        cluster=st.just("east"),
        trust_domain=st.just("east.test"),
        count=st.integers(-5, 10**9),
        digest=st.text(max_size=10),
        position=st.integers(),
    ),
    st.builds(
        Digests, buckets=st.lists(st.integers(-2, 5000), max_size=4).map(tuple), items=digests, done=st.booleans()
    ),
    st.builds(Ack, nonce=st.integers(-1, 5), rejected=digests, refused=st.integers()),
)


@given(st.lists(to_exporter, max_size=8))
@settings(max_examples=300, deadline=None)
def test_an_exporter_takes_any_message_or_ends_the_link(messages):
    exporter = Exporter(WEST, PEER)
    try:
        for message in messages:
            match message:
                case Hello():
                    exporter.hello(message, dict(good), "e", 1)
                case Digests():
                    exporter.digests(message)
                case Ack():
                    exporter.ack(message)
            while offer := exporter.next():
                assert len(wire.encode(offer)) <= wire.MAX_FRAME_BYTES
    except ProtocolError:
        pass
    assert exporter.nonce - exporter.acked <= 16


to_importer = st.one_of(
    st.builds(
        Welcome,
        version=st.sampled_from([1, 1, 2, -1]),
        cluster=st.just("east"),
        trust_domain=st.just("east.test"),
        position=st.integers(-5, 5),
        buckets=st.lists(st.text(max_size=16), max_size=6).map(tuple),
    ),
    st.builds(Offer, nonce=st.integers(0, 4), position=st.integers(-5, 5), gone=st.lists(key, max_size=2).map(tuple)),
)


@given(st.lists(to_importer, max_size=8))
@settings(max_examples=300, deadline=None)
def test_an_importer_takes_any_message_or_ends_the_link(messages):
    importer = Importer(WEST, PEER, {one: wire.digest(raw) for one, raw in good})
    taken = 0
    try:
        for message in messages:
            if isinstance(message, Welcome):
                importer.welcome(message)
            else:
                importer.offer(message)
                taken += 1
                importer.done(message, {})
    except ProtocolError:
        pass
    assert importer.nonce == taken
