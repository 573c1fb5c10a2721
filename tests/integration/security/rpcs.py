"""Every RPC that etcd serves, and how to try one with the credentials of a host."""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
from aetcd.rpc import rpc_pb2 as rpc

from mesh.model import Identity

RANGE, WATCH = "/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch"

# etcd's server also registers these; its client library's stubs, and so ours, leave them out.
_BESIDE = (
    *(f"/v3electionpb.Election/{name}" for name in ("Campaign", "Proclaim", "Leader", "Observe", "Resign")),
    *(f"/v3lockpb.Lock/{name}" for name in ("Lock", "Unlock")),
    *(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")),
    *(f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo" for v in ("v1", "v1alpha")),
    "/etcdserverpb.KV/NoSuchMethod",
    "/",
)
_IN_BINARY = re.compile(rb"/(?:etcdserverpb|v3electionpb|v3lockpb)\.[A-Za-z0-9]+/[A-Za-z0-9]+")


def all_rpcs() -> tuple[str, ...]:
    """Full names of methods: those of the stubs' descriptors, and what stands beside them."""
    services = rpc.DESCRIPTOR.services_by_name.values()
    return (*(f"/{s.full_name}/{m.name}" for s in services for m in s.methods), *_BESIDE)


def unknown_to_us(etcd: Path) -> tuple[str, ...]:
    """Methods whose names stand in the server's own binary, and that `all_rpcs` does not have.

    Go stores constants one after the other without an end, so a name may be followed by what is none of it.
    """
    known = tuple(name.encode() for name in all_rpcs())
    found = {name for name in _IN_BINARY.findall(etcd.read_bytes()) if not name.startswith(known)}
    return tuple(sorted(name.decode() for name in found))


@asynccontextmanager
async def as_host(place: str, roots: Iterable[str], mine: Identity) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to a gate that shows this certificate."""
    credentials = grpc.ssl_channel_credentials(
        "\n".join(roots).encode(), mine.key_pem.encode(), mine.chain_pem.encode()
    )
    options = (("grpc.ssl_target_name_override", "gate.holdfast"), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.secure_channel(place, credentials, options=options) as channel:
        yield channel


async def refusal(channel: grpc.aio.Channel, method: str, body: bytes = b"") -> str:
    """What a call is told; '' if it is let through. On the wire it is the same for every kind of method."""
    try:
        async for _ in channel.unary_stream(method)(body, timeout=20):
            pass
    except grpc.aio.AioRpcError as exc:
        return f"{exc.code().name} {exc.details()}"
    return ""


async def range_refusal(channel: grpc.aio.Channel, request: rpc.RangeRequest) -> str:
    return await refusal(channel, RANGE, request.SerializeToString())


async def watch(channel: grpc.aio.Channel, create: rpc.WatchCreateRequest) -> rpc.WatchResponse:
    """etcd's first answer to a watch."""
    call = channel.stream_stream(
        WATCH, request_serializer=rpc.WatchRequest.SerializeToString, response_deserializer=rpc.WatchResponse.FromString
    )(timeout=20)
    try:
        await call.write(rpc.WatchRequest(create_request=create))
        answer = await call.read()
        assert isinstance(answer, rpc.WatchResponse), f"the stream ended: {await call.code()} {await call.details()}"
        return answer
    finally:
        call.cancel()
