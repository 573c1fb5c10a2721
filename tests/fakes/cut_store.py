"""A store that carries out some transactions, fails one, and then goes on."""

from mesh.store.errors import Unavailable
from mesh.store.memory import MemoryStore


class CutStore(MemoryStore):
    left = 0
    """The transaction that fails, counted from 1."""

    async def txn(self, compares, ops):
        self.left -= 1
        if not self.left:
            raise Unavailable("cut")
        return await super().txn(compares, ops)
