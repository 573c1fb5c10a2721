"""A peer that says whatever a test wants, with a control plane's certificate of its own trust domain."""

import asyncio
import random
import ssl
import time
from contextlib import asynccontextmanager, suppress

import aiohttp
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ca import keys as ca_keys
from ca.authority import Authority
from ca.policy import Grant
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from mesh import codec, keys, spiffe
from mesh.model import Metadata, TrustBundle, TrustBundleSpec
from mesh.store.protocol import Put
from multicluster import wire
from tests.unit.controlplane.harness import SEAL_KEY, free_port


class Forger:
    def __init__(self, folder, name):
        self.name, self.domain, self.folder = name, f"{name}.test", folder / f"forger-{name}"
        self.folder.mkdir()
        self.authority = Authority(
            MemorySigner(self.domain, clock=time.time),
            trust_domain=self.domain,
            replica="cp1",
            directory=self.folder,
            cipher=Cipher([SEAL_KEY]),
            clock=time.time,
            rng=random.Random(1),
        )
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.script = None
        self.document = b""
        """What the bundle endpoint says; text: where it sends readers to."""
        self.dialled = self.fetched = 0

    def file(self, identity, authority=None):
        """A key and a chain for any SPIFFE id at all, signed by this forger."""
        authority = authority or self.authority
        key = ca_keys.new_key()
        grant = Grant(spiffe_id=spiffe.parse(identity), dns_names=("controlplane.holdfast",), ttl=3600.0)
        chain = authority.issue(grant, load_pem_private_key(key.encode(), None).public_key(), time.time())
        assert isinstance(chain, str), chain
        file = self.folder / f"{random.randrange(10**9)}.pem"
        file.write_text(key + chain)
        return file

    def dialler(self, identity, roots, sni_checked=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = sni_checked
        context.load_verify_locations(cadata="\n".join(roots))
        if identity:
            context.load_cert_chain(self.file(identity))
        return context

    @asynccontextmanager
    async def serving(self, identity=""):
        """Answers sessions with the script: async (link, hello) -> None."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file(identity or f"spiffe://{self.domain}/controlplane/cp1"))

        async def session(request):
            self.dialled += 1
            ws = web.WebSocketResponse(max_msg_size=0)
            await ws.prepare(request)
            hello = msgspec.json.decode((await ws.receive()).data, type=wire.ToExporter)
            with suppress(ConnectionError, aiohttp.ClientError, TypeError):  # the importer hung up
                await self.script(Line(ws), hello)
            return ws

        async def bundle(_):
            self.fetched += 1
            if isinstance(self.document, str):
                raise web.HTTPFound(self.document)
            return web.Response(body=self.document)

        app = web.Application()
        app.router.add_get("/v1/trust-bundle", bundle)
        app.router.add_get("/v1/peering/session", session)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    def welcome(self, **changes):
        said = {"version": 1, "cluster": self.name, "trust_domain": self.domain, "epoch": "e", "position": 1}
        return wire.Welcome(**said | changes)


class Line:
    def __init__(self, ws):
        self.ws = ws

    async def say(self, message):
        raw = message if isinstance(message, str) else wire.encode(message).decode()
        async with asyncio.timeout(20):
            await self.ws.send_str(raw)

    async def hear(self):
        """The importer's next word; None: it hung up."""
        message = await self.ws.receive(timeout=20)
        if message.type is not aiohttp.WSMsgType.TEXT:
            return None
        return msgspec.json.decode(message.data, type=wire.ToExporter)


@asynccontextmanager
async def forger(folder, cp, name="east", **spec):
    """A forger that `cp` takes for its peer `name`."""
    made = Forger(folder, name)
    await made.authority.start()
    peering = {
        "apiVersion": "holdfast.dev/v1",
        "kind": "Peering",
        "metadata": {"name": name},
        "spec": {"trustDomain": made.domain, "addresses": [made.url], **spec},
    }
    status, done = await cp.apply(peering)
    assert status == 200, done
    bundle = TrustBundle(
        metadata=Metadata(name=made.domain),
        spec=TrustBundleSpec(trust_domain=made.domain, sequence=5, roots=made.authority.roots),
    )
    await cp.store.txn((), (Put(keys.key_for(bundle.ref), codec.encode(bundle)),))
    yield made


def offers(pairs, *, start=1, each=2000):
    """Offers of these (key, value) pairs."""
    pairs = list(pairs)
    for number, at in enumerate(range(0, max(1, len(pairs)), each), start):
        put = tuple(
            wire.Entry(key=key, value=msgspec.Raw(msgspec.json.encode(value))) for key, value in pairs[at : at + each]
        )
        yield wire.Offer(nonce=number, position=1, put=put, synced=at + each >= len(pairs))
