"""TCPRoute (gateway.networking.k8s.io/v1): how a Service's connections are shared out among others."""

from collections.abc import Iterator, Mapping
from typing import Literal

from mesh.model.base import Frozen, Object, Ref, Violation
from mesh.model.routing import (
    MAX_BACKENDS,
    ParentRef,
    WeightedBackendRef,
    backend_faults,
    head_faults,
    names_faults,
    parents_places,
    subdomain_fault,
    too_many,
)


class TcpRule(Frozen, frozen=True, kw_only=True):
    name: str = ""
    backend_refs: tuple[WeightedBackendRef, ...] = ()


class TcpRouteSpec(Frozen, frozen=True, kw_only=True):
    parent_refs: tuple[ParentRef, ...] = ()
    rules: tuple[TcpRule, ...] = ()
    """Exactly one."""
    use_default_gateways: str | None = None
    """Refused: there are no default gateways."""


class TCPRoute(Object, frozen=True, kw_only=True):
    api_version: str = "gateway.networking.k8s.io/v1"
    kind: Literal["TCPRoute"] = "TCPRoute"
    spec: TcpRouteSpec = TcpRouteSpec()

    def name_fault(self) -> str:
        return subdomain_fault(self.metadata.name)

    def looks_at(self) -> Iterator[Ref]:
        yield from parents_places(self.metadata, self.spec.parent_refs)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        spec = self.spec
        yield from head_faults(self.metadata, existing, spec.parent_refs, spec.use_default_gateways)
        yield from too_many("spec.rules", spec.rules, 1, 1)
        yield from names_faults("spec.rules", (rule.name for rule in spec.rules))
        for index, rule in enumerate(spec.rules):
            where = f"spec.rules[{index}].backendRefs"
            yield from too_many(where, rule.backend_refs, MAX_BACKENDS, 1)
            for number, backend in enumerate(rule.backend_refs):
                yield from backend_faults(f"{where}[{number}]", backend)
