"""Facts -> findings. Every judgement of `holdfast-agent doctor` is made here, and nothing else is. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from agent import limits
from agent.capture import mesh_hosts
from agent.doctor.facts import Facts, Reached, Unit
from agent.identity import rotation
from agent.identity.orders import UNJOINED, way

Verdict = Literal["ok", "warning", "fault"]

ENVOYS = ("1.40",)
"""Minor versions that are tested with this one (docs/install.md)."""

SKEW_WARN, SKEW_FAULT = 5.0, 240.0
"""Seconds. What the CA issues is dated five minutes back: a clock that is further behind takes it for not valid yet."""

MIB = 2**20
DISK_FAULT, DISK_WARN = 64 * MIB, 512 * MIB
INODES = 1000
MANY_RESTARTS = 5
ACCESS_LOG_BYTES = 48 * MIB
"""Envoy's launcher keeps it below 16 MiB and looks now and then; at three times that nobody does."""

DENIED = "Permission denied"

AGENT, ENVOY, HOST = "holdfast-agent.service", "holdfast-envoy.service", "holdfast-host.service"


SIGNS = (
    ("resolved", "is the name right? `getent ahosts {host}` asks the same; an address in agent.yaml needs no DNS"),
    ("Connection refused", "nobody listens there: does it run, are address and port right?"),
    ("certificate verify failed", "is it of another mesh, or is a clock wrong? `date` here, and at {host}"),
    ("", "is it up, is the address right, does a firewall stand between?"),
)
"""What a fault of a connection has in it, and what to do then; the first that fits."""


class Finding(NamedTuple):
    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def checks(facts: Facts) -> tuple[Finding, ...]:
    """All of them, in the order in which a reader should mend."""
    return tuple(finding for check in ALL for finding in check(facts))


def _settings(facts: Facts) -> Iterator[Finding]:
    if facts.settings_fault:
        advice = "mend it, then `systemctl restart holdfast-agent`; what stands on settings was not looked at"
        yield Finding("settings", "fault", facts.settings_fault, advice)
        return
    yield Finding("settings", "ok", f"this host is {facts.node}")
    for fault in facts.definition_faults:
        yield Finding("services", "fault", fault, "mend the file in services.d; it is read by itself")


def _identity(facts: Facts) -> Iterator[Finding]:
    if facts.settings_fault:
        return
    how = way(facts.node)
    if facts.identity_fault:
        yield Finding("identity", "fault", facts.identity_fault, f"run this as root; if it is damaged: {how}")
    elif not facts.joined_as:
        yield _unjoined(facts.agent or {}, how)
    elif facts.node and facts.joined_as != facts.node:
        said = f"it joined as {facts.joined_as}, and agent.yaml says that it is {facts.node}"
        yield Finding("identity", "fault", said, f"set `node` back to {facts.joined_as}, or join: {how}")
    else:
        yield Finding("identity", "ok", f"joined as {facts.joined_as}")
    for one in facts.certificates:
        left, life = one.not_after - facts.now, max(1.0, one.not_after - one.not_before)
        share, words = left / life, f"{_span(left)} left, {left / life:.0%} of its life"
        advice = "renewals fail: see control plane and clock here, and `journalctl -u holdfast-agent`"
        name = f"certificate {one.name}"
        if one.not_before > facts.now:
            yield Finding(name, "fault", f"it is not valid before {_span(-left + life)}", "set the clock")
        elif left <= 0:
            yield Finding(name, "fault", f"it has expired {_span(-left)} ago", advice)
        elif share < rotation.ALARM_SHARE:
            yield Finding(name, "fault", words, advice)
        elif share < rotation.WARN_SHARE:
            yield Finding(name, "warning", words, advice)
        else:
            yield Finding(name, "ok", words)


def _unjoined(agent: Mapping[str, Any], how: str) -> Finding:
    """With the reason why its last try failed, if the agent has one."""
    said = next((text for text in map(str, agent.get("problems", ())) if text.startswith(UNJOINED)), UNJOINED)
    found = said.removesuffix(f": {how}")  # it ends so where another token is needed
    if found == said != UNJOINED:
        return Finding("identity", "fault", said, "mend that, and the agent joins by itself: it tries again")
    return Finding("identity", "fault", found, how)


