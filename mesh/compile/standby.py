"""Standby: Services that no instance of this host is behind right now, and that may take one with their next change.

When a selector moves from one instance to another, the Service and its endpoints are written one after the other. In
between callers go where the selector does not lead any more; after it, where it has only just come to. So a host has
the filter chains of such Services in force beforehand, and keeps them afterwards: neither side has to be in time.

A Service is on standby if it has a selector, and does not select an instance of its namespace that runs as one of its
service accounts and has a port for it. What may stand behind a name is said by serviceAccounts, never by a selector, so
nobody answers for a name who might not; and the Service's policies apply as always. Who may call that Service can in
this way reach an instance that it does not select, if both share a service account (docs/security.md).

Bounded: at most MAX_SERVICES of a host, those whose selector shares most labels with the instance first, then by name.
Where everything runs under one service account, each Service of a namespace would have a chain on each of its hosts.
A Service beyond the bound works as any other, without that promise for the moment of a move.
"""

from collections.abc import Iterable, Mapping, Sequence

from mesh.model import Instance, Service, ServiceRef, selects, target_port

MAX_SERVICES = 32


def standby(
    services: Iterable[Service], instances: Sequence[Instance], most: int = MAX_SERVICES
) -> Mapping[ServiceRef, tuple[int, ...]]:
    """Services on standby -> which of these instances may come to stand behind them, the likeliest first."""
    ranked: list[tuple[int, ServiceRef, tuple[int, ...]]] = []
    for service in services:
        if service.spec.selector and (found := _candidates(service, instances)):
            shared = _shared(service, instances[found[0]])
            ranked.append((-shared, service.service, found))
    return {ref: found for _, ref, found in sorted(ranked)[:most]}


def _candidates(service: Service, instances: Sequence[Instance]) -> tuple[int, ...]:
    """None if one of them is behind it already: a chain is there, and it does not say which instance is meant."""
    may = [index for index, instance in enumerate(instances) if _may_stand_behind(service, instance)]
    if any(selects(service, instances[index]) for index in may):
        return ()
    return tuple(sorted(may, key=lambda index: (-_shared(service, instances[index]), index)))


def _may_stand_behind(service: Service, instance: Instance) -> bool:
    return (
        service.metadata.namespace == instance.metadata.namespace
        and instance.spec.service_account in service.spec.service_accounts
        and any(target_port(service, port.port, instance) for port in service.spec.ports)
    )


def _shared(service: Service, instance: Instance) -> int:
    return len(service.spec.selector.items() & instance.metadata.labels.items())
