"""The Vault signer against a real OpenBao that is sealed, stopped, frozen and has its tokens revoked meanwhile."""

import asyncio
import dataclasses
import time

import pytest

from ca import verify
from ca.policy import Denied, Grant
from ca.signer.memory import new_root
from ca.signer.protocol import SignerRefused, SignerUnavailable
from ca.signer.vault import VaultSigner
from controlplane.demo.bao import ROLE, BaoError
from mesh import spiffe
from tests.support import servers
from tests.support.ca import DOMAIN, Clock, held_issuer, key_and_csr, make_authority, public

pytestmark = pytest.mark.real

DAY = 86400.0
GRANT = Grant(spiffe.workload(DOMAIN, "shop", "web"), (), 3600.0)


@pytest.fixture(scope="module")
def bao(tmp_path_factory):
    with servers.openbao(tmp_path_factory.mktemp("bao")) as server:
        yield server


def signer_of(bao, clock=time.time, **change) -> VaultSigner:
    return VaultSigner(dataclasses.replace(servers.vault_settings(bao), **change), clock=clock)


def with_signer(bao, scenario, **change):
    async def go():
        signer = signer_of(bao, **change)
        try:
            await scenario(signer)
        finally:
            await signer.close()

    asyncio.run(go())


async def signs(signer) -> None:
    key, csr = key_and_csr()
    chain = await signer.sign_intermediate(csr, DAY)
    assert isinstance(verify.issuer(chain, await signer.roots(), public(key), time.time()), verify.Issuer)


def token_of(signer) -> str:
    return str(signer._client.token)


def test_a_revoked_token_is_replaced_by_a_new_login(bao):
    async def scenario(signer):
        await signs(signer)
        before = token_of(signer)
        bao.revoke_tokens()
        with pytest.raises(BaoError, match="403"):
            bao.call("GET", "auth/token/lookup-self", token=before)
        await signs(signer)
        assert token_of(signer) != before

    with_signer(bao, scenario)


def test_a_token_past_half_its_life_is_renewed_and_not_replaced(bao):
    clock = Clock(time.time())

    async def scenario(signer):
        await signs(signer)
        before = token_of(signer)
        clock.now += 1900  # of 3600
        await signs(signer)
        assert token_of(signer) == before
        seen = bao.call("POST", "auth/token/lookup", {"token": before})["data"]
        assert seen.get("last_renewal_time"), "OpenBao has seen a renewal"
        clock.now += 3700
        await signs(signer)
        assert token_of(signer) != before, "one that has run out is replaced"

    with_signer(bao, scenario, clock=clock)


def test_a_token_revoked_when_its_renewal_is_due(bao):
    clock = Clock(time.time())

    async def scenario(signer):
        await signs(signer)
        bao.revoke_tokens()
        clock.now += 1900
        await signs(signer)

    with_signer(bao, scenario, clock=clock)


def test_sealed_then_unsealed(bao):
    async def scenario(signer):
        await signs(signer)
        bao.seal()
        try:
            assert bao.health() == 503
            for _ in range(2):
                with pytest.raises(SignerUnavailable, match="sealed"):
                    await signer.sign_intermediate(key_and_csr()[1], DAY)
            with pytest.raises(SignerUnavailable):
                await signer.roots()
        finally:
            bao.unseal()
        await signs(signer)

    with_signer(bao, scenario)


def test_stopped_then_started_with_its_data(bao):
    async def scenario(signer):
        roots = await signer.roots()
        bao.stop()
        try:
            with pytest.raises(SignerUnavailable):
                await signs(signer)
        finally:
            bao.start()
        await signs(signer)
        assert await signer.roots() == roots

    with_signer(bao, scenario)


def test_frozen_it_costs_its_time_limit_and_no_more(bao):
    async def scenario(signer):
        await signs(signer)
        bao.process.pause()
        started = time.monotonic()
        try:
            with pytest.raises(SignerUnavailable):
                await signer.sign_intermediate(key_and_csr()[1], DAY)
            assert time.monotonic() - started < 5
        finally:
            bao.process.resume()
        await signs(signer)

    with_signer(bao, scenario, timeout=0.5)


