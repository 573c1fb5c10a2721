"""Node records, read afresh for every request; requests that wait at the same time share one read.

An eviction or a deletion counts at once, so no request is decided on a record that was read before the request came.
While one read is under way, all requests that come are collected; the next read, which begins after the last of them
came, is theirs. So a thousand requests a second cost no more reads than the store can answer one after the other.
"""

import asyncio
from dataclasses import dataclass, field

from ca.attest.join_token import node_key
from mesh import codec
from mesh.model import Node
from mesh.store.protocol import MAX_GETS, Item, Store


@dataclass(slots=True)
class _Read:
    """One read: not begun, under way, or done."""

    names: dict[str, None] = field(default_factory=dict)
    found: dict[str, Node | None] | None = None
    failed: Exception | None = None


class NodeRecords:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = _Read()
        """Not begun: who comes now may still join it."""
        self._one = asyncio.Lock()

    async def get(self, name: str) -> Node | None:
        """The record as it is now, or None if there is none that can be read. `name` has been checked.

        Raises:
            StoreError: as the store says.

        """
        if name not in self._next.names and len(self._next.names) >= MAX_GETS:
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
            items = await self._read([node_key(name) for name in names])
            read.found = {
                name: _node(item.value, item.revision) if item else None
                for name, item in zip(names, items, strict=True)
            }
        except Exception as exc:  # noqa: BLE001 - whatever it is, all who wait for this read are told
            read.failed = exc

    async def _read(self, keys: list[str]) -> tuple[Item | None, ...]:
        return await self._store.get_many(keys) if len(keys) > 1 else (await self._store.get(keys[0]),)


def _node(value: bytes, revision: int) -> Node | None:
    try:
        node = codec.decode("Node", value, revision)
    except codec.Undecodable:
        return None
    return node if isinstance(node, Node) else None
