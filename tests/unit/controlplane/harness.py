"""A whole control-plane node on a store in memory, with real TLS, and callers of each sort."""

import asyncio
import contextlib
import io
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from yarl import URL

from ca import keys as ca_keys
from ca.authority import Authority
from ca.policy import Grant
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from controlplane import facts
from controlplane.audit import AuditLog
from controlplane.auth import new_token
from controlplane.daemon import Node
from controlplane.issuing import Issuing
from controlplane.settings import EtcdSettings, Limits, Settings
from controlplane.setup import InitOptions, init_store
from mesh import codec, keys, spiffe
from mesh.aio import Backoff
from mesh.model import Metadata, Ref
from mesh.model import Node as NodeObject
from mesh.model.core import NodeSpec
from mesh.model.uplink import Answer, Hello, Report, Up
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put, Store

DOMAIN = "mesh.test"
SEAL_KEY = bytes(range(32))
SERVER_NAME = "controlplane.holdfast"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings_for(folder: Path, replica: str = "cp1", **more: Any) -> Settings:
    port = free_port()
    return Settings(
        replica=replica,
        listen=f"127.0.0.1:{port}",
        advertise=f"https://127.0.0.1:{port}",
        data_dir=str(folder / replica),
        etcd=EtcdSettings(endpoints=("127.0.0.1:1",)),
        seal_key_file=str(folder / "seal.key"),
        **{"election_ttl_seconds": 2, **more},
    )


class Cp:
    """One running replica, and what a test does with it."""

    def __init__(self, store: Store, node: Node, settings: Settings, issuing: Issuing, admin: str) -> None:
        self.store, self.node, self.settings, self.issuing, self.admin = store, node, settings, issuing, admin
        self.url = settings.advertise
        self.tmp = Path(settings.data_dir)

    @property
    def context(self):
        return self.node.context

    def audit_text(self) -> str:
        return self.settings.audit_path.read_text()

    def anonymous_tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata="\n".join(self.issuing.trusted))

    def node_tls(self, name: str, authority: Authority | None = None) -> ssl.SSLContext:
        """As the agent of a node."""
        return self.cert_tls(f"/node/{name}", authority)

    def cert_tls(self, path: str, authority: Authority | None = None) -> ssl.SSLContext:
        authority = authority or self.issuing.authority
        key = ca_keys.new_key()
        identity = spiffe.parse(f"spiffe://{authority.trust_domain}{path}")
        grant = Grant(spiffe_id=identity, dns_names=(), ttl=3600.0)
        chain = authority.issue(grant, load_pem_private_key(key.encode(), None).public_key(), time.time())
        assert isinstance(chain, str), chain
        folder = self.tmp / "clients"
        folder.mkdir(exist_ok=True)
        file = folder / (path.strip("/").replace("/", "-") + f"-{random.randrange(10**9)}.pem")
        file.write_text(key + chain)
        context = self.anonymous_tls()
        context.load_cert_chain(file)
        return context

    def session(self, tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls or self.anonymous_tls()))

    @asynccontextmanager
    async def request(
        self, method: str, path: str, *, token: str | None = None, tls: ssl.SSLContext | None = None, **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers.update(more.pop("headers", {}))
        async with (
            self.session(tls) as session,
            session.request(
                method, URL(self.url + path, encoded=True), headers=headers, server_hostname=SERVER_NAME, **more
            ) as response,
        ):
            yield response

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = "", **more: Any):
        """(status, JSON). As the admin unless told otherwise."""
        token = self.admin if token == "" and "tls" not in more else token or None
        if body is not None:
            more["data"] = io.BytesIO(body if isinstance(body, bytes) else msgspec.json.encode(body))
        async with self.request(method, path, token=token, **more) as response:
            raw = await response.read()
            return response.status, (msgspec.json.decode(raw) if raw else None)

    async def apply(self, *objects: Any, delete: Any = (), dry_run: bool = False):
        return await self.call(
            "POST", "/v1/apply", {"objects": list(objects), "delete": list(delete), "dryRun": dry_run}
        )

    async def operator(self, role: str, ttl: float = 60.0, now: float | None = None) -> str:
        text, key, record = new_token(f"some-{role}", role, now or time.time(), ttl)
        await self.store.txn((), (Put(key, codec.encode_struct(record)),))
        return text

    async def add_node(self, name: str, *identities: str, address: str = "10.0.0.1", **more: Any) -> None:
        obj = NodeObject(
            metadata=Metadata(name=name), spec=NodeSpec(address=address, identities=tuple(identities), **more)
        )
        await self.store.txn((), (Put(keys.key_for(Ref("Node", "", name)), codec.encode(obj)),))


@asynccontextmanager
async def replica(store: Store, signer: MemorySigner, settings: Settings, admin: str) -> AsyncIterator[Cp]:
    """Runs a node until the block ends."""
    folder = Path(settings.data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    config = await facts.learn(store, folder, Backoff(rng))
    audit = AuditLog(settings.audit_path, time.time, sync=settings.audit_sync)
    issuing = Issuing(settings, store, signer, Cipher([SEAL_KEY]), config, time.time, rng)
    await issuing.start()
    node = Node(settings, store, issuing, config, audit, rng)
    task = asyncio.create_task(node.run())
    try:
        async with asyncio.timeout(10):
            ready = asyncio.create_task(node.context.mirror.ready.wait())
            await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            await ready
        yield Cp(store, node, settings, issuing, admin)
    finally:
        await node.stop()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        audit.close()


@asynccontextmanager
async def mesh(folder: Path, store: Store | None = None, **more: Any) -> AsyncIterator[Cp]:
    """A fresh mesh with one replica."""
    store = store or MemoryStore()
    signer = MemorySigner(DOMAIN, clock=time.time)
    result = await init_store(store, signer, InitOptions(trust_domain=DOMAIN), time.time())
    async with replica(store, signer, settings_for(folder, **more), result.admin_token) as cp:
        yield cp


def service(name: str = "api", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"port": 80, "protocol": "http", "targetPort": 8080}], "serviceAccounts": [name], **spec},
    }


def namespace(name: str = "shop") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def instance(name: str = "api-n1", node: str = "n1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "holdfast.dev/v1",
        "kind": "Instance",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "api"}},
        "spec": {
            "node": node,
            "service": "api",
            "serviceAccount": "api",
            "address": "10.0.0.1",
            "ports": [{"port": 8080}],
            "health": "healthy",
            **spec,
        },
    }


SHORT = Limits(transaction_ops=20)


@asynccontextmanager
async def agent(cp, name="n1", answers=None, hello=None):
    """An agent's end of an uplink: answers pings by itself, and questions from a table of texts or functions."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=cp.node_tls(name))) as session,
        session.ws_connect(cp.url + "/v1/uplink", server_hostname=SERVER_NAME) as ws,
    ):
        await ws.send_str(msgspec.json.encode(Up(hello=Hello(node=hello or name, version="1"))).decode())

        async def listen():
            async for message in ws:
                ask = msgspec.json.decode(message.data)["ask"]
                said = (answers or {}).get(ask["what"])
                if callable(said):
                    said = await asyncio.to_thread(said, ask.get("body", ""))
                answer = Answer(id=ask["id"], body=said) if said else Answer(id=ask["id"], error="I do not know that")
                await ws.send_str(msgspec.json.encode(Up(answer=answer)).decode())

        listening = asyncio.create_task(listen())
        try:
            yield ws
        finally:
            listening.cancel()


async def say(ws, **report):
    await ws.send_str(msgspec.json.encode(Up(report=Report(**report))).decode())