def test_a_wrong_secret_id_is_refused_and_a_new_file_is_picked_up(bao, tmp_path):
    secret = tmp_path / "secret-id"
    secret.write_text("wrong\n")

    async def scenario(signer):
        with pytest.raises(SignerRefused, match="login") as caught:
            await signs(signer)
        assert "wrong" not in str(caught.value)
        secret.write_text(bao.secret_id_file.read_text())
        await signs(signer)
        secret.unlink()
        await signs(signer)  # the token lasts

    with_signer(bao, scenario, secret_id_file=str(secret))


@pytest.mark.parametrize("content", ["", None])
def test_a_missing_or_empty_file_is_named(bao, tmp_path, content):
    path = tmp_path / "role-id"
    if content is not None:
        path.write_text(content)

    async def scenario(signer):
        with pytest.raises(SignerRefused, match="login"):
            await signs(signer)

    with_signer(bao, scenario, role_id_file=str(path))


def test_a_server_under_another_ca_is_not_talked_to(bao, tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text(new_root("another", time.time()).pem)

    async def scenario(signer):
        with pytest.raises(SignerUnavailable, match="SSL"):
            await signs(signer)

    with_signer(bao, scenario, ca_file=str(path))


def test_plain_http_is_refused(bao):
    with pytest.raises(SignerRefused, match="https"):
        signer_of(bao, address="http://127.0.0.1:1")


def test_a_mount_that_is_not_there_is_refused(bao):
    async def scenario(signer):
        with pytest.raises(SignerRefused):
            await signs(signer)

    with_signer(bao, scenario, mount="no-such-mount")


def test_the_role_may_do_nothing_else(bao):
    """Whoever steals a control-plane node's Vault credentials gets intermediates, and not the engine."""

    async def scenario(signer):
        await signs(signer)
        token = token_of(signer)
        for method, path, body in (
            ("GET", "sys/mounts", None),
            ("POST", "pki/root/generate/internal", {"common_name": "x"}),
            ("DELETE", "pki/root", None),
            ("POST", "pki/roles/any", {"allow_any_name": True}),
            ("POST", "pki/config/urls", {}),
            ("POST", "pki/root/sign-self-issued", {"certificate": "x"}),
            ("POST", "pki/sign-verbatim", {"csr": "x"}),
            ("GET", f"auth/approle/role/{ROLE}/role-id", None),
            ("POST", f"auth/approle/role/{ROLE}/secret-id", None),
            ("POST", "auth/token/create", {}),
            ("PUT", "sys/seal", None),
        ):
            with pytest.raises(BaoError, match="403"):
                bao.call(method, path, body, token=token)

    with_signer(bao, scenario)


def test_issuing_goes_on_while_vault_is_away_and_a_replica_restarts(bao, tmp_path):
    clock = Clock(time.time())

    def issues(authority) -> bool:
        key, _ = key_and_csr()
        chain = authority.issue(GRANT, public(key), clock.now)
        assert not isinstance(chain, Denied)
        return isinstance(verify.chain(chain, GRANT, public(key), held_issuer(authority), clock.now), verify.Leaf)

    async def go():
        signer = signer_of(bao, clock=clock)
        first = make_authority(tmp_path, signer, clock=clock)
        await first.start()
        bao.seal()
        try:
            assert issues(first)
            with pytest.raises(SignerUnavailable):
                await first.rotate_now()
            assert issues(first)
            second = make_authority(tmp_path, signer, clock=clock)
            await second.start()
            assert issues(second)
            assert second.roots == first.roots
        finally:
            bao.unseal()
        before = held_issuer(second).chain_pem
        await second.rotate_now()
        assert held_issuer(second).chain_pem != before
        assert issues(second)
        await signer.close()

    asyncio.run(go())
