"""One suite for every signer: memory, the store's own (in memory and on real etcd), and Vault (a real OpenBao)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from cryptography import x509

from ca import verify
from ca.policy import Denied
from ca.seal import Cipher
from ca.signer.builtin import BuiltinSigner
from ca.signer.memory import MemorySigner
from ca.signer.protocol import Signer, SignerRefused
from ca.signer.vault import VaultSigner
from mesh.store.memory import MemoryStore
from tests.support import servers
from tests.support.ca import DOMAIN, SEAL_KEY, hostile_csrs, key_and_csr, public

DAY = 86400.0
HOSTILE = sorted(hostile_csrs())


@pytest.fixture(scope="module")
def bao(tmp_path_factory):
    with servers.openbao(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with servers.etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


Open = Callable[[], AsyncIterator[Signer]]


@pytest.fixture(
    params=[
        "memory",
        "builtin",
        pytest.param("builtin on etcd", marks=pytest.mark.real),
        pytest.param("vault", marks=pytest.mark.real),
    ]
)
def opened(request):
    """Opens the signer within a loop."""

    @asynccontextmanager
    async def memory():
        yield MemorySigner(DOMAIN, clock=time.time)

    @asynccontextmanager
    async def builtin():
        yield BuiltinSigner(MemoryStore(), Cipher([SEAL_KEY]), DOMAIN, clock=time.time)

    @asynccontextmanager
    async def on_etcd():
        store = request.getfixturevalue("etcd").store()
        try:
            yield BuiltinSigner(store, Cipher([SEAL_KEY]), DOMAIN, clock=time.time)
        finally:
            await store.close()

    @asynccontextmanager
    async def vault():
        yield VaultSigner(servers.vault_settings(request.getfixturevalue("bao")), clock=time.time)

    if request.param in {"builtin on etcd", "vault"}:
        request.getfixturevalue("etcd" if "etcd" in request.param else "bao")
    return {"memory": memory, "builtin": builtin, "builtin on etcd": on_etcd, "vault": vault}[request.param]


def run(opened, scenario: Callable[[Signer], Awaitable[None]]) -> None:
    async def go():
        async with opened() as signer:
            try:
                await scenario(signer)
            finally:
                await signer.close()
                await signer.close()

    asyncio.run(go())


def test_it_signs_an_intermediate_for_our_key_up_to_its_root(opened):
    async def scenario(signer):
        key, csr = key_and_csr()
        chain, roots, now = await signer.sign_intermediate(csr, 30 * DAY), await signer.roots(), time.time()
        issuer = verify.issuer(chain, roots, public(key), now)
        assert isinstance(issuer, verify.Issuer), issuer
        assert issuer.root_pem == roots[0]
        assert issuer.not_after == pytest.approx(now + 30 * DAY, abs=60)
        assert now - 360 <= issuer.not_before <= now - 240, "backdated by five minutes"

    run(opened, scenario)


def test_an_intermediate_may_sign_leaves_only(opened):
    async def scenario(signer):
        chain = await signer.sign_intermediate(key_and_csr()[1], DAY)
        own = x509.load_pem_x509_certificate(chain.encode())
        constraints = own.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
        usage = own.extensions.get_extension_for_class(x509.KeyUsage)
        assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)

    run(opened, scenario)


def test_the_root_is_not_in_the_chain_and_signs_itself(opened):
    async def scenario(signer):
        chain, roots = await signer.sign_intermediate(key_and_csr()[1], DAY), await signer.roots()
        assert not set(verify.split(chain)) & set(roots)
        for pem in roots:
            root = x509.load_pem_x509_certificate(pem.encode())
            root.verify_directly_issued_by(root)
            assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    run(opened, scenario)


def test_the_same_csr_may_come_again_and_roots_stay(opened):
    async def scenario(signer):
        key, csr = key_and_csr()
        roots = await signer.roots()
        for _ in range(2):
            chain = await signer.sign_intermediate(csr, DAY)
            assert isinstance(verify.issuer(chain, roots, public(key), time.time()), verify.Issuer)
        assert await signer.roots() == roots

    run(opened, scenario)


def test_concurrent_calls_are_kept_apart(opened):
    async def scenario(signer):
        pairs, chains = [key_and_csr() for _ in range(8)], {}

        async def sign(number: int) -> None:
            chains[number] = await signer.sign_intermediate(pairs[number][1], DAY)

        async with asyncio.TaskGroup() as group:
            for number in range(len(pairs)):
                group.create_task(sign(number))
        roots = await signer.roots()
        for number, (key, _) in enumerate(pairs):
            assert isinstance(verify.issuer(chains[number], roots, public(key), time.time()), verify.Issuer)

    run(opened, scenario)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_csrs_are_refused(opened, name):
    async def scenario(signer):
        with pytest.raises(SignerRefused):
            await signer.sign_intermediate(hostile_csrs()[name], DAY)

    run(opened, scenario)


def test_what_outlives_the_root_is_never_accepted(opened):
    """A signer cuts it short, refuses it, or signs it; then our check refuses it."""

    async def scenario(signer):
        key, csr = key_and_csr()
        try:
            chain = await signer.sign_intermediate(csr, 36500 * DAY)
        except SignerRefused:
            return
        roots = await signer.roots()
        issuer = verify.issuer(chain, roots, public(key), time.time())
        root = x509.load_pem_x509_certificate(roots[0].encode())
        if isinstance(issuer, Denied):
            assert "outlives" in issuer.reason
        else:
            assert issuer.not_after <= root.not_valid_after_utc.timestamp()

    run(opened, scenario)
