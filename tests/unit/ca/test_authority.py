"""A replica's intermediate: on disk, rotated, and issuing while the signer is away."""

import asyncio
import json
import stat
from contextlib import suppress

import pytest
from cryptography import x509

from ca import verify
from ca.authority import FILE
from ca.policy import Denied, Grant
from ca.seal import Cipher
from ca.signer.memory import MemorySigner
from ca.signer.protocol import SignerUnavailable
from mesh import spiffe
from tests.support.ca import DOMAIN, NOW, Clock, held_issuer, key_and_csr, make_authority, public, sans

DAY = 86400.0
GRANT = Grant(spiffe.workload(DOMAIN, "shop", "web"), (), 3600.0)


class Outage:
    """A signer that can be away. It counts what it is asked."""

    def __init__(self, clock: Clock) -> None:
        self._signer, self.away, self.asked = MemorySigner(DOMAIN, clock=clock), False, 0

    async def sign_intermediate(self, csr_pem: str, ttl: float) -> str:
        self.asked += 1
        if self.away:
            raise SignerUnavailable("away")
        return await self._signer.sign_intermediate(csr_pem, ttl)

    async def roots(self) -> tuple[str, ...]:
        if self.away:
            raise SignerUnavailable("away")
        return await self._signer.roots()

    async def close(self) -> None:
        await self._signer.close()


def issues(authority, now: float) -> bool:
    key, _ = key_and_csr()
    chain = authority.issue(GRANT, public(key), now)
    return not isinstance(chain, Denied) and isinstance(
        verify.chain(chain, GRANT, public(key), held_issuer(authority), now), verify.Leaf
    )


def test_a_restart_with_the_signer_away_goes_on_with_what_is_on_disk(tmp_path):
    clock = Clock()
    signer = Outage(clock)
    first = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(first.start())
    signer.away = True
    clock.now += 15 * DAY  # past its renewal: it lasts all the same
    second = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(second.start())
    assert held_issuer(second).chain_pem == held_issuer(first).chain_pem
    assert second.roots == first.roots
    assert issues(second, clock.now)
    assert second.runway(clock.now).level == "warn"


def test_what_is_on_disk_is_sealed_and_private(tmp_path):
    authority = make_authority(tmp_path)
    asyncio.run(authority.start())
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in path.read_bytes()
    assert json.loads(path.read_bytes())["sealed"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "other key", "other replica"])
def test_a_damaged_file_is_replaced_by_a_new_intermediate(tmp_path, damage):
    clock = Clock()
    signer = MemorySigner(DOMAIN, clock=clock)
    first = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(first.start())
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[:100],
            "empty": b"",
            "garbage": b"\xff" * 100,
            "other key": Cipher([bytes(32)]).seal(b"{}", "x"),
            "other replica": Cipher([bytes(range(32))]).seal(b"{}", f"disk/{DOMAIN}/cp-2/{FILE}"),
        }[damage]
    )
    second = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(second.start())
    assert held_issuer(second).chain_pem != held_issuer(first).chain_pem
    assert issues(second, NOW)


def test_no_start_without_an_intermediate_or_a_signer(tmp_path):
    clock = Clock()
    signer = Outage(clock)
    signer.away = True
    authority = make_authority(tmp_path, signer, clock=clock)
    with pytest.raises(SignerUnavailable):
        asyncio.run(authority.start())
    assert not issues(authority, NOW)
    assert authority.runway(NOW).level == "expired"
    signer.away = False
    asyncio.run(authority.start())
    assert issues(authority, NOW)


def test_rotation_on_demand_changes_the_issuer_and_chains_lead_to_the_same_root(tmp_path):
    authority = make_authority(tmp_path)

    async def go():
        await authority.start()
        before = held_issuer(authority)
        await authority.rotate_now()
        return before, held_issuer(authority)

    before, after = asyncio.run(go())
    assert before.chain_pem != after.chain_pem
    assert before.root_pem == after.root_pem
    assert issues(authority, NOW)


