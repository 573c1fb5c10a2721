"""Snapshots of hand-made messages, for simulators and for real Envoys."""

import hashlib

from mesh import pb
from mesh.compile.types import Resource, Snapshot
from mesh.model import Revision


def snapshot_of(*messages: pb.Message) -> Snapshot:
    """Of listeners, routes, clusters, secrets: each under its own name."""
    urls = {kind.DESCRIPTOR.full_name: url for url, kind in pb.MESSAGE.items()}
    resources: dict[str, dict[str, Resource]] = {url: {} for url in pb.SHORT}
    for message in messages:
        body = pb.encode(message)
        version = hashlib.sha256(body).hexdigest()
        resources[urls[message.DESCRIPTOR.full_name]][message.name] = Resource(message.name, version, body)
    return Snapshot(Revision(1), b"", resources)


def with_messages(snapshot: Snapshot, *messages: pb.Message) -> Snapshot:
    """The same, with these added or in place of those of the same name."""
    more = snapshot_of(*messages).resources
    return Snapshot(snapshot.revision, b"", {url: {**snapshot.resources[url], **more[url]} for url in pb.SHORT})


def listener_on(name: str, port: int, *filters: pb.Filter) -> pb.Listener:
    """On loopback, one chain for everybody, no TLS."""
    address = pb.Address(socket_address=pb.SocketAddress(address="127.0.0.1", port_value=port))
    return pb.Listener(name=name, address=address, filter_chains=[pb.FilterChain(filters=filters)])
