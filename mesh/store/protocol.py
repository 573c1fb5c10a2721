"""The store's contract.

Keys are text, values bytes. A revision is the store's one clock: it grows by one with every transaction that writes,
and all keys of a transaction share it. Reads are linearizable unless they name a revision.

Every method may raise Unavailable and Refused (mesh.store.errors), and nothing else that is not named in it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from mesh.model import Revision

MAX_GETS = 64
"""Keys of one get_many: half of what etcd takes in a transaction by default."""


class Item(NamedTuple):
    """A key at one moment."""

    key: str
    value: bytes
    revision: Revision
    """Of its last change (etcd's mod_revision)."""
    created: Revision
    """Of its creation; another one means that the key was deleted in between."""


class Listing(NamedTuple):
    """All of a range at one revision, sorted by key, however many pages it took."""

    items: tuple[Item, ...]
    revision: Revision


class Event(NamedTuple):
    """One key's change. A delete has value None."""

    key: str
    value: bytes | None
    revision: Revision
    created: Revision = Revision(0)
    """Revision of the key's creation; 0 for a delete."""


class Range(NamedTuple):
    """What to watch, and from which revision on."""

    prefix: str
    """A prefix (ends with a slash) or one whole key."""
    start: Revision


class Batch(NamedTuple):
    """All changes that one revision made in one watched range: never split, never two revisions in one.

    Without events it is a mark: everything in this range up to `revision` has been delivered.
    """

    prefix: str
    revision: Revision
    events: tuple[Event, ...]


class Compare(NamedTuple):
    """Holds if the key's last change was at this revision; 0: if the key does not exist."""

    key: str
    revision: Revision


class Put(NamedTuple):
    key: str
    value: bytes
    lease: int = 0
    """A lease's id: the key goes when the lease does."""


class Delete(NamedTuple):
    key: str


Op = Put | Delete


class Lease(Protocol):
    """Time-limited ownership. Keys put under it vanish when it ends."""

    @property
    def id(self) -> int: ...

    async def keep_alive(self) -> bool:
        """Renew once. False: it is gone for good, and so are its keys."""

    async def revoke(self) -> None:
        """End it now. May be repeated."""


class Watch(Protocol):
    """A watch under way: an async iterator that can be closed."""

    def __aiter__(self) -> AsyncIterator[Batch]: ...

    async def __anext__(self) -> Batch: ...

    async def aclose(self) -> None:
        """End it, at the server too. May be repeated."""


class Store(Protocol):
    """Who opens a store closes it. All methods may be called concurrently."""

    async def get(self, key: str, *, at: Revision | None = None) -> Item | None:
        """One key, now or at a past revision (then Compacted may be raised)."""

    async def get_many(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        """Several keys at one moment, in the order asked for; at most MAX_GETS, and together no larger than a request.

        Not through a store gate: it admits reads of ranges alone.
        """

    async def list(self, prefix: str) -> Listing:
        """All keys with this prefix at one revision; paged inside, so of any size."""

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op]) -> Revision:
        """All of it or nothing. Keys of ops are distinct.

        Raises:
            Conflict: a compare did not hold.

        """

    async def lease(self, ttl: int) -> Lease:
        """Grant a lease of ttl seconds."""

    def watch(self, ranges: Sequence[Range]) -> Watch:
        """Changes at and after each range's start, in order, one batch a revision and range.

        Within a range revisions only grow. Between ranges there is no promise: what must be seen together lies in one
        range. The iterator ends only by raising: Compacted if a start is gone, Unavailable if the stream broke or its
        member lost the quorum. Closing it (aclose) ends the watch at the server. A start must not lie beyond the
        store's next revision; if a restore makes it so, the watch ends with Unavailable, sooner or later.
        """

    async def revision(self) -> Revision:
        """The newest revision (linearizable)."""

    async def close(self) -> None:
        """Release connections. May be repeated."""
