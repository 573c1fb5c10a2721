"""TCPRoute, GRPCRoute, and who a route is for, through real Envoys."""

import asyncio
from collections import Counter

import grpc
import grpc.aio
import pytest

from tests.integration.traffic.rig import Rig
from tests.support.waiting import eventually

pytestmark = pytest.mark.real


def tcp(backends: str) -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: t, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: 5432}}]
  rules: [{{backendRefs: [{backends}]}}]
"""


class Stream:
    """One TCP connection through the caller's proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, by: str) -> None:
        self._reader, self._writer, self.by = reader, writer, by

    async def works(self) -> bool:
        self._writer.write(b"ping\n")
        async with asyncio.timeout(5):
            return await self._reader.readline() == b"ping\n"

    def close(self) -> None:
        self._writer.close()


async def connect(port: int) -> Stream:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(5):
        by = (await reader.readline()).decode().strip()
    return Stream(reader, writer, by)


def who(mesh: Rig, count: int) -> Counter[str]:
    async def ask() -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(count):
            stream = await connect(mesh.tcp)
            found[stream.by] += 1
            stream.close()
        return found

    return mesh.background.call(ask())


def test_shares_of_connections(mesh: Rig):
    mesh.objects("")
    assert who(mesh, 30).keys() == {"v1", "v2", "v3"}
    mesh.objects(tcp("{name: v1, port: 5432, weight: 3}, {name: v2, port: 5432}, {name: v3, port: 5432, weight: 0}"))
    counts = who(mesh, 200)
    assert counts["v3"] == 0
    assert 120 <= counts["v1"] <= 180
    mesh.objects(tcp("{name: v3, port: 5432}"))
    assert who(mesh, 10).keys() == {"v3"}


def test_backends_that_cannot_be_sent_to_get_their_share_closed(mesh: Rig):
    mesh.objects(tcp("{name: v1, port: 5432}, {name: gone, port: 5432}"))
    counts = who(mesh, 100)
    assert counts.keys() == {"v1", ""}
    assert 25 <= counts[""] <= 75
    mesh.objects(tcp("{name: gone, port: 5432}"))
    assert who(mesh, 5).keys() == {""}


def test_open_connections_outlive_every_change_of_shares(mesh: Rig):
    mesh.objects("")

    async def open_some(count: int) -> list[Stream]:
        return [await connect(mesh.tcp) for _ in range(count)]

    async def all_work(streams: list[Stream]) -> bool:
        return all([await stream.works() for stream in streams])

    streams: list[Stream] = mesh.background.call(open_some(10))
    changes = (
        "{name: v1, port: 5432}",
        "{name: v1, port: 5432, weight: 9}, {name: v2, port: 5432}",
        "{name: v2, port: 5432}, {name: v3, port: 5432}",
        "{name: v3, port: 5432}",
    )
    for backends in changes:
        mesh.objects(tcp(backends))
        streams += mesh.background.call(open_some(3))
        assert mesh.background.call(all_work(streams)), backends
    mesh.objects("")
    assert mesh.background.call(all_work(streams))
    for stream in streams:
        mesh.background.loop.call_soon_threadsafe(stream.close)


def rpc(rules: str) -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: g, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: api, port: 7070}}]
  rules:
{rules}
"""


def call(mesh: Rig, method: str, *metadata: tuple[str, str]) -> str:
    """Who answered, or the status."""

    async def ask() -> str:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.grpc}") as channel:
            try:
                answer: bytes = await channel.unary_unary(f"/{method}")(b"x", metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as exc:
                return exc.code().name
            return answer.decode().split()[0]

    return mesh.background.call(ask())


def test_calls_are_told_apart_by_service_method_and_metadata(mesh: Rig):
    mesh.objects(
        rpc("""
  - matches: [{method: {service: test.Echo, method: Say}}]
    backendRefs: [{name: v1, port: 7070}]
  - matches: [{method: {service: test.Other}}]
    backendRefs: [{name: v2, port: 7070}]
  - matches: [{method: {type: RegularExpression, method: "A.k"}, headers: [{name: v, value: "3"}]}]
    backendRefs: [{name: v3, port: 7070}]
  - matches: [{headers: [{name: v, value: gone}]}]
    backendRefs: [{name: gone, port: 7070}]
""")
    )
    assert call(mesh, "test.Echo/Say") == "v1"
    assert call(mesh, "test.Other/Say") == "v2"
    assert call(mesh, "test.Echo/Ask", ("v", "3")) == "v3"
    assert call(mesh, "test.Echo/Ask") == "UNIMPLEMENTED"
    assert call(mesh, "test.Echo/Ask", ("v", "gone")) == "UNAVAILABLE"


def test_calls_are_shared_out(mesh: Rig):
    mesh.objects(rpc("  - backendRefs: [{name: v1, port: 7070, weight: 1}, {name: v2, port: 7070, weight: 1}]"))
    assert {call(mesh, "test.Echo/Say") for _ in range(20)} == {"v1", "v2"}


def test_a_namespace_has_its_own_routes_for_services_of_others(mesh: Rig):
    """The caller is of `shop`, as the Service is: a route of another namespace is not for it."""
    mesh.objects("""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: theirs, namespace: other}
spec:
  parentRefs: [{group: "", kind: Service, name: api, namespace: shop}]
  rules: [{backendRefs: [{name: v3, namespace: shop, port: 80}]}]
""")
    assert eventually(lambda: {mesh.get().by for _ in range(30)}, what="answers") == {"v1", "v2", "v3"}
