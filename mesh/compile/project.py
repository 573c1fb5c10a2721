"""project: from all that an agent knows to what its proxy needs. Bad data ends here, as a Problem."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mesh.compile import names
from mesh.compile.attach import Attached
from mesh.compile.callee import Callee
from mesh.compile.calls import Calls, calls
from mesh.compile.calls import interest as calls_interest
from mesh.compile.names import defined
from mesh.compile.passages import gateway, passed_on
from mesh.compile.roots import certificates
from mesh.compile.types import Problem
from mesh.compile.view import Egress, Frame, NodeView, TrustDomain
from mesh.model import (
    ExternalService,
    GateSpec,
    NodeLocal,
    Peering,
    Ref,
    ServiceDefinition,
    ServiceRef,
    World,
)
from mesh.model.checks import address_fault, ip_of, port_fault

MAX_REGISTERED = 1024
"""Addresses and ports outside of the mesh to which captured connections may go: a filter chain each."""


def project(world: World, local: NodeLocal, previous: NodeView | None = None) -> NodeView:
    """The view of this host. With the previous one given, its frame is taken over if nothing of it can have changed."""
    known = previous and previous.objects is world.objects and previous.undecodable is world.undecodable
    memo = previous.memo if previous else None
    if previous and known and (previous.local is local or previous.local == local):
        frame = previous.frame
    else:
        projection = _Projection(world, local, memo if isinstance(memo, _Memo) else None)
        frame, memo = projection.frame(), projection.memo()
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
        memo=memo,
    )


def interest(local: NodeLocal, world: World) -> frozenset[ServiceRef]:
    """Services whose endpoints this host needs: also of those that are not there yet, so that nothing is missed."""
    found = calls_interest(world, local.definitions, Attached(world.objects))
    return found | passed_on(world.objects) if local.gateway else found


class _Projection:
    """One run of project. It collects problems on the way."""

    def __init__(self, world: World, local: NodeLocal, before: "_Memo | None") -> None:
        self._world, self._local, self._before = world, local, before
        self._problems: list[Problem] = []
        self._definitions: tuple[list[ServiceDefinition], list[Problem]] = ([], [])
        self._calls: Calls | None = None

    def memo(self) -> "_Memo | None":
        """For the next projection, after `frame`."""
        return _Memo(self._local, self._definitions, self._calls) if self._calls is not None else None

    def frame(self) -> Frame:
        local = self._local
        definitions = self._sound()
        roots, source = self._roots()
        attached = Attached(self._world.objects)
        callee = Callee(self._world, local, definitions, attached, self._note)
        inbound = callee.inbound()
        before = self._before.calls if self._before is not None else None
        self._calls = called = calls(self._world, local, definitions, attached, before)
        self._problems.extend(called.problems)
        gate = self._gate()
        needed = callee.behind | {o.identity for o in called.outbound} | ({names.GATE} if gate else set())
        for name in sorted(needed - local.identities.keys()):
            self._note(None, f"identities[{name}]", "no certificate is held yet")
        needed |= {i.identity for i in inbound}
        return Frame(
            node=local.node,
            address=local.bind or local.address,
            mtls_port=local.mtls_port,
            trust_domain=local.trust_domain,
            cluster=local.cluster,
            access_log=local.access_log,
            inbound=inbound,
            outbound=called.outbound,
            captures=self._captures(definitions),
            egress=self._egress() if local.capture_outbound else None,
            backends=called.backends,
            externals=called.externals,
            identities=tuple((n, local.identities[n]) for n in sorted(needed & local.identities.keys())),
            roots=roots,
            roots_source=source,
            others=tuple(self._others()),
            gate=gate,
            gateway=gateway(local.gateway, local, self._world.objects, self._note) if local.gateway else None,
            problems=tuple(dict.fromkeys(self._problems)),
        )

    def _note(self, ref: Ref | None, path: str, reason: str) -> None:
        self._problems.append(Problem(ref, path, reason))

    def _captures(self, definitions: list[ServiceDefinition]) -> tuple[tuple[str, int], ...]:
        """Those with callers, and a place of their own to be redirected to."""
        ports = self._local.capture_ports
        mine = {d.identity for d in definitions if d.called_by}
        return tuple((identity, ports[identity]) for identity in sorted(mine & ports.keys()))

    def _egress(self) -> Egress:
        config, ipv6 = self._world.config, self._local.capture_ipv6
        if config is None or config.spec.egress == "Allow":
            return Egress(allow=True, source=config.ref if config else None, ipv6=ipv6)
        known: dict[tuple[str, int], Ref] = {}
        for ref in sorted(ref for ref in self._world.objects if ref.kind == "ExternalService"):
            found = self._world.objects[ref]
            assert isinstance(found, ExternalService)
            for address in found.spec.addresses:
                ip = ip_of(address)
                if ip is not None and (ip.version == 4 or ipv6) and not ip.is_loopback:
                    for port in found.spec.ports:
                        known.setdefault((str(ip), port.target_port or port.port), ref)
        registered = tuple((*place, known[place]) for place in sorted(known))
        if len(registered) > MAX_REGISTERED:
            reason = f"{len(registered)} addresses of ExternalServices: only {MAX_REGISTERED} are let through"
            self._note(config.ref, "spec.egress", reason)
        return Egress(allow=False, registered=registered[:MAX_REGISTERED], source=config.ref, ipv6=ipv6)

    # --- what the host says ---

    def _sound(self) -> list[ServiceDefinition]:
        """Those without faults, in an order that does not depend on files."""
        if self._before is not None and self._before.local is self._local:
            self._definitions = self._before.definitions
        else:
            self._definitions = _sound(self._local.definitions)
        self._problems.extend(self._definitions[1])
        return self._definitions[0]

    def _roots(self) -> tuple[tuple[str, ...], Ref | None]:
        """From the world; from join or disk as long as the world has none that can be used."""
        bundle = self._world.bundle(self._local.trust_domain)
        if bundle is not None:
            good = certificates(bundle.spec.roots)
            if len(good) < len(bundle.spec.roots):
                self._note(bundle.ref, "spec.roots", "not all are PEM certificates; those are left out")
            if good:
                return good, bundle.ref
        return certificates(self._local.bundle_roots), None

    def _others(self) -> Iterator[TrustDomain]:
        """Trust domains of peers. Whoever has no Peering is nobody here, whatever bundle there is."""
        known: set[str] = {self._local.trust_domain}
        for ref in sorted(ref for ref in self._world.objects if ref.kind == "Peering"):
            peering = self._world.objects[ref]
            assert isinstance(peering, Peering)
            domain = peering.spec.trust_domain
            bundle = self._world.bundle(domain)
            roots = certificates(bundle.spec.roots) if bundle else ()
            if domain in known:
                self._note(
                    ref, "spec.trustDomain", "is this cluster's own, or another Peering's: it is not trusted twice"
                )
            elif bundle is not None and not roots:
                self._note(bundle.ref, "spec.roots", "none of them is a PEM certificate")
            elif bundle is not None:
                known.add(domain)
                yield TrustDomain(domain, roots, frozenset({bundle.ref, ref}))

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


@dataclass(frozen=True, slots=True)
class _Memo:
    """What a projection may take over from the one before."""

    local: NodeLocal
    definitions: tuple[list[ServiceDefinition], list[Problem]]
    """Sound ones, and what is wrong with others."""
    calls: Calls


def _sound(definitions: Iterable[ServiceDefinition]) -> tuple[list[ServiceDefinition], list[Problem]]:
    good: dict[tuple[str, str, str], ServiceDefinition] = {}
    problems: list[Problem] = []
    for definition in definitions:
        faults = list(definition.check())
        problems += [Problem(None, f"{defined(definition)}.{fault.path}", fault.reason) for fault in faults]
        key = (definition.namespace, definition.name, definition.instance)
        if key in good:
            problems.append(Problem(None, defined(definition), "defined twice; the first one counts"))
        elif not faults:
            good[key] = definition
    return [good[key] for key in sorted(good)], problems


def _place_fault(text: str) -> str:
    """Is it `<address>:<port>`?"""
    host, _, port = text.rpartition(":")
    fault = address_fault(host.removeprefix("[").removesuffix("]"))
    if not fault and not (port.isascii() and port.isdigit() and len(port) <= 5 and not port_fault(int(port))):
        fault = "needs a port, 1 to 65535, after the address"
    return fault
