"""`doctor` and `debug dump` on a real host, as root and from afar under the hardened unit: all parts, no secret."""

import base64
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.faults import stopped
from tests.vm.host import Host
from tests.vm.shop import Shop

pytestmark = pytest.mark.timeout(300)

# All private keys on the host's disk, wherever they lie, one line of JSON.
KEYS = r"""
import json, pathlib, re
form = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", re.S)
tops = [f"/var/lib/holdfast{part}" for part in ("", "-envoy", "-host")] + ["/etc/holdfast", "/run/holdfast-envoy"]
found = set()
for top in tops:
    for path in pathlib.Path(top).rglob("*"):
        if path.is_file():
            found |= {key.decode().replace("\\n", "\n") for key in form.findall(path.read_bytes())}
print(json.dumps(sorted(found)))
"""
SECRET = "correct-horse-battery"
PROBE = f"""name: probe
namespace: shop
ports: [{{port: 8099, protocol: tcp}}]
health: {{type: script, command: [/bin/true, --password={SECRET}]}}
"""
FROM_AFAR_NOT = {"host/nft-holdfast.txt", "host/nft-tables.txt", "host/routes.txt"}
"""nftables are root's, and `ip` ends where it may not give up its rights anew. Journals are for who may read them."""


@pytest.fixture
def host(shop: Shop) -> Iterator[Host]:
    """api's, with a password in a definition."""
    host = shop.api
    host.write("/etc/holdfast/services.d/probe.yaml", PROBE)
    try:
        yield host
    finally:
        host.run("rm /etc/holdfast/services.d/probe.yaml")
        host.wait(lambda: "probe" not in host.run("holdfast-agent status").out, what="it is read anew")


def members(raw: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(raw) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file
            found[member.name.partition("/")[2]] = file.read()
    return found


def missing(parts: dict[str, bytes]) -> dict[str, str]:
    return {p["file"]: p["reason"] for p in json.loads(parts["index.json"])["parts"] if p["state"] == "missing"}


def secrets_of(host: Host) -> list[bytes]:
    """Lines of every key, as they are and once more in base64."""
    keys = json.loads(host.run("python3 -", stdin=KEYS).out)
    assert keys, "a host that has joined holds keys"
    lines = [line for key in keys for line in re.findall(r"[A-Za-z0-9+/=]{24,}", key)]
    return [SECRET.encode(), *(ln.encode() for ln in lines), *(base64.b64encode(ln.encode())[:24] for ln in lines)]


def assert_tells_no_secret(parts: dict[str, bytes], secrets: list[bytes]) -> None:
    assert [name for name, raw in parts.items() if any(secret in raw for secret in secrets)] == []
    assert [name for name, raw in parts.items() if b"PRIVATE KEY-----" in raw] == []


def on_the_host(host: Host, out: Path) -> dict[str, bytes]:
    packed = host.run("holdfast-agent debug dump --out - | base64", timeout=120).out
    out.write_bytes(base64.b64decode(packed))
    return members(out)


def from_afar(shop: Shop, node: str, out: Path) -> dict[str, bytes]:
    shop.plane.holdfast("debug", "dump", node, "--out", str(out))
    return members(out)


def test_a_sound_host_is_found_sound_and_dumped_whole_and_without_secrets(shop: Shop, host: Host, tmp_path: Path):
    said = json.loads(host.run("holdfast-agent doctor -o json", check=False).out)
    ours = [f for f in said["findings"] if "probe" not in json.dumps(f)]
    assert [f for f in ours if f["verdict"] == "fault"] == []
    assert {f["check"] for f in ours} >= {"identity", "control plane", "store gate", "agent", "Envoy", "names", "rules"}
    secrets = secrets_of(host)

    whole = on_the_host(host, tmp_path / "here.tar.gz")
    print("as root, missing:", missing(whole), {name: len(raw) for name, raw in whole.items()})
    assert missing(whole) == {}
    assert b"table inet holdfast" in whole["host/nft-holdfast.txt"]
    assert b"dev holdfast0" in whole["host/routes.txt"]
    assert b"web.shop.mesh" in whole["host/hosts.txt"]
    assert b"health" in whole["settings/services.d/probe.yaml"]
    assert_tells_no_secret(whole, secrets)

    far = from_afar(shop, "api", tmp_path / "far.tar.gz")
    print("from afar, missing:", missing(far))
    assert set(missing(far)) <= FROM_AFAR_NOT | {name for name in whole if name.startswith("units/")}
    assert b"inbound" in far["envoy/config_dump.json"]
    assert json.loads(far["agent/status.json"])["phase"] == "serving"
    assert_tells_no_secret(far, secrets)


def test_with_envoy_and_agent_standing_still_a_dump_says_so(shop: Shop, host: Host, tmp_path: Path):
    with stopped(host, "holdfast-envoy"):
        far = from_afar(shop, "api", tmp_path / "far.tar.gz")
        assert "envoy/stats.txt" in missing(far)
        assert "agent/status.json" in far
    with stopped(host, "holdfast-agent"):
        whole = on_the_host(host, tmp_path / "here.tar.gz")
        assert "agent/status.json" in missing(whole)
        assert b"inbound" in whole["envoy/config_dump.json"]
        faults = host.run("holdfast-agent doctor", check=False)
        assert faults.code == 1
        assert "FAULT    agent: " in faults.out
    shop.answers()
    assert_tells_no_secret(whole, secrets_of(host))
