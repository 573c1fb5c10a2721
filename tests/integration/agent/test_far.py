"""A whole agent calls a Service of a peer: it follows what the peer told, dials what it names, and shows who it is."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mesh import codec, keys
from mesh.model import Metadata
from mesh.model.instance import Endpoint, EndpointSpec
from mesh.store.protocol import Delete, Put
from tests.integration.agent.hosts import free_port, joined
from tests.integration.compile.hosts import server_context
from tests.support.meshes import TestCa, bundle, imported, peering, service
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import mesh

pytestmark = pytest.mark.real

WEB, FAR = "127.0.0.34", "127.0.0.35"


class Far:
    """What stands for a peer's gateway and instance: it says which it is, by whom it was called, and by what name."""

    def __init__(self, folder: Path, ca: TestCa, name: str, account: str, callers: str) -> None:
        self.name, self.port, self.seen = name, free_port(FAR), list[tuple[str, str]]()
        self._tls = server_context(folder, ca.workload(f"shop/{account}"))
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._tls.load_verify_locations(cadata=callers)
        self._tls.sni_callback = self._called
        self._sni = ""

    def _called(self, _socket: object, name: str | None, _context: ssl.SSLContext) -> None:
        self._sni = name or ""

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, FAR, self.port, ssl=self._tls)

    async def _serve(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names = [value for kind, value in writer.get_extra_info("peercert")["subjectAltName"] if kind == "URI"]
        self.seen.append((*names, self._sni))
        writer.write(self.name.encode() + b"\n")
        writer.close()

    def told(self) -> Put:
        """As the control plane writes it of what a peer said."""
        spec = EndpointSpec(
            service="db.west", node=self.name, address=FAR, port=self.port, service_account="gateway", ports=(5432,),
            health="healthy",
        )  # fmt: skip
        found = Endpoint(metadata=Metadata(name=self.name, namespace="shop"), spec=spec)
        return Put(self.key, codec.encode(found))

    @property
    def key(self) -> str:
        return keys.imports_of("west") + f"endpoints/shop/db/{self.name}"


async def said(port: int) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return ""
    try:
        async with asyncio.timeout(10):
            return (await reader.readline()).decode().strip()
    except OSError:
        return ""
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def scenario(folder: Path) -> None:
    west = TestCa("west.test")
    async with mesh(folder / "cp") as cp, AsyncExitStack() as stack:
        roots = "".join(cp.node.context.authority.roots)
        one, two = (Far(folder, west, name, "db", roots) for name in ("one", "two"))
        posed = Far(folder, west, "posed", "other", roots)
        for server in (one, two, posed):
            await stack.enter_async_context(await server.start())
        known = (peering("west"), bundle(west.root, domain="west.test"))
        offered = imported(service("db", port=5432, protocol="tcp"), "west")
        upstream = free_port()
        calls = [{"service": "db.shop.west", "port": 5432, "listen": f"127.0.0.1:{upstream}"}]
        host = await joined(stack, folder, cp, "web", "web", address=WEB, upstreams=calls)
        assert await said(upstream) == ""
        assert host.agent is not None
        assert any("there is no Peering west" in problem for problem in host.telling.report().problems)

        async def answered(name: str) -> bool:
            return await said(upstream) == name

        await cp.store.txn((), tuple(Put(keys.key_for(o.ref), codec.encode(o)) for o in (*known, offered)))
        await cp.store.txn((), (one.told(),))
        await aeventually(lambda: answered("one"), timeout=20, what="the peer's Service answers")
        assert one.seen[-1] == ("spiffe://mesh.test/ns/shop/sa/web", "5432.db.shop.west.mesh")
        # Another gateway instead.
        await cp.store.txn((), (two.told(), Delete(one.key)))
        await aeventually(lambda: answered("two"), timeout=20, what="what was told last is dialled")
        # One that is of that domain, and not of the Service's account.
        await cp.store.txn((), (posed.told(), Delete(two.key)))
        await aeventually(lambda: answered(""), timeout=20, what="nobody is left who may answer")
        assert posed.seen == []


def test_a_service_of_a_peer_is_followed_and_called(tmp_path: Path):
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await scenario(tmp_path)

    asyncio.run(bounded())
