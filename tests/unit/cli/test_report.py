"""status, proxy status and doctor: facts in, words out."""

import pytest

from controlplane.cli import examine
from controlplane.cli.proxy import TITLES, complaints, row
from controlplane.cli.reach import Reach
from controlplane.cli.status import replica, summary, troubles

NOW = 1_000_000.0
DAY = 86400.0


def proxy(node: str = "web-1", *, left: float = 2 * DAY, **more):
    svid = {"spiffeId": "spiffe://d/ns/shop/sa/web", "serial": "1", "notBefore": NOW - DAY, "notAfter": NOW + left}
    report = {"node": node, "version": "0.1.0", "phase": "serving", "envoy": "live", "observed": 9, "applied": 9,
              "svids": [svid], "started": NOW - 70}  # fmt: skip
    return {"node": node, "replica": "cp-1", "connected": True, "silentSeconds": 0.5, "lost": False,
            "report": report | more}  # fmt: skip


def node(name: str = "cp-1", *, left: float = 20 * DAY, fault: str = ""):
    return {"replica": name, "advertise": "u", "version": "0.1.0", "connected": 1, "leader": True,
            "intermediate": {"notAfter": NOW + left}, "signerFault": fault}  # fmt: skip


def status(*proxies, **more):
    found = {
        "trustDomain": "d", "cluster": "c", "version": "0.1.0", "leader": "cp-1",
        "replicas": [node()],
        "store": {"connected": True, "revision": 9, "bad": []},
        "nodes": {"known": 1, "connected": 1, "lost": []},
        "services": 1, "instances": 1, "endpoints": 1, "intermediate": {"notAfter": NOW + 20 * DAY},
        "proxies": {"items": list(proxies), "unreachable": []},
    }  # fmt: skip
    return found | more


def test_a_proxy_in_the_table():
    assert dict(zip(TITLES, row(proxy(), NOW), strict=True)) == {
        "NODE": "web-1", "PHASE": "serving", "ENVOY": "live", "OBSERVED": "9", "APPLIED": "9",
        "CERTIFICATES": "1, 2d left", "REJECTED": "0", "AT": "cp-1", "UP": "1m10s",
    }  # fmt: skip


def test_proxies_that_are_away_or_lost():
    away = {"node": "x", "connected": False, "report": None}
    assert row(away, NOW)[:2] == ["x", "away"]
    assert row(away | {"lost": True}, NOW)[:2] == ["x", "lost"]
    assert len(row(away, NOW)) == len(TITLES)


def test_what_a_proxy_refused_is_told_with_what_stands_in():
    refused = {"object": "Service shop/api", "reason": "bad regex", "inForce": "deny all"}
    assert "holdfast node undrain" in complaints(proxy(maintenance=5.0))[0]
    assert complaints(proxy(maintenance=0.0)) == []
    found = complaints(proxy(rejected=[refused], problems=["p"], held="40 of 50 endpoints"))
    assert "Service shop/api is refused: bad regex (in force: deny all)" in found[0]
    assert len(found) == 3


def test_a_healthy_mesh_has_no_troubles():
    assert troubles(status(proxy()), NOW) == []
    assert "proxies        1 serving" in summary(status(proxy()), NOW)


def test_what_a_host_warns_of_is_told_everywhere():
    low = "Envoy may have 1024 files open: raise LimitNOFILE"
    assert troubles(status(proxy(warnings=[low])), NOW) == [f"warning: web-1: {low}"]
    assert complaints(proxy(warnings=[low])) == [f"web-1: warning: {low}"]
    (check,) = [c for c in examine.agents(status(), {"items": [proxy(warnings=[low])]}, NOW) if c.name == "hosts"]
    assert check.verdict == "warn"
    assert low in check.found
    assert "hosts" not in {c.name for c in examine.agents(status(), {"items": [proxy()]}, NOW)}


def test_runway_warns_at_half_and_alarms_at_a_quarter():
    assert "warning" in troubles(status(proxy(left=0.8 * DAY)), NOW)[0]
    assert "ALARM" in troubles(status(proxy(left=0.2 * DAY)), NOW)[0]
    assert "EXPIRED" in troubles(status(proxy(left=-1)), NOW)[0]


def test_lost_hosts_no_leader_and_a_store_that_is_away_are_told():
    found = status(
        leader="",
        nodes={"known": 2, "connected": 1, "lost": ["api-1"]},
        store={"connected": False, "revision": 9, "bad": [{"key": "k", "reason": "r"}]},
    )
    assert len(troubles(found, NOW)) == 4


def test_doctor_on_an_address_that_does_not_answer_says_what_to_look_at():
    (check,) = examine.reached(Reach("https://x:1", fault="Connection refused", kind="connect"), NOW)
    assert (check.verdict, check.found) == ("fail", "Connection refused")
    assert "firewall" in check.advice


