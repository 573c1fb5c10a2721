"""One watch: several ranges on one stream, on a connection of its own.

A task of the watch only takes messages off the stream, so that a busy consumer never makes etcd take us for a
slow reader; they are decoded when the consumer asks. Beyond a bound the stream is left unread, and etcd waits.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import groupby
from typing import Any

import grpc
from aetcd.rpc import kv_pb2 as kv
from aetcd.rpc import rpc_pb2 as rpc
from grpc.aio import AioRpcError, BaseError, Channel

from mesh import keys
from mesh.model import Revision
from mesh.store.errors import Compacted, Refused, StoreError, Unavailable
from mesh.store.etcd.faults import cancelled_watch, classify, details
from mesh.store.etcd.members import HAS_LEADER, Members
from mesh.store.protocol import Batch, Event, Range

BUFFER_BYTES = 64 * 2**20
FIRST_PROGRESS_SECONDS, PROGRESS_SECONDS = 0.12, 3.0
"""How often we ask etcd how far it has delivered: the mark for quiet ranges, and a sign of life through any gate.

At first sooner, and twice as long each time: etcd answers only once a new watch has caught up, which it checks every
0.1 s.
"""

SILENCE_SECONDS = 10.0
"""No message at all for so long, though asked: the stream is dead."""

WRITE_SECONDS = 5.0

_WATCH = "/etcdserverpb.Watch/Watch"


class EtcdWatch:
    """Opens on the first `__anext__`. Ends by raising; close it in any case."""

    def __init__(self, members: Members, ranges: Sequence[Range], on_close: Callable[["EtcdWatch"], None]) -> None:
        self._members, self._ranges, self._on_close = members, tuple(ranges), on_close
        self._what = "watch " + ", ".join(r.prefix for r in ranges[:3])
        self._address = ""
        self._channel: Channel | None = None
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._inbox: deque[bytes] = deque()
        self._buffered = 0
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._ended: StoreError | None = None
        self._heard = self._asked = 0.0
        self._interval = FIRST_PROGRESS_SECONDS
        self._fragments: dict[int, list[Any]] = {}
        self._out: deque[Batch] = deque()
        self._by_id: dict[int, Range] = {}
        """etcd's watches on the stream, by the ids that we gave them."""
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        try:
            if self._call is None:
                await self._open()
            while not self._out:
                await self._take(await self._next_message())
            return self._out.popleft()
        except BaseException as exc:
            if isinstance(exc, Unavailable):
                self._members.suspect(self._address)
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        if self._call is not None:
            self._call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        if self._channel is not None:
            await self._channel.close()

    async def _open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self._what}: it is closed")
        self._channel, self._address = await self._members.dial_watch(self._what)
        # Bytes, not messages: the reader must be quick, and the buffer's size is exact.
        stream: Any = self._channel.stream_stream(_WATCH, request_serializer=rpc.WatchRequest.SerializeToString)
        self._call = stream(metadata=HAS_LEADER)
        loop = asyncio.get_running_loop()
        self._heard = self._asked = loop.time()
        # Not in a TaskGroup: it lives as long as this object, and aclose ends it.
        self._reader = loop.create_task(self._read(), name=self._what)
        for watched in self._ranges:
            # etcd answers no progress request while a start lies in the future, which on a quiet store it does. So we
            # begin one revision early, and leave out what was not asked for.
            await self._create(watched, watched.start - 1)

    async def _create(self, watched: Range, start: int) -> None:
        # etcd never takes an id again, not even that of a watch which it ended.
        number = len(self._by_id) + 1
        self._by_id[number] = watched
        await self._write(_create(number, watched.prefix, start))

    async def _write(self, message: Any) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._call.write(message)
        except (TimeoutError, BaseError, asyncio.InvalidStateError) as exc:
            await self._explain(exc)

    async def _explain(self, exc: Exception) -> None:
        """A write failed because the stream ended; the reader knows why."""
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=1)
        raise self._ended or Unavailable(f"{self._what}: {self._address}: {exc}") from exc

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (raw := await self._call.read()) is not grpc.aio.EOF:
                self._heard = loop.time()
                self._inbox.append(raw)
                self._buffered += len(raw)
                self._wake.set()
                while self._buffered > BUFFER_BYTES:
                    self._room.clear()
                    await self._room.wait()
            self._ended = await self._why_ended()
        except AioRpcError as exc:
            self._ended = classify(exc).error(f"{self._what}: {self._address}: {details(exc)}")
            self._ended.__cause__ = exc
        except (BaseError, asyncio.InvalidStateError) as exc:
            self._ended = Unavailable(f"{self._what}: {self._address}: {exc}")
        finally:
            self._ended = self._ended or Unavailable(f"{self._what}: it was closed")
            self._wake.set()

    async def _why_ended(self) -> StoreError:
        code, words = await self._call.code(), await self._call.details()
        if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
            return Refused(f"{self._what}: {self._address}: {words}")
        return Unavailable(f"{self._what}: {self._address}: {words or code}")

    async def _next_message(self) -> Any:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if now - self._asked >= self._interval and self._ended is None:
                self._asked, self._interval = now, min(PROGRESS_SECONDS, 2 * self._interval)
                await self._write(_PROGRESS)
            if self._inbox:
                raw = self._inbox.popleft()
                self._buffered -= len(raw)
                self._room.set()
                return rpc.WatchResponse.FromString(raw)
            if self._ended is not None:
                raise self._ended
            if now - self._heard > SILENCE_SECONDS:
                raise Unavailable(f"{self._what}: {self._address}: silent for {SILENCE_SECONDS:g} s")
            self._wake.clear()
            try:
                async with asyncio.timeout(max(0, self._asked + self._interval - now)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _take(self, message: Any) -> None:
        """Decode a message into batches, or raise what it says."""
        if message.canceled:
            if message.compact_revision:
                await self._compacted(message)
                return
            error = cancelled_watch(message.cancel_reason)
            raise type(error)(f"{self._what}: {self._address}: {error}")
        if message.created:
            return
        if not message.events and not message.fragment and message.watch_id not in self._fragments:
            self._mark(message)
            return
        events = self._fragments.setdefault(message.watch_id, [])
        events += message.events
        if message.fragment:
            return
        del self._fragments[message.watch_id]
        prefix, start = self._by_id[message.watch_id]
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            if revision >= start:
                self._out.append(Batch(prefix, Revision(revision), tuple(map(_event, group))))

    async def _compacted(self, message: Any) -> None:
        watched = self._by_id.get(message.watch_id)
        again = list(self._by_id.values()).count(watched) > 1 if watched is not None else True
        if watched is None or again or watched.start < message.compact_revision:
            raise Compacted(f"{self._what}: compacted up to {message.compact_revision}")
        # Only the one revision that we began early is gone.
        await self._create(watched, watched.start)

    def _mark(self, message: Any) -> None:
        """All up to the header's revision was delivered: in one range, or (watch id -1, as we asked) in all."""
        revision = Revision(message.header.revision)
        if message.watch_id > 0:
            self._out.append(Batch(self._by_id[message.watch_id].prefix, revision, ()))
        else:
            self._out.extend(Batch(watched.prefix, revision, ()) for watched in self._ranges)


_PROGRESS = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())


def _create(number: int, prefix: str, start: int) -> Any:
    return rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(
            key=prefix.encode(),
            range_end=keys.prefix_end(prefix) if prefix.endswith("/") else b"",
            # 0 would mean "from now on"; the contract's first revision is 1.
            start_revision=max(1, start),
            watch_id=number,
            fragment=True,
            progress_notify=True,
        )
    )


def _event(event: Any) -> Event:
    key, revision = event.kv.key.decode("utf-8", "surrogateescape"), Revision(event.kv.mod_revision)
    if event.type == kv.Event.DELETE:
        return Event(key, None, revision)
    return Event(key, event.kv.value, revision, Revision(event.kv.create_revision))
