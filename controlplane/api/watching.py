"""Changes of a kind as NDJSON: whole revisions, then a mark; a client resumes at the last mark + 1."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from aiohttp import web

from controlplane.api.answers import ApiError, number
from controlplane.api.context import CONTEXT, Context
from controlplane.api.objects import concerns, kind_of, labels_of
from mesh import codec, keys
from mesh.model import KINDS, Object, Ref, Revision
from mesh.store.errors import Compacted, StoreError
from mesh.store.protocol import Batch, Event, Range

BEAT_SECONDS = 2.0
"""At least so often a line is sent, so that both sides notice a dead connection."""
WRITE_SECONDS = 30.0
"""A client that reads slower than this is cut; it resumes from its last mark."""
QUEUE = 64
"""Batches between the store's stream and the client's; when it is full, the store is read no further."""

Line = dict[str, object]


class Wanted(NamedTuple):
    """What a client watches."""

    kind: str
    namespace: str
    """Empty: all."""
    labels: Mapping[str, str]


async def watch(request: web.Request) -> web.StreamResponse:
    context, kind = request.app[CONTEXT], kind_of(request)
    wanted = Wanted(kind, request.query.get("namespace", ""), labels_of(request))
    try:
        prefix = keys.prefix_for(kind, wanted.namespace)
    except keys.BadKeyError as exc:
        raise ApiError(400, str(exc)) from exc
    if context.open_watches >= context.settings.limits.watches:
        raise ApiError(429, "too many watches are open on this node", "try another node", retry_after=5)
    start = await _start(request, context)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    with context.watching():
        await response.prepare(request)
        await _relay(response, context, Range(prefix, start), wanted)
    return response


async def _start(request: web.Request, context: Context) -> Revision:
    """Where to begin, if the store still knows it."""
    now = await context.store.revision()
    start = Revision(number(request, "revision") or now + 1)
    if start > now + 1:
        raise ApiError(
            410, f"revision {start} lies in the future; the newest is {now}", "list again: a restored store?"
        )
    if start <= now:
        try:
            await context.store.get(keys.EPOCH, at=start)
        except Compacted as exc:
            raise ApiError(410, f"revision {start} is no longer kept", "list again and watch from there") from exc
    return start


async def _relay(response: web.StreamResponse, context: Context, span: Range, wanted: Wanted) -> None:
    """Send until the client, the store or this node ends it."""
    queue: asyncio.Queue[Batch | None] = asyncio.Queue(QUEUE)

    async def pump() -> None:
        # A task of its own, since a wait that is cut short would end the store's iterator.
        batches = context.store.watch([span])
        try:
            async for batch in batches:
                await queue.put(batch)
        except StoreError:
            await queue.put(None)
        finally:
            await batches.aclose()

    async def stop() -> None:
        await context.stopping.wait()
        await queue.put(None)

    async with asyncio.TaskGroup() as group:
        helpers = [group.create_task(pump()), group.create_task(stop())]
        try:
            await _send(response, queue, Revision(span.start - 1), wanted)
        finally:
            for helper in helpers:
                helper.cancel()


async def _send(
    response: web.StreamResponse,
    queue: "asyncio.Queue[Batch | None]",
    passed: Revision,
    wanted: Wanted,
) -> None:
    lines: list[Line] = []
    while True:
        lines.append({"type": "mark", "revision": passed})
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        except (TimeoutError, ConnectionError):
            return
        lines = []
        try:
            async with asyncio.timeout(BEAT_SECONDS):
                batch = await queue.get()
        except TimeoutError:
            continue
        if batch is None:
            # The store's stream broke, or this node stops. The client resumes here or at another node.
            return
        passed = Revision(max(passed, batch.revision))
        lines = [line for event in batch.events if (line := _line(event, wanted))]


def _line(event: Event, wanted: Wanted) -> Line | None:
    kind, place = wanted.kind, keys.parse(event.key)
    if not concerns(event.key, kind, wanted.namespace):
        return None
    ref = Ref(kind, place.service.namespace, place.instance) if isinstance(place, keys.EndpointKey) else place
    if ref is None:
        return None
    if event.value is None:
        return {"type": "delete", "revision": event.revision, "object": _shell(ref, place)}
    try:
        obj = codec.decode(kind, event.value, event.revision)
    except codec.Undecodable as exc:
        return {
            "type": "bad",
            "revision": event.revision,
            "key": event.key,
            "reason": str(exc),
            "object": _shell(ref, place),
        }
    if not matches(obj, wanted.labels):
        # It may have matched before: to whoever selects by label it is gone.
        return {"type": "delete", "revision": event.revision, "object": _shell(ref, place)}
    return {"type": "put", "revision": event.revision, "object": codec.to_document(obj, event.revision)}


def matches(obj: Object, wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= obj.metadata.labels.items()


def _shell(ref: Ref, place: object) -> Line:
    """What can be said of an object that is gone: its name."""
    meta = {"name": ref.name, **({"namespace": ref.namespace} if ref.namespace else {})}
    shell: Line = {"apiVersion": KINDS[ref.kind].api_version, "kind": ref.kind, "metadata": meta}
    if isinstance(place, keys.EndpointKey):
        shell["spec"] = {"service": place.service.name}
    return shell
