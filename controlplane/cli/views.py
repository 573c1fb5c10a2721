"""What a kind's table shows: columns over its JSON document. Pure."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from controlplane.cli import hosts
from mesh.model import KINDS
from mesh.model.checks import place

Document = Mapping[str, Any]


class Column(NamedTuple):
    title: str
    cell: Callable[[Document], str]
    wide: bool = False


def meta(document: Document, name: str) -> str:
    return str(document.get("metadata", {}).get(name, ""))


def spec(document: Document, name: str) -> Any:
    return (document.get("spec") or {}).get(name)


def text(value: Any) -> str:
    """A cell: lists joined by commas, maps as k=v, nothing as `-`."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, Mapping):
        return ",".join(f"{k}={v}" for k, v in sorted(value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(text(v) for v in value)
    return str(value)


def _field(name: str) -> Callable[[Document], str]:
    return lambda document: text(spec(document, name))


def _seconds(value: float | None) -> str:
    return "-" if value is None else "over" if value < 0 else span(value)


def _ports(document: Document) -> str:
    shown = []
    for port in spec(document, "ports") or []:
        if isinstance(port, Mapping):
            target = f"->{port['targetPort']}" if port.get("targetPort") else ""
            shown.append(f"{port.get('port')}{target}/{port.get('protocol', 'tcp')}")
        else:
            shown.append(str(port))
    return ",".join(shown) or "-"


def _endpoint(document: Document) -> str:
    address, port = text(spec(document, "address")), spec(document, "port") or 15443
    return place(address, port)


def _rules(document: Document) -> str:
    """Who may (or may not) call, in one line: sources -> ports."""
    shown = []
    for rule in spec(document, "rules") or []:
        who = [
            name
            for source in rule.get("from") or []
            for name in [*(source.get("principals") or []), *(f"{n}/*" for n in source.get("namespaces") or [])]
        ]
        ports = ":" + ",".join(map(str, rule["ports"])) if rule.get("ports") else ""
        shown.append((",".join(who) or "anybody") + ports)
    return "; ".join(shown) or "-"


def _roots(document: Document) -> str:
    return str(len(spec(document, "roots") or []))


def _parents(document: Document) -> str:
    """The Services whose callers a route is for."""
    shown = []
    for parent in spec(document, "parentRefs") or []:
        namespace = f".{parent['namespace']}" if parent.get("namespace") else ""
        port = f":{parent.get('port') or parent.get('sectionName') or ''}".rstrip(":")
        shown.append(f"{parent.get('name')}{namespace}{port}")
    return ",".join(shown) or "-"


def _backends(document: Document) -> str:
    """Where a route leads, rule by rule."""
    shown = []
    for rule in spec(document, "rules") or []:
        backends = [
            f"{backend.get('name')}:{backend.get('port', '')}"
            + (f"={backend['weight']}" if "weight" in backend else "")
            for backend in rule.get("backendRefs") or []
        ]
        shown.append(",".join(backends) or "-")
    return "; ".join(shown) or "-"


def _tls(document: Document) -> str:
    """The ports on which the proxy speaks TLS."""
    secure = [p.get("port") for p in spec(document, "ports") or [] if (p.get("tls") or {}).get("mode") == "Originate"]
    return text(secure)


def _grant(side: str, name: str) -> Callable[[Document], str]:
    return lambda document: text([item.get(name) or "*" for item in spec(document, side) or []])


def _target(document: Document) -> str:
    target = spec(document, "target") or {}
    return f"{target.get('service', '-')}:{target['port']}" if target.get("port") else text(target.get("service"))


def _says(document: Document) -> str:
    """What a policy is about."""
    return text([name for name in (document.get("spec") or {}) if name != "target"])


_ROUTE = (Column("PARENTS", _parents), Column("BACKENDS", _backends))


COLUMNS: dict[str, tuple[Column, ...]] = {
    "Service": (
        Column("PORTS", _ports),
        Column("ACCOUNTS", _field("serviceAccounts")),
        Column("SELECTOR", _field("selector"), wide=True),
    ),
    "Namespace": (),
    "MeshConfig": (
        Column("TRUST DOMAIN", _field("trustDomain")),
        Column("CLUSTER", _field("cluster")),
        Column("GRACE", lambda d: f"{spec(d, 'livenessGraceSeconds') or 15:g}s"),
        Column("DEFAULT", lambda d: text(spec(d, "authorizationDefault") or "Deny"), wide=True),
    ),
    "AuthorizationPolicy": (
        Column("ACTION", lambda d: text(spec(d, "action") or "Allow")),
        Column("SERVICE", lambda d: text((spec(d, "target") or {}).get("service") or "all")),
        Column("FROM", _rules),
    ),
    "HTTPRoute": _ROUTE,
    "GRPCRoute": _ROUTE,
    "TCPRoute": _ROUTE,
    "ReferenceGrant": (Column("FROM", _grant("from", "namespace")), Column("TO", _grant("to", "name"))),
    "TrafficPolicy": (Column("SERVICE", _target), Column("ABOUT", _says)),
    "ExternalService": (
        Column("WHERE", lambda d: text(spec(d, "hosts") or spec(d, "addresses"))),
        Column("PORTS", _ports),
        Column("TLS", _tls),
    ),
    "Peering": (
        Column("TRUST DOMAIN", _field("trustDomain")),
        Column("PAUSED", lambda d: "yes" if spec(d, "paused") else "no"),
        Column("EXPOSES", lambda d: text(spec(d, "exposes") or "Gateway")),
        Column("ADDRESSES", _field("addresses"), wide=True),
    ),
    "ExportPolicy": (
        Column("SERVICES", _field("services")),
        Column("TO", _field("to")),
        Column("SELECTOR", _field("selector"), wide=True),
    ),
    "ImportedService": (
        Column("PORTS", _ports),
        Column("ACCOUNTS", _field("serviceAccounts")),
        Column("TRUST DOMAIN", _field("trustDomain"), wide=True),
    ),
    "Node": (
        Column("STATE", hosts.state),
        Column("ADDRESS", _field("address")),
        Column("LOCALITY", lambda d: text(spec(d, "locality") or hosts.report(d, "locality"))),
        Column("AGENT", lambda d: text(hosts.report(d, "version"))),
        Column("ENVOY", lambda d: text(hosts.report(d, "envoyVersion") or hosts.report(d, "envoy"))),
        Column("HEARD", lambda d: _seconds(hosts.heartbeat(d))),
        Column("RUNWAY", lambda d: _seconds((d.get("status") or {}).get("runwaySeconds"))),
        Column("IDENTITIES", _field("identities")),
        Column("ROLES", lambda d: text(spec(d, "roles") or ["agent"]), wide=True),
        Column("REPLICA", lambda d: text((d.get("status") or {}).get("replica")), wide=True),
    ),
    "Instance": (
        Column("NODE", _field("node")),
        Column("ADDRESS", _field("address")),
        Column("HEALTH", lambda d: text(spec(d, "health") or "unhealthy")),
        Column("ACCOUNT", _field("serviceAccount"), wide=True),
        Column("PORTS", _ports, wide=True),
    ),
    "Endpoint": (
        Column("SERVICE", _field("service")),
        Column("ADDRESS", _endpoint),
        Column("HEALTH", lambda d: text(spec(d, "health") or "unhealthy")),
        Column("NODE", _field("node"), wide=True),
        Column("ACCOUNT", _field("serviceAccount"), wide=True),
        Column("PORTS", _ports, wide=True),
        Column("LOCALITY", _field("locality"), wide=True),
    ),
    "TrustBundle": (
        Column("SEQUENCE", _field("sequence")),
        Column("ROOTS", _roots),
    ),
}


def rows(kind: str, documents: Sequence[Document], *, wide: bool, now: float) -> tuple[list[str], list[list[str]]]:
    """Titles and cells. The namespace is shown where there can be several."""
    namespaced = KINDS[kind].namespaced
    columns = [c for c in COLUMNS.get(kind, ()) if wide or not c.wide]
    titles = [*(["NAMESPACE"] if namespaced else []), "NAME", *(c.title for c in columns), "AGE"]
    if wide:
        titles += ["REVISION", "LABELS"]
    found = []
    for document in documents:
        cells = [*([meta(document, "namespace")] if namespaced else []), meta(document, "name")]
        cells += [column.cell(document) for column in columns]
        cells.append(age(meta(document, "creationTimestamp"), now))
        if wide:
            cells += [meta(document, "resourceVersion") or "-", text(document.get("metadata", {}).get("labels"))]
        found.append(cells)
    return titles, found


def age(timestamp: str, now: float) -> str:
    """How long ago an RFC 3339 time was."""
    if not timestamp:
        return "-"
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return "?"
    return span(now - (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp())


def when(moment: float) -> str:
    """Unix seconds as a time of day, in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(seconds: float) -> str:
    """A duration in at most two units: 45s, 3m20s, 5h12m, 12d."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s" if whole < 600 else f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86400}d"


def describe(document: Document) -> list[str]:
    """An object for reading: its frame first, then its spec and status as indented lines."""
    metadata = document.get("metadata", {})
    lines = [f"{'Name:':<13}{metadata.get('name', '')}"]
    if metadata.get("namespace"):
        lines.append(f"{'Namespace:':<13}{metadata['namespace']}")
    lines.append(f"{'Kind:':<13}{document.get('kind', '')} ({document.get('apiVersion', '')})")
    for title, key in (("Labels:", "labels"), ("Annotations:", "annotations"), ("Created:", "creationTimestamp"),
                       ("Revision:", "resourceVersion"), ("UID:", "uid")):  # fmt: skip
        if metadata.get(key):
            lines.append(f"{title:<13}{text(metadata[key])}")
    for part in ("spec", "status"):
        if document.get(part):
            lines += [f"{part.capitalize()}:", *_tree(document[part], "  ")]
    return lines


def _tree(value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        lines = []
        for key, inner in value.items():
            if isinstance(inner, (Mapping, list)) and inner:
                lines += [f"{indent}{key}:", *_tree(inner, indent + "  ")]
            else:
                lines.append(f"{indent}{key}: {_short(inner)}")
        return lines
    lines = []
    for inner in value:
        if isinstance(inner, Mapping) and inner:
            first, *rest = _tree(inner, indent + "  ")
            lines += [f"{indent}- {first.strip()}", *rest]
        else:
            lines.append(f"{indent}- {_short(inner)}")
    return lines


def _short(value: Any) -> str:
    """One line: a PEM block is named by its size, not printed."""
    shown = text(value)
    if "\n" in shown:
        return f"{shown.splitlines()[0]} ({len(shown)} characters)"
    return shown
