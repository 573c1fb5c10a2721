"""Three services with three identities on one host, called by name: a real kernel redirects to a real Envoy."""

import json
from urllib.parse import quote

import pytest

from tests.vm.fleet import Fleet
from tests.vm.host import Host
from tests.vm.manifest import difference, manifest
from tests.vm.plane import Plane
from tests.vm.shop import APP, NAMESPACE, allowed, definition, service, spiffe

pytestmark = pytest.mark.timeout(300)

PORTS = {"web": 8081, "api": 8080, "bill": 8083}
CALLERS = {"web": "{users: [web]}", "api": "{users: [api]}", "bill": "{units: [bill.service]}"}
CALLS = {"web": "api", "api": "web", "bill": "api"}


@pytest.fixture(scope="module")
def open_plane(plane: Plane) -> Plane:
    plane.apply(
        NAMESPACE, *(service(*both) for both in PORTS.items()), allowed("api", "web", "bill"), allowed("web", "api")
    )
    return plane


def start(host: Host, name: str, user: str) -> None:
    host.run(
        f"systemd-run --unit={name} -p User={user} python3 /srv/app.py {name} "
        f"{'0.0.0.0' if name == 'api' else '127.0.0.1'}:{PORTS[name]}"
    )


def asked(host: Host, name: str, url: str) -> dict[str, object]:
    """What a service's own process is told when it asks `url`."""
    get = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=20).read().decode())"
    return json.loads(host.run(f'python3 -c "{get}" "http://127.0.0.1:{PORTS[name]}/call?{quote(url)}"').out)


def caller_of(host: Host, name: str) -> str:
    """As the callee saw it; why not, if it was not called."""
    answer = asked(host, name, f"http://{CALLS[name]}.shop.mesh:8080/")
    return json.loads(answer["text"])["caller"] if answer["status"] == 200 else f"{answer}"


def test_each_calls_as_itself_and_a_fourth_user_is_refused(open_plane: Plane, fleet: Fleet):
    host = fleet.up("shop-1", variant="bare")[0]
    host.run("useradd -r web; useradd -r api; useradd -r fourth")
    host.put(APP, "/srv/app.py")
    host.run("chmod 755 /srv /srv/app.py")
    for name, user in {"web": "web", "api": "api", "bill": "daemon"}.items():
        start(host, name, user)
    before = manifest(host)
    host.run(open_plane.line("shop-1", *(word for name in PORTS for word in ("-i", f"shop/{name}"))), timeout=240)
    for name, port in PORTS.items():
        host.write(f"/etc/holdfast/services.d/{name}.yaml", definition(name, port, CALLERS[name], CALLS[name]))
    for name in PORTS:
        host.wait(lambda n=name: spiffe(n) in caller_of(host, n), timeout=60, what=f"{name} calls as itself")
    assert "agent and Envoy: answer" in host.run("holdfast-agent host status").out
    # The application on 0.0.0.0:8080 is not what answered: it would have seen no caller. A fourth user reaches nobody.
    fourth = "import urllib.request as r; r.urlopen('http://api.shop.mesh:8080/', timeout=5)"
    done = host.run(f'setpriv --reuid fourth --clear-groups python3 -c "{fourth}"', check=False)
    assert done.code != 0
    assert "Connection refused" in done.err
    # Nor does it get an identity at a listener itself.
    for line in host.run("holdfast-agent host status").out.splitlines():
        if "127.0.0.1:" in line:
            port = line.split("127.0.0.1:")[1].split(")")[0]
            direct = fourth.replace("api.shop.mesh:8080", f"127.0.0.1:{port}")
            done = host.run(f'setpriv --reuid fourth --clear-groups python3 -c "{direct}"', check=False)
            assert "Connection refused" in done.err
    # A unit that starts again has a new cgroup, and is known again.
    host.run("systemctl stop bill")
    start(host, "bill", "daemon")
    host.wait(lambda: spiffe("bill") in caller_of(host, "bill"), timeout=30, what="a unit is known after its restart")

    host.run("holdfast-agent leave --drain-seconds 0", timeout=120)
    assert difference(before, manifest(host)) == []
