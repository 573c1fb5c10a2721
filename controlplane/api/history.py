"""Who changed what, and when: the newest first."""

import msgspec
from aiohttp import web

from controlplane.api.answers import ApiError, answer, number
from controlplane.api.context import CONTEXT, Context
from controlplane.history import LEFT_OUT, Detail, Details, Summary, is_name
from mesh import codec, keys
from mesh.model import KINDS, Ref
from mesh.store.protocol import Item

PAGE, MAX_PAGE = 50, 500
GONE = "it may be older than what is kept: 1,000 applies or 30 days"


async def entries(request: web.Request) -> web.Response:
    """`?limit=&before=<id>&object=Kind/namespace/name`."""
    context = request.app[CONTEXT]
    limit = min(max(1, number(request, "limit", PAGE)), MAX_PAGE)
    before, wanted = request.query.get("before", ""), _object(request)
    if before and not is_name(before):
        raise ApiError(400, f"before: {before[:80]!r} is no entry of the history", "take it from `next` of a page")
    epoch = await _epoch(context)
    items: list[dict[str, object]] = []
    bad: list[dict[str, str]] = []
    for item in reversed((await context.store.list(keys.HISTORY_INDEX)).items):
        name = item.key.removeprefix(keys.HISTORY_INDEX)
        if before and name >= before:
            continue
        if len(items) >= limit:
            return answer({"items": items, "bad": bad, "next": items[-1]["id"]})
        try:
            summary = codec.decode_struct(Summary, item.value)
        except codec.Undecodable as exc:
            bad.append({"key": item.key, "reason": str(exc)})
            continue
        if not wanted or any(touched.object == wanted for touched in summary.objects):
            items.append(_document(item, summary, epoch))
    return answer({"items": items, "bad": bad, "next": ""})


def _object(request: web.Request) -> str:
    """As the entries name it; empty: any."""
    text = request.query.get("object", "")
    if not text:
        return ""
    kind, *rest = text.split("/")
    if kind not in KINDS or len(rest) != (2 if KINDS[kind].namespaced else 1) or not all(rest):
        raise ApiError(
            400, f"object: {text[:80]!r} names none", "write Kind/namespace/name, or Kind/name if it has no namespace"
        )
    return str(Ref(kind, *rest) if len(rest) == 2 else Ref(kind, "", *rest))[:160]


def _document(item: Item, summary: Summary, epoch: str) -> dict[str, object]:
    """`revision` 0: the store was restored since, and counts anew."""
    return {
        "id": item.key.removeprefix(keys.HISTORY_INDEX),
        "revision": item.revision if summary.epoch == epoch else 0,
        "moment": summary.moment,
        "author": summary.author,
        "source": summary.source,
        "objects": [msgspec.to_builtins(touched) for touched in summary.objects],
        "more": summary.more,
    }


async def _epoch(context: Context) -> str:
    item = await context.store.get(keys.EPOCH)
    return codec.epoch(item.value) if item else ""


async def entry(request: web.Request) -> web.Response:
    """One entry with its objects before and after, by its id or its revision."""
    context, name = request.app[CONTEXT], request.match_info["entry"]
    epoch = await _epoch(context)
    item = await _find(context, name, epoch)
    if item is None:
        raise ApiError(404, f"there is no entry {name[:80]!r} in the history", GONE)
    try:
        summary = codec.decode_struct(Summary, item.value)
        objects = await context.store.get(keys.HISTORY_OBJECTS + item.key.removeprefix(keys.HISTORY_INDEX))
        details = codec.decode_struct(Details, objects.value).objects if objects else ()
    except codec.Undecodable as exc:
        raise ApiError(
            500, f"the entry {name[:80]!r} cannot be read: {exc}", "its neighbours are not affected"
        ) from exc
    known = {detail.object for detail in details}
    missing = [
        Detail(object=touched.object, action=touched.action, note=LEFT_OUT)
        for touched in summary.objects
        if touched.object not in known
    ]
    told = [msgspec.to_builtins(detail) for detail in (*details, *missing)]
    return answer({**_document(item, summary, epoch), "objects": told})


async def _find(context: Context, name: str, epoch: str) -> Item | None:
    if is_name(name):
        return await context.store.get(keys.HISTORY_INDEX + name)
    if not (name.isascii() and name.isdigit() and len(name) < 19):
        return None
    for item in (await context.store.list(keys.HISTORY_INDEX)).items:
        if item.revision == int(name):
            try:
                return item if codec.decode_struct(Summary, item.value).epoch == epoch else None
            except codec.Undecodable:
                return None
    return None