def _network(facts: Facts) -> Iterator[Finding]:
    new = _is_new(facts)
    if not facts.settings_fault and not facts.controlplanes:
        yield Finding("control plane", "fault", "none is known", "name one under `controlplanes` in agent.yaml")
    without = "running traffic goes on without; no change arrives here"
    yield from _reached("control plane", facts.controlplanes, "this host cannot join without" if new else without)
    if facts.joined_as and not facts.gates:
        yield Finding("store gate", "fault", "none is known", "name one under `gates` in agent.yaml")
    yield from _reached("store gate", facts.gates, "once joined, this host cannot serve without" if new else without)
    for one in facts.controlplanes:
        if one.skew is None:
            continue
        off = abs(one.skew)
        verdict: Verdict = "ok" if off < SKEW_WARN else "warning" if off < SKEW_FAULT else "fault"
        side = "behind" if one.skew > 0 else "ahead of"
        advice = "" if verdict == "ok" else "let both clocks be set by NTP: timedatectl set-ntp true"
        yield Finding("clock", verdict, f"{off:.1f} s {side} that of {one.where}", advice)


def _reached(what: str, places: tuple[Reached, ...], harm: str) -> Iterator[Finding]:
    """One that is away is a warning as long as another answers."""
    answered = any(not place.fault for place in places)
    for place in places:
        if not place.fault:
            yield Finding(what, "ok", f"{place.where} answers")
            continue
        advice = next((then for sign, then in SIGNS if sign in place.fault), SIGNS[-1][1])
        advice = f"{harm}: {advice.format(host=_host(place.where))}"
        yield Finding(what, "warning" if answered else "fault", f"{place.where}: {place.fault}", advice)


def _units(facts: Facts) -> Iterator[Finding]:
    if not facts.systemd or not any(unit.loaded for unit in facts.units):
        yield Finding("units", "ok", "agent and Envoy are not units of systemd on this host")
        return
    for unit in facts.units:
        yield _unit(unit, needed=unit.name != HOST or facts.by_name)


def _unit(unit: Unit, *, needed: bool) -> Finding:
    log = f"`journalctl -u {unit.name}` says why"
    name = f"unit {unit.name}"
    if not unit.loaded:
        verdict: Verdict = "fault" if needed else "warning"
        return Finding(name, verdict, "it is not installed", "install it, or run install.py again")
    if unit.active != "active":
        result = f" ({unit.result})" if unit.result not in {"", "success"} else ""
        advice = f"{log}; then `systemctl restart {unit.name}`"
        return Finding(name, "fault" if needed else "warning", f"it is {unit.active}{result}", advice)
    if unit.restarts >= MANY_RESTARTS:
        return Finding(name, "warning", f"it runs, and was restarted {unit.restarts} times", log)
    if not unit.enabled:
        return Finding(name, "warning", "it runs, and will not after a boot", f"systemctl enable {unit.name}")
    return Finding(name, "ok", "it runs, and does after a boot")


def _agent(facts: Facts) -> Iterator[Finding]:
    new = _is_new(facts)
    if facts.settings_fault:
        return
    if facts.agent is None:
        start = f"start it: `systemctl start {AGENT}`"
        advice = start if new else f"Envoy serves on with what it has; {start}"
        yield Finding("agent", "fault", facts.agent_fault, advice)
        return
    phase = str(facts.agent.get("phase", ""))
    if phase == "serving":
        yield Finding("agent", "ok", f"serving, revision {facts.agent.get('applied', 0)} in force")
    else:
        advice = (
            "Envoy serves what it has" if phase == "stale" else "see the other findings, and `holdfast-agent status`"
        )
        yield Finding("agent", "warning", f"it is {phase}", advice)
    if not new:
        yield from _connections(facts.agent)
    for problem in facts.agent.get("problems", ()):
        if new and str(problem).startswith(UNJOINED):
            continue  # said already
        yield Finding("agent", "fault", str(problem), "`holdfast-agent status` and its journal say more")
    for rejected in facts.agent.get("rejected", ()):
        said = f"Envoy refuses {rejected.get('object')}: {rejected.get('reason')}"
        yield Finding("agent", "fault", said, "mend the object; what was in force before stays")
    running = facts.agent.get("version")
    if facts.version and running and running != facts.version:
        said = f"{running} runs, {facts.version} is installed"
        yield Finding("agent", "warning", said, "systemctl restart holdfast-agent; Envoy does not notice")


