"""An xDS client that behaves like Envoy: it asks for what its clusters and listeners need, acknowledges clusters only
when none of them is warming, applies the good part of a refused response, and complains when it sees a broken order."""

import json
from collections import deque
from dataclasses import dataclass, field

from agent.xds.stream import Acked, Nacked, Output, Stream, Withheld
from agent.xds.wire import Request, Send
from mesh import pb
from mesh.compile.types import Resource

CDS, EDS, LDS, RDS, SDS = pb.CLUSTER, pb.ENDPOINT, pb.LISTENER, pb.ROUTE, pb.SECRET


@dataclass
class Held:
    """One type at the client."""

    subscribed: bool = False
    names: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)
    """What it would tell on a resume: not updated by a refused response."""
    in_force: dict[str, Resource] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    """Had been in force, and was taken away."""


class Client:
    """`poison` holds the (name, version) pairs that it refuses."""

    def __init__(self, poison: set[tuple[str, str]]) -> None:
        self.poison = poison
        self.types = {url: Held() for url in (CDS, EDS, LDS, RDS, SDS)}
        self.warming: set[str] = set()
        self.partial = False
        """Something of a refused response is in force, of which `versions` do not tell."""
        self.sends: list[Send] = []
        self.events: list[Acked | Nacked | Withheld] = []
        self._streams = 0

    def connect(self, stream: Stream) -> None:
        """Open a stream; what is held from before is told."""
        self.stream = stream
        self._streams += 1
        self.queue: deque[Send] = deque()
        self.unanswered: dict[str, str] = {}
        self.refused: dict[str, list[frozenset]] = {}
        self._paused: Request | None = None
        # A cluster that was warming when the stream broke goes on waiting for its endpoints.
        for url in (CDS, EDS, LDS, RDS, SDS):
            held = self.types[url]
            if held.subscribed or url == CDS:
                held.subscribed = True
                self._say(Request(url, tuple(sorted(held.names)), (), dict(held.versions)))

    def receive(self, outputs: tuple[Output, ...]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                assert output.type_url not in self.unanswered, "two unanswered responses of one type"
                self.unanswered[output.type_url] = output.nonce
                self.queue.append(output)
                self.sends.append(output)
            else:
                self.events.append(output)

    def step(self) -> None:
        """Take the next response."""
        send = self.queue.popleft()
        held = self.types[send.type_url]
        pairs = frozenset({(r.name, r.version) for r in send.resources} | {(n, "") for n in send.removed})
        for refused in self.refused.get(send.type_url, []):
            assert not refused <= pairs, "a refused response came again"
        bad = [r for r in send.resources if (r.name, r.version) in self.poison]
        for name in send.removed:
            if held.in_force.pop(name, None):
                held.lost.add(name)
            if send.type_url == EDS:
                self.warming -= {c for c in self.warming if self._endpoints_of(c) == name}
        for resource in send.resources:
            # What is not asked for any more is not taken, as Envoy's subscriptions do it.
            if resource not in bad and (send.type_url in {CDS, LDS} or resource.name in held.names):
                self._take(send.type_url, held, resource)
        self._references()
        if bad:
            self.partial = True
            self.refused.setdefault(send.type_url, []).append(pairs)
        else:
            for resource in send.resources:
                if resource.name in held.in_force:
                    held.versions[resource.name] = resource.version
            for name in send.removed:
                held.versions.pop(name, None)
        self._needs(send.type_url)
        answer = Request(send.type_url, nonce=send.nonce, error=f"refused {bad[0].name}" if bad else None)
        if send.type_url == CDS and self.warming:
            self._paused = answer
        else:
            self._answer(answer)
        if self._paused and not self.warming:
            answer, self._paused = self._paused, None
            self._answer(answer)
        self._begin_listeners()

    def forgive(self, snapshot) -> None:
        """What is not in this snapshot any more may be tried again when it comes back."""
        for url, refused in self.refused.items():
            there = {(name, resource.version) for name, resource in snapshot.resources[url].items()}
            self.refused[url] = [r for r in refused if r <= there]

    def settle(self) -> None:
        """Take all that comes until nothing does."""
        for _ in range(2000):
            if not self.queue:
                return
            self.step()
        raise AssertionError("the stream does not come to rest")

    def _take(self, url: str, held: Held, resource: Resource) -> None:
        held.in_force[resource.name] = resource
        held.lost.discard(resource.name)
        if url == CDS:
            self.warming.add(resource.name)
        if url == EDS:
            self.warming -= {c for c in self.warming if self._endpoints_of(c) == resource.name}
        if url == RDS:
            cluster = json.loads(resource.body)["cluster"]
            assert cluster in self.types[CDS].in_force, f"route {resource.name} before its cluster {cluster}"
            assert cluster not in self.warming, f"route {resource.name} to the warming cluster {cluster}"

    def _references(self) -> None:
        for route in self.types[RDS].in_force.values():
            cluster = json.loads(route.body)["cluster"]
            assert cluster in self.types[CDS].in_force, f"cluster {cluster} went before route {route.name}"
        for listener in self.types[LDS].in_force.values():
            route = json.loads(listener.body)["route"]
            assert route not in self.types[RDS].lost, f"route {route} went before listener {listener.name}"

    def _endpoints_of(self, cluster: str) -> str:
        return pb.Cluster.FromString(self.types[CDS].in_force[cluster].body).eds_cluster_config.service_name

    def _needs(self, url: str) -> None:
        """Subscribe and unsubscribe what follows from clusters and listeners."""
        if url == CDS:
            self.warming &= self.types[CDS].in_force.keys()
            self._want(EDS, {self._endpoints_of(c) for c in self.types[CDS].in_force})
            self._want(SDS, {"secret"} if self.types[CDS].in_force else set())
        if url == LDS:
            self._want(RDS, {json.loads(r.body)["route"] for r in self.types[LDS].in_force.values()})

    def _want(self, url: str, names: set[str]) -> None:
        held = self.types[url]
        more, less = names - held.names, held.names - names
        held.names = names
        if less:
            self.refused[url] = [r for r in self.refused.get(url, []) if not any(name in less for name, _ in r)]
        for name in less:
            held.in_force.pop(name, None)
            held.versions.pop(name, None)
            held.lost.discard(name)
        if more or less:
            held.subscribed = True
            self._say(Request(url, tuple(sorted(more)), tuple(sorted(less))))

    def _begin_listeners(self) -> None:
        if self._paused is None and CDS not in self.unanswered and not self.types[LDS].subscribed:
            self.types[LDS].subscribed = True
            self._say(Request(LDS))

    def _answer(self, request: Request) -> None:
        del self.unanswered[request.type_url]
        self._say(request)

    def _say(self, request: Request) -> None:
        self.receive(self.stream.on_request(request))
