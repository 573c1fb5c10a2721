"""The whole path: attest, authorize, build, sign, verify, audit."""

import asyncio

import msgspec
import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca import keys
from ca.api import MAX_ITEMS, Limits
from ca.attest import join_token
from ca.limits import Rate
from ca.policy import Claims, Denied, Lifetimes
from ca.template import issued
from ca.wire import JoinAnswer, JoinRequest, RenewRequest, SignAnswer, Signed, SignItem, SignRequest
from mesh import codec
from mesh.model import Metadata, Node, NodeSpec
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Delete, Put
from tests.fakes.lying_signer import LIES, LyingAuthority
from tests.support.ca import (
    DOMAIN,
    NOW,
    Records,
    hostile_csrs,
    key_and_csr,
    make_authority,
    make_issuer,
    mint,
    sans,
    spliced,
)
from tests.unit.ca.test_policy import HOSTILE

DAY = 86400.0


class Ca:
    """A store, a real authority and the issuer on top."""

    def __init__(
        self, tmp_path, *, limits: Limits = Limits(), lie: str = "", life: Lifetimes = Lifetimes(), connected=None
    ) -> None:
        self.store, self.records = MemoryStore(), Records()
        self.authority = make_authority(tmp_path, life=life)
        signer = LyingAuthority(self.authority, lie) if lie else self.authority
        self.issuer = make_issuer(
            self.store, signer, self.records, limits, life=lambda: life, connected=connected or {}
        )

    async def start(self):
        await self.authority.start()
        return self

    async def put(self, name: str = "vm-1", **spec) -> None:
        node = Node(metadata=Metadata(name=name), spec=NodeSpec(**spec))
        await self.store.txn([], [Put(join_token.node_key(name), codec.encode(node))])

    async def join(self, *, token: str = "", csr: str = "", node: str = "vm-1", now: float = NOW, **more):
        token = token or (await mint(self.store, self.authority, node)).token
        request = {"address": "10.0.0.1", "csr": csr or key_and_csr()[1], **more}
        return await self.issuer.join(JoinRequest(token=token, node=node, **request), "192.0.2.1", now)

    async def sign(self, *identities: str, node: str = "vm-1", csr: str = "", now: float = NOW, issued: float = NOW):
        items = tuple(SignItem(identity=identity, csr=csr or key_and_csr()[1]) for identity in identities)
        return await self.issuer.sign(claims(node, issued), SignRequest(items=items), now)


def claims(node: str = "vm-1", issued: float = NOW) -> Claims:
    """What TLS says of an agent."""
    return Claims(node, "node_certificate", issued)


def run(tmp_path, scenario, **options):
    async def go():
        return await scenario(await Ca(tmp_path, **options).start())

    return asyncio.run(go())


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


async def renewed(ca, answer, key: str, now: float, **change):
    _, csr = key_and_csr()
    request = RenewRequest(chain=answer.chain, csr=csr, proof=keys.prove(key, csr))
    return await ca.issuer.renew(msgspec.structs.replace(request, **change), now, "192.0.2.1")


async def joined(ca):
    key, csr = key_and_csr()
    answer = await ca.join(csr=csr)
    assert isinstance(answer, JoinAnswer)
    return answer, key


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