def _connections(agent: Mapping[str, Any]) -> Iterator[Finding]:
    """What it says of its own ones: they show its certificate, which the health page does not ask for."""
    for what, words in (("controlplane", "control plane"), ("store", "store gate")):
        said = str(agent.get(what) or "connected")
        if said == "connected":
            continue
        advice = "running traffic goes on; if the address answers here, `journalctl -u holdfast-agent` says more"
        if "joined under this name" in said:
            advice = "another host has this one's name: stop that, or join this one anew under a name of its own"
        yield Finding("agent", "fault", f"it is not connected to a {words}: {said}", advice)


def _envoy(facts: Facts) -> Iterator[Finding]:
    if facts.settings_fault:
        return
    if facts.envoy_fault and DENIED not in facts.envoy_fault and _is_new(facts) and not facts.processes:
        yield Finding("Envoy", "ok", "it does not run, and will once this host has joined")
        return
    if facts.envoy_fault:
        advice = (
            "run this as root" if DENIED in facts.envoy_fault else f"`journalctl -u {ENVOY}` says why it does not run"
        )
        yield Finding("Envoy", "fault", facts.envoy_fault, advice)
        return
    if facts.envoy_state != "LIVE":
        yield Finding("Envoy", "warning", f"it is {facts.envoy_state}", "it waits for its configuration: see the agent")
    version, installed = facts.envoy_version, facts.envoy_installed
    if version.rpartition(".")[0] not in ENVOYS:
        tested = ", ".join(ENVOYS)
        yield Finding("Envoy", "warning", f"{version} is not tested with this version", f"tested are {tested}")
    else:
        yield Finding("Envoy", "ok", f"{version}, {facts.envoy_state}")
    if installed and version and installed != version:
        said = f"{version} runs, {installed} is installed"
        yield Finding("Envoy", "warning", said, "holdfast-agent envoy upgrade; no connection is lost")


def _ports(facts: Facts) -> Iterator[Finding]:
    if facts.settings_fault:
        return
    port, live = facts.mtls_port, bool(facts.processes) or not facts.envoy_fault
    listens = port in facts.listening
    if not live and DENIED in facts.envoy_fault:
        return  # whose port it is cannot be told
    if facts.serves and live and not listens:
        advice = "see the agent's and Envoy's findings: a certificate is missing, or Envoy refuses the listener"
        yield Finding("ports", "fault", f"nobody listens at mTLS port {port}, so nobody can call this host", advice)
    elif listens and not live:
        advice = f"who is it? ss -ltnp 'sport = :{port}'; set mtlsPort in agent.yaml, if it has to stay"
        yield Finding("ports", "fault", f"somebody else listens at mTLS port {port}", advice)
    else:
        silent = (
            "no service here is called before Envoy runs" if facts.serves else "no service here is called by others"
        )
        yield Finding("ports", "ok", f"mTLS port {port} is Envoy's" if listens else silent)
    if facts.scrape_port and facts.agent is not None and facts.scrape_port not in facts.listening:
        said = f"nobody listens at {facts.scrape_port}, where figures are to be read"
        yield Finding("ports", "warning", said, "`journalctl -u holdfast-agent` says who has it; see `scrape`")


def _limits(facts: Facts) -> Iterator[Finding]:
    found = [
        said
        for one in facts.processes
        for said in (limits.of_envoy(one.limits, facts.wanted) if one.name == "Envoy" else limits.of_agent(one.limits))
    ]
    told = facts.agent.get("warnings", ()) if facts.agent is not None else ()
    found += [said for said in told if str(said).startswith("the agent")]
    for said in found:
        fact, _, advice = said.partition(": ")
        yield Finding("limits", "warning", fact, advice)
    if facts.processes and not found:
        yield Finding("limits", "ok", "files and memory are enough for what is set")


