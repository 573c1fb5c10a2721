"""What systemd does to agent and Envoy on a real host: a stop that fails no call, and the watchdog."""

import threading
from collections.abc import Iterator

import pytest

from tests.vm.host import Host
from tests.vm.shop import PORTS, UNIT, Shop, calls, reachable
from tests.vm.test_kills import envoys, pid_of, serves

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

WATCHDOG = "/etc/systemd/system/{}.service.d/watchdog.conf"


@pytest.fixture
def second(shop: Shop) -> Iterator[Host]:
    """Another host of api's: the one on which web runs."""
    host = shop.web
    host.run("useradd -r api")
    host.write("/etc/systemd/system/api.service", UNIT.format(name="api", port=PORTS["api"]))
    host.run("systemctl start api")
    shop.define(host, "api")
    try:
        host.wait(lambda: "service api.shop as shop/api: healthy, registered: yes" in status(host), what="registered")
        yield host
    finally:
        host.run("rm /etc/holdfast/services.d/api.yaml; systemctl stop api; rm /etc/systemd/system/api.service")
        host.run("systemctl daemon-reload; userdel api")
        host.wait(lambda: "api.shop" not in status(host), what="deregistered")


def status(host: Host) -> str:
    return host.run("holdfast-agent status").out


def answering(shop: Shop) -> set[str]:
    """The hosts of api that answer web's calls now."""
    return {shop.call(shop.web)["host"] for _ in range(12)}


def test_a_stop_of_envoy_lets_callers_leave_first_and_fails_no_call(shop: Shop, second: Host) -> None:
    host = shop.api
    second.wait(lambda: answering(shop) == {"api", "web"}, what="both are called")
    slow: list[str] = []

    def ask_slowly() -> None:
        slow.append(shop.caller(shop.web, "slow?4", timeout=20))

    with reachable(host), calls(shop, shop.web) as there:
        asking = [threading.Thread(target=ask_slowly) for _ in range(4)]
        for thread in asking:
            thread.start()
        stop = threading.Thread(target=host.run, args=("systemctl stop holdfast-envoy",))
        stop.start()
        host.wait(lambda: "draining" in status(host), what="the mesh is told")
        stop.join()
        for thread in asking:
            thread.join()
        assert envoys(host) == ""
        assert answering(shop) == {"web"}
        host.run("systemctl start holdfast-envoy")
        second.wait(lambda: answering(shop) == {"api", "web"}, timeout=60, what="it is called again")
    print(f"Envoy stopped and started: {len(there.good)} calls, {len(there.failures)} failed")
    assert there.failures == []
    assert ["sa/web" in said for said in slow] == [True] * 4


def test_a_reboot_lets_callers_leave_first_and_fails_no_call(shop: Shop, second: Host) -> None:
    """With the drop-in for the service's own unit, which stops before Envoy does."""
    host = shop.api
    host.run("holdfast-agent service hook api --unit api.service --write && systemctl daemon-reload")
    second.wait(lambda: answering(shop) == {"api", "web"}, what="both are called")
    with calls(shop, shop.web) as there:
        host.reboot()
        second.wait(lambda: answering(shop) == {"api", "web"}, timeout=60, what="it is called again")
    host.run("rm -r /etc/systemd/system/api.service.d; systemctl daemon-reload")
    print(f"a host rebooted: {len(there.good)} calls, {len(there.failures)} failed: {there.failures[:3]}")
    assert there.failures == []


@pytest.mark.parametrize(("unit", "seconds"), [("holdfast-agent", 4), ("holdfast-envoy", 25)])
def test_what_hangs_is_started_anew_and_envoys_connections_live_on(shop: Shop, unit: str, seconds: int) -> None:
    """The launcher says that it lives every ten seconds only; the units' own limit is a minute."""
    host = shop.api
    host.write(WATCHDOG.format(unit), f"[Service]\nWatchdogSec={seconds}\n")
    host.run(f"systemctl daemon-reload && systemctl restart {unit}")
    host.wait(lambda: serves(host), timeout=45, what="serves")
    shop.answers()
    before, running = pid_of(host, unit), envoys(host)
    try:
        with reachable(host), calls(shop, shop.web) as there, calls(shop, host) as here:
            host.run(f"systemctl kill --kill-whom=main --signal=STOP {unit}")
            host.wait(lambda: pid_of(host, unit) not in {before, "0"}, timeout=3 * seconds + 30, what="another process")
            host.wait(lambda: serves(host), timeout=45, what="serves")
        assert there.failures == here.failures == []
        assert envoys(host) == running
        assert "Watchdog timeout" in host.run(f"journalctl --no-pager -n 200 -u {unit}").out
    finally:
        host.run(f"rm {WATCHDOG.format(unit)}; systemctl daemon-reload")
