"""One session: any loss, reorder of links or crash converges, and a resume sends what differs."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multicluster import wire
from multicluster.session import Exporter, Importer, Me, ProtocolError
from multicluster.wire import Ack, Digests, Hello, Offer, Welcome

WEST, EAST = Me("west", "west.test"), Me("east", "east.test")


def value(n):
    return msgspec.json.encode({"n": n})


class Pair:
    """An exporter's cluster, an importer's store, and the link between them. Messages go as bytes."""

    def __init__(self, world=None, store=None):
        self.world: dict[str, bytes] = dict(world or {})
        self.store: dict[str, bytes] = dict(store or {})
        self.revision = 1
        self.bytes = 0
        self.cut()

    def cut(self):
        self.exporter = self.importer = None
        self.greeted = False
        self.down, self.up = [], []

    def dial(self):
        self.cut()
        self.exporter = Exporter(EAST, WEST)
        self.importer = Importer(WEST, EAST, {key: wire.digest(raw) for key, raw in self.store.items()})
        self.send(self.up, self.importer.hello(bundle="", epoch="", position=0, addresses=()))

    def send(self, way, message):
        raw = wire.encode(message)
        assert len(raw) <= wire.MAX_FRAME_BYTES
        self.bytes += len(raw)
        way.append(raw)

    def change(self, changes):
        self.revision += 1
        for key, raw in changes.items():
            if raw is None:
                self.world.pop(key, None)
            else:
                self.world[key] = raw
        if self.greeted:  # before, the exporter takes the whole as it then is
            self.exporter.changed(changes, self.revision)
            self.push()

    def push(self):
        while offer := self.exporter.next():
            self.send(self.down, offer)

    def deliver_up(self):
        message = msgspec.json.decode(self.up.pop(0), type=wire.ToExporter)
        match message:
            case Hello():
                self.send(self.down, self.exporter.hello(message, self.world, "e1", self.revision))
                self.greeted = True
            case Digests():
                self.exporter.digests(message)
            case Ack():
                self.exporter.ack(message)
        self.push()

    def deliver_down(self):
        message = msgspec.json.decode(self.down.pop(0), type=wire.ToImporter)
        match message:
            case Welcome(buckets=buckets):
                for part in self.importer.welcome(message) if buckets else ():
                    self.send(self.up, part)
            case Offer():
                self.importer.offer(message)
                for key in message.gone:
                    self.store.pop(key, None)
                for entry in message.put:
                    self.store[entry.key] = bytes(entry.value)
                self.send(self.up, self.importer.done(message, {}))
        if isinstance(message, Welcome):
            self.importer.welcome(message) if not message.buckets else None

    def settle(self):
        while self.up or self.down:
            if self.up:
                self.deliver_up()
            if self.down:
                self.deliver_down()


KEYS = [f"services/shop/s{n}" for n in range(6)] + [f"endpoints/shop/s{n}/e" for n in range(6)]
change = st.dictionaries(st.sampled_from(KEYS), st.none() | st.integers(0, 3).map(value), min_size=1, max_size=4)
steps = st.lists(
    st.tuples(st.just("change"), change)
    | st.tuples(st.sampled_from(["up", "down", "cut", "dial", "crash-exporter"]), st.none()),
    max_size=60,
)


@given(steps, st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3).map(value)))
@settings(max_examples=400, deadline=None)
def test_any_order_of_loss_and_change_converges(script, store):
    pair = Pair(store=store)
    for what, changes in script:
        match what:
            case "change":
                pair.change(changes)
            case "up" if pair.up:
                pair.deliver_up()
            case "down" if pair.down:
                pair.deliver_down()
            case "cut" | "crash-exporter":
                pair.cut()
            case "dial":
                pair.dial()
    pair.dial()
    pair.settle()
    assert pair.importer.synced
    assert pair.store == pair.world


@given(steps)
@settings(max_examples=200, deadline=None)
def test_an_unbroken_link_converges_too(script):
    pair = Pair()
    pair.dial()
    for what, changes in script:
        match what:
            case "change":
                pair.change(changes)
            case "up" if pair.up:
                pair.deliver_up()
            case "down" if pair.down:
                pair.deliver_down()
    pair.settle()
    assert pair.store == pair.world


def many(count):
    world = {f"services/shop/s{n}": value(n) for n in range(count)}
    return world | {f"endpoints/shop/s{n}/gw{g}": value(n) for n in range(count) for g in range(3)}


def test_a_resume_without_a_change_costs_one_exchange():
    pair = Pair(many(2000), many(2000))
    pair.dial()
    pair.settle()
    assert pair.importer.synced
    assert pair.bytes < 1000


@pytest.mark.parametrize("changed", [1, 10])
def test_a_resume_sends_what_differs(changed):
    world = many(2000)
    whole = sum(len(key) + len(raw) for key, raw in world.items())
    pair = Pair(world | {f"services/shop/s{n}": b'{"n":"new"}' for n in range(changed)}, world)
    pair.dial()
    pair.settle()
    assert pair.store == pair.world
    assert pair.bytes < 8_000 + 5_000 * changed < whole


def test_a_first_session_sends_all_in_bounded_messages():
    pair = Pair(many(5000))
    pair.dial()
    pair.settle()
    assert pair.store == pair.world


def test_no_more_than_a_window_is_on_its_way():
    pair = Pair()
    pair.dial()
    pair.settle()
    for n in range(100):
        pair.change({KEYS[0]: value(n)})
    assert len(pair.down) == 16
    pair.settle()
    assert pair.store == {KEYS[0]: value(99)}


def test_a_service_goes_before_its_endpoints():
    pair = Pair({"endpoints/a/b/c": value(1), "services/a/b": value(2)})
    pair.dial()
    pair.deliver_up()
    pair.deliver_down()
    pair.deliver_up()
    offer = msgspec.json.decode(pair.down[0], type=wire.ToImporter)
    assert [entry.key for entry in offer.put] == ["services/a/b", "endpoints/a/b/c"]


def welcomed():
    importer = Importer(WEST, EAST, {})
    importer.welcome(Welcome(version=1, cluster="east", trust_domain="east.test", position=5))
    return importer


@pytest.mark.parametrize(
    "offers",
    [
        [Offer(nonce=2, position=5)],
        [Offer(nonce=1, position=5), Offer(nonce=1, position=5)],
        [Offer(nonce=1, position=5), Offer(nonce=3, position=6)],
        [Offer(nonce=1, position=4)],
        [Offer(nonce=1, position=9), Offer(nonce=2, position=8)],
    ],
)
def test_replayed_and_stale_offers_end_the_link(offers):
    importer = welcomed()
    with pytest.raises(ProtocolError, match=r"replayed|missing"):
        for offer in offers:
            importer.offer(offer)


def test_an_offer_before_a_welcome_ends_the_link():
    with pytest.raises(ProtocolError):
        Importer(WEST, EAST, {}).offer(Offer(nonce=1))


@pytest.mark.parametrize("said", [{"cluster": "west"}, {"trust_domain": "west.test"}, {"trust_domain": "north.test"}])
def test_a_peer_that_calls_itself_another_is_not_heard(said):
    names = {"cluster": "east", "trust_domain": "east.test"} | said
    with pytest.raises(ProtocolError, match="calls itself"):
        Importer(WEST, EAST, {}).welcome(Welcome(version=1, **names))
    with pytest.raises(ProtocolError, match="calls itself"):
        Exporter(WEST, EAST).hello(Hello(versions=(1,), **names), {}, "", 0)


def test_versions_without_a_common_one_part_with_words():
    hello = Hello(versions=(7, 8), cluster="east", trust_domain="east.test")
    with pytest.raises(ProtocolError, match="versions"):
        Exporter(WEST, EAST).hello(hello, {}, "", 0)


def test_wild_digests_and_acks_end_the_link():
    exporter = Exporter(WEST, EAST)
    with pytest.raises(ProtocolError):
        exporter.digests(Digests(done=True))
    exporter.hello(Hello(versions=(1,), cluster="east", trust_domain="east.test"), many(3), "", 1)
    with pytest.raises(ProtocolError):
        exporter.digests(Digests(buckets=(99999,), done=True))
    with pytest.raises(ProtocolError):
        exporter.ack(Ack(nonce=1))
    with pytest.raises(ProtocolError):
        Importer(WEST, EAST, {}).welcome(
            Welcome(version=1, cluster="east", trust_domain="east.test", buckets=("x",) * 5000)
        )


def test_an_epoch_is_bounded():
    """It is written down with every news of a peer."""
    said = Welcome(version=1, cluster="east", trust_domain="east.test", epoch="x" * 101)
    with pytest.raises(ProtocolError, match="epoch"):
        Importer(WEST, EAST, {}).welcome(said)
