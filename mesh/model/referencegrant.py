"""ReferenceGrant (gateway.networking.k8s.io/v1): a namespace lets routes of others send to what is there."""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from mesh.model.base import Frozen, Object, Ref, Violation
from mesh.model.checks import at, imported_name_fault, label_fault, shown
from mesh.model.routing import EXTERNAL, GROUP, IMPORTED, subdomain_fault, too_many

TARGETS = (("", "Service"), EXTERNAL, IMPORTED)
ROUTE_KINDS = ("HTTPRoute", "GRPCRoute", "TCPRoute")


class GrantFrom(Frozen, frozen=True, kw_only=True):
    group: str
    kind: str
    namespace: str


class GrantTo(Frozen, frozen=True, kw_only=True):
    group: str
    kind: str
    name: str = ""
    """Empty: all of the kind in the grant's namespace."""


class ReferenceGrantSpec(Frozen, frozen=True, kw_only=True):
    sources: tuple[GrantFrom, ...] = msgspec.field(name="from", default=())
    targets: tuple[GrantTo, ...] = msgspec.field(name="to", default=())


class ReferenceGrant(Object, frozen=True, kw_only=True):
    api_version: str = "gateway.networking.k8s.io/v1"
    kind: Literal["ReferenceGrant"] = "ReferenceGrant"
    spec: ReferenceGrantSpec = ReferenceGrantSpec()

    def name_fault(self) -> str:
        return subdomain_fault(self.metadata.name)

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        yield from too_many("spec.from", self.spec.sources, 16, 1)
        yield from too_many("spec.to", self.spec.targets, 16, 1)
        for index, source in enumerate(self.spec.sources):
            where = f"spec.from[{index}]"
            if source.group != GROUP or source.kind not in ROUTE_KINDS:
                reason = f"{shown(f'{source.group}/{source.kind}')} refers to nothing here: {', '.join(ROUTE_KINDS)} do"
                yield Violation(path=f"{where}.kind", reason=reason)
            yield from at(f"{where}.namespace", label_fault(source.namespace))
        for index, target in enumerate(self.spec.targets):
            where = f"spec.to[{index}]"
            if (target.group, target.kind) not in TARGETS:
                reason = f"{shown(f'{target.group}/{target.kind}')} is nothing that a route can send to: a Service is"
                yield Violation(path=f"{where}.kind", reason=reason)
            if target.name:
                imported = (target.group, target.kind) == IMPORTED
                yield from at(f"{where}.name", (imported_name_fault if imported else label_fault)(target.name))

    def allows(self, route_kind: str, namespace: str, target: tuple[str, str], name: str) -> bool:
        """May routes of this kind and namespace send to this name in the grant's? `target`: its group and kind."""
        spec = self.spec
        return any((s.group, s.kind, s.namespace) == (GROUP, route_kind, namespace) for s in spec.sources) and any(
            (t.group, t.kind) == target and t.name in {"", name} for t in spec.targets
        )
