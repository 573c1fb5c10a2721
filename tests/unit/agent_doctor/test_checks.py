"""Every judgement of doctor: what is well is ok, and each thing that is not says what to do."""

from dataclasses import replace

import pytest

from agent.doctor.checks import AGENT, ENVOY, ENVOYS, HOST, checks
from agent.doctor.facts import Certificate, Disk, Facts, Process, Reached, Unit
from agent.identity.orders import way
from agent.limits import Limits, Wanted

GIB = 2**30
NOW = 1_000_000.0

WELL = Facts(
    now=NOW,
    node="web-1",
    scrape_port=15020,
    serves=True,
    by_name=True,
    joined_as="web-1",
    certificates=(Certificate("node", NOW - 100, NOW + 900), Certificate("shop/web", NOW - 100, NOW + 900)),
    controlplanes=(Reached("https://cp-1:8443", skew=0.2), Reached("https://cp-2:8443", skew=-0.1)),
    gates=(Reached("cp-1:2389"),),
    agent={"phase": "serving", "applied": 7, "version": "0.1", "problems": [], "rejected": [], "warnings": []},
    envoy_state="LIVE",
    envoy_version=f"{ENVOYS[0]}.0",
    envoy_installed=f"{ENVOYS[0]}.0",
    version="0.1",
    systemd=True,
    units=tuple(Unit(name, loaded=True, active="active", enabled=True) for name in (AGENT, ENVOY, HOST)),
    listening=frozenset({15443, 15020}),
    processes=(Process("Envoy", Limits(524288, 8 * GIB, "this host")),),
    wanted=Wanted(50_000, 2 * GIB),
    helper={"applied": True, "problems": [], "wanted": {"names": []}, "capture": "none"},
    table=True,
    disks=(Disk("/var/lib/holdfast", 10 * GIB, 20 * GIB),),
    journal_kept=True,
)


def bad(**changes):
    """What is not ok any more."""
    return [finding for finding in checks(replace(WELL, **changes)) if finding.verdict != "ok"]


def test_a_host_that_is_well_has_nothing_to_mend():
    assert bad() == []
    assert len(checks(WELL)) > 12


def units(**more):
    return tuple(replace(unit, **more) if unit.name == AGENT else unit for unit in WELL.units)


def agent(**more):
    return {**WELL.agent, **more}


LOW = (Process("Envoy", Limits(1024, GIB, "memory.max of /x")),)


