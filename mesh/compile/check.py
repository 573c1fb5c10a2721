"""check: is a snapshot whole? Every name that one resource refers to must be another's, and hold what is expected."""

from collections.abc import Iterator

from mesh import pb
from mesh.compile.types import Snapshot

_FAR = 24
"""Nesting of messages; ours have some ten levels."""


def check(snapshot: Snapshot) -> tuple[str, ...]:
    """What is wrong with it, in words for a bug report; nothing if all is well."""
    return tuple(_faults(snapshot))


def _faults(snapshot: Snapshot) -> Iterator[str]:
    refers: dict[str, set[str]] = {url: set() for url in pb.SHORT}
    for url, resources in snapshot.resources.items():
        if url not in pb.SHORT:
            yield f"unknown type {url}"
            continue
        for name, resource in resources.items():
            try:
                message = pb.decode(url, resource.body)
            except pb.DecodeError as exc:
                yield f"{pb.SHORT[url]} {name}: {exc}"
                continue
            own = message.cluster_name if url == pb.ENDPOINT else message.name  # type: ignore[attr-defined]
            if own != name or resource.name != name:
                yield f"{pb.SHORT[url]} {name}: is called {own} inside"
            _collect(message, refers, 0)
    for url, wanted in refers.items():
        have = snapshot.resources.get(url, {})
        for name in sorted(wanted - have.keys()):
            yield f"{pb.SHORT[url]} {name} is referred to, and is not there"
    # A load assignment or route that nothing asks for would never be acknowledged.
    for url in (pb.ENDPOINT, pb.ROUTE):
        for name in sorted(snapshot.resources.get(url, {}).keys() - refers[url]):
            yield f"{pb.SHORT[url]} {name} is there, and nothing refers to it"
    yield from _places(snapshot)


def _places(snapshot: Snapshot) -> Iterator[str]:
    """Two listeners at one place: Envoy would refuse the second."""
    seen: dict[bytes, str] = {}
    for name, resource in snapshot.resources.get(pb.LISTENER, {}).items():
        place = pb.encode(pb.Listener.FromString(resource.body).address)
        if place in seen:
            yield f"lds {name} listens where {seen[place]} does"
        seen[place] = name


def _collect(message: pb.Message, refers: dict[str, set[str]], depth: int) -> None:
    """Names that a message refers to, at any depth and inside of Anys."""
    if depth > _FAR:
        return
    kind = message.DESCRIPTOR.full_name
    if kind == "google.protobuf.Any":
        found = _KNOWN.get(message.type_url)  # type: ignore[attr-defined]
        if found is not None:
            _collect(found.FromString(message.value), refers, depth + 1)  # type: ignore[attr-defined]
        return
    _note(message, refers)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = [v for v in value.values() if isinstance(v, pb.Message)]
        else:
            inner = value if field.is_repeated else [value]
        for part in inner:
            _collect(part, refers, depth + 1)


def _note(message: pb.Message, refers: dict[str, set[str]]) -> None:
    """The name that this message itself refers to."""
    match message:
        case pb.Cluster(type=pb.Cluster.EDS):
            refers[pb.ENDPOINT].add(message.eds_cluster_config.service_name or message.name)
        case pb.Rds():
            refers[pb.ROUTE].add(message.route_config_name)
        case pb.SdsSecretConfig():
            refers[pb.SECRET].add(message.name)
        case pb.TcpProxy() | pb.RouteAction():
            refers[pb.CLUSTER].add(message.cluster)
        case _:
            pass


_KNOWN = {
    pb.TYPE_PREFIX + kind.DESCRIPTOR.full_name: kind
    for kind in (pb.HttpConnectionManager, pb.TcpProxy, pb.DownstreamTlsContext, pb.UpstreamTlsContext)
}
