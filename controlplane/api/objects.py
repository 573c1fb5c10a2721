"""Objects: get, list by namespace and label, put and delete with compare-and-swap, apply many in one transaction."""

import contextlib
from typing import Any

from aiohttp import web

from controlplane import registry
from controlplane.admission import Conflicts, Invalid, Plan, Removal, for_proxies
from controlplane.api.answers import ApiError, answer, strict, tree
from controlplane.api.context import CALLER, CONTEXT, NOTES, Context
from controlplane.applier import Applied
from controlplane.checked import written
from controlplane.history import Source
from controlplane.progress import Question, programmed
from controlplane.unmet import concerned, warnings
from mesh import codec, keys
from mesh.compile import conditions
from mesh.model import KINDS, Endpoint, Frozen, Instance, Object, Ref, Service, Violation, kind_named
from mesh.store.errors import StoreError
from mesh.store.protocol import Item

VIEW_SECONDS = 0.5
"""A warning is worth so much waiting."""


class ApplyRequest(Frozen, frozen=True, kw_only=True):
    objects: tuple[Any, ...] = ()
    delete: tuple[Removal, ...] = ()
    dry_run: bool = False


def kind_of(request: web.Request) -> str:
    plural = request.match_info["plural"]
    kind = kind_named(plural)
    if kind is None or KINDS[kind].plural != plural:
        known = ", ".join(row.plural for row in KINDS.values())
        raise ApiError(404, f"no such kind: {plural[:80]!r}", f"known are {known}")
    return kind


def ref_of(request: web.Request) -> Ref:
    kind, namespace = kind_of(request), request.match_info.get("namespace", "")
    if KINDS[kind].namespaced != bool(namespace):
        shape = "/v1/objects/{plural}/{namespace}/{name}" if KINDS[kind].namespaced else "/v1/objects/{plural}/{name}"
        raise ApiError(404, f"a {kind} is not found under this path", f"its path is {shape}")
    return Ref(kind, namespace, request.match_info["name"])


def _key(ref: Ref) -> str:
    try:
        return keys.key_for(ref, service="x")
    except keys.BadKeyError as exc:
        raise ApiError(422, str(exc), violations=[Violation(path="metadata.name", reason=str(exc))]) from exc


async def kinds(_: web.Request) -> web.Response:
    rows = [
        {
            "kind": kind,
            "apiVersion": row.api_version,
            "plural": row.plural,
            "short": list(row.short),
            "namespaced": row.namespaced,
            "writable": row.operator,
        }
        for kind, row in KINDS.items()
    ]
    return answer({"items": rows})


async def get(request: web.Request) -> web.Response:
    context, ref = request.app[CONTEXT], ref_of(request)
    _key(ref)
    item = await _find(context, ref)
    if item is None:
        raise ApiError(404, f"there is no {ref}")
    obj = _decoded(ref.kind, item)
    document = codec.to_document(obj, item.revision)
    status = _status(context, obj)
    if for_proxies(ref) and KINDS[ref.kind].namespaced:
        revisions = context.revisions
        question = Question(item.revision, await revisions.epoch(), frozenset({str(ref)}))
        progress = await revisions.glance(question)
        status["programmed"] = programmed(progress)
        conditions.programmed(obj, status, progress.in_force, progress.live, item.revision)
    if status:
        document["status"] = status
    return answer(document)


async def _find(context: Context, ref: Ref) -> Item | None:
    if ref.kind != Endpoint.__name__:
        return await context.store.get(keys.key_for(ref))
    # An Endpoint's key also holds its Service's name: look for the first of this name.
    for item in (await context.store.list(keys.prefix_for(ref.kind, ref.namespace))).items:
        place = keys.parse(item.key)
        if isinstance(place, keys.EndpointKey) and place.instance == ref.name:
            return item
    return None


def _decoded(kind: str, item: Item) -> Object:
    try:
        return codec.decode(kind, item.value, item.revision)
    except codec.Undecodable as exc:
        raise ApiError(
            500,
            f"the value at {item.key} cannot be read: {exc}",
            "apply the object again to replace it; its neighbours are not affected",
        ) from exc


def _status(context: Context, obj: Object) -> dict[str, object]:
    """What the control plane makes of an object: why a Service does not take an instance, what keeps a route back."""
    view = context.mirror.view
    match obj:
        case Instance():
            return {"services": registry.services_of(view, obj)}
        case Service():
            return {"refused": registry.refused_by(view, obj)}
    return conditions.status(obj, view.configured())


