"""What the host's helper is asked for, of definitions, Envoy's configuration and agent.yaml."""

import dataclasses

import msgspec
import pytest

from agent import capture
from agent.capture import CaptureSettings, InboundCapture, OutboundCapture, common, wanted
from agent.hostd import wanted as helper
from agent.hostd.wanted import Caller, Inbound, Name, Outbound, Wanted
from agent.settings import Settings, check
from mesh import pb
from mesh.compile import project
from mesh.compile.compiler import compile as compile_anew
from tests.golden.test_golden import read_local, read_world

HERE = read_local("names")
SNAPSHOT = compile_anew(project(read_world("names"), HERE))


def test_names_and_callers_of_what_envoy_listens_for():
    found = wanted(HERE, SNAPSHOT, CaptureSettings(), ())
    assert found.names[:2] == (
        Name("api.shop.mesh", "127.122.217.240"),
        Name("api.shop.east.mesh", "127.122.217.240"),
    )
    assert {n.name for n in found.names} >= {"db.shop.mesh", "pay.shop.mesh", "gone.shop.mesh"}
    assert found.callers == (
        Caller("shop/cron", 16758, (), ("cron-job.service",)),
        Caller("shop/web", 16530, ("admin", "web"), ("web.service",)),
    ), "definitions of one identity are one caller; who calls nothing is none"
    assert found.outbound is None
    assert found.inbound is None
    assert helper.parse(helper.encode(found)) == found


def test_nobody_is_redirected_to_a_listener_that_was_left_out():
    listeners = {n: x for n, x in SNAPSHOT.resources[pb.LISTENER].items() if n != "capture|shop/web"}
    less = dataclasses.replace(SNAPSHOT, resources={**SNAPSHOT.resources, pb.LISTENER: listeners})
    assert [c.identity for c in wanted(HERE, less, CaptureSettings(), ()).callers] == ["shop/cron"]


def test_what_is_opted_into_and_what_is_never_captured():
    local = read_local("capture-allow")
    snapshot = compile_anew(project(read_world("capture-allow"), local))
    said = CaptureSettings(
        outbound=OutboundCapture(exempt=("10.0.0.0/8",), on_failure="closed"), inbound=InboundCapture()
    )
    found = wanted(local, snapshot, said, ["10.0.0.9", "192.0.2.1", "gate.test", "[2001:db8::9]"])
    assert found.outbound is not None
    assert found.outbound.ranges == ("0.0.0.0/0",), "where nothing listens on ::1, nothing is sent there"
    assert found.outbound.exempt == ("10.0.0.0/8", "10.0.0.9/32", "192.0.2.1/32", "2001:db8::9/128")
    assert found.outbound.on_failure == "closed"
    both = wanted(msgspec.structs.replace(local, capture_ipv6=True), snapshot, said, ())
    assert both.outbound == Outbound(("0.0.0.0/0", "::/0"), ("10.0.0.0/8",), "closed")
    assert found.inbound is None, "its definitions have no ports"
    ports = wanted(local, snapshot, CaptureSettings(inbound=InboundCapture(ports=(8080,))), ())
    assert ports.inbound == Inbound((8080,), "open")
    assert helper.parse(helper.encode(found)) == found


def test_which_of_the_mesh_s_hosts_are_known_by_a_name():
    hosts = capture.mesh_hosts(
        ("10.0.0.9:15379", "gate.test:15379", "[2001:db8::9]:1"),
        ("https://cp.test:8443", "https://cp.test", "https://[::1]:1", "https://[::1]"),
    )
    assert capture.named(hosts) == ("cp.test", "gate.test")


def test_common_is_what_both_want():
    one = Wanted(
        (Name("a", "1"), Name("b", "2")), (Caller("x", 1, ("u", "v")), Caller("y", 2, ("w",))), None, Inbound((1,))
    )
    other = Wanted((Name("b", "2"), Name("a", "9")), (Caller("x", 1, ("v",)), Caller("y", 3, ("w",))))
    assert common(one, other) == Wanted((Name("b", "2"),), (Caller("x", 1, ("v",)),))
    assert common(one, one) == one


def test_addresses_of_ipv6_are_captured_only_once_both_configurations_have_a_listener_for_them():
    four, both = Wanted(outbound=Outbound(("10.0.0.0/8",))), Wanted(outbound=Outbound(("10.0.0.0/8", "fd00::/8")))
    assert common(four, both) == common(both, four) == four
    assert common(both, both) == both
    assert common(four, Wanted(outbound=Outbound(("fd00::/8",)))) == Wanted()


def test_faults_of_agent_yaml_are_told_all_at_once():
    said = CaptureSettings(
        socket="host.sock",
        outbound=OutboundCapture(ranges=("10.0.0.1/8", "0.0.0.0/0", "fd00::1/8"), exempt=("x",)),
        inbound=InboundCapture(ports=(22, 80, 70000)),
    )
    settings = Settings(node="vm1", address="10.0.0.1", capture=said)
    assert [fault.path for fault in check(settings)] == [
        "capture.socket", "capture.outbound.ranges[0]", "capture.outbound.ranges[2]", "capture.outbound.exempt[0]",
        "capture.inbound.ports[0]", "capture.inbound.ports[2]",
    ]  # fmt: skip


def test_exempts_that_do_not_fit_beside_the_mesh_s_own_are_told_and_the_mesh_s_own_stay():
    outbound = OutboundCapture(exempt=tuple(f"192.0.2.{n}/32" for n in range(32)))

    def told(planes: int) -> list[str]:
        hosts = [f"10.0.0.{n}" for n in range(1, planes + 1)]
        urls, gates = tuple(f"https://{host}:8443" for host in hosts), tuple(f"{host}:15379" for host in hosts)
        settings = Settings(
            node="a", address="10.0.0.1", controlplanes=urls, gates=gates, capture=CaptureSettings(outbound=outbound)
        )
        return [f"{fault.path}: {fault.reason}" for fault in check(settings)]

    assert told(32) == []
    [fault] = told(33)
    assert fault.startswith("capture.outbound.exempt: 1 too many: with gates and control planes")
    # Those that are learned later are in no file that could be checked.
    made = capture._outbound(outbound, [f"10.0.0.{n}" for n in range(40)], ipv6=False)
    assert made is not None
    assert len(made.exempt) == 64
    assert {f"10.0.0.{n}/32" for n in range(40)} <= set(made.exempt)


@pytest.mark.parametrize("ranges", [(), tuple(f"10.0.{n}.0/24" for n in range(40))])
def test_ranges_are_some_and_not_too_many(ranges: tuple[str, ...]):
    settings = Settings(node="a", address="10.0.0.1", capture=CaptureSettings(outbound=OutboundCapture(ranges=ranges)))
    assert [fault.path for fault in check(settings)] == ["capture.outbound.ranges"]
