"""One client's delta-ADS stream: requests and snapshots in, responses and events out.

Rule 1: what is sent, and in which order, is decided here and nowhere else.
Rule 2: one response a type is unacknowledged at most. What arrives meanwhile changes the target only; the walk over
UPDATE_ORDER begins anew after each request, so the newest snapshot wins and the order holds for it.
Rule 3: what was refused is never sent again unchanged. It holds back what could refer to it, and nothing else.

Envoy acknowledges clusters only when none of them is warming any more (ClusterManagerImpl pauses that type meanwhile),
so endpoints and secrets must flow while a response with clusters is unanswered, and listeners and routes must not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agent.xds.subscription import ABSENT, Due, Pair, Part, Subscription
from agent.xds.wire import Request, Send
from mesh import pb
from mesh.compile.types import Resource, Resources, Snapshot
from mesh.model import Revision


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the order. It waits while a type that it `needs` has something unanswered or held back."""

    type_url: str
    part: Part = "upserts"
    needs: tuple[str, ...] = ()


# Make before break (xDS protocol, "Eventual consistency considerations"). A secret that is held already is renewed
# before what uses it; a new one is asked for by the cluster or listener that needs it, and then goes first too.
# Listeners come and go in one response: Envoy removes first, so an address may pass from one listener to another.
# Removed endpoints break nothing, for Envoy keeps the last ones of a cluster; and a warming cluster may wait for the
# word that there are none.
UPDATE_ORDER = (
    Step(pb.SECRET),
    Step(pb.CLUSTER),
    Step(pb.ENDPOINT, "both"),
    Step(pb.LISTENER, "both", needs=(pb.CLUSTER,)),
    Step(pb.ROUTE, needs=(pb.CLUSTER,)),
    Step(pb.ROUTE, "removals", needs=(pb.LISTENER,)),
    Step(pb.CLUSTER, "removals", needs=(pb.LISTENER, pb.ROUTE)),
    Step(pb.SECRET, "removals", needs=(pb.LISTENER, pb.CLUSTER)),
)
TYPES = tuple(step.type_url for step in UPDATE_ORDER if step.part != "removals")
WHOLE = frozenset({pb.CLUSTER, pb.LISTENER})
"""Types that a proxy wants whole (wildcard): before it has asked for these, it has not applied anything."""

MAX_FOREIGN_TYPES = 16
"""Types that we never serve are answered with nothing; a client may ask for that many."""

_NOTHING: Resources = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Acked:
    """All of this snapshot that the client asked for is acknowledged. That is not yet: in force."""

    digest: bytes
    revision: Revision
    types: tuple[str, ...]
    """Types of which something was sent on the way."""


@dataclass(frozen=True, slots=True)
class Nacked:
    """The client refused a response made from this snapshot."""

    digest: bytes
    revision: Revision
    type_url: str
    names: tuple[str, ...]
    """All that was in the refused response; not all of them need be guilty."""
    error: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """What is left of this snapshot would be a refused response again: the client will never be asked about it."""

    digest: bytes
    revision: Revision
    type_url: str
    error: str
    """The words of that refusal."""


Output = Send | Acked | Nacked | Withheld

Doubts = Mapping[str, frozenset[str]]
"""Type URL -> names that a client may hold in another version than it says when it resumes."""


@dataclass(frozen=True, slots=True)
class _Flight:
    send: Send
    pairs: frozenset[Pair]
    part: Part
    snapshot: Snapshot


