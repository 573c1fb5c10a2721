"""What every control-plane transaction declares of itself. Pure.

By it agents tell a mass deletion that was meant from a store that lost its data. What is deleted is added up by whose
it is: a peer may take back what it offered as often as it likes, and that must not excuse the loss of anything else.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


Totals = Mapping[str, Item | None]
"""Key of a running total -> what it holds now."""


def touched(ops: Iterable[Op]) -> tuple[str, ...]:
    """Keys of the running totals that these operations add to: `declare` has to know what they hold."""
    return tuple(keys.total_of(peer) for peer in sorted(deleted_of(op.key for op in ops if isinstance(op, Delete))))


def declare(author: str, compares: Sequence[Compare], ops: Sequence[Op], totals: Totals) -> Transaction:
    """These operations, with the declaration of what they delete from the agents' range.

    The transaction compares the totals of `touched(ops)`, since each is a running one.
    """
    deleted = deleted_of(op.key for op in ops if isinstance(op, Delete))
    commit = Commit(author=author, deleted=deleted.total(), withdrawn={p: n for p, n in sorted(deleted.items()) if p})
    sums = add(deleted, totals)
    return Transaction((*compares, *sums.compares), (*ops, Put(keys.COMMIT, codec.encode_struct(commit)), *sums.ops))


def add(deleted: Mapping[str, int], totals: Totals) -> Transaction:
    """The running totals after so many deletions; peer, or empty -> number."""
    compares, ops = list[Compare](), list[Op]()
    for peer, number in sorted(deleted.items()):
        key = keys.total_of(peer)
        item = totals.get(key)
        compares.append(Compare(key, item.revision if item else Revision(0)))
        ops.append(Put(key, codec.encode_struct(Deletions(total=number + _total(item)))))
    return Transaction(tuple(compares), tuple(ops))


def deleted_of(names: Iterable[str]) -> Counter[str]:
    """How many of these keys agents may know, by whose they are (keys.peer_of)."""
    return Counter(keys.peer_of(name) for name in names if name.startswith(keys.MESH))


def _total(item: Item | None) -> int:
    """A value that cannot be read starts anew, as agents then hold back rather than lose."""
    if item is None:
        return 0
    try:
        return codec.decode_struct(Deletions, item.value).total
    except codec.Undecodable:
        return 0
