"""A certificate that ran out is renewed by proof of its key, and by nothing else."""

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.attest import join_token
from ca.policy import Denied
from ca.template import issued
from ca.wire import JoinAnswer, JoinRequest, RenewRequest, Signed, SignItem, SignRequest
from mesh.store.protocol import Delete
from tests.support.ca import (
    DOMAIN,
    NOW,
    key_and_csr,
    mint,
    sans,
)
from tests.unit.ca.issuing import Ca, claims, joined, renewed, run

DAY = 86400.0


# The root lasts; intermediate and certificate of 30 days have both expired long ago.
@pytest.mark.parametrize("days", [1, 31, 119])
def test_a_node_that_was_away_renews_by_proof_of_its_key(tmp_path, days):
    async def scenario(ca):
        answer, key = await joined(ca)
        ca.authority._clock.now = now = NOW + days * DAY
        if days > 29:
            await ca.authority.rotate_now()
        outcome = await renewed(ca, answer, key, now)
        assert isinstance(outcome, Signed)
        assert sans(outcome.chain) == ([f"spiffe://{DOMAIN}/node/vm-1"], [])
        assert ca.records.last()["method"] == ("node_certificate" if days < 30 else "expired_certificate")

    run(tmp_path, scenario)


async def joined_anew(ca, now: float):
    """The node is deleted, and a host joins under its name: its answer and key."""
    await ca.store.txn([], [Delete(join_token.node_key("vm-1"))])
    key, csr = key_and_csr()
    answer = await ca.join(token=(await mint(ca.store, ca.authority, now=now)).token, csr=csr, now=now)
    assert isinstance(answer, JoinAnswer)
    return answer, key


def dated(chain: str) -> float:
    return issued(x509.load_pem_x509_certificate(chain.encode()))


@pytest.mark.parametrize("after", [0.0, 1.0, 3600.0])
def test_a_host_that_joins_voids_what_was_issued_under_its_name_before(tmp_path, after):
    async def scenario(ca):
        old, old_key = await joined(ca)
        renewal = await renewed(ca, old, old_key, NOW)
        new, new_key = await joined_anew(ca, NOW + after)
        for chain in (old.chain, renewal.chain):
            signed = await ca.sign("node", "shop/web", now=NOW + after, issued=dated(chain))
            assert all("void" in item.denied and not item.chain for item in signed.signed)
        refused = await renewed(ca, old, old_key, NOW + after)
        assert isinstance(refused, Denied)
        assert "void" in refused.reason
        assert ca.records.last()["allowed"] is False
        signed = await ca.sign("node", "shop/web", now=NOW + after, issued=dated(new.chain))
        assert all(item.chain for item in signed.signed)
        assert isinstance(await renewed(ca, new, new_key, NOW + after), Signed)

    run(tmp_path, scenario)


def test_a_replica_whose_clock_is_behind_issues_nothing_that_is_void(tmp_path):
    async def scenario(ca):
        new, new_key = await joined(ca)
        for _ in range(3):
            behind = await renewed(ca, new, new_key, NOW - 120)
            assert isinstance(behind, Signed)
            again = await ca.sign("node", now=NOW - 120, issued=dated(behind.chain))
            assert again.signed[0].chain

    run(tmp_path, scenario)


def test_not_after_ninety_days_and_not_when_evicted(tmp_path):
    async def scenario(ca):
        answer, key = await joined(ca)
        ca.authority._clock.now = now = NOW + 121 * DAY
        await ca.authority.rotate_now()
        assert "90 days" in (await renewed(ca, answer, key, now)).reason
        ca.authority._clock.now = NOW
        await ca.authority.rotate_now()
        assert isinstance(await renewed(ca, answer, key, NOW), Signed)
        await ca.put(evicted=True)
        assert "evicted" in (await renewed(ca, answer, key, NOW)).reason

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "fault", ["other key", "other csr", "no proof", "garbage", "huge", "foreign", "workload", "chain of junk"]
)
def test_a_renewal_without_proof_is_refused(tmp_path, fault):
    async def scenario(ca):
        answer, key = await joined(ca)
        other_key, other_csr = key_and_csr()
        change: dict[str, str] = {}
        match fault:
            case "other key":
                key = other_key
            case "other csr":
                change = {"csr": other_csr}
            case "no proof":
                change = {"proof": ""}
            case "garbage":
                change = {"proof": "\0\N{SNOWMAN}" * 50}
            case "huge":
                change = {"proof": "A" * 1_000_000, "chain": answer.chain}
            case "foreign":
                foreign = await Ca(tmp_path / "foreign").start()
                answer, key = await joined(foreign)
            case "workload":
                key, csr = key_and_csr()
                change = {"chain": (await ca.sign("shop/web", csr=csr)).signed[0].chain}
            case "chain of junk":
                change = {"chain": "A" * 1_000_000}
        assert isinstance(await renewed(ca, answer, key, NOW, **change), Denied)
        assert ca.records.last()["allowed"] is False

    run(tmp_path, scenario)


def test_a_spliced_chain_does_not_renew(tmp_path):
    """The node's leaf over another mesh's intermediate, and the other way round."""

    async def scenario(ca):
        answer, key = await joined(ca)
        other, other_key = await joined(await Ca(tmp_path / "other").start())
        end = "-----END CERTIFICATE-----\n"
        leaf, rest = answer.chain.split(end, 1)
        other_leaf, other_rest = other.chain.split(end, 1)
        for chain, signer in ((leaf + end + other_rest, key), (other_leaf + end + rest, other_key), (leaf + end, key)):
            outcome = await renewed(ca, answer, signer, NOW, chain=chain)
            assert isinstance(outcome, Denied)

    run(tmp_path, scenario)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(token=st.text(), node=st.text(), address=st.text(), csr=st.text(), identity=st.text(), proof=st.text())
def test_any_text_in_any_field_is_refused_without_an_exception_or_a_write(
    tmp_path, token, node, address, csr, identity, proof
):
    async def scenario(ca):
        await ca.put(identities=("shop/web",))
        revision = await ca.store.revision()
        request = JoinRequest(token=token, node=node, address=address, csr=csr)
        assert isinstance(await ca.issuer.join(request, "192.0.2.1", NOW), Denied)
        items = (SignItem(identity=identity, csr=csr), SignItem(identity="node", csr=csr))
        for name in ("vm-1", node):
            answer = await ca.issuer.sign(claims(name), SignRequest(items=items), NOW)
            assert all(item.denied and not item.chain for item in answer.signed)
        renewal = RenewRequest(chain=csr, csr=csr, proof=proof)
        assert isinstance(await ca.issuer.renew(renewal, NOW, "192.0.2.1"), Denied)
        assert await ca.store.revision() == revision

    run(tmp_path, scenario)
