"""One pasted line on a bare host, faults on the way, upgrade, and leaving. On real hosts, with a real control plane."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.faults import LIBRARY
from tests.vm.fleet import Fleet
from tests.vm.host import Done, Host
from tests.vm.manifest import difference, manifest
from tests.vm.plane import Plane
from tests.vm.shop import APP, NAMESPACE, allowed, reachable, service, spiffe
from tests.vm.versions import build_version

pytestmark = pytest.mark.timeout(600)

READY_SECONDS = 60
"""What the one line may take on a bare host."""
AS_BEFORE = "this host is as it was"


@pytest.fixture(scope="module", autouse=True)
def shop_is_known(plane: Plane) -> None:
    plane.apply(NAMESPACE, service("web", 8080), allowed("web", "web"))


@pytest.fixture(scope="module")
def bare(fleet: Fleet) -> Host:
    return fleet.up("web-1", variant="bare")[0]


@pytest.fixture(scope="module")
def standard(fleet: Fleet) -> Host:
    """With libfaketime, for a clock that is wrong."""
    return fleet.up("web-2", variant="standard")[0]


def web_line(plane: Plane, host: Host) -> str:
    return plane.line(host.name, "-i", "shop/web", "--service", "web:8080:http")


def paste(host: Host, line: str, *, check: bool = True) -> Done:
    return host.run(line, timeout=240, check=check)


def leave(host: Host, *words: str) -> Done:
    return host.run(" ".join(["holdfast-agent leave --drain-seconds 3", *words]), timeout=120)


def test_one_line_makes_a_bare_host_serve_a_second_changes_nothing_and_leave_takes_all_away(plane: Plane, bare: Host):
    before = manifest(bare)
    assert bare.run("command -v curl wget pip ensurepip; python3 -m ensurepip --version", check=False).code != 0
    line = web_line(plane, bare)
    assert "\n" not in line
    began = time.monotonic()
    done = paste(bare, line)
    took = time.monotonic() - began
    print(f"one step, ready after {took:.1f} s")
    assert "node web-1 serves" in done.out
    assert "web.shop as shop/web: registered yes" in done.out
    assert took < READY_SECONDS
    assert '"phase": "serving"' in bare.run("holdfast-agent status -o json").out

    made = manifest(bare)
    again = paste(bare, line)
    assert " 0 changes" in again.out
    assert difference(made, manifest(bare)) == []
    # Nothing of the token stays: neither in a file nor in a process's arguments.
    secret = line.split(".")[2]
    look = "grep -rl -F -f - /etc /var/lib /opt/holdfast /run /proc/[0-9]*/cmdline"
    assert bare.run(look, check=False, stdin=secret[:20]).out == ""

    assert AS_BEFORE in leave(bare).out
    assert difference(before, manifest(bare)) == []
    assert bare.run("test -e /var/log/holdfast -o -e /run/holdfast -o -e /run/holdfast-envoy", check=False).code == 1
    assert bare.run("systemctl --failed --no-legend").out == ""


@pytest.mark.slow
def test_leave_works_with_the_control_plane_away_and_may_keep_the_settings(plane: Plane, bare: Host):
    before = manifest(bare)
    paste(bare, web_line(plane, bare))
    assert plane.node is not None
    plane.node.stop()
    try:
        assert AS_BEFORE in leave(bare, "--keep-config").out
    finally:
        plane.node.start()
        plane.node.wait()
    left = difference(before, manifest(bare))
    assert {line.split()[1] for line in left} == {
        "/etc/holdfast", "/etc/holdfast/agent.yaml", "/etc/holdfast/services.d", "/etc/holdfast/services.d/web.yaml",
    }  # fmt: skip
    done = paste(bare, web_line(plane, bare))
    assert "/etc/holdfast/agent.yaml was there or was edited; it is left as it is" in done.out
    leave(bare)
    bare.run("rm -r /etc/holdfast")
    assert difference(before, manifest(bare)) == []


@pytest.mark.parametrize("seconds", [pytest.param(s, marks=pytest.mark.slow) for s in (1.0, 14.0)] + [6.0])
def test_a_killed_installation_goes_on_and_a_killed_removal_too(plane: Plane, bare: Host, seconds: float):
    before, line = manifest(bare), web_line(plane, bare)
    # From a file, so that the shell over SSH has nothing in its arguments that pkill looks for.
    bare.write("/root/line", line)
    killed = bare.run(
        f"sh /root/line & sleep {seconds}; pkill -KILL -f '[m]anifest.json'; wait; rm /root/line", timeout=60
    )
    assert "ready after" not in killed.out
    assert "ready after" in paste(bare, line).out
    removing = "(holdfast-agent leave --drain-seconds 0) >/tmp/said 2>&1 & "
    bare.run(
        removing
        + "until grep -q 'removing link' /tmp/said; do sleep 0.02; done; "
        + "pkill -KILL -f '[i]nstall.py'; wait; rm /tmp/said"
    )
    assert bare.run("test -e /var/lib/holdfast-install/made.json", check=False).code == 0
    assert AS_BEFORE in bare.run("python3 /var/lib/holdfast-install/install.py --remove", timeout=120).out
    assert difference(before, manifest(bare)) == []


def refused(host: Host, line: str, *said: str) -> None:
    """It is told why, and the host stays as it was."""
    before = manifest(host)
    with reachable(host):
        done = paste(host, line, check=False)
    assert done.code == 1, done.text
    for words in said:
        assert words in done.err
    assert "Traceback" not in done.text
    assert difference(before, manifest(host)) == []


def test_what_is_in_the_way_is_told_and_nothing_is_changed(plane: Plane, standard: Host):
    line = web_line(plane, standard)
    refused(standard, line.replace(":8443", ":8444"), "nothing was installed from", "Connection refused")
    nobody = f"{standard.address.rpartition('.')[0]}.250"  # no host has it: no answer at all
    refused(standard, line.replace(plane.plane.address, nobody), f"nothing was installed from https://{nobody}:8443")
    refused(standard, line.replace("echo hf1.", "echo hf1x."), "this is not a join token")
    pin = line.split(" | ")[0].rsplit(".", 1)[1]
    refused(standard, line.replace(pin, "0" * 32), "is not the mesh that this token is for")
    clock = "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME={} python3"
    refused(standard, line.replace("python3", clock.format("-1h"), 1), "clock is 60 min behind the control plane's")
    refused(standard, line.replace("python3", clock.format("+1h"), 1), "clock is 60 min ahead of the control plane's")
    standard.run("mount -t tmpfs -o size=50m tmpfs /opt")
    try:
        refused(standard, line, "the disk of /opt/holdfast has 50 MiB free")
    finally:
        standard.run("umount /opt")
    standard.run("systemd-run --unit=other python3 -m http.server 15443")
    try:
        standard.wait(lambda: "15443" in standard.run("ss -ltn").out, what="somebody listens")
        refused(standard, line, "port 15443 (mTLS) is taken")
    finally:
        standard.run("systemctl stop other")
    other = line.replace("python3 -I -c", "sudo -u admin python3 -I -c")
    refused(standard, other, "this needs root")


@pytest.mark.slow
def test_a_token_that_does_not_count_is_told_and_a_good_one_goes_on(plane: Plane, standard: Host):
    before = manifest(standard)
    good = web_line(plane, standard)
    token = good.split(" | ")[0].split()[1]
    wrong = ".".join([*token.split(".")[:2], "A" * 43, token.split(".")[3]])
    done = paste(standard, good.replace(token, wrong), check=False)
    assert done.code == 1
    assert "did not let this host join" in done.err
    assert "unknown, expired, used by another key, or for another node" in done.err
    assert "ready after" in paste(standard, good).out
    leave(standard)
    assert difference(before, manifest(standard)) == []
    used = paste(standard, good, check=False)
    assert used.code == 1
    assert "used by another key" in used.err
    standard.run("python3 /var/lib/holdfast-install/install.py --remove", timeout=120)
    assert difference(before, manifest(standard)) == []


def test_a_host_without_nftables_goes_on_without_names(plane: Plane, standard: Host):
    standard.put(APP, "/root/app.py")
    standard.run("mv /usr/sbin/nft /usr/sbin/nft.away; systemd-run --unit=web python3 /root/app.py web 8080")
    try:
        done = paste(standard, web_line(plane, standard))
        assert "this host has no nftables" in done.out
        assert "ready after" in done.out
        # An upstream with a port of its own serves; one that is called by name is told to be amiss, and why.
        upstreams = "upstreams: [{service: web, port: 8080, listen: '127.0.0.1:9001'}, {service: web, port: 8080}]\n"
        standard.run("cat >>/etc/holdfast/services.d/web.yaml", stdin=upstreams + "callers: {users: [admin]}\n")
        standard.wait(lambda: spiffe("web") in standard.run("curl -s http://127.0.0.1:9001/").out, what="it is called")
        standard.wait(
            lambda: "install the package nftables" in standard.run("holdfast-agent status").out, what="it is told"
        )
        assert "mesh" not in standard.run("cat /etc/hosts").out
        a_clock_that_is_off_is_named(plane, standard)
        leave(standard)
    finally:
        standard.run("mv /usr/sbin/nft.away /usr/sbin/nft; systemctl stop web; rm -r /etc/holdfast", check=False)


def a_clock_that_is_off_is_named(plane: Plane, host: Host) -> None:
    """By `holdfast-agent join` itself, for hosts that no installer set up, and by doctor later on."""
    settings = f"node: web-9\naddress: {host.address}\ncontrolplanes: ['{plane.url}']\ndataDir: /root/data\n"
    host.write("/root/agent.yaml", settings)
    token = plane.holdfast("token", "create", "web-9")
    join = "holdfast-agent join --config /root/agent.yaml --token-file -"
    for off, words in (("-1h", "clock is 60 min behind"), ("+1h", "clock is 60 min ahead of")):
        done = host.run(f"LD_PRELOAD={LIBRARY} FAKETIME={off} {join}", stdin=token, check=False)
        assert done.code == 1
        assert words in done.err
        examined = host.run(f"LD_PRELOAD={LIBRARY} FAKETIME={off} holdfast-agent doctor", check=False)
        assert examined.code == 1
        # Behind, no certificate holds yet, and the control plane cannot tell its time.
        told = "it is not valid before" if off == "-1h" else "s ahead of that of"
        assert told in examined.out
        assert "set the clock" in examined.out or "let both clocks be set by NTP" in examined.out
    host.run("rm -rf /root/agent.yaml /root/data")


# Where it fills up, and what is there by then.
FULL = {"/opt": "/opt/holdfast/0.1.0/lib", "/var/lib": "/var/lib/holdfast-install/downloads/wheels"}


@pytest.mark.slow
@pytest.mark.parametrize("place", FULL)
def test_a_disk_that_fills_up_midway_is_told_and_a_second_try_goes_on(plane: Plane, bare: Host, place: str):
    before, line = manifest(bare), web_line(plane, bare)
    bare.run(
        f"cp -a {place} /root/copy; mount -t tmpfs -o mode=755,size=700m tmpfs {place} && cp -a /root/copy/. {place}/"
    )
    try:
        fill = f"until test -e {FULL[place]}; do sleep 0.02; done; cat /dev/zero >{place}/filler"
        bare.run(f'systemd-run --collect --unit=fill sh -c "{fill}"')
        with reachable(bare):
            done = paste(bare, line, check=False)
        assert done.code == 1, done.out
        assert "the disk is full. Make room, then run the same again: it goes on where it stopped" in done.err
        assert "Traceback" not in done.text
        # Nothing that is started, at boot or now; and what there is is known, so that it could be taken away.
        assert bare.run("test -e /opt/holdfast/current -o -e /usr/local/bin/holdfast-agent", check=False).code == 1
        assert bare.run("systemctl list-unit-files --no-legend 'holdfast*'", check=False).out == ""
        bare.run(f"rm {place}/filler")
        assert "ready after" in paste(bare, line).out
        assert AS_BEFORE in leave(bare).out
        assert difference(before, manifest(bare)) == []
    finally:
        bare.run(f"systemctl stop fill; umount -l {place}; rm -r /root/copy", check=False)


@pytest.fixture
def newer(tmp_path: Path) -> Callable[[str], Path]:
    return lambda version: build_version(tmp_path, version, servers=False)


@pytest.mark.slow
def test_an_upgrade_changes_the_agent_and_not_envoy_and_keeps_one_version_back(
    plane: Plane, bare: Host, newer: Callable[[str], Path]
):
    before = manifest(bare)
    paste(bare, web_line(plane, bare))
    envoys = bare.run("pgrep -x envoy").out
    assert envoys
    for version in ("0.2.0", "0.3.0"):
        bare.put(newer(version), "/root/dist")
        plain = bare.run(
            "python3 /root/dist/install.py --dist /root/dist --node web-1 --controlplane " + plane.url, check=False
        )
        assert plain.code == 1
        assert "Say --upgrade" in plain.err
        done = bare.run("python3 /root/dist/install.py --dist /root/dist --upgrade", timeout=180)
        assert "ready after" in done.out
        assert f'"version": "{version}"' in bare.run("holdfast-agent status -o json").out
        assert bare.run("pgrep -x envoy").out == envoys
        assert " 0 changes" in bare.run("python3 /root/dist/install.py --dist /root/dist --upgrade", timeout=180).out
    assert bare.run("ls /opt/holdfast").out.split() == ["0.2.0", "0.3.0", "current", "envoy"]
    bare.run("rm -r /root/dist")
    leave(bare)
    assert difference(before, manifest(bare)) == []
