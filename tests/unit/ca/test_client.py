"""The agent's side over real TLS on loopback: pinned bootstrap, failover, names."""

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca import client, keys, template
from ca.signer.memory import to_pem
from ca.wire import JoinAnswer, JoinRequest, RootsAnswer, SignAnswer, SignItem, SignRequest
from tests.support.ca import ABOUT, DOMAIN, Clock, make_authority, private

REQUEST = JoinRequest(token="t", node="vm-1", address="10.0.0.1", csr="c")


def now_clock() -> Clock:
    import time

    return Clock(time.time())


@asynccontextmanager
async def mesh(tmp_path, name: str = "one"):
    authority = make_authority(tmp_path / name, clock=now_clock())
    await authority.start()
    yield authority


@asynccontextmanager
async def server(authority, tmp_path, handler, *, identity=None):
    """A control-plane node: its TLS identity is the authority's own, unless another one is given."""
    own = identity or authority.server_identity()
    folder = tmp_path / f"server-{id(handler)}-{id(own)}"
    folder.mkdir(parents=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own.write(folder))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata="\n".join(authority.roots))
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        yield f"https://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def json(answer: object, status: int = 200, **headers: str) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, headers=headers)


def answer_of(authority) -> JoinAnswer:
    return JoinAnswer(
        chain="c", roots=authority.roots, trust_domain=DOMAIN, cluster="east", node="vm-1",
        identities=(), roles=(), gates=ABOUT.gates, controlplanes=ABOUT.controlplanes,
    )  # fmt: skip


def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"https://127.0.0.1:{probe.getsockname()[1]}"


def test_only_the_pinned_root_comes_out_of_the_bootstrap(tmp_path):
    """Whoever sits between may add a root of his own to the true answer; it is not taken."""

    async def go():
        async with mesh(tmp_path) as ours, mesh(tmp_path, "evil") as evil:
            roots = RootsAnswer(trust_domain=DOMAIN, sequence=1, roots=(*evil.roots, "junk", *ours.roots))

            async def handler(_):
                return json(roots)

            async with server(evil, tmp_path, handler) as url:
                pin = keys.pin(ours.roots[0])
                found = await client.fetch_roots([dead_url(), url], pin)
                assert found.roots == ours.roots
                assert abs((found.date or 0) - now_clock()()) < 5
                with pytest.raises(client.CaRefused, match="another pin"):
                    await client.fetch_roots([url], "0" * 32)
                # And with the true root in hand, the impostor is not talked to.
                async with client.CaClient([url], ours.roots) as ca:
                    with pytest.raises(client.CaUnavailable):
                        await ca.join(REQUEST)

    asyncio.run(go())


def test_a_node_that_is_not_reached_is_told_in_the_systems_words(tmp_path, monkeypatch):
    def away(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def go():
        async with mesh(tmp_path) as ours, mesh(tmp_path, "evil") as evil:

            async def handler(_):
                return json(answer_of(evil))

            async with server(evil, tmp_path, handler) as url:
                urls = [nobody := dead_url(), "https://no-such-name.invalid:8443", url]
                monkeypatch.setattr(socket, "getaddrinfo", away)
                async with client.CaClient(urls, ours.roots) as ca:
                    with pytest.raises(client.CaUnavailable) as caught:
                        await ca.join(REQUEST)
            refused, unknown, stranger = str(caught.value).split("; ")
            assert refused == f"{nobody}: Connection refused"
            assert unknown.startswith("https://no-such-name.invalid:8443: its name cannot be resolved: ")
            assert stranger.startswith(f"{url}: certificate verify failed: ")

    asyncio.run(go())


def test_a_node_of_the_mesh_cannot_pose_as_its_control_plane(tmp_path):
    async def go():
        async with mesh(tmp_path) as ours:
            from ca.authority import ServerIdentity
            from ca.policy import Grant
            from mesh import spiffe

            reached = []

            async def handler(request):
                reached.append(await request.text())
                return json(answer_of(ours))

            key, now = keys.new_key(), ours._clock()
            grant = Grant(spiffe.workload(DOMAIN, "shop", "web"), (), 3600.0)
            chain = ours.issue(grant, private(key).public_key(), now)
            own = ServerIdentity(chain, key, now, now + 3600)
            async with (
                server(ours, tmp_path, handler, identity=own) as url,
                client.CaClient([url], ours.roots) as ca,
            ):
                with pytest.raises(client.CaUnavailable):
                    await ca.join(REQUEST)
            assert reached == []

    asyncio.run(go())


def test_failover_over_dead_and_failing_nodes_and_the_good_one_is_remembered(tmp_path):
    async def go():
        async with mesh(tmp_path) as ours:
            calls = {"bad": 0, "good": 0}

            async def bad(_):
                calls["bad"] += 1
                return json({"error": "the store is away"}, 503)

            async def good(_):
                calls["good"] += 1
                return json(answer_of(ours))

            async with server(ours, tmp_path, bad) as one, server(ours, tmp_path, good) as two:
                async with client.CaClient([dead_url(), one, two], ours.roots) as ca:
                    for _ in range(3):
                        assert (await ca.join(REQUEST)).node == "vm-1"
                    assert calls == {"bad": 1, "good": 3}
                async with client.CaClient([one], ours.roots) as ca:
                    with pytest.raises(client.CaUnavailable, match="the store is away"):
                        await ca.join(REQUEST)

    asyncio.run(go())


def test_a_refusal_is_an_answer_and_is_not_asked_elsewhere(tmp_path):
    async def go():
        async with mesh(tmp_path) as ours:
            calls = []

            async def no(_):
                calls.append(1)
                return json({"error": "not valid", "hint": "make a new token"}, 429, **{"Retry-After": "7"})

            async with (
                server(ours, tmp_path, no) as one,
                server(ours, tmp_path, no) as two,
                client.CaClient([one, two], ours.roots) as ca,
            ):
                with pytest.raises(client.CaRefused, match="not valid; make a new token") as caught:
                    await ca.join(REQUEST)
            assert (caught.value.status, caught.value.retry_after, calls) == (429, 7.0, [1])

    asyncio.run(go())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"x" * 1_000_000, b'{"chain": 5}'])
