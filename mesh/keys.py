"""The etcd key layout. The only file that spells a key.

    /holdfast/v1/                          what is now. Control-plane nodes follow it as one range: they see each
                                           transaction whole
    /holdfast/v1/mesh/                     agents may read all of this, through the store gate
        epoch                              random; renewed by init and restore
        commit                             last control-plane transaction: author, what it deleted
        deletions                          running total of declared deletions (mesh.store.guard), but for imports/
        withdrawals/<peer>                 the same of imports/<peer>/. It stays, so that it never goes back
        objects/<Kind>/<ns>/<name>         what operators write; one range, so a revision is seen whole
        endpoints/<ns>/<service>/<instance>
        bundles/<trust-domain>
        imports/<peer>/services/<ns>/<service>
        imports/<peer>/endpoints/<ns>/<service>/<name>      what to dial: the peer's gateways, or its instances
    /holdfast/v1/private/                  control-plane nodes only
        objects/<Kind>/<ns>/<name>         Node, Instance
        peers/<peer>                       what a peering needs besides its object; peering-tokens/<id>
        tokens/<id>, joins/<node>, operators/<sha256>, ca/..., elections/<name>, replicas/<replica>
    /holdfast/history/                     what was; read when it is asked for. Control-plane nodes only
        index/<entry>                      who changed which objects when; an entry's name sorts by time
        objects/<entry>                    these objects before and after

A cluster-scoped kind has `_` for its namespace. Names are checked before they get here (mesh.validate), and `key_for`
refuses what could leave its own place: an empty part, `/`, `.` and `..`.
"""

from typing import NamedTuple

from mesh.model import KINDS, Ref, ServiceRef

ALL = "/holdfast/"
ROOT = ALL + "v1/"
MESH = ROOT + "mesh/"
PRIVATE = ROOT + "private/"

EPOCH = MESH + "epoch"
COMMIT = MESH + "commit"
DELETIONS = MESH + "deletions"
WITHDRAWALS = MESH + "withdrawals/"
OBJECTS = MESH + "objects/"
ENDPOINTS = MESH + "endpoints/"
BUNDLES = MESH + "bundles/"
IMPORTS = MESH + "imports/"

PRIVATE_OBJECTS = PRIVATE + "objects/"
TOKENS = PRIVATE + "tokens/"
JOINS = PRIVATE + "joins/"
PEERS = PRIVATE + "peers/"
PEERING_TOKENS = PRIVATE + "peering-tokens/"
OPERATORS = PRIVATE + "operators/"
CA = PRIVATE + "ca/"
ELECTIONS = PRIVATE + "elections/"
REPLICAS = PRIVATE + "replicas/"
HISTORY = ALL + "history/"
HISTORY_INDEX = HISTORY + "index/"
HISTORY_OBJECTS = HISTORY + "objects/"

CLUSTER_SCOPE = "_"


class BadKeyError(ValueError):
    """A name that cannot be part of a key, or a key that is not of this layout."""


class EndpointKey(NamedTuple):
    service: ServiceRef
    instance: str


def part(text: str) -> str:
    """Text as one part of a key.

    Raises:
        BadKeyError: it is empty, a dot name, or holds a slash or a control character.

    """
    if not text or text in {".", ".."} or "/" in text or not text.isprintable():
        raise BadKeyError(f"{text[:80]!r} cannot be a part of a key")
    return text


def key_for(ref: Ref, *, service: str = "") -> str:
    """The key of an object. An Endpoint also needs the name of its Service."""
    row = KINDS.get(ref.kind)
    if row is None:
        raise BadKeyError(f"no such kind: {ref.kind[:80]!r}")
    name = part(ref.name)
    if row.area == "bundles":
        return BUNDLES + name
    if row.area == "imports":
        return _imported(ServiceRef(ref.namespace, ref.name), "services")
    if row.area == "endpoints":
        return endpoints_of(ServiceRef(ref.namespace, service)) + name
    base = OBJECTS if row.area == "objects" else PRIVATE_OBJECTS
    return f"{base}{ref.kind}/{part(ref.namespace) if row.namespaced else CLUSTER_SCOPE}/{name}"


def prefix_for(kind: str, namespace: str = "") -> str:
    """The range of all objects of a kind, or of those in one namespace. Of imports: of all, endpoints too."""
    row = KINDS[kind]
    if row.area == "bundles":
        return BUNDLES
    if row.area == "imports":
        return IMPORTS
    base = {"objects": OBJECTS + kind + "/", "private": PRIVATE_OBJECTS + kind + "/", "endpoints": ENDPOINTS}[row.area]
    return base + part(namespace) + "/" if namespace and row.namespaced else base


def join_of(node: str) -> str:
    """The key of the record of a node's last join."""
    return JOINS + part(node)


def endpoints_of(service: ServiceRef) -> str:
    """The range of one Service's endpoints, also of a peer's."""
    if service.peer:
        return _imported(service, "endpoints") + "/"
    return f"{ENDPOINTS}{part(service.namespace)}/{part(service.name)}/"


def imports_of(peer: str) -> str:
    """The range of all that a peer told."""
    return f"{IMPORTS}{part(peer)}/"


def peer_of(key: str) -> str:
    """Whose word put the key, or range, there: a peer's name under its imports; empty: this cluster's own."""
    return key.removeprefix(IMPORTS).partition("/")[0] if key.startswith(IMPORTS) else ""


def total_of(peer: str) -> str:
    """Where deletions of a peer's imports are added up; of an empty name: of everything else that agents read."""
    return WITHDRAWALS + part(peer) if peer else DELETIONS


def imported_services_of(peer: str) -> str:
    """The range of a peer's services, without their endpoints."""
    return imports_of(peer) + "services/"


def _imported(service: ServiceRef, what: str) -> str:
    return f"{imports_of(service.peer)}{what}/{part(service.namespace)}/{part(service.short)}"


def parse(key: str) -> Ref | EndpointKey | None:
    """What a key names: an object, an endpoint, or None for a key that holds neither (epoch, commit, tokens, ...)."""
    if key.startswith(BUNDLES):
        return Ref("TrustBundle", "", key.removeprefix(BUNDLES))
    for base, place in ((ENDPOINTS, _endpoint), (IMPORTS, _import), (OBJECTS, _object), (PRIVATE_OBJECTS, _object)):
        if key.startswith(base):
            return place(key.removeprefix(base).split("/"))
    return None


def _endpoint(parts: list[str]) -> EndpointKey | None:
    match parts:
        case [namespace, service, instance]:
            return EndpointKey(ServiceRef(namespace, service), instance)
    return None


def _import(parts: list[str]) -> Ref | EndpointKey | None:
    match parts:
        # A dot in the service's name would name another peer's.
        case [peer, "services", namespace, service] if "." not in service:
            return Ref("ImportedService", namespace, f"{service}.{peer}")
        case [peer, "endpoints", namespace, service, name] if "." not in service:
            return EndpointKey(ServiceRef(namespace, f"{service}.{peer}"), name)
    return None


def _object(parts: list[str]) -> Ref | None:
    match parts:
        case [kind, namespace, name]:
            return Ref(kind, "" if namespace == CLUSTER_SCOPE else namespace, name)
    return None


def prefix_end(prefix: str) -> bytes:
    """The exclusive end of the range of all keys with this prefix (etcd API, RangeRequest.range_end)."""
    raw = bytearray(prefix.encode())
    while raw:
        if raw[-1] < 0xFF:
            raw[-1] += 1
            return bytes(raw)
        raw.pop()
    return b"\0"
