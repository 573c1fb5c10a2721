"""One call explained: what the proxies of both sides do with it, and which objects say so. Pure.

Nothing is decided here: the simulator reads the configuration that the proxy has, and what it finds is put into words
that an operator knows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mesh import pb
from mesh.compile import clusters, names, simulate
from mesh.compile.simulate import Closed, Deny, Direct, Fault, NoRoute, Redirect, Share, To, Verdict
from mesh.compile.types import Snapshot
from mesh.compile.view import Backend, Frame, Outbound, Part
from mesh.model import Endpoint, NodeLocal, Ref, ServiceRef, World
from mesh.model.checks import place
from mesh.model.explained import (
    Answered,
    AnswerQuestion,
    Called,
    CallQuestion,
    Outcome,
    Reached,
    Reason,
    VerdictKind,
)

MAX_ENDPOINTS = 200
"""Named in one answer."""

_URLS = {short: url for url, short in pb.SHORT.items()}

_KINDS: dict[type, VerdictKind] = {
    To: "to", Deny: "deny", Redirect: "redirect", Direct: "answer", Fault: "fault", NoRoute: "no route",
    Closed: "closed",
}  # fmt: skip


class CannotExplainError(Exception):
    """Nothing here is what was asked about, with the reason."""


@dataclass(frozen=True, slots=True)
class Present:
    """What a proxy has, and what it was made from."""

    snapshot: Snapshot
    frame: Frame
    world: World
    local: NodeLocal


def call(present: Present, asked: CallQuestion) -> Called:
    """The caller's side.

    Raises:
        CannotExplainError: no service of this name calls that Service here.
        simulate.Unsupported: the configuration has something that is not simulated.

    """
    upstream = _upstream(present, asked)
    by_name = names.called_by_name(upstream.service, present.frame.cluster)[0]
    listener = names.outbound_listener(upstream.identity, upstream.listen)
    host, to, listen = str(upstream.service), "", upstream.listen
    if upstream.virtual:
        listener, to = names.capture_listener(upstream.identity), upstream.listen
        host, listen = f"{by_name}:{upstream.port}", f"{by_name}:{upstream.port} ({upstream.listen})"
    ask = simulate.calling(
        present.snapshot, listener, asked.method, asked.path, asked.headers, asked.host or host, to=to
    )
    backends = {clusters.name(b.identity, b.target): b for b in present.frame.backends}
    outcomes = tuple(_outcome(share, present.snapshot, backends) for share in simulate.shares(ask))
    held = dict(present.frame.identities).get(upstream.identity)
    namespace, _, account = upstream.identity.partition("/")
    return Called(
        node=present.frame.node,
        spiffe_id=f"spiffe://{present.frame.trust_domain}/ns/{namespace}/sa/{account}",
        listen=listen,
        revision=present.snapshot.revision,
        outcomes=outcomes,
        endpoints=tuple(_endpoints(outcomes, backends, present))[:MAX_ENDPOINTS],
        not_after=held.not_after if held else 0.0,
    )


def answer(present: Present, asked: AnswerQuestion) -> Answered:
    """The callee's side.

    Raises:
        CannotExplainError: no instance here stands behind that Service.
        simulate.Unsupported: the configuration has something that is not simulated.

    """
    service = ServiceRef(asked.namespace, asked.service)
    port = next((i for i in present.frame.inbound if (i.service, i.port) == (service, asked.port)), None)
    if port is None:
        raise CannotExplainError(f"no instance of this host stands behind port {asked.port} of Service {service}")
    sni = names.sni(service, asked.port, present.frame.cluster)
    ask = simulate.answering(
        present.snapshot, sni, asked.caller, asked.method, asked.path, asked.headers, asked.host or str(service)
    )
    held = dict(present.frame.identities).get(port.identity)
    return Answered(
        node=present.frame.node,
        sni=sni,
        revision=present.snapshot.revision,
        outcomes=tuple(_outcome(share, present.snapshot, {}) for share in simulate.shares(ask)),
        spiffe_id=held.spiffe_id if held else "",
        not_after=held.not_after if held else 0.0,
    )


def _upstream(present: Present, asked: CallQuestion) -> Outbound:
    service = ServiceRef(asked.service_namespace, asked.service)
    places = {
        (definition.identity, upstream.listen or tuple(upstream.called(definition.namespace)))
        for definition in present.local.definitions
        if (definition.name, definition.namespace) == (asked.name, asked.namespace)
        for upstream in definition.upstreams
    }
    mine = [
        o
        for o in present.frame.outbound
        if o.service == service and (o.identity, tuple(o.service) if o.virtual else o.listen) in places
    ]
    ports = ", ".join(sorted({str(o.port) for o in mine}))
    fitting = [o for o in mine if asked.port in {0, o.port}]
    if not fitting:
        called = f"it calls port {ports}" if ports else "its definition's `upstreams` say what it calls"
        what = f"port {asked.port} of {service}" if asked.port else str(service)
        raise CannotExplainError(f"{asked.name}.{asked.namespace} does not call {what} on this host: {called}")
    if len({o.port for o in fitting}) > 1:
        raise CannotExplainError(f"several ports of {service} are called here: say which of {ports}")
    return fitting[0]


def _outcome(share: Share, snapshot: Snapshot, backends: Mapping[str, Backend]) -> Outcome:
    verdict = share.verdict
    reasons = tuple(_reasons(verdict, snapshot))
    told: dict[str, object] = {
        # Envoy's weights are scaled, so a share is off what was written by a few of 2^32.
        "share": round(float(share.probability), 8) or float(share.probability),
        "verdict": _KINDS[type(verdict)],
        "reasons": reasons,
        "objects": tuple(dict.fromkeys(o for reason in reasons for o in reason.objects)),
    }
    match verdict:
        case To():
            told |= _sent(verdict, backends.get(verdict.cluster))
        case Closed(reason=reason):
            told["words"] = reason
        case _:
            told |= {"status": verdict.status}
            told |= {"rule": verdict.rule} if isinstance(verdict, Deny) else {}
            told |= {"location": verdict.location} if isinstance(verdict, Redirect) else {}
            told |= {"words": verdict.body.strip()} if isinstance(verdict, Direct) else {}
            told |= {"delay_seconds": verdict.delay} if isinstance(verdict, Fault) else {}
    return Outcome(**told)  # type: ignore[arg-type]


def _sent(to: To, backend: Backend | None) -> dict[str, object]:
    return {
        "cluster": to.cluster,
        "service": _called(backend) if backend else "",
        "route": to.route,
        "rule": to.rule,
        "path": to.path,
        "host": to.host,
        "headers": to.headers,
        "timeout_seconds": to.timeout,
        "retries": to.retry.retries if to.retry else 0,
        "retry_on": to.retry.on if to.retry else (),
        "per_try_seconds": to.retry.per_try_seconds if to.retry else None,
        "delay_seconds": to.delay,
        "mirrors": to.mirrors,
        "limits": to.limits,
    }


def _called(backend: Backend) -> str:
    target = backend.target
    return f"{target.service}:{target.port}" + (f"/{target.subset}" if target.subset else "")


def _reasons(verdict: Verdict, snapshot: Snapshot) -> Iterator[Reason]:
    for step in verdict.trace:
        if step.decided:
            yield Reason(
                kind=step.kind,
                resource=step.resource,
                field=step.field,
                said=step.said,
                objects=tuple(str(ref) for ref in sorted(_sources(step.resource, snapshot))),
            )


def _sources(resource: str, snapshot: Snapshot) -> frozenset[Ref]:
    short, _, name = resource.partition(" ")
    found = snapshot.resources.get(_URLS.get(short, ""), {}).get(name)
    return found.sources if found else frozenset()


def _endpoints(outcomes: tuple[Outcome, ...], backends: Mapping[str, Backend], present: Present) -> Iterator[Reached]:
    for cluster in dict.fromkeys(outcome.cluster for outcome in outcomes):
        if backend := backends.get(cluster):
            yield from _behind(backend, present)


def _behind(backend: Backend, present: Present) -> Iterator[Reached]:
    """Of this cluster first; of others what is dialled for them: their gateways, or ours."""
    for part in (one for first in backend.assignment.parts for one in first.all):
        known = present.world.endpoints.get(part.via or part.target.service, {})
        for name in sorted(known):
            found = known[name]
            if part.via or (part.target.port in found.spec.ports and set(part.labels) <= found.metadata.labels.items()):
                yield _reached(backend, part, name, found, present.frame)


def _reached(backend: Backend, part: Part, name: str, found: Endpoint, frame: Frame) -> Reached:
    peer = part.target.service.peer
    return Reached(
        service=_called(backend),
        instance=name,
        node=found.spec.node,
        address=place(found.spec.address, found.spec.port),
        health=found.spec.health,
        service_account=found.spec.service_account,
        locality=found.spec.locality,
        cluster=peer,
        sni=names.sni(part.target.service, part.target.port, frame.cluster) if peer else "",
        identities=(part.accounts or backend.accounts) if peer else (),
    )
