"""One call explained by the agents of both hosts: what would become of it, and which objects say so."""

import asyncio
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from aiohttp import web

from controlplane.api.answers import ApiError, answer, strict
from controlplane.api.context import CONTEXT, NOTES, Context
from controlplane.asking import Question
from controlplane.view import View
from mesh import codec
from mesh.model import Frozen, ServiceRef, selects
from mesh.model.checks import place, principal_fault, shown
from mesh.model.explained import Answered, AnswerQuestion, Called, CallQuestion, Outcome, Reached

EACH_SECONDS, ALL_SECONDS = 10.0, 12.0
MAX_CALLEES = 8
"""Hosts that are asked whether they would answer; endpoints beyond are listed only."""

T = TypeVar("T", Called, Answered)


class ExplainRequest(Frozen, frozen=True, kw_only=True):
    """POST /v1/explain."""

    name: str = ""
    namespace: str = "default"
    """The calling service."""
    caller: str = ""
    """A SPIFFE id instead: somebody of another cluster, whose host is not asked."""
    service: str
    service_namespace: str = ""
    """Empty: the caller's."""
    port: int = 0
    """0: the only one that is called."""
    node: str = ""
    """Of several hosts that run the caller, this one."""
    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = {}
    host: str = ""


@dataclass(frozen=True, slots=True)
class _Silent:
    node: str
    reason: str


async def explain(request: web.Request) -> web.Response:
    """Nothing is sent to any application."""
    context, asked = request.app[CONTEXT], await strict(request, ExplainRequest)
    if bool(asked.name) == bool(asked.caller):
        raise ApiError(422, "exactly one of name and caller is needed", "name: a service here; caller: a SPIFFE id")
    called = _stranger(context.mirror.view, asked) if asked.caller else await _caller(context, asked)
    request[NOTES].update(node=called.node)
    reached = _to_ask(called)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_callee(context, asked, called, one)) for one in reached]
    return answer(
        {
            "caller": msgspec.to_builtins(called),
            "callees": [
                {"service": one.service, "instance": one.instance, **_document(found)}
                for one, found in zip(reached, (task.result() for task in tasks), strict=True)
            ],
        }
    )


def _document(found: Answered | _Silent) -> dict[str, object]:
    if isinstance(found, _Silent):
        return {"node": found.node, "error": found.reason}
    document: dict[str, object] = msgspec.to_builtins(found)
    return document


async def _caller(context: Context, asked: ExplainRequest) -> Called:
    view = context.mirror.view
    nodes = [asked.node] if asked.node else running(view, ServiceRef(asked.namespace, asked.name))
    if not nodes:
        raise ApiError(
            404,
            f"no host runs {asked.name}.{asked.namespace}",
            "`holdfast get instances` lists what runs where; services are named <name>.<namespace>",
        )
    question = CallQuestion(
        name=asked.name, namespace=asked.namespace, service=asked.service,
        service_namespace=asked.service_namespace or asked.namespace, port=asked.port,
        method=asked.method, path=asked.path, headers=tuple(asked.headers.items()), host=asked.host,
    )  # fmt: skip
    silent = _Silent(nodes[0], "offline")
    for node in nodes[:MAX_CALLEES]:
        found = await _ask(context, node, "explain-call", question, Called)
        if isinstance(found, Called):
            return found
        silent = found
    raise ApiError(409, f"{silent.node}: {silent.reason}", "an agent answers only while it is connected")


def _stranger(view: View, asked: ExplainRequest) -> Called:
    """Who calls from another cluster, and all whom the call may reach here."""
    if fault := principal_fault(asked.caller):
        raise ApiError(422, fault)
    ref = ServiceRef(asked.service_namespace or asked.namespace, asked.service)
    held = view.services.get(ref)
    if held is None:
        raise ApiError(404, f"there is no Service {ref}")
    ports = [port.port for port in held.object.spec.ports if asked.port in {0, port.port}]
    if len(ports) != 1:
        raise ApiError(
            422, f"say which port of Service {ref}: {', '.join(str(p.port) for p in held.object.spec.ports)}"
        )
    where = f"{ref}:{ports[0]}"
    reached = tuple(
        Reached(
            service=where, instance=name, node=spec.node, address=place(spec.address, spec.port), health=spec.health,
            service_account=spec.service_account, locality=spec.locality,
        )
        for name, spec in sorted((name, one.object.spec) for name, one in view.endpoints.get(ref, {}).items())
        if ports[0] in spec.ports
    )  # fmt: skip
    sent = Outcome(
        share=1.0, verdict="to", service=where, path=asked.path, host=asked.host, headers=tuple(asked.headers.items())
    )
    return Called(
        node="", spiffe_id=asked.caller, listen="", revision=view.revision, outcomes=(sent,), endpoints=reached
    )


def running(view: View, service: ServiceRef) -> list[str]:
    """Hosts with an instance of this name, or else one that a Service of this name selects."""
    there = view.instances_in(service.namespace)
    named = sorted({held.object.spec.node for held in there if held.object.spec.service == service.name})
    known = view.services.get(service)
    if named or known is None:
        return named
    return sorted({held.object.spec.node for held in there if selects(known.object, held.object)})


def _to_ask(called: Called) -> list[Reached]:
    """One endpoint a host and Service. Hosts of other clusters answer to their own control planes only."""
    found = {(one.service, one.node): one for one in reversed(called.endpoints) if not one.cluster}
    return sorted(found.values(), key=lambda one: (one.service, one.node))[:MAX_CALLEES]


async def _callee(context: Context, asked: ExplainRequest, called: Called, one: Reached) -> Answered | _Silent:
    # What it says comes from the caller's host, and a host may say anything.
    name, _, port = one.service.partition("/")[0].rpartition(":")
    service, _, namespace = name.partition(".")
    sent = next((o for o in called.outcomes if o.service == one.service), None)
    if sent is None or not (port.isascii() and port.isdecimal() and len(port) <= 5):
        return _Silent(one.node, f"the host of the caller names {shown(one.service)}, which is no Service's port")
    if context.mirror.view.node(one.node) is None:
        return _Silent(one.node, "there is no such node")
    question = AnswerQuestion(
        service=service, namespace=namespace, port=int(port), caller=called.spiffe_id, method=asked.method,
        path=sent.path or asked.path, headers=sent.headers, host=sent.host,
    )  # fmt: skip
    return await _ask(context, one.node, "explain-answer", question, Answered)


async def _ask(context: Context, node: str, what: str, question: msgspec.Struct, wanted: type[T]) -> T | _Silent:
    body = codec.encode_struct(question).decode()
    heard = await context.asking.everywhere(
        Question(what=what, body=body, each_seconds=EACH_SECONDS, all_seconds=ALL_SECONDS, node=node)
    )
    told = heard.told.get(node)
    if told is None:
        return _Silent(node, heard.missing.get(node, "there is no such node"))
    if told.error:
        return _Silent(node, told.error)
    try:
        return codec.decode_struct(wanted, told.body)
    except codec.Undecodable as exc:
        return _Silent(node, f"its answer cannot be read: {exc}")