def test_a_node_that_answers_nonsense_is_passed_over(tmp_path, body):
    async def go():
        async with mesh(tmp_path) as ours:

            async def nonsense(_):
                return web.Response(body=body)

            async with server(ours, tmp_path, nonsense) as url, client.CaClient([url], ours.roots) as ca:
                with pytest.raises(client.CaUnavailable):
                    await ca.join(REQUEST)

    asyncio.run(go())


def test_a_silent_node_costs_its_time_limit_and_no_more(tmp_path):
    async def go():
        async with mesh(tmp_path) as ours:
            release = asyncio.Event()

            async def silent(_):
                await release.wait()
                return json({})

            async def good(_):
                return json(answer_of(ours))

            async with server(ours, tmp_path, silent) as one, server(ours, tmp_path, good) as two:
                async with client.CaClient([one, two], ours.roots, timeout=0.3) as ca:
                    assert (await ca.join(REQUEST)).node == "vm-1"
                release.set()

    asyncio.run(go())


def test_the_node_shows_its_certificate(tmp_path):
    async def go():
        from ca.attest.node_cert import node_of
        from ca.policy import Grant
        from mesh import spiffe

        async with mesh(tmp_path) as ours:
            seen = []

            async def sign(request):
                der = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
                seen.append(node_of(der, DOMAIN))
                asked = msgspec.json.decode(await request.read(), type=SignRequest)
                return json(SignAnswer(signed=(), roots=(asked.items[0].identity,)))

            key, now = keys.new_key(), ours._clock()
            chain = ours.issue(Grant(spiffe.node(DOMAIN, "vm-1"), (), 3600.0), private(key).public_key(), now)
            files = client.ClientIdentity(tmp_path / "chain.pem", tmp_path / "key.pem")
            files.chain_file.write_text(chain)
            files.key_file.write_text(key)
            async with (
                server(ours, tmp_path, sign) as url,
                client.CaClient([url], ours.roots, identity=files) as ca,
            ):
                answer = await ca.sign(SignRequest(items=(SignItem(identity="node", csr=""),)))
            assert (seen, answer.roots) == (["vm-1"], ("node",))

    asyncio.run(go())


@pytest.mark.parametrize("urls", [[], ["http://127.0.0.1:1"], ["127.0.0.1:1"]])
def test_only_https(urls):
    async def go():
        with pytest.raises(ValueError, match="https"):
            await client.fetch_roots(urls, "0" * 32)

    asyncio.run(go())


def test_the_pin_is_in_the_token():
    assert client.pin_of_token(f"hf1.{'0' * 16}.{'A' * 43}.{'1' * 32}\n") == "1" * 32
    for text in ("", "hf1.a.b.c", "x"):
        with pytest.raises(ValueError, match="not a join token"):
            client.pin_of_token(text)


def test_importing_the_client_does_not_load_the_certificate_library():
    """It costs an agent 11 MB."""
    import subprocess
    import sys

    code = "import sys, ca.client; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_workloads_and_replicas_are_no_nodes(tmp_path):
    async def go():
        from cryptography.hazmat.primitives.serialization import Encoding

        from ca.attest.node_cert import node_of
        from ca.policy import Denied, Grant
        from mesh import spiffe

        async with mesh(tmp_path) as ours:
            held = ours._current
            for identity in (
                spiffe.workload(DOMAIN, "shop", "web"),
                spiffe.controlplane(DOMAIN, "cp-1"),
                spiffe.node("other.test", "vm-1"),
                spiffe.build(DOMAIN, "node", "VM_1"),
                spiffe.build(DOMAIN, "node", "vm-1", "x"),
                spiffe.SpiffeId(DOMAIN, ""),
            ):
                builder = template.leaf(
                    Grant(identity, (), 3600.0), private(keys.new_key()).public_key(), held.parent, ours._clock(), 1
                )
                leaf = builder.sign(held.key, hashes.SHA256())
                assert isinstance(node_of(leaf.public_bytes(Encoding.DER), DOMAIN), Denied)
                assert x509.load_pem_x509_certificate(to_pem(leaf).encode()) == leaf
            assert isinstance(node_of(b"junk", DOMAIN), Denied)

    asyncio.run(go())
