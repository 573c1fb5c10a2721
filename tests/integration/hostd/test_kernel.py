"""The helper against a real kernel: who reaches what, what lapses by itself, and what stays when others meddle."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.hostd.client import HostError
from agent.hostd.wanted import Caller, Name, Wanted
from tests.integration.hostd.hosts import Host, can_make_namespaces, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        shutil.which("nft") is None or not can_make_namespaces(), reason="needs root, nftables and network namespaces"
    ),
]

API, VIP = Name("api.shop.mesh", "127.64.3.7"), "127.64.3.7"
WEB = Caller("shop/web", 15101, users=("daemon",))
BATCH = Caller("shop/batch", 15102, users=("games",))
CALLERS = Wanted((API,), (WEB, BATCH))


DATAGRAM = """
import socket
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(3)
try:
    link.sendto(b"x", ("127.64.3.7", 53))
    link.recv(1)
except OSError as exc:
    print(type(exc).__name__)
"""


def refusal(host) -> str:
    try:
        return str(host.ask("status"))
    except HostError as exc:
        return str(exc)


@pytest.fixture
def host(tmp_path):
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    with ExitStack() as stack:
        host = Host(tmp_path, stack)
        yield host


def test_each_user_reaches_its_own_listener_and_nobody_else_any(host):
    host.mesh(15101, 15102)
    host.peers("tcp:0.0.0.0:8080")  # an application that holds every address
    host.start_helper()
    answer = host.apply(CALLERS)
    assert answer == {"applied": True, "problems": [], "capture": "none"}
    assert f"{VIP} api.shop.mesh" in host.hosts.read_text()

    assert host.call(VIP, 8080, user="daemon") == "127.0.0.1:15101"
    assert host.call(VIP, 8080, user="games") == "127.0.0.1:15102"
    assert host.call(VIP, 8080, user="nobody") == "ConnectionRefusedError"
    assert host.call(VIP, 8080, user="root") == "ConnectionRefusedError"
    for user in ("daemon", "nobody", "root"):  # past the redirection, nobody
        assert host.call("127.0.0.1", 15101, user=user) == "ConnectionRefusedError"
    assert host.call("127.0.0.1", 8080, user="daemon") == "0.0.0.0:8080"
    assert host.run("/usr/bin/python3", "-c", DATAGRAM).strip() == "PermissionError"  # refused at once, not lost


def test_who_takes_envoy_s_port_while_it_is_away_is_given_nobody_s_calls(host):
    host.mesh(15102)
    host.start_helper()
    host.apply(CALLERS)
    thief = host.peers("tcp:127.0.0.1:15101", within=("setpriv", "--reuid=bin", "--clear-groups"))
    until(lambda: host.call(VIP, 8080, user="daemon") == "ConnectionRefusedError", "its calls are refused", 5)
    assert "shop/web: user 2 listens on 127.0.0.1:15101" in str(host.ask("status")["problems"])
    assert host.call(VIP, 8080, user="games") == "127.0.0.1:15102"  # nobody else's are
    thief.kill()
    host.peers("tcp:127.0.0.1:15101")
    until(lambda: host.call(VIP, 8080, user="daemon") == "127.0.0.1:15101", "redirected again", 5)
    assert host.ask("status")["problems"] == []


def test_a_unit_is_told_by_its_cgroup_and_counts_more_than_its_user(host):
    root = next(
        (r for r in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")) if (r / "cgroup.procs").exists()), None
    )
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no cgroup v2 that may be written")
    unit = f"hostd-{uuid.uuid4().hex[:8]}.service"
    group = root / "system.slice" / unit
    made = [path for path in (group.parent, group) if not path.exists()]
    host.mesh(15101, 15102)
    host.start_helper()
    # Not there yet: no fault, and the user is known all the same.
    wanted = Wanted((API,), (WEB, Caller("shop/batch", 15102, units=(unit,))))
    assert host.apply(wanted)["applied"] is True
    assert host.call(VIP, 80, user="daemon") == "127.0.0.1:15101"
    try:
        for path in made:
            path.mkdir()
        assert host.ask("ready", unit)["problems"] == []
        assert host.call(VIP, 80, user="daemon", within=str(group)) == "127.0.0.1:15102"
        assert host.call(VIP, 80, user="nobody", within=str(group)) == "127.0.0.1:15102"
        group.rmdir()
        group.mkdir()  # as a restart does: another inode
        until(lambda: host.call(VIP, 80, user="nobody", within=str(group)) == "127.0.0.1:15102", "it is seen anew")
        assert host.call(VIP, 80, user="nobody") == "ConnectionRefusedError"
    finally:
        for path in reversed(made):
            if path.exists():
                path.rmdir()


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "flush table inet holdfast",
        "delete table inet holdfast",
        "flush chain inet holdfast virtual",  # by hand: the rest of the table is as it was
        "insert rule inet holdfast names accept",
    ],
)
def test_rules_that_another_took_away_are_back_at_once(host, command):
    """Meanwhile calls wait: the kernel tells of the change, nobody waits for a turn."""
    host.mesh(15101, 15102)
    host.start_helper()
    host.apply(CALLERS)
    stands = host.run("nft", "-s", "list", "ruleset")
    # Each fifth turn looks, too: from the second time on that is five seconds away, and too late.
    for _ in range(3):
        host.run("nft", *command.split())
        until(lambda: host.run("nft", "-s", "list", "ruleset") == stands, "as it was", 4)
        assert host.call(VIP, 80, user="daemon") == "127.0.0.1:15101"


def test_while_rules_are_away_a_call_by_name_goes_nowhere_and_arrives_when_they_are_back(host):
    """Not to the application that holds 0.0.0.0 of this host, and nothing of the way there stays after a clean."""
    before = host.run("ip", "-o", "link") + host.run("ip", "route", "show", "table", "local")
    host.mesh(15101, 15102)
    host.peers("tcp:0.0.0.0:8080")
    host.start_helper()
    host.apply(CALLERS)
    assert host.ask("status")["sink"] == ""
    os.kill(host.helper.pid, signal.SIGSTOP)
    try:
        host.run("nft", "flush", "ruleset")
        assert host.call(VIP, 8080, user="daemon") == "TimeoutError"
        assert host.call(VIP, 8080, user="nobody") == "TimeoutError"
        assert host.call("127.0.0.2", 8080, user="daemon") == "0.0.0.0:8080"
        waiting = subprocess.Popen(
            host.inside(*host.calling(VIP, 8080, user="daemon")), stdout=subprocess.PIPE, text=True
        )
        until(lambda: "SYN-SENT" in host.run("ss", "-tan"), "a call is under way")
    finally:
        os.kill(host.helper.pid, signal.SIGCONT)
    assert waiting.communicate(timeout=20)[0].strip() == "127.0.0.1:15101"
    host.ask("clean")
    assert host.run("ip", "-o", "link") + host.run("ip", "route", "show", "table", "local") == before


@pytest.mark.parametrize(
    "command",
    [
        "ip link delete holdfast0",
        "ip link set holdfast0 down",
        "sh -c 'echo 0 >/proc/sys/net/ipv4/conf/holdfast0/route_localnet'",
    ],
)
def test_a_way_to_nowhere_that_another_took_away_is_back(host, command):
    host.mesh(15101, 15102)
    host.start_helper()
    host.apply(CALLERS)
    host.run(*shlex.split(command))
    until(lambda: "/10 dev holdfast0" in host.run("ip", "route", "show", "table", "local"), "the route", 10)
    until(lambda: host.call(VIP, 80, user="daemon") == "127.0.0.1:15101", "a call", 10)
    assert host.run("cat", "/proc/sys/net/ipv4/conf/holdfast0/route_localnet") == "1\n"


def test_names_that_another_took_away_are_back_and_what_it_wrote_stays(host):
    """As cloud-init's manage_etc_hosts, which writes /etc/hosts anew at every boot, after the helper."""
    host.mesh(15101, 15102)
    host.start_helper()
    host.apply(CALLERS)
    host.hosts.write_text("127.0.0.1 localhost\n127.0.1.1 vm1.example vm1\n")
    until(lambda: f"{VIP} api.shop.mesh" in host.hosts.read_text(), "the name", 10)
    assert host.hosts.read_text().startswith("127.0.0.1 localhost\n127.0.1.1 vm1.example vm1\n")
    assert host.ask("status")["problems"] == []


