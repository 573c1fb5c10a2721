"""project: from all that an agent knows to what its proxy needs. Bad data ends here, as a Problem."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

from mesh.compile import names
from mesh.compile.callee import Callee, where_defined
from mesh.compile.types import Problem
from mesh.compile.view import Frame, NodeView, Outbound
from mesh.model import (
    GateSpec,
    Identity,
    NodeLocal,
    Ref,
    ServiceDefinition,
    ServiceRef,
    Upstream,
    World,
)
from mesh.model.checks import address_fault, label_fault, port_fault

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*\Z")


def project(world: World, local: NodeLocal, previous: NodeView | None = None) -> NodeView:
    """The view of this host. With the previous one given, its frame is taken over if nothing of it can have changed."""
    known = previous and previous.objects is world.objects and previous.undecodable is world.undecodable
    if previous and known and (previous.local is local or previous.local == local):
        frame = previous.frame
    else:
        frame = _Projection(world, local).frame()
        if previous and previous.frame == frame:
            frame = previous.frame
    return NodeView(
        revision=world.revision,
        frame=frame,
        endpoints=world.endpoints,
        before=world.endpoints_before,
        touched=world.touched,
        objects=world.objects,
        undecodable=world.undecodable,
        local=local,
    )


def interest(local: NodeLocal, world: World) -> frozenset[ServiceRef]:
    """Services whose endpoints this host needs: also of those that are not there yet, so that nothing is missed."""
    del world  # the host's own word is enough as long as routes do not lead to further Services
    wanted = (ref for definition in local.definitions for ref in definition.wants)
    return frozenset(ref for ref in wanted if not label_fault(ref.name) and not label_fault(ref.namespace))


class _Projection:
    """One run of project. It collects problems on the way."""

    def __init__(self, world: World, local: NodeLocal) -> None:
        self._world, self._local = world, local
        self._problems: list[Problem] = []

    def frame(self) -> Frame:
        local = self._local
        definitions = self._sound(local.definitions)
        roots, source = self._roots()
        callee = Callee(self._world, local, definitions, self._note)
        inbound = callee.inbound()
        outbound = tuple(self._outbound(definitions))
        gate = self._gate()
        needed = callee.behind | {o.identity for o in outbound} | ({names.GATE} if gate else set())
        for name in sorted(needed - local.identities.keys()):
            self._note(None, f"identities[{name}]", "no certificate is held yet")
        needed |= {i.identity for i in inbound}
        return Frame(
            node=local.node,
            address=local.address,
            mtls_port=local.mtls_port,
            trust_domain=local.trust_domain,
            cluster=local.cluster,
            access_log=local.access_log,
            inbound=inbound,
            outbound=outbound,
            identities=tuple((n, local.identities[n]) for n in sorted(needed & local.identities.keys())),
            roots=roots,
            roots_source=source,
            gate=gate,
            problems=tuple(self._problems),
        )

    def _note(self, ref: Ref | None, path: str, reason: str) -> None:
        self._problems.append(Problem(ref, path, reason))

    # --- what the host says ---

    def _sound(self, definitions: Iterable[ServiceDefinition]) -> list[ServiceDefinition]:
        """Those without faults, in an order that does not depend on files."""
        good: dict[tuple[str, str, str], ServiceDefinition] = {}
        for definition in definitions:
            faults = list(definition.check())
            for fault in faults:
                self._note(None, f"{where_defined(definition)}.{fault.path}", fault.reason)
            key = (definition.namespace, definition.name, definition.instance)
            if key in good:
                self._note(None, where_defined(definition), "defined twice; the first one counts")
            elif not faults:
                good[key] = definition
        return [good[key] for key in sorted(good)]

    def _roots(self) -> tuple[tuple[str, ...], Ref | None]:
        """From the world; from join or disk as long as the world has none that can be used."""
        bundle = self._world.bundle(self._local.trust_domain)
        if bundle is not None:
            good = tuple(pem for pem in bundle.spec.roots if _is_certificate(pem))
            if len(good) < len(bundle.spec.roots):
                self._note(bundle.ref, "spec.roots", "not all are PEM certificates; those are left out")
            if good:
                return good, bundle.ref
        return tuple(pem for pem in self._local.bundle_roots if _is_certificate(pem)), None

    def _gate(self) -> GateSpec | None:
        gate = self._local.gate
        if gate is None:
            return None
        for path, place in (("gate.listen", gate.listen), *((f"gate.etcd[{i}]", e) for i, e in enumerate(gate.etcd))):
            if _place_fault(place):
                self._note(None, path, _place_fault(place))
                return None
        if not gate.etcd:
            self._note(None, "gate.etcd", "no member is named")
            return None
        return gate

    # --- what is called ---

    def _outbound(self, definitions: list[ServiceDefinition]) -> Iterator[Outbound]:
        places: set[str] = set()
        shared = len({d.identity for d in definitions}) > 1
        for definition in definitions:
            for index, upstream in enumerate(definition.upstreams):
                where = f"{where_defined(definition)}.upstreams[{index}]"
                if shared and not upstream.listen.startswith("unix:"):
                    # Whoever reaches a loopback port calls as its owner: another service of this host, too.
                    reason = "several identities run on this host: listen on a unix socket (unix:<path>) instead"
                    self._note(None, f"{where}.listen", reason)
                elif upstream.listen in places:
                    self._note(None, f"{where}.listen", "another upstream listens there")
                else:
                    places.add(upstream.listen)
                    yield self._upstream(definition, upstream, where)

    def _upstream(self, definition: ServiceDefinition, upstream: Upstream, where: str) -> Outbound:
        ref = ServiceRef(upstream.namespace or definition.namespace, upstream.service)
        service = self._world.service(ref)
        port = next((p for p in service.spec.ports if p.port == upstream.port), None) if service else None
        if service is None:
            fault, path = f"there is no Service {ref}", f"{where}.service"
        elif port is None:
            fault, path = f"Service {ref} has no port {upstream.port}", f"{where}.port"
        else:
            fault, path = "", ""
        accounts = service.spec.service_accounts if service else ()
        good = tuple(sorted({a for a in accounts if not label_fault(a)}))
        if not fault and not good:
            # With no name to compare, Envoy would take any identity of the mesh for this Service.
            fault, path = f"Service {ref} lists no service account that may stand behind it", where
        if fault:
            self._note(service.ref if service else None, path, fault)
        base = f"spiffe://{self._local.trust_domain}/ns/{ref.namespace}/sa/"
        return Outbound(
            identity=definition.identity,
            listen=upstream.listen,
            service=ref,
            port=upstream.port,
            protocol=port.protocol if port else None,
            accounts=tuple(base + account for account in good),
            fault=fault,
            age=_connection_age(self._local.identities.get(definition.identity)),
        )


_AGES = ((86400.0, 3600), (3600.0, 300), (0.0, 10))
"""Life of a certificate, in seconds, from which on a connection that shows it may live so long.

Coarse, so that a renewal changes nothing; and a sixth of the life at most, since two thirds of it may be over at the
handshake when the CA is away. A certificate is looked at in the handshake only: no connection may outlive it for long.
"""


def _connection_age(identity: Identity | None) -> int:
    life = identity.not_after - identity.not_before if identity else _AGES[0][0]
    return next((age for least, age in _AGES if life >= least), _AGES[-1][1])


def _is_certificate(pem: str) -> bool:
    found = _PEM.match(pem.strip())
    try:
        return bool(found and base64.b64decode("".join(found[1].split()), validate=True))
    except binascii.Error:
        return False


def _place_fault(text: str) -> str:
    """Is it `<address>:<port>`?"""
    host, _, port = text.rpartition(":")
    fault = address_fault(host.removeprefix("[").removesuffix("]"))
    if not fault and not (port.isascii() and port.isdigit() and len(port) <= 5 and not port_fault(int(port))):
        fault = "needs a port, 1 to 65535, after the address"
    return fault