def _address(facts: Facts) -> Iterator[Finding]:
    if facts.settings_fault:
        return
    if facts.address_fault:
        fact, _, advice = facts.address_fault.partition(". ")
        yield Finding("address", "fault", fact, advice)
    else:
        yield Finding("address", "ok", "it is this host's, or `bind` is")


def _names(facts: Facts) -> Iterator[Finding]:
    again = "systemctl restart holdfast-host"
    if facts.settings_fault:
        return
    if facts.helper is None:
        if facts.by_name:
            yield Finding("names", "fault", facts.helper_fault, f"without it no Service is called by name: {again}")
        else:
            yield Finding("names", "ok", "no Service is called by name from here")
        return
    for problem in facts.helper.get("problems", ()):
        yield Finding("names", "fault", str(problem), "mend it; the helper tries again by itself")
    if facts.names_missing and facts.helper.get("applied", True):  # else it wrote none, and has said why
        some = ", ".join(facts.names_missing[:3]) + (", ..." if len(facts.names_missing) > 3 else "")
        said = f"the block in /etc/hosts was changed: {len(facts.names_missing)} names are not there, as {some}"
        yield Finding("names", "fault", said, f"{again}; keep others from writing between the marks")
    elif not facts.helper.get("problems"):
        yield Finding("names", "ok", "the block in /etc/hosts is as written")
    if past := facts.helper.get("sink"):
        said = f"while somebody loads rules anew, a call by name may reach who listens on 0.0.0.0 here: {past}"
        yield Finding("rules", "warning", said, "it needs a kernel with the device dummy or bridge, and iproute2")
    wants = bool(facts.helper.get("wanted"))
    if facts.nft:
        yield Finding("rules", "warning" if wants else "ok", f"not known: {facts.nft}", "run this as root")
    elif wants and not facts.table:
        yield Finding("rules", "fault", "table inet holdfast is not loaded: names lead nowhere", again)
    elif facts.table:
        yield Finding("rules", "ok", "table inet holdfast is loaded")


def _rivals(facts: Facts) -> Iterator[Finding]:
    for rival in facts.rivals:
        fact, _, harm = rival.partition(": ")
        yield Finding("rules", "warning", fact, f"{harm}; allow it in the firewall that owns this table")


def _room(facts: Facts) -> Iterator[Finding]:
    for disk in facts.disks:
        name, words = f"disk {disk.path}", f"{disk.free // MIB} MiB free of {disk.total // MIB}"
        if disk.free < DISK_FAULT or disk.free_inodes < INODES:
            inodes = "" if disk.free_inodes >= INODES else f", {disk.free_inodes} inodes free"
            yield Finding(name, "fault", words + inodes, "make room: state and logs cannot be kept; traffic goes on")
        elif disk.free < DISK_WARN:
            yield Finding(name, "warning", words, "make room before it is full")
        else:
            yield Finding(name, "ok", words)


def _logs(facts: Facts) -> Iterator[Finding]:
    if facts.journal_kept is False:
        advice = "mkdir /var/log/journal && systemctl restart systemd-journald, or Storage=persistent in journald.conf"
        yield Finding("logs", "warning", "the journal is lost with every boot", advice)
    elif facts.journal_kept:
        yield Finding("logs", "ok", f"the journal is kept over boots, {facts.journal_bytes // MIB} MiB")
    if facts.access_log_bytes > ACCESS_LOG_BYTES:
        said = f"{facts.access_log} has {facts.access_log_bytes // MIB} MiB: it is not rotated"
        yield Finding("logs", "warning", said, f"Envoy's launcher does that: is {ENVOY} running?")


def _is_new(facts: Facts) -> bool:
    """Has it never joined, for all that is known?"""
    return not facts.joined_as and not facts.identity_fault


def _host(where: str) -> str:
    """Of a URL, or of `<host>:<port>`."""
    return mesh_hosts((where.removeprefix("https://"),), ())[0].strip("[]")


def _span(seconds: float) -> str:
    hours = abs(seconds) / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{abs(seconds):.0f} s"


ALL: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _settings, _identity, _network, _units, _agent, _envoy, _ports, _limits, _address, _names, _rivals, _room, _logs,
)  # fmt: skip
