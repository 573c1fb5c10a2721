"""Opt-in capture on a real host, behind its real sshd: armed, cut off, undone, confirmed, kept over a boot, let go."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from mesh.model.checks import place
from tests.vm.host import Done, Host
from tests.vm.shop import PORTS, Shop, calls, plain, reachable

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

ARMED_SECONDS = 10
LAPSE_SECONDS = 30
"""Capture outlives who renews it by 15 s."""
DROP_IN = "/etc/systemd/system/holdfast-host.service.d/confirm.conf"
HELPER = "/opt/holdfast/current/bin/python -P -m agent.hostd.daemon"
OTHER_PORT = 9090
OTHER = f"systemd-run --unit=other python3 /srv/app.py other 0.0.0.0:{OTHER_PORT}"
"""An application whose port is to be closed to those who are not in the mesh."""
# An operator who does not come in by port 22, but by a relay that nobody told the helper of.
RELAY_PORT = 2200
RELAY = f"""
import socket, threading
def pump(a, b):
    while some := a.recv(65536):
        b.sendall(some)
    b.shutdown(socket.SHUT_WR)
with socket.create_server(("0.0.0.0", {RELAY_PORT})) as door:
    while True:
        link, _ = door.accept()
        inner = socket.create_connection(("127.0.0.1", 22))
        for pair in ((link, inner), (inner, link)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
"""


@pytest.fixture
def host(shop: Shop) -> Iterator[Host]:
    """web, with a helper that waits for a short time only, and another application; as before afterwards."""
    host = shop.web
    host.run("cp /etc/holdfast/agent.yaml /root/agent.yaml")
    host.write(DROP_IN, f"[Service]\nExecStart=\nExecStart={HELPER} --confirm-seconds={ARMED_SECONDS}\n")
    host.run(f"systemctl daemon-reload && systemctl restart holdfast-host; {OTHER}")
    try:
        yield host
    finally:
        host.run(
            f"cp /root/agent.yaml /etc/holdfast/agent.yaml; rm -r /root/agent.yaml {DROP_IN}; systemctl stop other"
        )
        host.run("systemctl daemon-reload; systemctl restart holdfast-host; systemctl start holdfast-envoy")
        host.run("systemctl restart holdfast-agent; systemctl stop relay", check=False)
        host.wait(lambda: state(host) == "capture: none", what="no capture")
        shop.answers(timeout=60)


def want(host: Host, capture: str) -> None:
    """agent.yaml says so, and the agent is started with it."""
    host.run("cp /root/agent.yaml /etc/holdfast/agent.yaml")
    host.run("cat >>/etc/holdfast/agent.yaml", stdin=f"capture: {{{capture}}}\n")
    host.run("systemctl restart holdfast-agent")
    host.wait(lambda: "armed" in state(host), what="armed")


def state(host: Host) -> str:
    """The helper's word on capture, and time left; or that nobody says it."""
    return host.run("holdfast-agent capture status", check=False).text.partition("\n")[0]


def sent_out(shop: Shop, to: str = "") -> str:
    """web's service calls api's own port, past all names. Captured it goes through the proxy, which refuses it here."""
    url = quote(f"http://{place(to or shop.api.address, PORTS['api'])}/")
    answer = json.loads(plain(shop.web, PORTS["web"], f"call?{url}"))
    return "let out" if answer["status"] == 200 else str(answer["text"])


def closed(host: Host) -> bool:
    """To us, who are not in the mesh."""
    try:
        plain(host, OTHER_PORT)
    except AssertionError as exc:
        return "refused" in str(exc)
    return False


@contextmanager
def old_connection(host: Host) -> Iterator[list[str]]:
    """A real SSH connection that is kept; what is run with these words goes over it."""
    socket = host.folder / "master"
    command, who = host.ssh()[:-1], host.ssh()[-1]
    with subprocess.Popen([*command, "-M", "-N", "-S", str(socket), who], stdin=subprocess.DEVNULL) as kept:
        try:
            host.wait(socket.exists, what="a connection that stays")
            yield [*command, "-S", str(socket), who]
        finally:
            kept.terminate()


def over(words: list[str], command: str) -> Done:
    done = subprocess.run([*words, command], capture_output=True, text=True, timeout=30, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_capture_that_cuts_an_operator_off_is_undone_by_itself(host: Host) -> None:
    host.write("/root/relay.py", RELAY)
    host.run("systemd-run --unit=relay python3 /root/relay.py")
    way_in = [*host.ssh()[:-1], "-p", str(RELAY_PORT), "-o", f"HostKeyAlias={host.address}", host.ssh()[-1]]
    host.wait(lambda: over(way_in, "true").code == 0, what="a way in by another port")
    with reachable(host):
        want(host, f"inbound: {{ports: [{RELAY_PORT}], onFailure: closed}}")
        said = over(way_in, "holdfast-agent capture confirm")
        assert said.code == 255
        assert "refused" in said.err
        host.wait(lambda: over(way_in, "true").code == 0, timeout=ARMED_SECONDS + 10, what="the operator is back")
        host.wait(lambda: "reverted" in state(host), what="reverted")
    assert "capture was not confirmed in time and is undone" in host.journal("holdfast-host")
    late = host.run("holdfast-agent capture confirm", check=False)
    assert late.code == 1
    assert "was not confirmed in time and is undone; `holdfast-agent capture arm` puts it in force again" in late.err


def test_a_helper_killed_between_arming_and_confirming_undoes_it(shop: Shop, host: Host) -> None:
    with reachable(host), calls(shop, shop.api) as here:
        want(host, f"inbound: {{ports: [{OTHER_PORT}], onFailure: closed}}")
        assert closed(host)
        host.run("systemctl kill --signal=KILL holdfast-host")
        host.wait(lambda: "reverted" in state(host), what="the next helper knows that nobody confirmed")
        assert not closed(host)
        host.run("holdfast-agent capture arm")
        assert closed(host)
        host.run("systemctl kill --signal=KILL holdfast-host; systemctl stop holdfast-host")
        host.wait(lambda: not closed(host), timeout=ARMED_SECONDS + 10, what="nobody is left, and the kernel lets go")
        nobody = host.run("holdfast-agent capture confirm", check=False)
        assert "is holdfast-host.service running?" in nobody.err
        host.run("systemctl start holdfast-host")
        host.wait(lambda: "reverted" in state(host), what="reverted")
    assert here.failures == []


@pytest.mark.parametrize("on_failure", ["open", "closed"])
def test_confirmed_over_a_new_ssh_connection_it_outlives_a_boot_and_lapses_with_the_mesh(
    shop: Shop, host: Host, on_failure: str
) -> None:
    subnet = host.address.rpartition(".")[0]
    shop.plane.egress("RegisteredOnly")
    try:
        assert sent_out(shop) == "let out"
        with reachable(host), old_connection(host) as old:
            want(
                host,
                f"outbound: {{ranges: [{subnet}.0/24], onFailure: {on_failure}}}, "
                f"inbound: {{ports: [{OTHER_PORT}], onFailure: {on_failure}}}",
            )
            stale = over(old, "holdfast-agent capture confirm")
            assert stale.code == 1
            assert "older than the capture and proves nothing: open a new one and confirm there" in stale.err
            assert "capture: confirmed" in host.run("holdfast-agent capture confirm").out
            assert over(old, "true").code == 0
            host.wait(lambda: sent_out(shop) != "let out", what="captured")
            assert closed(host)
        host.reboot()
        shop.answers(timeout=60)
        assert state(host) == "capture: confirmed"
        host.run(OTHER)
        host.wait(lambda: sent_out(shop) != "let out", what="captured after the boot")
        assert closed(host)
        with reachable(host):
            host.run("systemctl stop holdfast-agent holdfast-envoy")
            if on_failure == "open":
                host.wait(lambda: sent_out(shop) == "let out", timeout=LAPSE_SECONDS, what="captured no more")
                assert not closed(host)
            else:
                host.wait(lambda: "refused" in sent_out(shop), timeout=LAPSE_SECONDS, what="refused")
                assert closed(host)
            assert "agent and Envoy: do not answer" in host.run("holdfast-agent host status", check=False).out
            host.run("systemctl start holdfast-envoy holdfast-agent")
            host.wait(lambda: sent_out(shop) != "let out", timeout=LAPSE_SECONDS, what="captured again")
            assert "capture: reverted" in host.run("holdfast-agent capture off").out
            assert sent_out(shop) == "let out"
            assert not closed(host)
    finally:
        shop.plane.egress("Allow")
