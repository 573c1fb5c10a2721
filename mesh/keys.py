"""The etcd key layout. The only file that spells a key.

    /holdfast/v1/                          what is now. Control-plane nodes follow it as one range: they see each
                                           transaction whole
    /holdfast/v1/mesh/                     agents may read all of this, through the store gate
        epoch                              random; renewed by init and restore
        commit                             last control-plane transaction: author, what it deleted
        deletions                          running total of declared deletions (see mesh.store.follow's guard)
        objects/<Kind>/<ns>/<name>         what operators write; one range, so a revision is seen whole
        endpoints/<ns>/<service>/<instance>
        bundles/<trust-domain>
        imports/<peer>/...
    /holdfast/v1/private/                  control-plane nodes only
        objects/<Kind>/<ns>/<name>         Node, Instance
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
OBJECTS = MESH + "objects/"
ENDPOINTS = MESH + "endpoints/"
BUNDLES = MESH + "bundles/"

PRIVATE_OBJECTS = PRIVATE + "objects/"
TOKENS = PRIVATE + "tokens/"
JOINS = PRIVATE + "joins/"
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
    if row.area == "endpoints":
        return f"{ENDPOINTS}{part(ref.namespace)}/{part(service)}/{name}"
    base = OBJECTS if row.area == "objects" else PRIVATE_OBJECTS
    return f"{base}{ref.kind}/{part(ref.namespace) if row.namespaced else CLUSTER_SCOPE}/{name}"


def prefix_for(kind: str, namespace: str = "") -> str:
    """The range of all objects of a kind, or of those in one namespace."""
    row = KINDS[kind]
    if row.area == "bundles":
        return BUNDLES
    base = {"objects": OBJECTS + kind + "/", "private": PRIVATE_OBJECTS + kind + "/", "endpoints": ENDPOINTS}[row.area]
    return base + part(namespace) + "/" if namespace and row.namespaced else base


def join_of(node: str) -> str:
    """The key of the record of a node's last join."""
    return JOINS + part(node)


def endpoints_of(service: ServiceRef) -> str:
    """The range of one Service's endpoints."""
    return f"{ENDPOINTS}{part(service.namespace)}/{part(service.name)}/"


def parse(key: str) -> Ref | EndpointKey | None:
    """What a key names: an object, an endpoint, or None for a key that holds neither (epoch, commit, tokens, ...)."""
    if key.startswith(BUNDLES):
        return Ref("TrustBundle", "", key.removeprefix(BUNDLES))
    if key.startswith(ENDPOINTS):
        match key.removeprefix(ENDPOINTS).split("/"):
            case [namespace, service, instance]:
                return EndpointKey(ServiceRef(namespace, service), instance)
        return None
    for base in (OBJECTS, PRIVATE_OBJECTS):
        if key.startswith(base):
            match key.removeprefix(base).split("/"):
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