def test_a_kernel_without_that_way_is_told_and_names_work(host):
    host.mesh(15101, 15102)
    read_only = 'mount --bind -o ro /proc/sys /proc/sys && exec "$@"'
    host.start_helper(within=("unshare", "-m", "sh", "-c", read_only, "sh"))
    assert host.apply(CALLERS)["problems"] == []
    assert "Read-only file system" in host.ask("status")["sink"]
    assert "holdfast0" not in host.run("ip", "-o", "link")
    assert host.call(VIP, 80, user="daemon") == "127.0.0.1:15101"


def test_a_foreign_firewall_that_drops_all_it_does_not_know_stays_and_agrees(host):
    foreign = """
        table inet firewall {
          chain in { type filter hook input priority 0; policy drop; iif lo accept; ct state established accept; }
          chain out { type filter hook output priority 0; policy accept; }
        }
        table ip nat {
          chain OUTPUT { type nat hook output priority -100; ip daddr 10.9.9.9 dnat to 127.0.0.1; }
        }
    """.replace("; }", "\n }")
    host.run("nft", "-f", "-", text=foreign)
    before = host.run("nft", "-s", "list", "ruleset")
    host.mesh(15101, 15102)
    host.start_helper()
    host.apply(CALLERS)
    assert host.call(VIP, 80, user="daemon") == "127.0.0.1:15101"
    assert host.call(VIP, 80, user="nobody") == "ConnectionRefusedError"
    host.ask("clean")
    assert host.run("nft", "-s", "list", "ruleset") == before
    assert host.hosts.read_text() == "127.0.0.1 localhost\n"


def test_a_helper_that_starts_again_knows_what_was_wanted(host):
    host.mesh(15101, 15102)
    host.start_helper()
    host.apply(CALLERS)
    host.helper.kill()
    host.helper.wait()
    until(lambda: "is holdfast-host.service running?" in refusal(host), "it is told that nobody listens")
    assert host.call(VIP, 80, user="daemon") == "127.0.0.1:15101"  # the kernel needs no helper
    host.run("nft", "flush", "ruleset")  # as a boot does
    host.start_helper()
    assert host.call(VIP, 80, user="daemon") == "127.0.0.1:15101"


def test_what_nobody_may_ask_for_changes_nothing(host):
    host.start_helper()
    with pytest.raises(HostError, match=r"names\[0\]\.address"):
        host.ask("apply", {"names": [{"name": "api.shop.mesh", "address": "10.0.0.1"}]})
    assert host.run("nft", "list", "ruleset") == ""
    assert host.hosts.read_text() == "127.0.0.1 localhost\n"


def test_nothing_that_a_caller_says_ends_the_helper(host):
    host.start_helper()
    for line in (b"[" * 200_000, b'{"do":"apply","body":' + b'{"names":' * 50_000, b"\xff", b'"', b"9" * 5000):
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(host.socket))
            link.sendall(line + b"\n")
            assert b'"error"' in link.recv(65536), line[:40]
    assert host.helper.poll() is None
