"""What every control-plane transaction declares of itself. Pure.

By it agents tell a mass deletion that was meant from a store that lost its data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mesh import codec, keys
from mesh.model import Revision
from mesh.model.world import Commit, Deletions
from mesh.store.protocol import Compare, Delete, Item, Op, Put


@dataclass(frozen=True, slots=True)
class Transaction:
    """Ready for Store.txn."""

    compares: tuple[Compare, ...]
    ops: tuple[Op, ...]

    @property
    def size(self) -> int:
        """Roughly the bytes of the request."""
        return sum(len(op.key) + (len(op.value) if isinstance(op, Put) else 0) + 16 for op in self.ops) + sum(
            len(compare.key) + 16 for compare in self.compares
        )


def declare(author: str, compares: Sequence[Compare], ops: Sequence[Op], deletions: Item | None) -> Transaction:
    """These operations, with the declaration of what they delete from the agents' range.

    `deletions` is what keys.DELETIONS holds now; the transaction compares it, since it is a running total.
    """
    deleted = sum(isinstance(op, Delete) and op.key.startswith(keys.MESH) for op in ops)
    all_compares, all_ops = list(compares), list(ops)
    all_ops.append(Put(keys.COMMIT, codec.encode_struct(Commit(author=author, deleted=deleted))))
    if deleted:
        total = deleted + deletions_total(deletions)
        all_compares.append(Compare(keys.DELETIONS, deletions.revision if deletions else Revision(0)))
        all_ops.append(Put(keys.DELETIONS, codec.encode_struct(Deletions(total=total))))
    return Transaction(tuple(all_compares), tuple(all_ops))


def deletions_total(item: Item | None) -> int:
    """The running total; a value that cannot be read starts anew, as agents then hold back rather than lose."""
    if item is None:
        return 0
    try:
        return codec.decode_struct(Deletions, item.value).total
    except codec.Undecodable:
        return 0
