"""Join tokens: bound to a node, its identities, a time and one key."""

import asyncio
import math

import pytest

from ca import joins, keys
from ca.attest import join_token
from ca.attest.join_token import BadTokenRequestError
from ca.policy import Denied
from mesh import codec
from mesh import keys as store_keys
from mesh.model import Metadata, Node, NodeSpec, Revision
from mesh.store.errors import Conflict, Unavailable
from mesh.store.memory import MemoryStore
from mesh.store.protocol import Compare, Delete, Put
from tests.support import tokens
from tests.support.ca import NOW, public
from tests.support.tokens import PIN
from tests.unit.ca.test_policy import HOSTILE


async def minted(store, **more):
    more = {"node": "vm-1", "identities": ("shop/web",), "ttl": 600.0, **more}
    return (await join_token.mint(store, pin=PIN, now=NOW, **more)).token


def new_public():
    return public(keys.new_key())


def test_a_hundred_keys_at_once_have_one_winner():
    asyncio.run(tokens.one_winner_of_many(MemoryStore()))


def test_nothing_secret_is_stored():
    asyncio.run(tokens.nothing_secret_is_stored(MemoryStore()))


def test_joining_writes_the_node_with_the_tokens_identities():
    async def go():
        store = MemoryStore()
        token = await minted(store, identities=("shop/web", "shop/web", "shop/api"), roles=("gate", "agent"))
        claims, standing = await join_token.consume(store, token, "vm-1", "10.0.0.1", new_public(), NOW)
        assert (claims.node, claims.method) == ("vm-1", "join_token")
        assert standing.node.spec == NodeSpec(
            address="10.0.0.1", identities=("shop/web", "shop/api"), roles=("agent", "gate")
        )
        stored = await store.get(join_token.node_key("vm-1"))
        assert codec.decode("Node", stored.value, Revision(0)).spec == standing.node.spec

    asyncio.run(go())


@pytest.mark.parametrize(
    ("change", "node", "when"),
    [
        ("", "vm-2", NOW),  # agent A uses agent B's token
        ("", "vm-1", NOW + 600),  # expired
        ("id", "vm-1", NOW),
        ("secret", "vm-1", NOW),
    ],
)
def test_refused_in_the_same_words_whatever_is_wrong(change, node, when):
    async def go():
        store = MemoryStore()
        parts = (await minted(store)).split(".")
        if change == "id":
            parts[1] = "0" * 16
        if change == "secret":
            parts[2] = ("A" if parts[2][0] != "A" else "B") + parts[2][1:]
        before = await store.revision()
        outcome = await join_token.consume(store, ".".join(parts), node, "10.0.0.1", new_public(), when)
        assert isinstance(outcome, Denied)
        assert "not valid" in outcome.reason
        assert await store.revision() == before

    asyncio.run(go())


@pytest.mark.parametrize(
    "text",
    ["", "hf1", "hf1.a.b.c", "hf2." + "0" * 16 + "." + "A" * 43 + "." + PIN, "x" * 1_000_000, "hf1.\n.\0.é", "../.."],
)
def test_what_is_no_token_is_said_to_be_none(text):
    async def go():
        outcome = await join_token.check(MemoryStore(), text, "vm-1", NOW)
        assert isinstance(outcome, Denied)
        assert "not a join token" in outcome.reason

    asyncio.run(go())


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "node"])
def test_no_token_for_a_hostile_name(name):
    async def go():
        store = MemoryStore()
        for request in ({"node": name}, {"identities": (f"shop/{name}",)}, {"identities": (f"{name}/web",)}):
            with pytest.raises(BadTokenRequestError):
                await minted(store, **request)
        assert await store.revision() <= 1

    asyncio.run(go())


@pytest.mark.parametrize("request_", [{"roles": ("root",)}, {"roles": ()}, {"ttl": 0.0}, {"ttl": -1.0}, {"ttl": 1e9}])
def test_no_token_for_impossible_roles_or_times(request_):
    with pytest.raises(BadTokenRequestError):
        asyncio.run(minted(MemoryStore(), **request_))


def test_an_evicted_node_neither_gets_nor_uses_a_token():
    async def go():
        store = MemoryStore()
        token = await minted(store)
        node = Node(metadata=Metadata(name="vm-1"), spec=NodeSpec(evicted=True))
        await store.txn([], [Put(join_token.node_key("vm-1"), codec.encode(node))])
        assert isinstance(await join_token.consume(store, token, "vm-1", "10.0.0.1", new_public(), NOW), Denied)
        with pytest.raises(BadTokenRequestError, match="evicted"):
            await minted(store)

    asyncio.run(go())


def test_a_second_token_lets_a_reinstalled_host_join_and_keeps_what_operators_wrote():
    async def go():
        store = MemoryStore()
        node = Node(
            metadata=Metadata(name="vm-1", labels={"rack": "7"}), spec=NodeSpec(locality="eu/a", address="10.0.0.9")
        )
        await store.txn([], [Put(join_token.node_key("vm-1"), codec.encode(node))])
        _, standing = await join_token.consume(store, await minted(store), "vm-1", "10.0.0.1", new_public(), NOW)
        joined = standing.node
        assert joined.metadata.labels == {"rack": "7"}
        assert (joined.spec.locality, joined.spec.address, joined.spec.identities) == (
            "eu/a",
            "10.0.0.1",
            ("shop/web",),
        )

    asyncio.run(go())


def test_a_repetition_after_the_node_was_deleted_brings_nothing_back():
    async def go():
        store, key = MemoryStore(), new_public()
        token = await minted(store)
        await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW)
        await store.txn([], [Delete(join_token.node_key("vm-1"))])
        assert isinstance(await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW), Denied)

    asyncio.run(go())