def test_a_rotation_that_fails_leaves_the_old_one_issuing(tmp_path):
    clock = Clock()
    signer = Outage(clock)
    authority = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(authority.start())
    before = held_issuer(authority)
    signer.away = True
    with pytest.raises(SignerUnavailable):
        asyncio.run(authority.rotate_now())
    assert held_issuer(authority) == before
    assert issues(authority, NOW)


async def run_once(authority) -> None:
    """One round of its loop: until it waits."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await authority.run()


def test_it_rotates_at_a_third_of_its_life_and_not_before(tmp_path):
    clock = Clock()
    signer = Outage(clock)
    authority = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(authority.start())
    first = held_issuer(authority)
    clock.now = NOW + 7 * DAY
    asyncio.run(run_once(authority))
    assert (held_issuer(authority), signer.asked) == (first, 1)
    clock.now = NOW + 10 * DAY
    asyncio.run(run_once(authority))
    assert signer.asked == 2
    assert held_issuer(authority).not_after == pytest.approx(NOW + 40 * DAY)


@pytest.mark.parametrize("crash", ["prepare", "activate"])
def test_a_crash_at_any_step_of_a_rotation_is_found_again(tmp_path, monkeypatch, crash):
    """The file on disk is the old state or the new one, never less than an issuer."""
    clock = Clock()
    signer = MemorySigner(DOMAIN, clock=clock)
    authority = make_authority(tmp_path, signer, clock=clock)

    class Crash(BaseException):
        pass

    async def go():
        await authority.start()
        from ca import disk

        real, left = disk.write_private, {"prepare": 0, "activate": 1}[crash]

        def write(path, content):
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1
            real(path, content)

        monkeypatch.setattr(disk, "write_private", write)
        with suppress(Crash):
            await authority.rotate_now()
        monkeypatch.setattr(disk, "write_private", real)

    asyncio.run(go())
    before = held_issuer(authority)
    again = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(again.start())
    # Prepared and not activated: the next start activates it. Not prepared: the old one goes on.
    assert (held_issuer(again).chain_pem == before.chain_pem) == (crash == "prepare")
    assert issues(again, NOW)


def test_the_control_planes_own_identity(tmp_path):
    authority = make_authority(tmp_path)
    asyncio.run(authority.start())
    own = authority.server_identity()
    assert sans(own.chain_pem) == ([f"spiffe://{DOMAIN}/controlplane/cp-1"], ["controlplane.holdfast"])
    chain, key = own.write(tmp_path)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert chain.read_text() == own.chain_pem
    assert x509.load_pem_x509_certificate(own.chain_pem.encode()).public_key() == public(own.key_pem)


def test_a_clock_set_back_asks_for_a_new_intermediate_instead_of_using_one_of_the_future(tmp_path):
    clock = Clock(NOW - 2 * DAY)
    signer = Outage(clock)
    clock.now = NOW
    asyncio.run(make_authority(tmp_path, signer, clock=clock).start())
    clock.now = NOW - DAY
    second = make_authority(tmp_path, signer, clock=clock)
    asyncio.run(second.start())
    assert signer.asked == 2
    assert issues(second, clock.now)


def test_a_new_root_is_published_before_anything_is_issued_under_it(tmp_path):
    """An operator changed the root inside Vault: hosts must hold it before the first leaf leads to it."""
    clock = Clock()
    first = make_authority(tmp_path, MemorySigner(DOMAIN, clock=clock), clock=clock)
    asyncio.run(first.start())
    old = held_issuer(first)
    second = make_authority(tmp_path, MemorySigner(DOMAIN, clock=clock), clock=clock)

    async def go():
        await second.start()
        await second.rotate_now()

    asyncio.run(go())
    assert held_issuer(second).chain_pem == old.chain_pem
    assert len(second.roots) == 2
    assert second.roots[0] == old.root_pem, "what join tokens pin"
    new = second.roots[1]
    clock.now += 599
    asyncio.run(run_once(second))
    assert held_issuer(second).chain_pem == old.chain_pem
    # The hold outlives a restart.
    third = make_authority(tmp_path, MemorySigner(DOMAIN, clock=clock), clock=clock)
    clock.now += 2
    asyncio.run(third.start())
    assert held_issuer(third).root_pem == third.roots[0] == new
    assert issues(third, clock.now)
