"""EtcdStore: the store's contract on etcd's gRPC API."""

import random
from collections.abc import Sequence
from typing import Any

from aetcd.rpc import rpc_pb2 as rpc
from aetcd.rpc import rpc_pb2_grpc as stubs
from grpc.aio import AioRpcError

from mesh import keys
from mesh.model import Revision
from mesh.store.errors import Compacted, Conflict, Refused, Unavailable
from mesh.store.etcd.faults import too_large_for_us
from mesh.store.etcd.members import Members, Tls
from mesh.store.etcd.watching import EtcdWatch
from mesh.store.protocol import Compare, Delete, Item, Listing, Op, Put, Range

PAGE_KEYS = 1000
PAGE_BYTES = 4 * 2**20
"""A page's size aimed at: far below MAX_RECEIVE_BYTES, and quick even on a busy machine."""

RELIST_TRIES = 3


class EtcdStore:
    """A store on etcd, over TLS, to members or to gates in front of them.

    Every request ends within `timeout` seconds. Who opens it closes it.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: Tls,
        server_name: str = "etcd",
        timeout: float = 5.0,
        rng: random.Random | None = None,
    ) -> None:
        """Describe it; connections are made when they are needed.

        Args:
            endpoints: `<host>:<port>`, any number.
            tls: Whom we trust and who we are.
            server_name: The DNS name that their certificates must have, whatever address is dialled.
            timeout: Seconds.
            rng: Chooses the first endpoint.

        """
        self._members = Members(
            endpoints, tls=tls, server_name=server_name, timeout=timeout, rng=rng or random.Random()
        )
        self._watches: set[EtcdWatch] = set()

    def renew_tls(self, tls: Tls) -> None:
        """Use these credentials for new connections. Open watches go on with theirs."""
        self._members.renew_tls(tls)

    async def get(self, key: str, *, at: Revision | None = None) -> Item | None:
        request = rpc.RangeRequest(key=_raw(key), revision=at or 0)
        found = await self._ask(stubs.KVStub, "Range", request, what=f"get {key}")
        return _item(found.kvs[0]) if found.kvs else None

    async def get_many(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        if not keys:
            return ()
        # etcd answers a transaction that only reads as it does a range: linearizable, without a word in the log.
        reads = [rpc.RequestOp(request_range=rpc.RangeRequest(key=_raw(key))) for key in keys]
        found = await self._ask(stubs.KVStub, "Txn", rpc.TxnRequest(success=reads), what=f"get {len(keys)} keys")
        ranges = (one.response_range.kvs for one in found.responses)
        return tuple(_item(kvs[0]) if kvs else None for kvs in ranges)

    async def list(self, prefix: str) -> Listing:
        for _ in range(RELIST_TRIES - 1):
            try:
                return await self._list(prefix)
            except Compacted:
                # The revision of the first page went while the others were read.
                continue
        try:
            return await self._list(prefix)
        except Compacted as exc:
            raise Unavailable(f"list {prefix}: compacted while it was read, {RELIST_TRIES} times") from exc

    async def _list(self, prefix: str) -> Listing:
        start, end = _raw(prefix), keys.prefix_end(prefix)
        items: list[Item] = []
        revision, limit, size = 0, PAGE_KEYS, 0
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
            try:
                page = await self._ask(stubs.KVStub, "Range", request, what=f"list {prefix}")
            except Refused as exc:
                # Values can be larger than foreseen: smaller pages, down to one key.
                if limit > 1 and isinstance(exc.__cause__, AioRpcError) and too_large_for_us(exc.__cause__):
                    limit = max(1, limit // 4)
                    continue
                raise
            revision = revision or page.header.revision
            items += map(_item, page.kvs)
            size += page.ByteSize()
            if not page.more:
                return Listing(tuple(items), Revision(revision))
            start = page.kvs[-1].key + b"\0"
            limit = max(1, min(PAGE_KEYS, PAGE_BYTES * len(items) // size))

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Op]) -> Revision:
        what = "write " + ", ".join(op.key for op in ops[:3]) + (f" and {len(ops) - 3} more" if len(ops) > 3 else "")
        request = rpc.TxnRequest(compare=map(_compare, compares), success=map(_op, ops))
        answer, repeated = await self._members.call(
            stubs.KVStub, "Txn", request, repeatable=once_only(compares, ops), what=what
        )
        if answer.succeeded:
            return Revision(answer.header.revision)
        if repeated:
            raise Unavailable(f"{what}: an earlier try may have been carried out; its answer was lost")
        raise Conflict(f"{what}: changed by somebody else")

    async def lease(self, ttl: int) -> "EtcdLease":
        # Granted twice, the first one runs out by itself.
        granted = await self._ask(stubs.LeaseStub, "LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl), what="grant a lease")
        return EtcdLease(self._members, granted.ID)

    def watch(self, ranges: Sequence[Range]) -> EtcdWatch:
        watch = EtcdWatch(self._members, ranges, on_close=self._watches.discard)
        self._watches.add(watch)
        return watch

    async def revision(self) -> Revision:
        # Any key tells it; this one a reader of the mesh may read.
        request = rpc.RangeRequest(key=_raw(keys.EPOCH), keys_only=True)
        found = await self._ask(stubs.KVStub, "Range", request, what="read the revision")
        return Revision(found.header.revision)

    async def close(self) -> None:
        for watch in tuple(self._watches):
            await watch.aclose()
        await self._members.close()

    async def _ask(self, service: type, method: str, request: object, *, what: str) -> Any:
        return (await self._members.call(service, method, request, repeatable=True, what=what)).message


class EtcdLease:
    """A lease at etcd."""

    def __init__(self, members: Members, lease_id: int) -> None:
        self._members, self._id = members, lease_id

    @property
    def id(self) -> int:
        return self._id

    async def keep_alive(self) -> bool:
        request = rpc.LeaseKeepAliveRequest(ID=self._id)
        answer = await self._members.call(KeepAliveOnce, "once", request, repeatable=True, what="keep a lease alive")
        return bool(answer.message is not None and answer.message.TTL > 0)

    async def revoke(self) -> None:
        request = rpc.LeaseRevokeRequest(ID=self._id)
        try:
            await self._members.call(stubs.LeaseStub, "LeaseRevoke", request, repeatable=True, what="revoke a lease")
        except Refused as exc:
            if "lease not found" not in str(exc):
                raise


class KeepAliveOnce:
    """etcd renews leases over a stream only; this asks once, in the shape of a unary stub."""

    def __init__(self, channel: Any) -> None:
        self._stream = stubs.LeaseStub(channel).LeaseKeepAlive

    async def once(self, request: object, *, timeout: float, metadata: Any) -> Any:  # noqa: ASYNC109 - gRPC's own
        call = self._stream(iter((request,)), timeout=timeout, metadata=metadata)
        try:
            async for answer in call:
                return answer
            return None
        finally:
            call.cancel()


def once_only(compares: Sequence[Compare], ops: Sequence[Op]) -> bool:
    """Can this transaction succeed only once, however often and late it is carried out?

    Yes, if it changes a key that it compares with an earlier change: no key ever returns to an old revision. A creation
    (compare with 0) is not that: deleted meanwhile, a late second run would bring the key back.
    """
    written = {op.key for op in ops}
    return any(compare.revision > 0 and compare.key in written for compare in compares) or not ops


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def text(key: bytes) -> str:
    """A key as text; bytes that are none survive the way there and back."""
    return key.decode("utf-8", "surrogateescape")


def _item(kv: Any) -> Item:
    return Item(text(kv.key), kv.value, Revision(kv.mod_revision), Revision(kv.create_revision))


def _compare(compare: Compare) -> Any:
    return rpc.Compare(
        result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=_raw(compare.key), mod_revision=compare.revision
    )


def _op(op: Op) -> Any:
    match op:
        case Put(key, value, lease):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=_raw(key), value=value, lease=lease))
        case Delete(key):
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=_raw(key)))
