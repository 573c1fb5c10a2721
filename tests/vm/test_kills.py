"""kill -9 of agent, Envoy and both, and boots, also with all off that is not a host. SSH works throughout."""

import pytest

from tests.vm.faults import full
from tests.vm.host import Host
from tests.vm.shop import Shop, allowed, calls, reachable

pytestmark = pytest.mark.timeout(400)

SERVING_SECONDS = 20
"""From the boot of a host to its services' answers, with etcd, control plane and OpenBao off."""
BACK_SECONDS = 45
"""For the agent: it is started again after 2 s, and two busy cores take their time."""


def pid_of(host: Host, unit: str) -> str:
    return host.run(f"systemctl show -P MainPID {unit}").out.strip()


def envoys(host: Host) -> str:
    return host.run("pgrep -x envoy", check=False).out.strip()


def serves(host: Host) -> bool:
    return '"phase": "serving"' in host.run("holdfast-agent status -o json").out


def test_a_killed_agent_costs_no_call(shop: Shop) -> None:
    host = shop.api
    before, running = pid_of(host, "holdfast-agent"), envoys(host)
    with reachable(host), calls(shop, shop.web) as there, calls(shop, host) as here:
        host.run("systemctl kill --signal=KILL holdfast-agent")
        host.wait(lambda: serves(host) and pid_of(host, "holdfast-agent") != before, timeout=BACK_SECONDS)
    assert there.failures == here.failures == []
    assert envoys(host) == running
    assert "code=killed, status=9/KILL" in host.run("journalctl --no-pager -n 300").out


def test_a_killed_launcher_costs_no_call_and_the_next_adopts_envoy(shop: Shop) -> None:
    host = shop.api
    before, running = pid_of(host, "holdfast-envoy"), envoys(host)
    with reachable(host), calls(shop, shop.web) as there:
        host.run("systemctl kill --kill-whom=main --signal=KILL holdfast-envoy")
        host.wait(lambda: pid_of(host, "holdfast-envoy") not in {before, "0"}, timeout=BACK_SECONDS)
        host.wait(lambda: running in host.run("systemctl show -P StatusText holdfast-envoy").out, what="adopted")
    assert there.failures == []
    assert envoys(host) == running


def test_a_killed_envoy_is_back_within_seconds(shop: Shop) -> None:
    host = shop.api
    running = envoys(host)
    with reachable(host), calls(shop, shop.web) as there:
        host.run("pkill -KILL -x envoy")
        shop.answers()
    print(f"Envoy killed: {there.gap():.1f} s without an answer, {len(there.failures)} calls failed")
    assert there.gap() < 5
    assert envoys(host) not in {running, ""}
    assert "envoy is gone" in host.journal("holdfast-agent", lines=100)


def test_agent_launcher_and_envoy_killed_at_once_are_back(shop: Shop) -> None:
    host = shop.api
    before, running = pid_of(host, "holdfast-agent"), envoys(host)
    with reachable(host), calls(shop, shop.web) as there:
        host.run("systemctl kill --signal=KILL holdfast-agent holdfast-envoy")
        shop.answers()
    print(f"all killed: {there.gap():.1f} s without an answer, {len(there.failures)} calls failed")
    assert there.gap() < BACK_SECONDS
    assert envoys(host) not in {running, ""}
    host.wait(lambda: serves(host), timeout=BACK_SECONDS, what="serves")
    assert pid_of(host, "holdfast-agent") != before


def test_a_host_serves_within_20_seconds_of_its_boot_with_everything_else_off(shop: Shop) -> None:
    host = shop.api
    shop.plane.off()
    try:
        shop.answers()
        before = host.leader()
        host.run("systemctl reboot", check=False)
        host.wait(lambda: host.leader() != before, timeout=60, what="another boot")
        shop.answers(timeout=60)
        took = host.up_seconds()
        print(f"all off but the hosts: answers in both directions {took:.1f} s after the boot")
        said = host.run("holdfast-agent status").out
        assert "stale" in said
        assert "control plane: " in said
        print(said)
        assert took < SERVING_SECONDS
    finally:
        shop.plane.on()
    host.wait(lambda: serves(host), timeout=60, what="follows the mesh again")


def test_a_full_disk_is_told_and_costs_no_call(shop: Shop) -> None:
    """What the agent keeps cannot be written any more; it follows the mesh all the same, also after a restart."""
    host = shop.api
    with reachable(host), calls(shop, shop.web) as there, calls(shop, host) as here:
        with full(host, "/var/lib/holdfast"):
            host.run("systemctl restart holdfast-agent")
            host.wait(lambda: serves(host), timeout=BACK_SECONDS, what="serves")
            shop.plane.apply(allowed("api", "web", "another"))
            host.wait(
                lambda: "state cannot be written: No space left on device" in host.run("holdfast-agent status").out,
                timeout=30,
                what="it is told",
            )
            said = host.run("holdfast-agent doctor", check=False)
            assert said.code == 1
            assert "FAULT    disk /var/lib/holdfast: 0 MiB free" in said.out
            shop.plane.apply(allowed("api", "web"))
        host.run("systemctl restart holdfast-agent")
        host.wait(lambda: serves(host), timeout=BACK_SECONDS, what="serves")
    assert there.failures == here.failures == []
    assert "cannot be written" not in host.run("holdfast-agent status").out


@pytest.mark.slow
def test_a_power_cut_and_a_boot(shop: Shop) -> None:
    host = shop.api
    with reachable(shop.web):
        host.kill()
        host.start()
        host.wait(lambda: host.leader(), timeout=60, what="another boot")
        shop.answers(timeout=60)
        print(f"a power cut: answers in both directions {host.up_seconds():.1f} s after the boot")
    host.wait(lambda: serves(host), timeout=60, what="follows the mesh again")
