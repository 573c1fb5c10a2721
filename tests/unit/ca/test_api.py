"""The whole path of joins and signatures: attest, authorize, build, sign, verify, audit."""

import pytest
from cryptography import x509

from ca.api import MAX_ITEMS, Limits
from ca.limits import Rate
from ca.policy import Denied
from ca.wire import JoinAnswer, JoinRequest, SignAnswer, SignItem, SignRequest
from tests.fakes.lying_signer import LIES
from tests.support.ca import (
    DOMAIN,
    NOW,
    hostile_csrs,
    key_and_csr,
    mint,
    sans,
    spliced,
)
from tests.unit.ca.issuing import claims, joined, renewed, run
from tests.unit.ca.test_policy import HOSTILE

DAY = 86400.0


def test_a_join_gives_a_node_its_certificate_and_what_it_must_know(tmp_path):
    async def scenario(ca):
        answer = await ca.join()
        assert isinstance(answer, JoinAnswer)
        assert sans(answer.chain) == ([f"spiffe://{DOMAIN}/node/vm-1"], [])
        assert (answer.node, answer.identities, answer.roles, answer.cluster) == (
            "vm-1",
            ("shop/web",),
            ("agent",),
            "east",
        )
        assert answer.roots == ca.authority.roots
        assert ca.records.last()["allowed"] is True
        assert ca.records.last()["method"] == "join_token"

    run(tmp_path, scenario)


def test_a_lost_answer_may_be_asked_for_again_by_the_same_key_only(tmp_path):
    async def scenario(ca):
        token, (_, csr) = (await mint(ca.store, ca.authority)).token, key_and_csr()
        first, again = [await ca.join(token=token, csr=csr) for _ in range(2)]
        assert isinstance(first, JoinAnswer)
        assert alike(first, again)
        assert isinstance(await ca.join(token=token), Denied)
        assert isinstance(await ca.join(token=token, csr=csr, now=NOW + 601), Denied)

    def alike(one, other):
        names = [name for name in one.__struct_fields__ if name != "chain"]
        return all(getattr(one, name) == getattr(other, name) for name in names) and sans(one.chain) == sans(
            other.chain
        )

    run(tmp_path, scenario)


@pytest.mark.parametrize("name", sorted(hostile_csrs()))
def test_a_hostile_csr_neither_joins_nor_uses_up_the_token(tmp_path, name):
    async def scenario(ca):
        token = (await mint(ca.store, ca.authority)).token
        revision = await ca.store.revision()
        outcome = await ca.issuer.join(
            JoinRequest(token=token, node="vm-1", address="10.0.0.1", csr=hostile_csrs()[name]), "192.0.2.1", NOW
        )
        assert isinstance(outcome, Denied)
        assert await ca.store.revision() == revision
        assert ca.records.last() == {
            "allowed": False,
            "node": "vm-1",
            "peer": "192.0.2.1",
            "reason": outcome.reason,
        }
        assert isinstance(await ca.join(token=token), JoinAnswer)

    run(tmp_path, scenario)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "node"])
def test_hostile_names_are_refused_and_recorded_harmlessly(tmp_path, name):
    async def scenario(ca):
        token = (await mint(ca.store, ca.authority)).token
        assert isinstance(await ca.join(token=token, node=name), Denied)
        signed = await ca.sign(f"shop/{name}", node="vm-1")
        assert signed.signed[0].denied
        assert isinstance((await ca.sign("node", node=name)).signed[0].denied, str)
        for _, fields in ca.records.lines:
            for value in fields.values():
                assert not isinstance(value, str) or (value.isprintable() and len(value) < 500)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "address", ["", "host.example", "0.0.0.0", "::", "224.0.0.1", "10.0.0.1:80", "10.0.0.1\n", "fe80::1%eth0"]
)
def test_impossible_addresses_are_refused(tmp_path, address):
    async def scenario(ca):
        assert isinstance(await ca.join(address=address), Denied)

    run(tmp_path, scenario)


def test_the_address_of_a_connected_node_is_not_given_to_another_and_the_token_stays_good(tmp_path):
    connected = {"10.0.0.1": "vm-7"}

    async def scenario(ca):
        minted = (await mint(ca.store, ca.authority)).token
        revision = await ca.store.revision()
        refused = await ca.join(token=minted)
        assert isinstance(refused, Denied)
        assert ("10.0.0.1" in refused.reason, "vm-7" in refused.reason, refused.retry_after > 0) == (True, True, True)
        assert minted.split(".")[2] not in refused.reason
        assert await ca.store.revision() == revision
        assert ca.records.last() == {
            "allowed": False,
            "node": "vm-1",
            "peer": "192.0.2.1",
            "reason": refused.reason,
        }
        assert isinstance(await ca.join(token=minted, address="10.0.0.2"), JoinAnswer)
        connected.clear()
        assert isinstance(await ca.join(node="vm-2"), JoinAnswer)

    run(tmp_path, scenario, connected=connected)


def test_without_a_good_token_nobody_learns_whose_an_address_is(tmp_path):
    async def scenario(ca):
        guess = f"hf1.{'0' * 16}.{'A' * 43}.{'0' * 32}"
        refused = await ca.join(token=guess)
        assert isinstance(refused, Denied)
        assert "vm-7" not in refused.reason

    run(tmp_path, scenario, connected={"10.0.0.1": "vm-7"})


