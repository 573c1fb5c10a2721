"""The store gate: a real Envoy in front of real etcd members, with TLS and authentication."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
from aetcd.rpc import rpc_pb2 as rpc

from controlplane.demo.etcd_cluster import EtcdCluster
from controlplane.demo.process import free_port
from mesh.model import GateSpec, Identity
from mesh.store.protocol import Put
from tests.integration.compile.hosts import Background, Host
from tests.support.meshes import TestCa, config, local, world
from tests.support.servers import etcd

PREFIX = "/holdfast/v1/mesh/objects/Service/"
KEY = PREFIX + "shop/api"


class Gate(NamedTuple):
    cluster: EtcdCluster
    ca: TestCa
    place: str

    def channel(self, mine: Identity) -> grpc.aio.Channel:
        """A connection of its own, without any retries."""
        credentials = grpc.ssl_channel_credentials(
            self.ca.root.encode(), mine.key_pem.encode(), mine.chain_pem.encode()
        )
        options = (
            ("grpc.ssl_target_name_override", "gate.holdfast"),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        )
        return grpc.aio.secure_channel(self.place, credentials, options=options)


@contextmanager
def running_gate(folder: Path, members: int = 1) -> Iterator[Gate]:
    """With KEY in the store."""
    ca, background = TestCa(), Background()
    with etcd(folder / "etcd", members=members) as cluster:
        asyncio.run(_fill(cluster))
        place = f"127.0.0.1:{free_port()}"
        pki: Path = cluster.pki
        spec = GateSpec(
            listen=place,
            etcd=cluster.endpoints,
            etcd_ca=str(pki / "ca.pem"),
            etcd_cert=str(pki / "holdfast-gate.pem"),
            etcd_key=str(pki / "holdfast-gate-key.pem"),
        )
        host = Host("gate", folder, background)
        try:
            mine = ca.identity("/node/gate-1", dns="gate.holdfast")
            more = {"bundle_roots": (ca.root,), "access_log": str(host.log)}
            host.publish(world(config()), local(identities={"gate": mine}, gate=spec, **more))
            yield Gate(cluster, ca, place)
        finally:
            host.close()
            background.close()


async def _fill(cluster: EtcdCluster) -> None:
    store = cluster.store()
    await store.txn([], [Put(KEY, b"{}")])
    await store.close()


class Caller:
    """One connection to the gate."""

    def __init__(self, gate: Gate, mine: Identity) -> None:
        self.channel = gate.channel(mine)
        self._range: Any = self.channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=rpc.RangeResponse.FromString,
        )
        self._watch: Any = self.channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )

    async def read(self) -> None:
        answer = await self._range(rpc.RangeRequest(key=KEY.encode()), timeout=15)
        assert answer.kvs[0].value

    async def watch(self) -> tuple[Any, int]:
        """An open watch, and the member that it is on."""
        call = self._watch()
        create = rpc.WatchCreateRequest(key=PREFIX.encode(), range_end=PREFIX[:-1].encode() + b"0")
        await call.write(rpc.WatchRequest(create_request=create))
        async with asyncio.timeout(10):
            answer = await call.read()
        if answer is grpc.aio.EOF:
            raise AssertionError(await call.code())
        assert answer.created
        return call, answer.header.member_id