async def list_objects(request: web.Request) -> web.Response:
    context, kind = request.app[CONTEXT], kind_of(request)
    namespace, wanted = request.query.get("namespace", ""), labels_of(request)
    try:
        prefix = keys.prefix_for(kind, namespace)
    except keys.BadKeyError as exc:
        raise ApiError(400, str(exc)) from exc
    listing = await context.store.list(prefix)
    items, bad = [], []
    for item in listing.items:
        if not concerns(item.key, kind, namespace):
            continue
        try:
            obj = codec.decode(kind, item.value, item.revision)
        except codec.Undecodable as exc:
            bad.append({"key": item.key, "reason": str(exc)})
            continue
        if wanted.items() <= obj.metadata.labels.items():
            items.append(codec.to_document(obj, item.revision))
    return answer({"items": items, "bad": bad, "revision": listing.revision})


def concerns(key: str, kind: str, namespace: str) -> bool:
    """Is this key, found in the range of a kind, of that kind? Imports of all kinds and namespaces lie in one range."""
    if KINDS[kind].area != "imports":
        return True
    place = keys.parse(key)
    return isinstance(place, Ref) and place.kind == kind and namespace in {"", place.namespace}


def labels_of(request: web.Request) -> dict[str, str]:
    """`a=b,c=d`: all must match."""
    wanted: dict[str, str] = {}
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        name, equals, value = term.partition("=")
        if not equals or not name:
            raise ApiError(400, f"labelSelector: {term[:80]!r} is not <name>=<value>", "join several with a comma")
        wanted[name.strip()] = value.removeprefix("=").strip()
    return wanted


async def put(request: web.Request) -> web.Response:
    ref, document = ref_of(request), await tree(request)
    _key(ref)
    _same(ref, document)
    done = await _apply(request, ApplyRequest(objects=(document,)), "put")
    item = await request.app[CONTEXT].store.get(keys.key_for(ref))
    if item is None:
        raise ApiError(409, f"{ref} was deleted by somebody else meanwhile")
    body = codec.to_document(_decoded(ref.kind, item), item.revision)
    return answer(body, status=201 if done.results[0].action == "created" else 200)


def _same(ref: Ref, document: object) -> None:
    """The body must be the object that the path names."""
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        return  # the strict decoder tells it better
    meta = document["metadata"]
    for field, value, path in (
        ("kind", document.get("kind"), ref.kind),
        ("metadata.name", meta.get("name"), ref.name),
        ("metadata.namespace", meta.get("namespace") or "default" if ref.namespace else "", ref.namespace),
    ):
        if isinstance(value, str) and value != path:
            reason = f"is {value[:80]!r}, and the path says {path[:80]!r}"
            raise ApiError(
                422, "body and path differ", violations=[Violation(object=str(ref)[:160], path=field, reason=reason)]
            )


async def delete(request: web.Request) -> web.Response:
    ref = ref_of(request)
    _key(ref)
    version = request.query.get("resourceVersion", "")
    removal = Removal(kind=ref.kind, namespace=ref.namespace, name=ref.name, resource_version=version)
    done = await _apply(request, ApplyRequest(delete=(removal,)), "delete")
    if done.results[0].action != "deleted":
        raise ApiError(404, f"there is no {ref}")
    return answer(written(done))


async def apply(request: web.Request) -> web.Response:
    done = await _apply(request, await strict(request, ApplyRequest), "apply")
    return answer({**written(done), "warnings": await warned(request.app[CONTEXT], done)})


async def warned(context: Context, done: Applied | Plan) -> list[dict[str, str]]:
    """What is written, or would be, and yet does not do what it says; rather nothing than what is no longer true."""
    named = {result.object for result in done.results}
    if not concerned(named):
        return []
    with contextlib.suppress(StoreError):
        # What was applied a moment before may not be in the view yet.
        if await context.mirror.reached(await context.store.revision(), VIEW_SECONDS):
            return warnings(named, done.changes, context.mirror.view.configured())
    return []


async def _apply(request: web.Request, wanted: ApplyRequest, source: Source) -> Applied:
    context = request.app[CONTEXT]
    outcome = await context.applier.apply(
        wanted.objects, wanted.delete, author=author_of(request), source=source, dry_run=wanted.dry_run
    )
    if not isinstance(outcome, Applied):
        raise refusal(request, outcome)
    changed = [f"{result.object} {result.action}" for result in outcome.results if result.action != "unchanged"]
    request[NOTES].update(revision=outcome.revision, dry_run=wanted.dry_run, changed=changed[:100])
    if not wanted.dry_run:
        for result in outcome.results:
            context.metrics.applied.labels(result.action).inc()
    return outcome


def author_of(request: web.Request) -> str:
    return f"operator:{request[CALLER].name}"


def refusal(request: web.Request, outcome: Invalid | Conflicts) -> ApiError:
    """Why nothing was written."""
    match outcome:
        case Invalid(violations):
            request[NOTES]["violations"] = len(violations)
            return ApiError(422, "nothing was written", "correct what is listed", violations=violations)
        case Conflicts(objects):
            more = {"conflicts": list(objects)}
            error = f"somebody else changed {', '.join(objects[:5])} meanwhile"
            return ApiError(409, error, "get it again, make your change on that, and repeat", more=more)
