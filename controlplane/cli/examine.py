"""What doctor makes of what it found. Pure: facts in, checks out."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from controlplane.cli.reach import Reach
from controlplane.cli.status import ALARM, WARN, certificates
from controlplane.cli.views import span

Verdict = Literal["ok", "warn", "fail"]

SKEW_WARN, SKEW_FAIL = 5.0, 120.0
"""Seconds. Certificates are backdated by five minutes: a clock that is off by more refuses fresh ones."""
TOKEN_WARN = 7 * 86400.0
SIGNER_ADVICE = "unseal it (the plays do: `site.yml --tags openbao`), or see whether that node still reaches it"
ISSUER_WARN, ISSUER_FAIL = 7 * 86400.0, 86400.0
SILENCE_WARN = 10.0
"""Seconds. An agent is pinged every two."""


class Check(NamedTuple):
    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def worst(checks: Sequence[Check]) -> Verdict:
    found = {check.verdict for check in checks}
    return "fail" if "fail" in found else "warn" if "warn" in found else "ok"


def reached(reach: Reach, now: float) -> list[Check]:
    """One address: does it answer, is it who it must be, what time does it have."""
    name = f"reach {reach.address}"
    if not reach.status:
        advice = {
            "tls": "is the CA file of this mesh? compare it with `GET /v1/roots`, or with the one `init` wrote",
            "connect": "is the node up, is the address right, does a firewall stand between?",
        }
        return [Check(name, "fail", reach.fault, advice.get(reach.kind, ""))]
    ready = reach.status == 200
    checks = [
        Check(
            name,
            "ok" if ready else "fail",
            "ready" if ready else f"not ready: {reach.body.strip()}",
            "" if ready else "see its log; running traffic does not need it",
        ),
        Check(f"certificate {reach.address}", "ok", f"of this mesh, valid for {span(reach.certificate_ends - now)}"),
    ]
    if reach.skew is not None:
        off = abs(reach.skew)
        verdict: Verdict = "ok" if off < SKEW_WARN else "warn" if off < SKEW_FAIL else "fail"
        advice_ = "" if verdict == "ok" else "let both clocks be set by NTP; certificates are only valid in their time"
        checks.append(Check(f"clock {reach.address}", verdict, f"{reach.skew:+.1f} s against this machine", advice_))
    return checks


def token(who: Mapping[str, Any], now: float) -> Check:
    found = f"{who.get('name')}, role {who.get('role')}"
    expires = who.get("expires")
    if not expires:
        return Check("token", "ok", found)
    left = expires - now
    verdict: Verdict = "ok" if left > TOKEN_WARN else "warn"
    return Check("token", verdict, f"{found}, valid for {span(left)}", "" if verdict == "ok" else "have a new one made")


def store(status: Mapping[str, Any]) -> Check:
    found = status["store"]
    if not found["connected"]:
        return Check(
            "etcd",
            "fail",
            "the control plane is not connected",
            "a majority of its members must be up: look at their logs",
        )
    if found["bad"]:
        keys = ", ".join(bad["key"] for bad in found["bad"][:3])
        return Check("etcd", "warn", f"{len(found['bad'])} unreadable values: {keys}", "apply these objects again")
    return Check("etcd", "ok", f"connected, revision {found['revision']}")


def issuers(status: Mapping[str, Any], now: float) -> list[Check]:
    """Of each control-plane node: how long it can issue by itself, and whether what signs for it answers."""
    return [
        _issuer(one["replica"], one["intermediate"]["notAfter"] - now, one["signerFault"])
        for one in status["replicas"]
        # Not told, while it has just begun, or by a control plane that is older than this program.
        if one.get("intermediate", {}).get("notAfter")
    ]


def _issuer(replica: str, left: float, fault: str) -> Check:
    verdict: Verdict = "ok" if left > ISSUER_WARN else "warn" if left > ISSUER_FAIL else "fail"
    found = f"intermediate valid for {span(left)}"
    advice = "" if verdict == "ok" else "its log says why it is not renewed"
    if fault:
        found, advice = f"{found}; its signer does not answer: {fault}", SIGNER_ADVICE
        verdict = "fail" if verdict == "fail" else "warn"
    return Check(f"issuing CA {replica}", verdict, found, advice)


def versions(mine: str, status: Mapping[str, Any], proxies: Mapping[str, Any]) -> Check:
    found = {mine, *(r["version"] for r in status["replicas"])}
    found |= {item["report"]["version"] for item in proxies["items"] if (item.get("report") or {}).get("version")}
    if len(found) == 1:
        return Check("versions", "ok", f"{mine} everywhere")
    return Check(
        "versions", "warn", ", ".join(sorted(found)), "neighbouring versions work together; finish the upgrade"
    )


def agents(status: Mapping[str, Any], proxies: Mapping[str, Any], now: float) -> list[Check]:
    """Who is away, who is silent, whose certificates run out."""
    items = proxies["items"]
    away = [item["node"] for item in items if not item.get("connected")]
    silent = [f"{i['node']} {i['silentSeconds']:.0f} s" for i in items if i.get("silentSeconds", 0) > SILENCE_WARN]
    checks = [
        Check(
            "agents",
            "fail" if away else "warn" if silent else "ok",
            f"away: {', '.join(away)}"
            if away
            else f"silent: {', '.join(silent)}"
            if silent
            else f"{len(items)} connected",
            "on the host: `holdfast-agent status`, and the agent's log" if away or silent else "",
        )
    ]
    runway = [(name, (end - now) / max(1.0, end - begin)) for name, end, begin in certificates({"proxies": proxies})]
    low = [f"{name} ({left:.0%} left)" for name, left in runway if left < WARN]
    verdict: Verdict = "fail" if any(left < ALARM for _, left in runway) else "warn" if low else "ok"
    advice = "renewals fail: can these hosts reach a control-plane node?" if low else ""
    checks.append(
        Check("certificates", verdict, ", ".join(low) or f"{len(runway)}, none below half of its life", advice)
    )
    refused = [f"{i['node']}: {r['object']}" for i in items for r in (i.get("report") or {}).get("rejected") or []]
    if refused:
        checks.append(Check("proxies", "fail", f"refused: {', '.join(refused)}", "`holdfast proxy status` says why"))
    warned = [f"{i['node']}: {w}" for i in items for w in (i.get("report") or {}).get("warnings") or []]
    if warned:
        found = f"{len(warned)} warnings, as {warned[0]}"
        checks.append(Check("hosts", "warn", found, "`holdfast-agent doctor` on the host; `holdfast status` lists all"))
    if not status.get("leader"):
        checks.append(
            Check("leader", "warn", "none is elected", "an election takes seconds; then look at the nodes' logs")
        )
    return checks


def peers(status: Mapping[str, Any]) -> list[Check]:
    """One for each peering."""
    return [_peer(peer) for peer in status.get("peers") or []]


def _peer(peer: Mapping[str, Any]) -> Check:
    name, state = f"peer {peer['name']}", str(peer["state"])
    if state in {"connected", "paused"}:
        counts = f"{state}; {peer['imported']} services imported, {peer['exported']} exported"
        if peer["refused"]:
            advice = f"`holdfast peering describe {peer['name']}` says why"
            return Check(name, "warn", f"{counts}; {peer['refused']} items of its offer are refused", advice)
        return Check(name, "ok", counts)
    found = f"{state} for {span(peer['lostSeconds'])}" + (f": {peer['reason']}" if peer["reason"] else "")
    if state == "refused":
        advice = "it answers: `docs/federation.md` tells what its words mean"
    else:
        advice = "does its control plane run, and is its port reached from here? what was imported is kept"
    return Check(name, "warn", found, advice)