class Stream:
    def __init__(self, nonces: str = "", *, distrust: Doubts | None = None) -> None:
        """Nonces begin with this text: one stream's must not be another's. `distrust`: `doubts` of the one before."""
        self._prefix = nonces
        self._distrust: Doubts = distrust or {}
        self._count = 0
        self._subscriptions: dict[str, Subscription] = {url: Subscription() for url in TYPES}
        self._target: Snapshot | None = None
        self._flights: dict[str, _Flight] = {}
        """Type URL -> its unanswered response."""
        self._told: Snapshot | None = None
        """The last snapshot for which Acked was given."""
        self._moved: dict[str, None] = {}
        """Types sent since."""
        self._errors: dict[str, str] = {}
        """Type URL -> the words of its last refusal."""
        self._stuck: Snapshot | None = None
        """The last snapshot for which a refusal of it, or Withheld, was given."""

    def on_request(self, request: Request) -> tuple[Output, ...]:
        """A subscription change, an answer to a response, or both in one."""
        out = self._answered(request)
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            if len(self._subscriptions) >= len(TYPES) + MAX_FOREIGN_TYPES:
                return (*out, *self._advance())
            subscription = self._subscriptions[request.type_url] = Subscription()
        target = self._resources(request.type_url)
        if subscription.opened:
            subscription.change(request.subscribe, request.unsubscribe, target)
        else:
            legacy = request.type_url in WHOLE
            distrust = self._distrust.get(request.type_url, frozenset())
            subscription.open(request.subscribe, request.initial_versions, target, legacy=legacy, distrust=distrust)
        return (*out, *self._advance())

    def on_snapshot(self, snapshot: Snapshot) -> tuple[Output, ...]:
        """The newest snapshot. One that was not sent to the end is forgotten."""
        before, self._target = self._target, snapshot
        for url in TYPES:
            if changed := _changed(before, snapshot, url):
                self._subscriptions[url].touch(changed)
        return self._advance()

    @property
    def waiting(self) -> tuple[str, ...]:
        """Types whose response is unanswered."""
        return tuple(self._flights)

    def held(self) -> dict[str, int]:
        """Type URL -> how many resources the client holds."""
        return {
            url: sum(version != ABSENT for version in subscription.held.values())
            for url, subscription in self._subscriptions.items()
            if subscription.opened
        }

    def doubts(self) -> Doubts:
        """For the stream after this one. Envoy keeps the old version's name for what it took of a refused response;
        and a cluster that was warming goes on waiting for endpoints whose version Envoy has already.
        """
        found = {url: subscription.unsure for url, subscription in self._subscriptions.items()}
        for url, flight in self._flights.items():
            found[url].update(name for name, _ in flight.pairs)
            if url == pb.CLUSTER:
                found[pb.ENDPOINT].update(_endpoints_of(resource) for resource in flight.send.resources)
        return {url: frozenset(names) for url, names in found.items() if names}

    def _resources(self, url: str) -> Resources:
        return self._target.resources.get(url, _NOTHING) if self._target else _NOTHING

    def _answered(self, request: Request) -> tuple[Output, ...]:
        flight = self._flights.get(request.type_url)
        if flight is None or request.nonce != flight.send.nonce:
            return ()  # no answer, or one to an older response: only its subscriptions count
        del self._flights[request.type_url]
        if request.error is None:
            return ()
        self._subscriptions[request.type_url].refuse(flight.pairs, flight.part)
        names = tuple(sorted(name for name, _ in flight.pairs))
        snapshot = self._stuck = flight.snapshot
        self._errors[request.type_url] = request.error
        return (Nacked(snapshot.digest, snapshot.revision, request.type_url, names, request.error),)

    def _advance(self) -> tuple[Output, ...]:
        """Send all that may be sent now, or find that everything is done."""
        if self._target is None:
            return ()
        out: list[Output] = []
        busy: set[str] = set()
        withheld = ""
        for step in (*UPDATE_ORDER, *(Step(url, "both") for url in self._subscriptions if url not in TYPES)):
            subscription = self._subscriptions[step.type_url]
            if not subscription.opened:
                continue
            if step.type_url in self._flights or not busy.isdisjoint(step.needs):
                busy.add(step.type_url)
                continue
            target = self._resources(step.type_url)
            due = subscription.due(target, step.part)
            if due.resources or due.removed or (subscription.owes and step.part != "removals"):
                out.append(self._send(step, subscription, due))
            if due.withheld or step.type_url in self._flights:
                busy.add(step.type_url)
            if due.withheld:
                withheld = withheld or step.type_url
        if withheld and not self._flights:
            return (*out, *self._withheld(self._target, withheld))
        return tuple(out) if busy else (*out, *self._settled(self._target))

    def _send(self, step: Step, subscription: Subscription, due: Due) -> Send:
        assert self._target is not None
        subscription.sent(due)
        if step.type_url == pb.CLUSTER:
            self._resend_endpoints(due.resources)
        self._count += 1
        send = Send(step.type_url, f"{self._prefix}{self._count}", due.resources, due.removed)
        self._flights[step.type_url] = _Flight(send, due.pairs, step.part, self._target)
        self._moved[step.type_url] = None
        return send

    def _resend_endpoints(self, clusters: tuple[Resource, ...]) -> None:
        """A new or changed cluster warms until it gets endpoints, and a client that holds them already does not ask."""
        endpoints = self._subscriptions[pb.ENDPOINT]
        if not endpoints.names:
            return
        for resource in clusters:
            endpoints.forget(_endpoints_of(resource))

    def _withheld(self, snapshot: Snapshot, url: str) -> tuple[Output, ...]:
        if snapshot is self._stuck or not self._whole():
            return ()
        self._stuck = snapshot
        return (Withheld(snapshot.digest, snapshot.revision, url, self._errors[url]),)

    def _whole(self) -> bool:
        return all(self._subscriptions[url].opened for url in WHOLE)

    def _settled(self, snapshot: Snapshot) -> tuple[Output, ...]:
        if snapshot is self._told or not self._whole():
            return ()
        self._told, types, self._moved = snapshot, tuple(self._moved), {}
        return (Acked(snapshot.digest, snapshot.revision, types),)


def _endpoints_of(cluster: Resource) -> str:
    message = pb.Cluster.FromString(cluster.body)
    return message.eds_cluster_config.service_name or cluster.name


def _changed(before: Snapshot | None, after: Snapshot, url: str) -> frozenset[str] | set[str]:
    """Names of which one of the two has no, or another, resource."""
    new = after.resources.get(url, _NOTHING)
    if before is None:
        return set(new)
    old = before.resources.get(url, _NOTHING)
    if old is new:
        return frozenset()
    if after.base and after.base == before.digest:
        return after.changed.get(url, frozenset())
    return _compare(old, new)


def _compare(old: Mapping[str, Resource], new: Mapping[str, Resource]) -> set[str]:
    changed = {name for name, resource in new.items() if old.get(name) is not resource}
    changed.update(name for name in old if name not in new)
    return changed