def test_doctor_on_clocks():
    def verdict(skew: float) -> str:
        reach = Reach("u", 200, certificate_ends=NOW + DAY, skew=skew)
        return examine.reached(reach, NOW)[-1].verdict

    assert [verdict(s) for s in (0.4, -30, 400)] == ["ok", "warn", "fail"]


def test_doctor_on_a_node_that_is_not_ready():
    assert examine.reached(Reach("u", 503, body="no store"), NOW)[0].verdict == "fail"


def test_doctor_on_tokens_and_issuers():
    who = {"name": "eve", "role": "admin"}
    assert examine.token(who | {"expires": NOW + 30 * DAY}, NOW).verdict == "ok"
    assert examine.token(who | {"expires": NOW + DAY}, NOW).verdict == "warn"
    ends = [20 * DAY, 3 * DAY, 0.5 * DAY]
    found = examine.issuers(status(replicas=[node(left=left) for left in ends]), NOW)
    assert [check.verdict for check in found] == ["ok", "warn", "fail"]


def test_a_signer_that_is_sealed_is_told_by_the_name_of_its_node():
    found = status(replicas=[node(), node("cp-2", fault="it is sealed"), node("cp-3", left=60, fault="it is sealed")])
    assert [troubles(found, NOW)[0], len(troubles(found, NOW))] == [
        "cp-2: its signer does not answer: it is sealed; it issues for 20d without it",
        2,
    ]
    checks = examine.issuers(found, NOW)
    assert [check.verdict for check in checks] == ["ok", "warn", "fail"]
    assert "it is sealed" in checks[1].found
    assert "--tags openbao" in checks[1].advice
    assert [replica(one, NOW)[3:5] for one in found["replicas"]] == [["20d", "ok"], ["20d", "AWAY"], ["1m0s", "AWAY"]]


def test_a_node_that_has_just_begun_has_told_nothing_of_its_signer():
    new = node() | {"intermediate": {"notAfter": 0.0}}
    assert replica(new, NOW)[3:5] == ["-", "-"]
    assert examine.issuers(status(replicas=[new]), NOW) == []


def test_a_control_plane_of_an_older_version_tells_nothing_of_signers():
    """An operator's program is often newer: the upgrade of the nodes comes after it."""
    old = {name: value for name, value in node().items() if name not in {"intermediate", "signerFault"}}
    found = status(replicas=[old])
    assert replica(old, NOW) == ["cp-1", "yes", "1", "-", "-", "0.1.0", "u"]
    assert troubles(found, NOW) == []
    assert examine.issuers(found, NOW) == []


def test_doctor_on_agents():
    def verdicts(*items, **more):
        return {c.name: c.verdict for c in examine.agents(status(**more), {"items": items}, NOW)}

    assert verdicts(proxy()) == {"agents": "ok", "certificates": "ok"}
    assert verdicts(proxy() | {"silentSeconds": 20})["agents"] == "warn"
    assert verdicts({"node": "x", "connected": False, "report": None})["agents"] == "fail"
    assert verdicts(proxy(left=0.1 * DAY))["certificates"] == "fail"
    assert verdicts(proxy(rejected=[{"object": "o", "reason": "r"}]))["proxies"] == "fail"
    assert verdicts(proxy(), leader="")["leader"] == "warn"


def test_doctor_on_versions():
    assert examine.versions("0.1.0", status(), {"items": [proxy()]}).verdict == "ok"
    assert examine.versions("0.2.0", status(), {"items": [proxy()]}).verdict == "warn"


def test_the_worst_verdict_counts():
    ok, warn, fail = (examine.Check("x", v, "") for v in ("ok", "warn", "fail"))
    assert [examine.worst(c) for c in ([], [ok], [ok, warn], [warn, fail])] == ["ok", "ok", "warn", "fail"]


def a_peer(**changes):
    known = {
        "name": "east",
        "state": "connected",
        "reason": "",
        "lostSeconds": 0,
        "imported": 3,
        "exported": 2,
        "refused": 0,
    }
    return known | changes


@pytest.mark.parametrize(
    ("peer", "verdict", "words"),
    [
        (a_peer(), "ok", "3 services imported"),
        (a_peer(state="paused"), "ok", "paused"),
        (a_peer(refused=7), "warn", "7 items"),
        (a_peer(state="lost", lostSeconds=200, reason="no answer"), "warn", "lost for 3m20s: no answer"),
        (a_peer(state="refused", lostSeconds=5, reason="the peer says: gone"), "warn", "refused for 5s"),
    ],
)
def test_doctor_tells_of_each_peer(peer, verdict, words):
    (check,) = examine.peers({"peers": [peer]})
    assert (check.name, check.verdict) == ("peer east", verdict)
    assert words in check.found
    assert bool(check.advice) == (verdict != "ok")
    assert examine.peers({}) == []
