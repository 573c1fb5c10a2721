"""A Node with what its host says: the object is the operators' word, its status what the agent reports. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

Document = Mapping[str, Any]


def with_status(nodes: Iterable[Document], proxies: Iterable[Document], now: float) -> list[dict[str, Any]]:
    """Each Node with the entry of its proxy as `status`; without an entry, it is as it was."""
    heard = {item["node"]: item for item in proxies}
    found = []
    for node in nodes:
        item = heard.get(str((node.get("metadata") or {}).get("name", "")))
        said = {key: value for key, value in item.items() if key != "node"} if item else {}
        if (left := _runway(said, now)) is not None:
            said["runwaySeconds"] = round(left)
        found.append({**node, "status": {**(node.get("status") or {}), **said}} if said else dict(node))
    return found


def state(node: Document) -> str:
    """One word: what an operator did comes before what is observed."""
    if (node.get("spec") or {}).get("evicted"):
        return "evicted"
    status = node.get("status") or {}
    if not status:
        return "-"
    report = status.get("report") or {}
    if not status.get("connected"):
        return "lost" if status.get("lost") else "away"
    if report.get("maintenance"):
        return "maintenance"
    return str(report.get("phase") or "joining")


def report(node: Document, name: str) -> Any:
    """A field of what the agent reported last."""
    return ((node.get("status") or {}).get("report") or {}).get(name)


def heartbeat(node: Document) -> float | None:
    """Seconds since the agent was heard; None: it is not connected."""
    status = node.get("status") or {}
    return float(status["silentSeconds"]) if status.get("connected") and "silentSeconds" in status else None


def _runway(status: Document, now: float) -> float | None:
    """Seconds until the first of its certificates ends; None: it reports none."""
    ends = [svid["notAfter"] for svid in (status.get("report") or {}).get("svids") or []]
    return min(ends) - now if ends else None
