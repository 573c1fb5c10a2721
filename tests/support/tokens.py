"""Properties of join tokens that hold on any store."""

import asyncio

from ca import keys
from ca.attest import join_token
from ca.policy import Denied
from mesh import codec
from mesh import keys as store_keys
from mesh.store.protocol import Store
from tests.support.ca import NOW, public

PIN = "0" * 32


async def one_winner_of_many(store: Store, callers: int = 100) -> None:
    """Concurrent uses of one token by different keys: one wins; it may repeat; the others never."""
    minted = await join_token.mint(store, node="vm-1", identities=("shop/web",), ttl=600, pin=PIN, now=NOW)
    held = [public(keys.new_key()) for _ in range(callers)]
    outcomes: dict[int, object] = {}

    async def use(number: int) -> None:
        outcomes[number] = await join_token.consume(store, minted.token, "vm-1", "10.0.0.1", held[number], NOW)

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(use(number))
    winners = [number for number, outcome in outcomes.items() if not isinstance(outcome, Denied)]
    assert len(winners) == 1
    revision = await store.revision()
    again = await join_token.consume(store, minted.token, "vm-1", "10.9.9.9", held[winners[0]], NOW + 599)
    assert again == outcomes[winners[0]]
    loser = next(number for number in range(callers) if number not in winners)
    for _ in range(3):
        assert isinstance(await join_token.consume(store, minted.token, "vm-1", "10.0.0.2", held[loser], NOW), Denied)
    assert await store.revision() == revision, "neither a repetition nor a refusal writes"
    item = await store.get(join_token.node_key("vm-1"))
    assert item is not None
    assert codec.decode("Node", item.value).spec.address == "10.0.0.1"


async def nothing_secret_is_stored(store: Store) -> None:
    minted = await join_token.mint(store, node="vm-9", identities=(), ttl=600, pin=PIN, now=NOW)
    _, _, secret, _ = minted.token.split(".")
    everything = await store.list(store_keys.ROOT)
    assert everything.items
    assert all(secret.encode() not in item.value and secret not in item.key for item in everything.items)
