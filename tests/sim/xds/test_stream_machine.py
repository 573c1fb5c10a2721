"""Any order of snapshots, answers, refusals and reconnects: references hold at every moment, and it comes to rest."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.xds.stream import TYPES, Acked, Stream
from agent.xds.wire import Request
from tests.sim.xds.client import CDS, EDS, LDS, RDS, SDS, Client
from tests.sim.xds.world import Service, Worlds

NAMES = [f"s{i}" for i in range(5)]
PARTS = ["cluster", "endpoints", "listener", "route"]


class StreamMachine(RuleBasedStateMachine):
    @initialize(hints=st.booleans(), first=st.sets(st.sampled_from(NAMES)), early=st.booleans())
    def start(self, hints, first, early):
        self.worlds = Worlds(hints=hints)
        self.services = {name: Service(target=name) for name in sorted(first)}
        self.secret = 0
        self.poison: set[tuple[str, str]] = set()
        self.client = Client(self.poison)
        self.connections = 1
        self.snapshot = None
        stream = Stream("1.")
        if early:
            self.client.connect(stream)
            self.publish()
        else:
            self.snapshot = self.worlds.snapshot(self.services)
            stream.on_snapshot(self.snapshot)
            self.client.connect(stream)

    def publish(self):
        if self.snapshot:
            # What was refused while this one replaced it already is forgotten, and may come again.
            self.client.forgive(self.snapshot)
        self.snapshot = self.worlds.snapshot(self.services, self.secret)
        self.client.forgive(self.snapshot)
        self.client.receive(self.client.stream.on_snapshot(self.snapshot))

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES))
    def add(self, name, to):
        self.services.setdefault(name, Service(target=to))
        self.publish()

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name):
        self.services.pop(name, None)
        self.publish()

    @rule(name=st.sampled_from(NAMES), part=st.sampled_from(PARTS), up=st.booleans())
    def change(self, name, part, up):
        """Forward, or back to what was before."""
        if service := self.services.get(name):
            version = max(0, getattr(service, part) + (1 if up else -1))
            self.services[name] = replace(service, **{part: version})
            self.publish()

    @rule(name=st.sampled_from(NAMES), to=st.sampled_from(NAMES))
    def retarget(self, name, to):
        if name in self.services:
            self.services[name] = replace(self.services[name], target=to)
            self.publish()

    @rule()
    def rotate(self):
        self.secret += 1
        self.publish()

    @rule(name=st.sampled_from(NAMES), part=st.sampled_from(["cluster", "listener", "route"]))
    def poisoned_change(self, name, part):
        """A version that the client refuses."""
        if service := self.services.get(name):
            version = getattr(service, part) + 100
            self.services[name] = replace(service, **{part: version})
            target = service.target if service.target in self.services else name
            resource = {
                "cluster": (f"c-{name}", f"e{int(name[1:]) // 2}/{version}"),
                "listener": (f"l-{name}", str(version)),
                "route": (f"r-{name}", f"{target}/{version}"),
            }[part]
            self.poison.add(resource)
            self.publish()

    @precondition(lambda self: self.client.queue)
    @rule(count=st.integers(1, 4))
    def deliver(self, count):
        for _ in range(min(count, len(self.client.queue))):
            self.client.step()

    @rule(url=st.sampled_from(TYPES))
    def stale_answer(self, url):
        """An answer to a response of another stream says nothing."""
        if self.client.types[url].subscribed:
            self.client.receive(self.client.stream.on_request(Request(url, nonce="0.7", error="late")))

    @rule()
    def reconnect(self):
        self.connections += 1
        stream = Stream(f"{self.connections}.", distrust=self.client.stream.doubts())
        self.client.connect(stream)
        self.client.receive(stream.on_snapshot(self.snapshot))

    @rule(url=st.sampled_from([EDS, RDS, SDS]))
    def ask_again(self, url):
        """Who subscribes again wants to be told again."""
        if names := self.client.types[url].names:
            self.client.receive(self.client.stream.on_request(Request(url, subscribe=(min(names),))))

    @rule()
    def rest(self):
        """When nothing is refused, the client ends with exactly the newest snapshot, and it is told so once."""
        self.client.settle()
        if not self.client.unanswered and all(self.client.types[url].subscribed for url in (CDS, LDS)):
            # Accepted, refused, or held back: whoever waits for it is told.
            assert self.client.events[-1].digest == self.snapshot.digest
        if self.poison or self.client.partial:
            return
        for url in (CDS, LDS):
            assert self.in_force(url) == {n: r.version for n, r in self.snapshot.resources[url].items()}
        for url in (EDS, RDS, SDS):
            wanted = {
                n: r.version for n, r in self.snapshot.resources[url].items() if n in self.client.types[url].names
            }
            assert self.in_force(url) == wanted
        assert not self.client.unanswered
        last = [e for e in self.client.events if isinstance(e, Acked)][-1]
        assert last.digest == self.snapshot.digest

    @rule()
    def resume_unchanged(self):
        """A client that holds everything gets nothing."""
        self.rest()
        if self.poison or self.client.partial:
            return
        before = len(self.client.sends)
        self.reconnect()
        self.client.settle()
        assert [(s.resources, s.removed) for s in self.client.sends[before:]] == [((), ())] * 2  # CDS and LDS, empty

    @rule()
    def heal(self):
        """The refused versions are taken back: everything must come to be in force."""
        names = {name for name, _ in self.poison}
        for name, service in self.services.items():
            parts = {"cluster": f"c-{name}", "listener": f"l-{name}", "route": f"r-{name}"}
            fresh = {part: 1000 + len(self.client.sends) for part, full in parts.items() if full in names}
            self.services[name] = replace(service, **fresh)
        self.poison.clear()
        self.publish()
        self.client.settle()
        self.client.partial = False
        self.rest()

    def in_force(self, url):
        return {name: resource.version for name, resource in self.client.types[url].in_force.items()}

    @invariant()
    def bounded(self):
        if hasattr(self, "client"):
            assert len(self.client.queue) <= len(TYPES)


StreamMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStream = pytest.mark.slow(StreamMachine.TestCase)


def test_types_are_those_of_the_client():
    assert set(TYPES) == {CDS, EDS, LDS, RDS, SDS}