def test_a_batch_has_one_outcome_an_item_and_one_bad_item_stops_no_other(tmp_path):
    async def scenario(ca):
        await ca.put(identities=("shop/web", "shop/api"))
        good = key_and_csr()[1]
        items = (
            SignItem(identity="shop/web", csr=good),
            SignItem(identity="shop/db", csr=good),
            SignItem(identity="shop/api", csr=spliced()),
            SignItem(identity="gate", csr=good),
            SignItem(identity="node", csr=good),
            SignItem(identity="shop/api", csr=good),
        )
        answer = await ca.issuer.sign(claims(), SignRequest(items=items), NOW)
        assert isinstance(answer, SignAnswer)
        assert [bool(item.chain) for item in answer.signed] == [True, False, False, False, True, True]
        assert [bool(item.denied) for item in answer.signed] == [False, True, True, True, False, False]
        assert [item.identity for item in answer.signed] == [item.identity for item in items]
        assert len(ca.records.lines) == len(items)
        assert [fields["allowed"] for _, fields in ca.records.lines] == [True, False, False, False, True, True]

    run(tmp_path, scenario)


def test_a_gate_gets_its_name_and_nobody_else_does(tmp_path):
    async def scenario(ca):
        await ca.put("gate-1", roles=("agent", "gate"))
        await ca.put("vm-1", identities=("shop/web",))
        gate = await ca.sign("gate", node="gate-1")
        assert sans(gate.signed[0].chain) == ([f"spiffe://{DOMAIN}/node/gate-1"], ["gate.holdfast"])
        assert (await ca.sign("gate", node="vm-1")).signed[0].denied

    run(tmp_path, scenario)


def test_eviction_counts_for_the_next_request(tmp_path):
    async def scenario(ca):
        await ca.put(identities=("shop/web",))
        assert (await ca.sign("shop/web")).signed[0].chain
        await ca.put(identities=("shop/web",), evicted=True)
        for identity in ("shop/web", "node"):
            assert "evicted" in (await ca.sign(identity)).signed[0].denied

    run(tmp_path, scenario)


@pytest.mark.parametrize("lie", LIES)
def test_what_a_lying_signer_signs_is_not_handed_out(tmp_path, lie):
    async def scenario(ca):
        await ca.put(identities=("shop/web",))
        answer = await ca.sign("shop/web")
        assert answer.signed[0].chain == ""
        assert "something else" in answer.signed[0].denied
        assert ca.records.last()["allowed"] is False

    run(tmp_path, scenario, lie=lie)


def test_the_record_names_what_was_issued(tmp_path):
    async def scenario(ca):
        from cryptography.hazmat.primitives import hashes

        await ca.put(identities=("shop/web",))
        chain = (await ca.sign("shop/web")).signed[0].chain
        leaf = x509.load_pem_x509_certificate(chain.encode())
        fields = ca.records.last()
        assert fields["digest"] == leaf.fingerprint(hashes.SHA256()).hex()
        assert fields["serial"] == f"{leaf.serial_number:x}"
        assert fields["spiffe_id"] == f"spiffe://{DOMAIN}/ns/shop/sa/web"

    run(tmp_path, scenario)


def test_one_identity_too_often_is_limited_and_others_are_not(tmp_path):
    async def scenario(ca):
        await ca.put(identities=("shop/web", "shop/api"))
        await ca.put("vm-2", identities=("shop/web",))
        outcomes = [bool((await ca.sign("shop/web")).signed[0].chain) for _ in range(4)]
        assert outcomes == [True, True, True, False]
        assert (await ca.sign("shop/api")).signed[0].chain
        assert (await ca.sign("shop/web", node="vm-2")).signed[0].chain
        assert (await ca.sign("shop/web", now=NOW + 11)).signed[0].chain

    run(tmp_path, scenario, limits=Limits(identity=Rate(0.1, 3)))


def test_a_node_too_often_is_limited_whatever_it_asks_for(tmp_path):
    async def scenario(ca):
        names = tuple(f"shop/s{number}" for number in range(10))
        await ca.put(identities=names)
        answer = await ca.sign(*names)
        assert sum(bool(item.chain) for item in answer.signed) == 6
        assert "try again" in answer.signed[-1].denied

    run(tmp_path, scenario, limits=Limits(node=Rate(1, 6)))


def test_guessing_tokens_closes_the_address_for_a_while_and_others_still_join(tmp_path):
    async def scenario(ca):
        guess = f"hf1.{'0' * 16}.{'A' * 43}.{'0' * 32}"
        for _ in range(3):
            assert isinstance(await ca.join(token=guess), Denied)
        closed = await ca.join()
        assert isinstance(closed, Denied)
        assert closed.retry_after > 0
        token = (await mint(ca.store, ca.authority)).token
        request = JoinRequest(token=token, node="vm-1", address="10.0.0.1", csr=key_and_csr()[1])
        assert isinstance(await ca.issuer.join(request, "192.0.2.2", NOW), JoinAnswer)
        assert isinstance(await ca.join(now=NOW + 2), JoinAnswer)

    run(tmp_path, scenario, limits=Limits(failed_joins=Rate(1, 3)))


def test_an_evicted_host_that_renews_without_end_closes_its_address_and_is_no_known_caller(tmp_path):
    async def scenario(ca):
        answer, key = await joined(ca)
        await ca.put(evicted=True)
        ca.records.strangers.clear()
        for _ in range(3):
            assert "evicted" in (await renewed(ca, answer, key, NOW)).reason
        assert ca.records.last()["node"] == "vm-1"
        assert ca.records.strangers == ["192.0.2.1"] * 3
        assert (await renewed(ca, answer, key, NOW)).retry_after > 0
        assert len(ca.records.strangers) == 3

    run(tmp_path, scenario, limits=Limits(failed_joins=Rate(1, 3)))


def test_a_batch_is_bounded(tmp_path):
    async def scenario(ca):
        await ca.put()
        assert isinstance(await ca.sign(*["node"] * (MAX_ITEMS + 1)), Denied)

    run(tmp_path, scenario)
