"""Names forged across trust domains, in all combinations: no CA speaks for names of another domain, at either end."""

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.demo.process import free_port
from mesh.model import Identity
from tests.integration.compile.hosts import context, get, server_context
from tests.integration.compile.two import EAST, EXPORTED, IMPORTED, WEST, Two
from tests.support.meshes import TestCa, bundle, policy, rule

pytestmark = pytest.mark.real

E1, GE1, WEB_AT, ROGUE = "127.0.4.1", "127.0.4.2", "127.0.4.3", "127.0.4.4"
DOMAINS = ("west.test", "east.test", "north.test", "west.test.evil", "west", "")
PATHS = ("/ns/shop/sa/web", "/ns/shop/sa/api", "/node/e1", "")
OWN = ("east", "spiffe://east.test/ns/shop/sa/web")
LET_IN = {OWN, ("west", "spiffe://west.test/ns/shop/sa/web")}


class Mesh:
    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.two = two = Two(folder, stack)
        # north is nobody's peer; `again` is a root of the same name as west's.
        self.cas = {**two.ca, "north": TestCa("north.test"), "again": TestCa("west.test")}
        stranger = bundle(self.cas["north"].root, domain="north.test")
        # By name, and by the beginning of names.
        batch = rule(name="batch", namespaces=("spiffe://west.test/ns/batch", "batch"))
        two.set(EAST, *EXPORTED, stranger, policy("callers", "api", rule(*(name for _, name in LET_IN)), batch))
        two.set(EAST, policy("own", "db", rule("shop/web")))
        two.instances(EAST, ("e1", E1))
        two.gateways(EAST, ("ge1", GE1))
        self.rogue = free_port(ROGUE)
        two.places["rogue"] = (ROGUE, self.rogue)
        two.set(WEST, *IMPORTED, stranger, two.far("api", "rogue"))
        self.web = two.caller("web", WEB_AT, ["api.shop.east"])

    def trusted(self, signer: str, name: str) -> bool:
        """Is it a name that this CA may give, of a domain that has a Peering or is one's own?"""
        domain = name.removeprefix("spiffe://").partition("/")[0]
        return signer in {WEST, EAST} and domain == f"{signer}.test"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with contextlib.ExitStack() as stack:
        yield Mesh(tmp_path_factory.mktemp("forged"), stack)


def forged(mesh: Mesh) -> Iterator[tuple[str, str, Identity]]:
    """Signer, name, and what a CA would sign that signs anything."""
    for (signer, ca), domain, path in itertools.product(mesh.cas.items(), DOMAINS, PATHS):
        name = f"spiffe://{domain}{path}"
        yield signer, name, ca.identity("", uri=name)


def twice_named(mesh: Mesh) -> Iterator[tuple[str, str, Identity]]:
    """Two names, of one's own domain or of another: Envoy chooses a bundle by the first, and compares both."""
    names = [
        f"spiffe://{domain}.test/ns/{path}"
        for domain in (WEST, EAST)
        for path in ("shop/sa/web", "shop/sa/api", "batch/sa/x")
    ]
    for signer, both in itertools.product((WEST, EAST), itertools.permutations(names, 2)):
        yield signer, " ".join(both), mesh.cas[signer].identity("", uri=both[0], more=both[1:])


async def answered(place: tuple[str, int], sni: str, tls: ssl.SSLContext) -> int:
    """The status; 0: it got no answer."""
    try:
        return (await get(*place, tls=tls, sni=sni)).status
    except OSError:
        return 0


async def said(place: tuple[str, int], sni: str, tls: ssl.SSLContext) -> bytes:
    """What a server that speaks first says; nothing: it says nothing to this one."""
    try:
        reader, writer = await asyncio.open_connection(*place, ssl=tls, server_hostname=sni)
    except OSError:
        return b""
    try:
        async with asyncio.timeout(10):
            return await reader.readline()
    except OSError:
        return b""
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("through", ["e1", "ge1"])
def test_as_a_caller(mesh: Mesh, through: str):
    """At the callee itself, and through its gateway: HTTP, and TCP that speaks first."""
    place, root = mesh.two.places[through], mesh.cas[EAST].root

    async def run() -> None:
        answers: dict[tuple[str, str], int] = {}
        words: dict[tuple[str, str], bytes] = {}
        at_once = asyncio.Semaphore(16)

        async def ask(who: tuple[str, str], tls: ssl.SSLContext) -> None:
            async with at_once:
                answers[who] = await answered(place, "80.api.shop.east.mesh", tls)
                words[who] = await said(place, "5432.db.shop.east.mesh", tls)

        async with asyncio.TaskGroup() as group:
            for signer, name, identity in (*forged(mesh), *twice_named(mesh)):
                group.create_task(ask((signer, name), context(mesh.two.folder, identity, root)))
        assert len(answers) == len(mesh.cas) * len(DOMAINS) * len(PATHS) + 2 * 6 * 5
        assert {who for who, status in answers.items() if status == 200} == LET_IN
        # What east signs for itself is east's own matter.
        assert {signer for (signer, _), line in words.items() if line} == {EAST}
        assert {who for who, line in words.items() if line and " " not in who[1]} == {OWN}
        # Who is let in by no rule and is who it says is told so; all others do not get as far.
        for (signer, name), status in answers.items():
            if " " not in name and not mesh.trusted(signer, name):
                assert status == 0, (signer, name, status)
            assert status in {0, 200, 403}
        twice = {status for (_, name), status in answers.items() if " " in name}
        assert twice == {0, 403}, "who has two names is let in by none of them"

    asyncio.run(run())


def test_as_a_callee(mesh: Mesh):
    """A caller says nothing to who is not the Service's account, signed by the Service's own domain."""

    async def run() -> None:
        heard: dict[tuple[str, str], bytes] = {}
        for signer, name, identity in (*forged(mesh), *twice_named(mesh)):
            got: list[bytes] = []

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, got: list[bytes] = got) -> None:
                with contextlib.suppress(OSError):
                    got.append(await reader.read(100))
                writer.transport.abort()

            tls = server_context(mesh.two.folder, identity)
            tls.set_alpn_protocols(["h2"])
            server = await asyncio.start_server(serve, ROGUE, mesh.rogue, ssl=tls)
            status = (await get("127.0.0.1", mesh.web["api.shop.east"])).status
            server.close()
            await server.wait_closed()
            heard[signer, name] = b"".join(got)
            assert status == 503
        genuine = "spiffe://east.test/ns/shop/sa/api"
        assert {who for who, words in heard.items() if words and who[0] != EAST} == set()
        spoken = {name for (signer, name), words in heard.items() if words and signer == EAST}
        assert genuine in spoken
        assert all(genuine in name.split(" ") and name.startswith("spiffe://east.test/") for name in spoken)

    asyncio.run(run())
