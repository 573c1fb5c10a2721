"""project: from all that an agent knows to what its proxy needs. Bad data ends here, as a Problem."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

from mesh import keys
from mesh.compile import names
from mesh.compile.types import Problem
from mesh.compile.view import Access, Frame, Inbound, NodeView, Outbound, Rule
from mesh.model import (
    AuthorizationPolicy,
    AuthorizationRule,
    GateSpec,
    Identity,
    Instance,
    LocalPort,
    NodeLocal,
    Protocol,
    Ref,
    Service,
    ServiceDefinition,
    ServicePort,
    ServiceRef,
    Upstream,
    World,
    selects,
    target_port,
)
from mesh.model.checks import address_fault, label_fault, port_fault, principal_fault

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*\Z")

_HTTP = frozenset({"http", "http2", "grpc"})


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
        self._unreadable: list[Ref] = []
        """Policies that nobody here ever could read: what they restrict is not known, so nobody passes."""

    def frame(self) -> Frame:
        local = self._local
        definitions = self._sound(local.definitions)
        namespaces = {d.namespace for d in definitions}
        services, policies = self._neighbours(namespaces)
        self._find_unreadable(namespaces)
        roots, source = self._roots()
        inbound = tuple(self._inbound(definitions, services, policies))
        outbound = tuple(self._outbound(definitions))
        gate = self._gate()
        needed = {i.identity for i in inbound} | {o.identity for o in outbound} | ({names.GATE} if gate else set())
        for name in sorted(needed - local.identities.keys()):
            self._note(None, f"identities[{name}]", "no certificate is held yet")
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
                self._note(None, f"{_where(definition)}.{fault.path}", fault.reason)
            key = (definition.namespace, definition.name, definition.instance)
            if key in good:
                self._note(None, _where(definition), "defined twice; the first one counts")
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

    # --- what calls in ---

    def _neighbours(self, namespaces: set[str]) -> tuple[list[Service], list[AuthorizationPolicy]]:
        """Services and policies of these namespaces, by name."""
        services: list[Service] = []
        policies: list[AuthorizationPolicy] = []
        for ref, found in self._world.objects.items():
            if ref.namespace not in namespaces:
                continue
            if isinstance(found, Service) and not self._bad_name(ref):
                services.append(found)
            elif isinstance(found, AuthorizationPolicy):
                policies.append(found)
        return sorted(services, key=lambda s: s.ref), sorted(policies, key=lambda p: p.ref)

    def _find_unreadable(self, namespaces: set[str]) -> None:
        for key, reason in sorted(self._world.undecodable.items()):
            ref = keys.parse(key)
            if not isinstance(ref, Ref) or ref.kind != "AuthorizationPolicy" or ref.namespace not in namespaces:
                continue
            if ref not in self._world.objects:  # where an older version was read, that one stays in force
                self._unreadable.append(ref)
                self._note(ref, "spec", f"cannot be read, so everybody is denied in {ref.namespace}: {reason}")

    def _bad_name(self, ref: Ref) -> bool:
        fault = label_fault(ref.name)
        if fault:
            self._note(ref, "metadata.name", fault)
        return bool(fault)

    def _inbound(
        self,
        definitions: list[ServiceDefinition],
        services: list[Service],
        policies: list[AuthorizationPolicy],
    ) -> Iterator[Inbound]:
        local = self._local
        instances = [(d, d.instance_on(local.node, local.address, mtls_port=local.mtls_port)) for d in definitions]
        for service in services:
            taken: set[int] = set()
            for definition, instance in instances:
                if selects(service, instance) and self._may_stand_behind(service, definition):
                    yield from self._ports(service, definition, instance, policies, taken)

    def _may_stand_behind(self, service: Service, definition: ServiceDefinition) -> bool:
        if definition.account in service.spec.service_accounts:
            return True
        self._note(
            service.ref,
            "spec.serviceAccounts",
            f"{_where(definition)} runs as {definition.account}, which is not listed: it gets no traffic for this name",
        )
        return False

    def _ports(
        self,
        service: Service,
        definition: ServiceDefinition,
        instance: Instance,
        policies: list[AuthorizationPolicy],
        taken: set[int],
    ) -> Iterator[Inbound]:
        for index, port in enumerate(service.spec.ports):
            have = target_port(service, port.port, instance)
            if have is None or port_fault(port.port):
                self._note(service.ref, f"spec.ports[{index}]", f"{_where(definition)} has no port for it")
                continue
            if port.port in taken:
                self._note(service.ref, f"spec.ports[{index}]", f"{_where(definition)} is not the first behind it here")
                continue
            taken.add(port.port)
            where = next(p for p in definition.ports if p.port == have.port)
            yield Inbound(
                service=service.service,
                port=port.port,
                protocol=port.protocol,
                identity=definition.identity,
                address=where.address,
                target=where.port,
                local_protocol=_local_protocol(port, where),
                access=self._access(service, port.port, policies),
            )

    def _access(self, service: Service, port: int, policies: list[AuthorizationPolicy]) -> Access:
        rules: dict[str, list[Rule]] = {"Deny": [], "Allow": []}
        sources: set[Ref] = set()
        for ref in self._unreadable:
            if ref.namespace == service.metadata.namespace:
                sources.add(ref)
                rules["Deny"].append(
                    Rule(f"{names.safe(ref.namespace)}/{names.safe(ref.name)}/unreadable", anyone=True)
                )
        for policy in policies:
            if policy.metadata.namespace != service.metadata.namespace:
                continue
            if policy.spec.target.service not in {"", service.metadata.name}:
                continue
            sources.add(policy.ref)
            for index, rule in enumerate(policy.spec.rules):
                if not rule.ports or port in rule.ports:
                    rules["Allow" if policy.spec.action == "Allow" else "Deny"].append(self._rule(policy, index, rule))
        config = self._world.config
        return Access(
            deny=tuple(rules["Deny"]),
            allow=tuple(rules["Allow"]),
            default="Allow" if config and config.spec.authorization_default == "Allow" else "Deny",
            sources=frozenset(sources),
        )

    def _rule(self, policy: AuthorizationPolicy, index: int, rule: AuthorizationRule) -> Rule:
        """A principal that is none matches nobody, whether the rule allows or denies."""
        base = f"spiffe://{self._local.trust_domain}/ns/"
        principals: list[str] = []
        namespaces: list[str] = []
        for number, source in enumerate(rule.sources):
            where = f"spec.rules[{index}].from[{number}]"
            for principal in source.principals:
                if fault := principal_fault(principal):
                    self._note(policy.ref, f"{where}.principals", fault)
                    continue
                namespace, _, account = principal.partition("/")
                full = principal.startswith("spiffe:")
                principals.append(principal if full else f"{base}{namespace}/sa/{account}")
            for namespace in source.namespaces:
                if fault := label_fault(namespace):
                    self._note(policy.ref, f"{where}.namespaces", fault)
                    continue
                namespaces.append(f"{base}{namespace}/")
        name = rule.name if rule.name and not label_fault(rule.name) else str(index)
        return Rule(
            id=f"{names.safe(policy.metadata.namespace)}/{names.safe(policy.metadata.name)}/{name}",
            principals=tuple(sorted(set(principals))),
            namespaces=tuple(sorted(set(namespaces))),
            anyone=not rule.sources or any(not s.principals and not s.namespaces for s in rule.sources),
        )

    # --- what is called ---

    def _outbound(self, definitions: list[ServiceDefinition]) -> Iterator[Outbound]:
        places: set[str] = set()
        shared = len({d.identity for d in definitions}) > 1
        for definition in definitions:
            for index, upstream in enumerate(definition.upstreams):
                where = f"{_where(definition)}.upstreams[{index}]"
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


def _where(definition: ServiceDefinition) -> str:
    return f"services[{names.safe(definition.namespace)}/{names.safe(definition.name)}]"


def _local_protocol(port: ServicePort, local: LocalPort) -> Protocol:
    """What the application speaks: its own word counts, if it is of the same family as the Service's."""
    return local.protocol if local.protocol in _HTTP and port.protocol in _HTTP else port.protocol


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
