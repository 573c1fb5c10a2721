"""What calls into this host: Services that its instances stand behind, or may come to, and who may call them.

The part of `project` that reads Services and policies of the host's own namespaces.
"""

from collections.abc import Callable, Iterator, Sequence

from mesh import keys, spiffe
from mesh.compile import names
from mesh.compile.attach import Attached
from mesh.compile.names import defined
from mesh.compile.policies import limits
from mesh.compile.standby import standby
from mesh.compile.view import Access, Inbound, Rule
from mesh.model import (
    AuthorizationPolicy,
    AuthorizationRule,
    Instance,
    InstancePort,
    LocalPort,
    NodeLocal,
    Peering,
    Protocol,
    Ref,
    Service,
    ServiceDefinition,
    ServicePort,
    World,
    selects,
    target_port,
)
from mesh.model.authorization import DEFAULT_ALLOW
from mesh.model.checks import label_fault, namespace_fault, port_fault, principal_fault

Note = Callable[[Ref | None, str, str], None]
"""Takes a problem: object, path, reason."""

_HTTP = frozenset({"http", "http2", "grpc"})


class Callee:
    """One run, for these definitions. Problems are told on the way."""

    def __init__(
        self, world: World, local: NodeLocal, definitions: Sequence[ServiceDefinition], attached: Attached, note: Note
    ) -> None:
        self._world, self._local, self._definitions = world, local, definitions
        self._attached, self._note = attached, note
        self._own = f"spiffe://{local.trust_domain}/"
        """What all names of this trust domain begin with."""
        self._domains = {local.trust_domain} | {
            found.spec.trust_domain for found in world.objects.values() if isinstance(found, Peering)
        }
        self._policies: list[AuthorizationPolicy] = []
        self._unreadable: list[Ref] = []
        """Policies that nobody here ever could read: what they restrict is not known, so nobody passes."""
        self.behind: set[str] = set()
        """Identities that stand behind a Service now, not on standby only. Complete after `inbound`."""

    def inbound(self) -> tuple[Inbound, ...]:
        """By Service."""
        namespaces = {d.namespace for d in self._definitions}
        services, self._policies = self._neighbours(namespaces)
        self._find_unreadable(namespaces)
        return tuple(self._inbound(services))

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

    def _inbound(self, services: list[Service]) -> Iterator[Inbound]:
        local, definitions = self._local, self._definitions
        instances = [d.instance_on(local.node, local.address, mtls_port=local.mtls_port) for d in definitions]
        waiting = standby(services, instances)
        # One order for those selected and those on standby: a selector that moves leaves the listener as it is.
        for service in services:
            taken: set[int] = set()
            for definition, instance in zip(definitions, instances, strict=True):
                if selects(service, instance) and self._may_stand_behind(service, definition):
                    yield from self._ports(service, definition, instance, taken)
            for index in waiting.get(service.service, ()):
                yield from self._standby(service, definitions[index], instances[index], taken)

    def _may_stand_behind(self, service: Service, definition: ServiceDefinition) -> bool:
        if definition.account in service.spec.service_accounts:
            return True
        self._note(
            service.ref,
            "spec.serviceAccounts",
            f"{defined(definition)} runs as {definition.account}, which is not listed: "
            "it gets no traffic for this name",
        )
        return False

    def _ports(
        self,
        service: Service,
        definition: ServiceDefinition,
        instance: Instance,
        taken: set[int],
    ) -> Iterator[Inbound]:
        for index, port in enumerate(service.spec.ports):
            have = target_port(service, port.port, instance)
            if have is None or port_fault(port.port):
                self._note(service.ref, f"spec.ports[{index}]", f"{defined(definition)} has no port for it")
                continue
            if port.port in taken:
                self._note(
                    service.ref, f"spec.ports[{index}]", f"{defined(definition)} is not the first behind it here"
                )
                continue
            taken.add(port.port)
            self.behind.add(definition.identity)
            yield self._port(service, port, definition, have, self._note)

    def _standby(
        self,
        service: Service,
        definition: ServiceDefinition,
        instance: Instance,
        taken: set[int],
    ) -> Iterator[Inbound]:
        """What fits; that something does not is no problem of anybody's."""
        for port in service.spec.ports:
            have = target_port(service, port.port, instance)
            if have is not None and not port_fault(port.port) and port.port not in taken:
                taken.add(port.port)
                yield self._port(service, port, definition, have, _untold)

    def _port(
        self,
        service: Service,
        port: ServicePort,
        definition: ServiceDefinition,
        have: InstancePort,
        note: Note,
    ) -> Inbound:
        where = next(p for p in definition.ports if p.port == have.port)
        bounds, sources = (
            limits(self._attached, service.service, port.port) if port.protocol in _HTTP else ((), frozenset[Ref]())
        )
        return Inbound(
            service=service.service,
            port=port.port,
            protocol=port.protocol,
            identity=definition.identity,
            address=where.address,
            target=where.port,
            local_protocol=_local_protocol(port, where),
            access=self._access(service, port.port, note),
            limits=bounds,
            limit_sources=sources,
        )

    def _access(self, service: Service, port: int, note: Note) -> Access:
        rules: dict[str, list[Rule]] = {"Deny": [], "Allow": []}
        sources: set[Ref] = set()
        for ref in self._unreadable:
            if ref.namespace == service.metadata.namespace:
                sources.add(ref)
                rules["Deny"].append(
                    Rule(f"{names.safe(ref.namespace)}/{names.safe(ref.name)}/unreadable", anyone=True)
                )
        for policy in self._policies:
            if policy.metadata.namespace != service.metadata.namespace:
                continue
            if policy.spec.target.service not in {"", service.metadata.name}:
                continue
            sources.add(policy.ref)
            for index, rule in enumerate(policy.spec.rules):
                if not rule.ports or port in rule.ports:
                    rules["Allow" if policy.spec.action == "Allow" else "Deny"].append(
                        self._rule(policy, index, rule, note)
                    )
        config = self._world.config
        if config and config.spec.authorization_default == "Allow":
            rules["Allow"].append(Rule(DEFAULT_ALLOW, namespaces=(self._own,)))
        return Access(
            deny=tuple(rules["Deny"]),
            allow=tuple(rules["Allow"]),
            sources=frozenset(sources),
        )

    def _rule(self, policy: AuthorizationPolicy, index: int, rule: AuthorizationRule, note: Note) -> Rule:
        """A principal that is none matches nobody, whether the rule allows or denies.

        Who is let in without being named is of this trust domain: others are named, or stay outside. Who is refused
        without being named is anybody.
        """
        base = f"{self._own}ns/"
        principals: list[str] = []
        namespaces: list[str] = []
        for number, source in enumerate(rule.sources):
            where = f"spec.rules[{index}].from[{number}]"
            for principal in source.principals:
                if fault := principal_fault(principal):
                    note(policy.ref, f"{where}.principals", fault)
                    continue
                namespace, _, account = principal.partition("/")
                full = principal.startswith("spiffe:")
                principals.append(principal if full else f"{base}{namespace}/sa/{account}")
                self._known_domain(principal, policy.ref, f"{where}.principals", note)
            for namespace in source.namespaces:
                if fault := namespace_fault(namespace):
                    note(policy.ref, f"{where}.namespaces", fault)
                    continue
                full = namespace.startswith("spiffe:")
                namespaces.append(f"{namespace}/" if full else f"{base}{namespace}/")
                self._known_domain(namespace, policy.ref, f"{where}.namespaces", note)
        name = rule.name if rule.name and not label_fault(rule.name) else str(index)
        anyone = not rule.sources or any(not s.principals and not s.namespaces for s in rule.sources)
        if anyone and policy.spec.action == "Allow":
            namespaces, anyone = [*namespaces, self._own], False
        return Rule(
            id=f"{names.safe(policy.metadata.namespace)}/{names.safe(policy.metadata.name)}/{name}",
            principals=tuple(sorted(set(principals))),
            namespaces=tuple(sorted(set(namespaces))),
            anyone=anyone,
        )

    def _known_domain(self, text: str, policy: Ref, where: str, note: Note) -> None:
        """Someone of whom nobody knows can be named beforehand; that it does nothing yet is worth a word."""
        if text.startswith("spiffe:") and (domain := spiffe.parse(text).trust_domain) not in self._domains:
            note(policy, where, f"there is no Peering with trust domain {domain}: nobody can call under that name")


def _untold(_ref: Ref | None, _path: str, _reason: str) -> None:
    """For what is nobody's problem yet."""


def _local_protocol(port: ServicePort, local: LocalPort) -> Protocol:
    """What the application speaks: its own word counts, if it is of the same family as the Service's."""
    return local.protocol if local.protocol in _HTTP and port.protocol in _HTTP else port.protocol
