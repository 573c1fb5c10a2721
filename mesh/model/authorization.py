"""AuthorizationPolicy: which identities may connect to a service, on which ports."""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from mesh.model.base import Frozen, Object, Ref, Violation
from mesh.model.checks import (
    at,
    imported_name_fault,
    label_fault,
    namespace_fault,
    port_fault,
    principal_fault,
    repeated,
    shown,
)

DEFAULT_DENY = "default-deny"
"""The rule that denies when no rule allows; named in every such denial."""
DEFAULT_ALLOW = "default-allow"
"""The rule that allows whom no rule speaks of, where MeshConfig says so: anybody of this trust domain."""
SEVERAL_NAMES = "several-names"
"""The rule that denies whoever shows a certificate with more than one identity."""


class AuthorizationSource(Frozen, frozen=True, kw_only=True):
    """Who calls. Principals or namespaces: one match is enough.

    Both empty: any identity of this trust domain; for Deny, of any.
    """

    principals: tuple[str, ...] = ()
    """SPIFFE ids, or `<namespace>/<service-account>` of this trust domain."""
    namespaces: tuple[str, ...] = ()
    """Of this trust domain; of another one as `spiffe://<trust-domain>/ns/<namespace>`."""


class AuthorizationRule(Frozen, frozen=True, kw_only=True):
    name: str = ""
    sources: tuple[AuthorizationSource, ...] = msgspec.field(name="from", default=())
    """One match is enough. Empty: anybody."""
    ports: tuple[int, ...] = ()
    """Ports of the Service. Empty: all."""


class AuthorizationTarget(Frozen, frozen=True, kw_only=True):
    service: str = ""
    """A Service of the policy's namespace. Empty: all of them."""


class AuthorizationPolicySpec(Frozen, frozen=True, kw_only=True):
    target: AuthorizationTarget = AuthorizationTarget()
    action: Literal["Allow", "Deny"] = "Allow"
    rules: tuple[AuthorizationRule, ...] = ()


class AuthorizationPolicy(Object, frozen=True, kw_only=True):
    """Deny rules are tried first, then allow rules, then the mesh's default.

    A rule is named in denials, logs and `explain` as `<namespace>/<policy>/<rule name, or its index>`.
    """

    api_version: str = "holdfast.dev/v1"
    kind: Literal["AuthorizationPolicy"] = "AuthorizationPolicy"
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()

    def check(self, existing: Mapping[Ref, Object]) -> Iterator[Violation]:
        del existing
        target = self.spec.target.service
        if target and "." in target and not imported_name_fault(target):
            reason = f"{shown(target)} is another cluster's: who may call it is said there"
            yield Violation(path="spec.target.service", reason=reason)
        elif target:
            yield from at("spec.target.service", label_fault(target))
        for index, rule in enumerate(self.spec.rules):
            yield from _rule_faults(f"spec.rules[{index}]", rule)
        yield from repeated("spec.rules", ".name", (rule.name for rule in self.spec.rules))


def _rule_faults(where: str, rule: AuthorizationRule) -> Iterator[Violation]:
    if rule.name:
        yield from at(f"{where}.name", label_fault(rule.name))
    for index, port in enumerate(rule.ports):
        yield from at(f"{where}.ports[{index}]", port_fault(port))
    for number, source in enumerate(rule.sources):
        for index, principal in enumerate(source.principals):
            yield from at(f"{where}.from[{number}].principals[{index}]", principal_fault(principal))
        for index, namespace in enumerate(source.namespaces):
            yield from at(f"{where}.from[{number}].namespaces[{index}]", namespace_fault(namespace))