@pytest.mark.parametrize(
    ("changes", "verdict", "found", "advice"),
    [
        ({"definition_faults": ("web.yaml: ports: wrong",)}, "fault", "web.yaml", "services.d"),
        ({"joined_as": ""}, "fault", "has not joined", "token create web-1"),
        ({"joined_as": "web-0"}, "fault", "joined as web-0", "set `node` back to web-0"),
        ({"identity_fault": "x cannot be read"}, "fault", "cannot be read", "root"),
        ({"certificates": (Certificate("node", NOW - 60, NOW + 40),)}, "warning", "40% of its life", "renewals"),
        ({"certificates": (Certificate("node", NOW - 80, NOW + 20),)}, "fault", "20% of its life", "renewals"),
        ({"certificates": (Certificate("node", NOW - 80, NOW - 7200),)}, "fault", "expired 2.0 h ago", "renewals"),
        ({"certificates": (Certificate("node", NOW + 60, NOW + 100),)}, "fault", "not valid before", "clock"),
        ({"controlplanes": ()}, "fault", "none is known", "controlplanes"),
        ({"controlplanes": (Reached("https://a", "refused"),)}, "fault", "https://a: refused", "firewall"),
        ({"controlplanes": (Reached("https://a", "refused"), Reached("https://b"))}, "warning", "refused", "firewall"),
        ({"agent": agent(controlplane="403: void: a host has joined under this name")}, "fault", "void",
         "another host has this one's name"),
        ({"agent": agent(store="no answer")}, "fault", "not connected to a store gate: no answer", "journalctl"),
        ({"controlplanes": (Reached("https://a", skew=-60.0),)}, "warning", "60.0 s ahead of", "NTP"),
        ({"controlplanes": (Reached("https://a", skew=3600.0),)}, "fault", "3600.0 s behind", "NTP"),
        ({"controlplanes": (Reached("https://a", "its name cannot be resolved: Name or service not known"),)}, "fault",
         "cannot be resolved", "`getent ahosts a` asks the same"),
        ({"gates": (Reached("[fd00::1]:2389", "Connection refused"),)}, "fault", "refused", "nobody listens there"),
        ({"controlplanes": (Reached("https://a", "no answer within 5 s"),)}, "fault", "no answer", "firewall"),
        ({"controlplanes": (Reached("https://a", "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),)},
         "fault", "verify failed", "of another mesh"),
        ({"gates": (Reached("cp-1:2389", "no answer"),)}, "fault", "cp-1:2389", "no change arrives"),
        ({"gates": ()}, "fault", "none is known", "gates"),
        ({"units": units(active="failed", result="oom-kill")}, "fault", "failed (oom-kill)", f"journalctl -u {AGENT}"),
        ({"units": units(restarts=9)}, "warning", "restarted 9 times", "journalctl"),
        ({"units": units(enabled=False)}, "warning", "will not after a boot", "systemctl enable"),
        ({"units": units(loaded=False)}, "fault", "not installed", "install"),
        ({"agent": agent(phase="stale")}, "warning", "stale", "Envoy serves"),
        ({"agent": agent(problems=["disk is full"])}, "fault", "disk is full", "status"),
        ({"agent": agent(rejected=[{"object": "R a/b", "reason": "no"}])}, "fault", "refuses R a/b: no", "mend"),
        ({"agent": agent(version="0.0")}, "warning", "0.0 runs, 0.1 is installed", "restart holdfast-agent"),
        ({"agent": agent(warnings=["the agent may have 5 files: raise it"])}, "warning", "5 files", "raise it"),
        ({"envoy_state": "PRE_INITIALIZING"}, "warning", "PRE_INITIALIZING", "configuration"),
        ({"envoy_version": "1.22.0", "envoy_installed": "1.22.0"}, "warning", "1.22.0 is not tested", ENVOYS[0]),
        ({"envoy_installed": f"{ENVOYS[0]}.9"}, "warning", "is installed", "envoy upgrade"),
        ({"listening": frozenset({15020})}, "fault", "nobody listens at mTLS port 15443", "certificate"),
        ({"listening": frozenset({15443})}, "warning", "nobody listens at 15020", "scrape"),
        ({"address_fault": "address 9.9.9.9 is not of this host. Set `address`"}, "fault", "9.9.9.9", "Set `address`"),
        ({"names_missing": ("api.shop.mesh",)}, "fault", "api.shop.mesh", "restart holdfast-host"),
        ({"table": False}, "fault", "not loaded", "restart holdfast-host"),
        ({"nft": "nft: not permitted"}, "warning", "not permitted", "root"),
        ({"helper": {**WELL.helper, "problems": ["no nft"]}}, "fault", "no nft", "mend"),
        ({"helper": {**WELL.helper, "sink": "ip refuses"}}, "warning", "0.0.0.0 here: ip refuses", "dummy"),
        ({"rivals": ("inet filter drops: others cannot call",)}, "warning", "inet filter", "others cannot call"),
        ({"disks": (Disk("/x", 10 * 2**20, GIB),)}, "fault", "10 MiB free", "make room"),
        ({"disks": (Disk("/x", 100 * 2**20, GIB),)}, "warning", "100 MiB free", "make room"),
        ({"disks": (Disk("/x", GIB, GIB, 3),)}, "fault", "3 inodes free", "make room"),
        ({"journal_kept": False}, "warning", "lost with every boot", "/var/log/journal"),
        ({"access_log": "/l", "access_log_bytes": 2**30}, "warning", "/l has 1024 MiB", "launcher"),
    ],
)  # fmt: skip
def test_one_thing_that_is_wrong_is_one_finding(changes, verdict, found, advice):
    (finding,) = bad(**changes)
    assert finding.verdict == verdict
    assert found in finding.found
    assert advice in finding.advice


def test_names_that_the_helper_has_not_written_were_not_changed_by_others():
    helper = {**WELL.helper, "applied": False, "problems": ["nft is not there; names are not written"]}
    (finding,) = bad(helper=helper, names_missing=("api.shop.mesh",))
    assert "nft is not there" in finding.found


def test_everything_that_is_dead_is_told_at_once():
    dead = bad(agent=None, agent_fault="no agent listens", envoy_fault="no answer", helper=None, helper_fault="nobody",
               listening=frozenset(), processes=())  # fmt: skip
    assert {finding.check for finding in dead} == {"agent", "Envoy", "names"}
    (taken,) = [f for f in bad(envoy_fault="no answer", processes=()) if f.check == "ports"]
    assert "somebody else listens" in taken.found
    hung = bad(envoy_fault="no answer")
    assert [f.check for f in hung] == ["Envoy"], "its process holds the port"
    denied = bad(envoy_fault="[Errno 13] Permission denied", processes=())
    assert [(f.check, f.advice) for f in denied] == [("Envoy", "run this as root")]


def test_a_host_that_has_not_joined_is_told_of_that_and_of_what_is_in_its_way():
    """No traffic runs there, Envoy is not started yet, and what needs an identity is no further fault."""
    waits = agent(
        phase="joining", controlplane="not connected yet", store="not followed yet",
        problems=[f"this host has not joined: {way('web-1')}"],
    )  # fmt: skip
    unjoined = {
        "joined_as": "", "certificates": (), "gates": (), "listening": frozenset({15020}),
        "envoy_fault": "nobody answers", "processes": (), "agent": waits,
    }  # fmt: skip
    identity, phase = bad(**unjoined)
    assert (identity.verdict, identity.found) == ("fault", "this host has not joined")
    assert "token create web-1" in identity.advice
    assert (phase.verdict, phase.found) == ("warning", "it is joining")

    said = "this host has not joined: https://cp-1:8443: Connection refused"
    tried = agent(**waits | {"problems": [said, "web.yaml: ports: wrong"]})
    told = [(f.check, f.found, f.advice) for f in bad(**unjoined | {"agent": tried}) if f.verdict == "fault"]
    assert told[0] == ("identity", said, "mend that, and the agent joins by itself: it tries again")
    spent = (
        f"this host has not joined: https://cp-1:8443: the token has expired; with a new one it joins: {way('web-1')}"
    )
    (expired,) = [
        f for f in bad(**unjoined | {"agent": agent(**waits | {"problems": [spent]})}) if f.verdict == "fault"
    ]
    assert expired.found.endswith("the token has expired; with a new one it joins")
    assert expired.advice == way("web-1")
    assert [(check, found) for check, found, _ in told[1:]] == [("agent", "web.yaml: ports: wrong")]

    nowhere = unjoined | {"controlplanes": (Reached("https://cp:8443", "Connection refused"),), "agent": None}
    found = {f.check: f for f in bad(**nowhere | {"agent_fault": "no agent listens", "scrape_port": 0})}
    assert "this host cannot join without" in found["control plane"].advice
    assert "start it" in found["agent"].advice
    assert "Envoy" not in found["agent"].advice
    assert set(found) == {"identity", "control plane", "agent"}


def test_limits_that_are_too_low_are_told_one_by_one():
    files, memory = bad(processes=LOW)
    assert "LimitNOFILE" in files.advice
    assert "maxHeapMib" in memory.advice


def test_settings_that_cannot_be_read_are_one_fault_among_what_the_machine_says():
    broken = Facts(now=NOW, settings_fault="agent.yaml: node: missing", agent_fault="?", envoy_fault="?", systemd=True)
    found = {finding.check: finding.verdict for finding in checks(broken)}
    assert found["settings"] == "fault"
    assert set(found) == {"settings", "units"}, "nothing is said that is not known"


def test_a_host_without_systemd_and_names_needs_neither():
    assert bad(systemd=False, units=(), by_name=False, helper=None, journal_kept=None, table=False) == []


def test_the_envoys_are_those_of_the_documentation():
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "install.md").read_text()
    assert all(f"tested\nwith this version: {v}" in page or f"with this version: {v}" in page for v in ENVOYS)
