"""The hosts themselves: booted apart, cut off, started again, and nothing left of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.vm import cgroups
from tests.vm.fleet import Fleet, runs, state_folder
from tests.vm.host import Host
from tests.vm.shell import VmError, call


@pytest.fixture(scope="module")
def pair(fleet: Fleet) -> list[Host]:
    return fleet.up("one", "two")


def test_hosts_boot_without_a_failed_unit(pair: list[Host]) -> None:
    for host in pair:
        assert host.run("systemctl is-system-running").out.strip() == "running"
        assert host.run("hostname").out.strip() == host.name


def test_hosts_are_told_apart(pair: list[Host]) -> None:
    what = (
        "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub /proc/sys/kernel/random/boot_id; ip -br link show host0"
    )
    one, two = (set(host.run(what).out.split()) for host in pair)
    assert {word for word in one & two if len(word) > 12} == {
        "AAAAC3NzaC1lZDI1NTE5",
        "<BROADCAST,MULTICAST,UP,LOWER_UP>",
    } & one


def test_hosts_do_not_share_services(pair: list[Host]) -> None:
    one, two = pair
    one.run("systemd-run --unit=only-here sleep 600")
    assert one.run("systemctl is-active only-here").out.strip() == "active"
    assert two.run("systemctl is-active only-here", check=False).out.strip() == "inactive"
    two.run("systemctl daemon-reexec")
    assert one.run("systemctl is-active only-here").out.strip() == "active"
    one.run("systemctl stop only-here")


def test_the_user_of_an_operator_has_sudo(pair: list[Host]) -> None:
    assert pair[0].run("whoami", user="admin").out.strip() == "admin"
    assert pair[0].run("sudo -n whoami", user="admin").out.strip() == "root"


# Each with a listener of its own, as capture has one for each identity.
RULES = """
table inet probe {
  chain out {
    type nat hook output priority -100;
    ip daddr 127.64.0.0/10 meta l4proto tcp socket cgroupv2 level 2 "system.slice/web.service" redirect to :9001
    ip daddr 127.64.0.0/10 meta l4proto tcp meta skuid "nobody" redirect to :9002
  }
}
"""
SERVE = """
import http.server, sys
class Said(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Said).serve_forever()
"""
ASK = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.64.3.7:80\", timeout=5).read().decode())'"


def test_a_socket_is_known_by_its_unit_and_by_its_user(pair: list[Host]) -> None:
    """What capture needs of a kernel and its control groups: the reason for each host's own version 2 tree."""
    host = pair[0]
    host.write("/run/serve.py", SERVE)
    host.write("/run/rules.nft", RULES)
    host.write("/run/web.sh", f"until [ -e /run/go ]; do sleep 0.1; done; exec {ASK}\n")
    try:
        for port in (9001, 9002):
            host.run(f"systemd-run --unit=serve-{port} python3 /run/serve.py {port}")
        host.run("systemd-run --unit=web.service sh /run/web.sh")  # its group is there before the rule that names it
        host.run("nft -f /run/rules.nft && touch /run/go")
        host.wait(lambda: "9001" in host.journal("web.service"), what="a call by unit")
        assert host.run(f"setpriv --reuid nobody --clear-groups {ASK}").out.strip() == "9002"
        other = host.run(ASK, check=False)
        assert other.code != 0
        assert "refused" in other.text
    finally:
        host.run("nft delete table inet probe; systemctl stop 'serve-*' web; rm -f /run/go", check=False)


def test_a_reboot_is_one(pair: list[Host]) -> None:
    host = pair[0]
    host.write("/etc/kept", "yes")
    host.write("/run/lost", "yes")
    before = host.boot_id()
    host.reboot()
    assert host.boot_id() != before
    assert host.run("cat /etc/kept; ls /run/lost", check=False).out == "yes"
    assert host.run("systemctl is-system-running").out.strip() == "running"


def test_a_power_cut_takes_everything_at_once_and_keeps_the_disk(pair: list[Host]) -> None:
    host = pair[1]
    host.run("echo yes >/var/lib/kept; systemd-run --unit=busy sleep 600")
    host.kill()
    assert not host.running
    with pytest.raises(VmError):
        host.run("true", timeout=10)
    host.start()
    host.wait_up()
    assert host.run("cat /var/lib/kept").out.strip() == "yes"
    assert host.run("systemctl is-active busy", check=False).out.strip() == "inactive"


def traces(name: str) -> list[str]:
    """All that a run of this name leaves on this machine."""
    found = [str(path) for tree in cgroups.trees() for path in tree.glob(f"{name}-*")]
    found += [str(path) for path in (state_folder() / name, Path("/sys/class/net") / f"hf-{name}") if path.exists()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]
    return found


def test_a_failure_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError), Fleet() as fleet:
        fleet.up("one", variant="bare")
        assert len(traces(fleet.name)) >= 3
        _ = 1 / 0
    assert traces(fleet.name) == []


OWNER = """
import sys, time
from tests.vm.fleet import Fleet
with Fleet(sys.argv[1]) as fleet:
    fleet.up("one", variant="bare")
    print("up", flush=True)
    time.sleep(120)
"""


@pytest.mark.parametrize(
    ("signum", "name"), [(signal.SIGINT, "hfint"), (signal.SIGKILL, "hfkill")], ids=["Ctrl-C", "kill -9"]
)
def test_a_run_that_is_broken_off_leaves_nothing(fleet: Fleet, signum: signal.Signals, name: str) -> None:
    name = f"{name}-{os.getpid() % 9999}"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, name], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        assert dict(runs())[name] == "owned"
        owner.send_signal(signum)
        owner.wait(30)
        if signum == signal.SIGKILL:  # nobody was left to tidy up: the next run does
            assert dict(runs())[name] == "dead"
            with Fleet():
                assert name not in dict(runs())
        eventually(lambda: traces(name) == [], what=f"nothing of {name}")
        assert dict(runs())[fleet.name] == "owned", "a run that is owned is left alone"
    finally:
        owner.kill()
        owner.communicate()


def test_what_a_dead_run_left_and_cannot_be_removed_keeps_nobody_from_a_run() -> None:
    left = state_folder() / f"hfbusy-{os.getpid() % 9999}"
    (left / "busy").mkdir(parents=True)
    call("mount", "-t", "tmpfs", "tmpfs", left / "busy")
    said: list[str] = []
    try:
        with Fleet(say=said.append):
            assert any(f"run {left.name}: left behind: " in line and "busy" in line for line in said), said
    finally:
        call("umount", left / "busy")
    with Fleet(say=said.append):
        assert not left.exists()


def test_two_runs_have_networks_of_their_own(fleet: Fleet) -> None:
    with Fleet() as other:
        assert other.subnet != fleet.subnet
