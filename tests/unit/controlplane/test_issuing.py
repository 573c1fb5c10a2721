"""A replica's own certificate and trust: restarts without a signer, and changes while it serves."""

import asyncio
import random
import time

import aiohttp
import msgspec
import pytest

from ca import bundle
from ca.authority import Authority
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from ca.signer.protocol import SignerUnavailable
from controlplane import issuing
from controlplane.setup import InitOptions, init_store
from mesh import codec, keys
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Put
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import DOMAIN, SEAL_KEY, mesh, namespace, replica, settings_for


class Away:
    """A signer that does not answer."""

    async def sign_intermediate(self, csr_pem, ttl):
        raise SignerUnavailable("sealed")

    async def roots(self):
        raise SignerUnavailable("sealed")

    async def close(self):
        pass


async def other_root(tmp_path) -> Authority:
    (tmp_path / "other").mkdir()
    made = Authority(
        MemorySigner(DOMAIN, clock=time.time),
        trust_domain=DOMAIN,
        replica="cp1",
        directory=tmp_path / "other",
        cipher=Cipher([SEAL_KEY]),
        clock=time.time,
        rng=random.Random(1),
    )
    await made.start()
    return made


def test_a_node_restarts_and_issues_while_its_signer_is_away(tmp_path):
    async def run():
        store, signer = MemoryStore(), MemorySigner(DOMAIN, clock=time.time)
        made = await init_store(store, signer, InitOptions(trust_domain=DOMAIN), time.time())
        settings = settings_for(tmp_path)
        async with replica(store, signer, settings, made.admin_token) as cp:
            await cp.add_node("n1", "shop/api")
        async with replica(store, Away(), settings, made.admin_token) as cp:
            assert (await cp.call("GET", "/readyz", token=None))[0] == 200
            assert (await cp.apply(namespace()))[0] == 200
            assert (await cp.call("POST", "/v1/register", {"instances": []}, tls=cp.node_tls("n1")))[0] == 200
            status, answer = await cp.call("POST", "/v1/ca/rotate", {"what": "intermediate"})
            assert status == 503
            assert "sealed" in answer["error"]

    asyncio.run(run())


class Sealed:
    """A signer that can be sealed and opened."""

    def __init__(self, real: MemorySigner) -> None:
        self.real, self.sealed = real, False

    async def sign_intermediate(self, csr_pem, ttl):
        return await self.real.sign_intermediate(csr_pem, ttl)

    async def roots(self):
        if self.sealed:
            raise SignerUnavailable("it is sealed")
        return await self.real.roots()

    async def close(self):
        pass


def test_a_signer_that_is_sealed_is_told_long_before_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(issuing, "LOOK_SECONDS", 0.05)

    async def run():
        store, signer = MemoryStore(), Sealed(MemorySigner(DOMAIN, clock=time.time))
        made = await init_store(store, signer, InitOptions(trust_domain=DOMAIN), time.time())

        async def told(cp, fault):
            _, found = await cp.call("GET", "/v1/status")
            (mine,) = found["replicas"]
            async with cp.request("GET", "/metrics", token=cp.admin) as response:
                page = await response.text()
            up = "holdfast_controlplane_signer_up 0.0" if fault else "holdfast_controlplane_signer_up 1.0"
            assert mine["intermediate"]["notAfter"] == found["intermediate"]["notAfter"]
            return mine["signerFault"] == fault and up in page

        async with replica(store, signer, settings_for(tmp_path), made.admin_token) as cp:
            for fault in ("", "it is sealed", ""):
                signer.sealed = bool(fault)
                await aeventually(lambda fault=fault: told(cp, fault), what=f"told: {fault!r}")
                assert (await cp.call("GET", "/readyz", token=None))[0] == 200

    asyncio.run(run())


def test_a_new_root_in_the_bundle_is_trusted_without_a_restart_and_a_retired_one_no_more(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1", "shop/api")
            other = await other_root(tmp_path)
            tls = cp.node_tls("n1", other)
            body = {"instances": []}
            with pytest.raises((aiohttp.ClientError, OSError)):
                await cp.call("POST", "/v1/register", body, tls=tls)
            await bundle.publish(cp.store, DOMAIN, other.roots, time.time())

            async def welcome():
                try:
                    return (await cp.call("POST", "/v1/register", body, tls=tls))[0] == 200
                except (aiohttp.ClientError, OSError):
                    return False

            await aeventually(welcome)
            await bundle.retire(cp.store, DOMAIN, other.roots[0])

            async def turned_away():
                return not await welcome()

            await aeventually(turned_away)
            assert (await cp.call("POST", "/v1/register", body, tls=cp.node_tls("n1")))[0] == 200

    asyncio.run(run())


def test_rotation_changes_the_servers_own_certificate(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:

            async def served() -> bytes:
                host, _, port = cp.settings.listen.rpartition(":")
                reader, writer = await asyncio.open_connection(
                    host, int(port), ssl=cp.anonymous_tls(), server_hostname="controlplane.holdfast"
                )
                found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                writer.close()
                del reader
                return found

            before = await served()
            assert (await cp.call("POST", "/v1/ca/rotate", {}))[0] == 200
            assert await served() != before

    asyncio.run(run())


def test_a_root_that_is_no_certificate_shuts_nobody_out(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            await cp.add_node("n1")
            mine = cp.context.mirror.view.bundle(DOMAIN)
            bad = ("nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é")
            spec = msgspec.structs.replace(mine.spec, roots=(*bad, *mine.spec.roots), sequence=mine.spec.sequence + 1)
            worse = msgspec.structs.replace(mine, spec=spec)
            await cp.store.txn((), (Put(keys.key_for(worse.ref), codec.encode(worse)),))
            await aeventually(lambda: len(cp.context.mirror.view.bundle(DOMAIN).spec.roots) > len(mine.spec.roots))
            assert (await cp.call("GET", "/readyz", token=None))[0] == 200
            assert (await cp.call("POST", "/v1/register", {"instances": []}, tls=cp.node_tls("n1")))[0] == 200

    asyncio.run(run())
