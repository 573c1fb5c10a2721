"""The faults do what they say, and end."""

import time
from pathlib import Path

import pytest

from tests.vm import faults
from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.shell import VmError


@pytest.fixture(scope="module")
def pair(fleet: Fleet) -> list[Host]:
    pair = fleet.up("left", "right")
    for host in pair:
        host.put(Path(__file__).with_name("app.py"), "/run/app.py")
        host.run(f"systemd-run --unit=app python3 /run/app.py {host.name} {host.address}:8000")
        host.wait(lambda host=host: ask(host, host), what="the application")
    return pair


def ask(asker: Host, asked: Host) -> bool:
    return f'"{asked.name}"' in asker.run(f"curl -sm 2 http://{asked.address}:8000/", check=False).out


def test_an_unplugged_host_is_out_of_reach_and_comes_back(pair: list[Host]) -> None:
    left, right = pair
    with faults.unplugged(right):
        assert not ask(left, right)
        assert right.inside("hostname").strip() == "right"
    left.wait(lambda: ask(left, right), what="the link is up")


def test_a_split_is_between_two_only(fleet: Fleet, pair: list[Host]) -> None:
    left, right = pair
    with faults.split(fleet, left, right):
        assert not ask(left, right)
        assert ask(left, left)
        assert right.run("true").code == 0
    assert ask(left, right)


def test_a_dropped_port_leaves_the_others(fleet: Fleet, pair: list[Host]) -> None:
    left, right = pair
    with faults.dropped(fleet, f"ip daddr {right.address} tcp dport 8000"):
        assert not ask(left, right)
        assert "OpenSSH" in left.run(f"curl -sm 2 telnet://{right.address}:22 </dev/null", check=False).out
    assert ask(left, right)


def test_a_narrow_link_is_slow(pair: list[Host]) -> None:
    right = pair[1]
    megabit = b"x" * 125_000

    def took() -> float:
        started = time.monotonic()
        right.run("cat >/dev/null", stdin=megabit)
        return time.monotonic() - started

    with faults.narrow(right, kbit=500):
        slow = took()
    assert slow > 1.5  # a megabit at half a megabit a second


def test_a_stopped_unit_stands_still_and_goes_on(pair: list[Host]) -> None:
    left, right = pair
    with faults.stopped(right, "app"):
        assert not ask(left, right)
        assert right.run("systemctl is-active app").out.strip() == "active"
    left.wait(lambda: ask(left, right), what="it goes on")


def test_a_full_disk_takes_nothing_more_and_keeps_what_it_has(pair: list[Host]) -> None:
    left = pair[0]
    left.run("cd /var/lib && mkdir -p probe && chown admin probe && chmod 700 probe && echo kept >probe/x")
    before = left.run("stat -c '%a %u' /var/lib/probe").out
    with faults.full(left, "/var/lib/probe"):
        refused = left.run("echo more >/var/lib/probe/more", check=False)
        assert "No space left" in refused.text
        assert left.run("cat /var/lib/probe/x").out.strip() == "kept"
        assert left.run("stat -c '%a %u' /var/lib/probe").out == before
    left.run("echo more >/var/lib/probe/more")


def test_a_clock_is_off_for_units_only(pair: list[Host]) -> None:
    left = pair[0]
    show = "systemd-run -q --wait --pipe python3 -c 'import time; print(int(time.time()))'"
    with faults.clock(left, "+1h"):
        ahead = int(left.run(show).out) - time.time()
    assert 3590 < ahead < 3610
    assert abs(int(left.run(show).out) - time.time()) < 30


def test_a_bare_host_says_that_its_clock_cannot_be_set(fleet: Fleet) -> None:
    bare = fleet.up("bare", variant="bare")[0]
    with pytest.raises(VmError, match="no libfaketime"), faults.clock(bare, "+1h"):
        pass