async def moment(store):
    """When vm-1 last joined, as the store says."""
    item = await store.get(store_keys.join_of("vm-1"))
    return joins.since(item.value if item else None)


def test_a_join_is_dated_and_repeating_it_does_not_move_the_date():
    async def go():
        store, key = MemoryStore(), new_public()
        token = await minted(store)
        claims, standing = await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW)
        assert NOW < claims.issued == standing.since == await moment(store)
        again = await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW + 500)
        assert again == (claims, standing)
        assert await moment(store) == claims.issued
        refused = await join_token.consume(store, token, "vm-1", "10.0.0.1", new_public(), NOW + 500)
        assert isinstance(refused, Denied)
        assert await moment(store) == claims.issued

    asyncio.run(go())


def test_the_date_outlives_the_node_and_the_next_join_is_later():
    """Also by a replica whose clock is behind the one that wrote the first."""

    async def go():
        store = MemoryStore()
        first, _ = await join_token.consume(store, await minted(store), "vm-1", "10.0.0.1", new_public(), NOW)
        await store.txn([], [Delete(join_token.node_key("vm-1"))])
        assert await moment(store) == first.issued
        second, _ = await join_token.consume(store, await minted(store), "vm-1", "10.0.0.1", new_public(), NOW - 60)
        assert await moment(store) == second.issued > first.issued

    asyncio.run(go())


def test_the_earlier_hosts_token_cannot_be_repeated_once_another_host_has_joined():
    async def go():
        store, key = MemoryStore(), new_public()
        old = await minted(store)
        await join_token.consume(store, old, "vm-1", "10.0.0.1", key, NOW)
        await store.txn([], [Delete(join_token.node_key("vm-1"))])
        new, other = await minted(store), new_public()
        await join_token.consume(store, new, "vm-1", "10.0.0.2", other, NOW + 1)
        assert isinstance(await join_token.consume(store, old, "vm-1", "10.0.0.1", key, NOW + 2), Denied)
        assert not isinstance(await join_token.consume(store, new, "vm-1", "10.0.0.2", other, NOW + 2), Denied)

    asyncio.run(go())


def test_a_record_of_a_join_that_cannot_be_read_ends_with_the_next_join():
    async def go():
        store, key = MemoryStore(), new_public()
        token = await minted(store)
        await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW)
        await store.txn([], [Put(store_keys.join_of("vm-1"), b"\xff{garbage")])
        assert await moment(store) == math.inf
        assert isinstance(await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW), Denied)
        claims, _ = await join_token.consume(store, await minted(store), "vm-1", "10.0.0.1", key, NOW)
        assert await moment(store) == claims.issued < math.inf

    asyncio.run(go())


@pytest.mark.parametrize("where", ["token", "node"])
def test_garbage_in_the_store_is_a_refusal(where):
    async def go():
        store = MemoryStore()
        token = await minted(store)
        key = store_keys.TOKENS + token.split(".")[1] if where == "token" else join_token.node_key("vm-1")
        item = await store.get(key)
        await store.txn([Compare(key, item.revision if item else Revision(0))], [Put(key, b"\xff{garbage")])
        assert isinstance(await join_token.consume(store, token, "vm-1", "10.0.0.1", new_public(), NOW), Denied)

    asyncio.run(go())


class LostAnswers(MemoryStore):
    """The next write happens, and its answer is lost."""

    losing = False

    async def txn(self, compares, ops):
        revision = await super().txn(compares, ops)
        if self.losing:
            self.losing = False
            raise Unavailable("no answer")
        return revision


def test_a_write_whose_answer_was_lost_strands_nobody():
    async def go():
        store, key = LostAnswers(), new_public()
        token = await minted(store)
        store.losing = True
        with pytest.raises(Unavailable):
            await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW)
        assert isinstance(await join_token.consume(store, token, "vm-1", "10.0.0.1", new_public(), NOW), Denied)
        claims, standing = await join_token.consume(store, token, "vm-1", "10.0.0.1", key, NOW)
        assert (claims.node, standing.node.spec.address) == ("vm-1", "10.0.0.1")

    asyncio.run(go())


def test_an_operators_edit_between_reading_and_writing_is_not_lost():
    """The node is evicted while its host joins: the join sees it."""

    class Edited(MemoryStore):
        edits = 1

        async def txn(self, compares, ops):
            if self.edits and any(op.key == join_token.node_key("vm-1") for op in ops):
                self.edits -= 1
                evicted = Node(metadata=Metadata(name="vm-1"), spec=NodeSpec(evicted=True))
                await super().txn([], [Put(join_token.node_key("vm-1"), codec.encode(evicted))])
            return await super().txn(compares, ops)

    async def go():
        store = Edited()
        token = await minted(store)
        outcome = await join_token.consume(store, token, "vm-1", "10.0.0.1", new_public(), NOW)
        assert isinstance(outcome, Denied)
        assert "evicted" in outcome.reason

    asyncio.run(go())


def test_a_node_that_never_rests_ends_in_come_again():
    class Restless(MemoryStore):
        async def txn(self, compares, ops):
            if any(op.key == join_token.node_key("vm-1") for op in ops):
                raise Conflict("again")
            return await super().txn(compares, ops)

    async def go():
        store = Restless()
        outcome = await join_token.consume(store, await minted(store), "vm-1", "10.0.0.1", new_public(), NOW)
        assert isinstance(outcome, Denied)
        assert outcome.retry_after > 0

    asyncio.run(go())
