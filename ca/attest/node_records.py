"""Node records, read afresh for every request; requests that wait at the same time share one read.

An eviction or a deletion counts at once, so no request is decided on a record that was read before the request came.
While one read is under way, all requests that come are collected; the next read, which begins after the last of them
came, is theirs. So a thousand requests a second cost no more reads than the store can answer one after the other.
"""

import asyncio
from dataclasses import dataclass, field

from ca import joins
from ca.attest.join_token import node_key
from ca.policy import Standing
from mesh import codec, keys
from mesh.model import Node
from mesh.store.protocol import MAX_GETS, Item, Store

MAX_NODES = MAX_GETS // 2
"""Of one read: for each node its record, and that of its last join."""


@dataclass(slots=True)
class _Read:
    """One read: not begun, under way, or done."""

    names: dict[str, None] = field(default_factory=dict)
    found: dict[str, Standing] | None = None
    failed: Exception | None = None


class NodeRecords:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = _Read()
        """Not begun: who comes now may still join it."""
        self._one = asyncio.Lock()

    async def get(self, name: str) -> Standing:
        """What is recorded of it now; no node, if its record cannot be read. `name` has been checked.

        Raises:
            StoreError: as the store says.

        """
        if name not in self._next.names and len(self._next.names) >= MAX_NODES:
            self._next = _Read()
        read = self._next
        read.names[name] = None
        async with self._one:
            # The first to get here reads for all of them. If it is cancelled meanwhile, the next one does.
            if read.found is None and read.failed is None:
                await self._carry_out(read)
        if read.found is None:
            assert read.failed is not None
            raise read.failed
        return read.found[name]

    async def _carry_out(self, read: _Read) -> None:
        if self._next is read:
            self._next = _Read()
        names = tuple(read.names)
        try:
            items = await self._store.get_many([key for name in names for key in (node_key(name), keys.join_of(name))])
            read.found = {
                name: Standing(_node(items[2 * place]), joins.since(_value(items[2 * place + 1])))
                for place, name in enumerate(names)
            }
        except Exception as exc:  # noqa: BLE001 - whatever it is, all who wait for this read are told
            read.failed = exc


def _value(item: Item | None) -> bytes | None:
    return item.value if item else None


def _node(item: Item | None) -> Node | None:
    if item is None:
        return None
    try:
        node = codec.decode("Node", item.value, item.revision)
    except codec.Undecodable:
        return None
    return node if isinstance(node, Node) else None
