"""The store gate: a real Envoy in front of a real etcd, with TLS and authentication."""

import asyncio
from collections.abc import Iterator

import grpc.aio
import pytest

from mesh.model import Identity
from mesh.store.errors import StoreError
from mesh.store.etcd import EtcdStore, Tls
from tests.integration.compile.gates import KEY, Gate, running_gate

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with running_gate(tmp_path_factory.mktemp("gate")) as found:
        yield found


def read(gate: Gate, mine: Identity) -> bytes:
    async def ask() -> bytes:
        tls = Tls(gate.ca.root.encode(), mine.chain_pem.encode(), mine.key_pem.encode())
        store = EtcdStore([gate.place], tls=tls, server_name="gate.holdfast")
        try:
            item = await store.get(KEY)
            return item.value if item else b""
        finally:
            await store.close()

    return asyncio.run(ask())


def refusal(gate: Gate, mine: Identity, method: str, **metadata: str) -> str:
    """What a call of this method is told; '' if it is let through."""

    async def ask() -> str:
        async with gate.channel(mine) as channel:
            try:
                await channel.unary_unary(method)(b"\x0a\x01a", timeout=10, metadata=tuple(metadata.items()))
            except grpc.aio.AioRpcError as exc:
                return f"{exc.code().name} {exc.details()}"
            return ""

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/node/vm-1", "/controlplane/cp-1"])
def test_nodes_and_control_planes_read(gate: Gate, path: str):
    assert read(gate, gate.ca.identity(path)) == b"{}"


@pytest.mark.parametrize("path", ["/ns/shop/sa/web", "/nodes/vm-1"])
def test_others_do_not(gate: Gate, path: str):
    with pytest.raises(StoreError):
        read(gate, gate.ca.identity(path))
    assert "gate-read-only" in refusal(gate, gate.ca.identity(path), "/etcdserverpb.KV/Range")


@pytest.mark.parametrize(
    "method",
    [
        "KV/Put",
        "KV/Txn",
        "KV/DeleteRange",
        "KV/Compact",
        "Lease/LeaseGrant",
        "Lease/LeaseKeepAlive",
        "Auth/AuthDisable",
        "Auth/Authenticate",
        "Cluster/MemberList",
        "Maintenance/Snapshot",
        "KV/Range/",
        "KV/range",
    ],
)
def test_all_else_is_refused_by_name(gate: Gate, method: str):
    node = gate.ca.identity("/node/vm-1")
    assert refusal(gate, node, f"/etcdserverpb.{method}").startswith("PERMISSION_DENIED holdfast: denied by gate-read")
    assert read(gate, node) == b"{}"


def test_a_caller_cannot_bring_credentials_of_its_own(gate: Gate):
    """etcd would refuse an unknown token; it never sees it."""
    node = gate.ca.identity("/node/vm-1")
    told = refusal(gate, node, "/etcdserverpb.KV/Range", token="forged.1", authorization="forged.1")
    assert "token" not in told.lower()
    assert "PERMISSION_DENIED" in told  # etcd's: key "a" is outside of what the gate's user may read
    assert "holdfast" not in told
