"""A whole mesh, attacked: what a host's certificate can do to etcd, and where secrets lie in clear."""

import asyncio
import re
import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc.aio
import pytest
from aetcd.rpc import rpc_pb2 as rpc

from agent.state import Slots, StoredIdentity
from controlplane.cli.client import Api
from controlplane.cli.errors import CliError
from controlplane.demo import topology as top
from controlplane.demo.mesh import Mesh
from controlplane.demo.progress import Lines
from controlplane.demo.reaper import marked
from mesh import codec, keys
from mesh.model import Identity
from tests.integration.security import rpcs, scan

pytestmark = pytest.mark.real

T = TypeVar("T")
MESH, PRIVATE, COMMIT = keys.MESH.encode(), keys.PRIVATE.encode(), keys.COMMIT.encode()

OUTSIDE = {
    "everything": (b"\0", b"\0"),
    "from the mesh's keys to the end": (MESH, b"\0"),
    "from one key to the end": (COMMIT, b"\0"),
    "the mesh's keys and a little more": (MESH, MESH[:-1] + b"0\0"),
    "a little before the mesh's keys": (MESH[:-1], MESH[:-1] + b"0"),
    "all of ours": (keys.ROOT.encode(), keys.ROOT.encode()[:-1] + b"0"),
    "the private part": (PRIVATE, PRIVATE[:-1] + b"0"),
    "one private key": (keys.TOKENS.encode() + b"0123456789abcdef", b""),
    "the mesh's prefix without its end": (MESH[:-1], b""),
    "a key of somebody else": (b"a", b""),
}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "count": {"count_only": True},
    "keys": {"keys_only": True},
    "of one member": {"serializable": True},
    "of the past": {"revision": 1},
}


class Running(NamedTuple):
    mesh: Mesh
    runner: "asyncio.Runner"

    def stored(self, host: str) -> StoredIdentity:
        return Slots(self.mesh.host(host).data, "identity", StoredIdentity).load()[0]

    def at_gate(self, mine: Identity, work: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        async def run() -> T:
            place = self.mesh.topology.planes[0].gate_address
            async with rpcs.as_host(place, self.stored("web-1").roots, mine) as channel:
                return await work(channel)

        return self.runner.run(run())


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    # Not pytest's own folder: unix sockets take short paths only.
    folder = Path(tempfile.mkdtemp(prefix="holdfast-security-"))
    with asyncio.Runner() as runner:
        mesh = Mesh(folder, Lines())
        try:
            runner.run(mesh.__aenter__())
            yield Running(mesh, runner)
        finally:
            runner.run(mesh.stop())
            shutil.rmtree(folder, ignore_errors=True)


# --- etcd, through the gate ---


def test_no_rpc_of_the_server_is_forgotten(running: Running):
    etcd = Path(running.mesh.etcd.members[0].command[0])
    assert rpcs.unknown_to_us(etcd) == ()


def test_of_all_rpcs_the_gate_lets_a_node_use_two(running: Running):
    """These two: see the next tests."""
    others = [method for method in rpcs.all_rpcs() if method not in {rpcs.RANGE, rpcs.WATCH}]
    assert len(others) == len(rpcs.all_rpcs()) - 2 > 50

    async def tried(channel: grpc.aio.Channel) -> dict[str, str]:
        return {method: await rpcs.refusal(channel, method) for method in others}

    told = running.at_gate(running.stored("web-1").own, tried)
    assert {method: words for method, words in told.items() if "denied by gate-read-only" not in words} == {}


def test_the_gate_lets_a_workload_use_none(running: Running):
    async def tried(channel: grpc.aio.Channel) -> list[str]:
        return [await rpcs.refusal(channel, method) for method in (rpcs.RANGE, rpcs.WATCH, "/etcdserverpb.KV/Put")]

    told = running.at_gate(running.stored("web-1").held["shop/web"], tried)
    assert all("denied by gate-read-only" in words for words in told), told


def test_a_node_reads_the_mesh_and_nothing_else(running: Running):
    inside = rpc.RangeRequest(key=MESH, range_end=MESH[:-1] + b"0")

    async def tried(channel: grpc.aio.Channel) -> tuple[str, dict[str, str]]:
        told = {}
        for place, (key, end) in OUTSIDE.items():
            for form, more in FORMS.items():
                request = rpc.RangeRequest(key=key, range_end=end, **more)
                told[f"{place}, {form}"] = await rpcs.range_refusal(channel, request)
        return await rpcs.range_refusal(channel, inside), told

    allowed, told = running.at_gate(running.stored("web-1").own, tried)
    assert allowed == ""
    assert set(told.values()) == {"PERMISSION_DENIED etcdserver: permission denied"}, told


def test_a_node_watches_the_mesh_and_nothing_else(running: Running):
    inside = rpc.WatchCreateRequest(key=MESH, range_end=MESH[:-1] + b"0")

    async def tried(channel: grpc.aio.Channel) -> tuple[rpc.WatchResponse, dict[str, rpc.WatchResponse]]:
        told = {}
        for place, (key, end) in OUTSIDE.items():
            for start in (0, 1):
                create = rpc.WatchCreateRequest(key=key, range_end=end, start_revision=start, prev_kv=True)
                told[f"{place}, from {start}"] = await rpcs.watch(channel, create)
        return await rpcs.watch(channel, inside), told

    allowed, told = running.at_gate(running.stored("web-1").own, tried)
    assert allowed.created
    assert not allowed.canceled
    for place, answer in told.items():
        assert answer.canceled, place
        assert not answer.events, place
        assert "permission denied" in answer.cancel_reason, (place, answer.cancel_reason)


# --- etcd, at its own ports ---


def _ports(running: Running) -> list[tuple[str, int]]:
    """Where the members listen, for clients and for each other."""
    found = []
    for member in running.mesh.etcd.members:
        for flag in ("--listen-client-urls=", "--listen-peer-urls="):
            url = next(part for part in member.command if part.startswith(flag)).removeprefix(flag)
            host, _, port = url.removeprefix("https://").partition(":")
            found.append((host, int(port)))
    return found


def _handshake(place: tuple[str, int], version: ssl.TLSVersion, files: tuple[Path, Path] | None) -> str:
    """What etcd says to a client with this certificate; '' if it is taken. With TLS 1.3 it says so only afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if files:
        context.load_cert_chain(*files)
    try:
        with socket.create_connection(place, timeout=10) as plain, context.wrap_socket(plain) as connection:
            connection.sendall(b"GET /version HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\n\r\n")
            return "" if connection.recv(1) else "closed without a word"
    except (ssl.SSLError, ConnectionError) as exc:
        return str(exc) or type(exc).__name__


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_etcd_itself_ends_the_handshake_of_every_identity_of_the_mesh(
    running: Running, version: ssl.TLSVersion, tmp_path: Path
):
    web = running.stored("web-1")
    gate = Slots(running.mesh.gates["gate-1"].data, "identity", StoredIdentity).load()[0]
    shown: dict[str, tuple[Path, Path] | None] = {"nothing": None}
    for name, mine in {"node": web.own, "workload": web.held["shop/web"], "gate": gate.held["gate"]}.items():
        shown[name] = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        for path, text in zip(shown[name] or (), (mine.chain_pem, mine.key_pem), strict=True):
            path.write_text(text)
    home = running.mesh.folder / "cp-1" / "data"
    shown["control plane"] = home / "server.pem", home / "server.key"
    for place in _ports(running):
        for name, files in shown.items():
            assert re.search(r"alert|closed|reset", _handshake(place, version, files), re.IGNORECASE), (place, name)
    # Not because it would take nobody.
    pki = running.mesh.etcd.pki
    assert _handshake(_ports(running)[0], version, (pki / "holdfast-gate.pem", pki / "holdfast-gate-key.pem")) == ""


# --- secrets ---


async def _busy(mesh: Mesh) -> dict[str, tuple[bytes, ...]]:
    """What a day brings: tokens made, wrong ones shown, certificates renewed. The new secrets."""
    async with Api(mesh.connection) as api:
        token = await api.call("POST", "/v1/tokens", body={"node": "spare", "identities": ["shop/web"]})
        viewer = await api.call("POST", "/v1/operators", body={"name": "auditor", "role": "viewer"})
        await api.call("POST", "/v1/ca/rotate", body={"what": "intermediate"})
        # A real token for another host, and a request that the server will complain about.
        request = {"token": token["token"], "node": "other", "address": "127.0.0.1", "csr": token["token"]}
        for body in (request, {**request, "node": "spare"}, {"token": token["token"]}):
            with pytest.raises(CliError):
                await api.call("POST", "/v1/join", body=body)
        with pytest.raises(CliError):
            await api.get(f"/v1/objects/services/shop/{viewer['token']}")
    return {**scan.join_token("token of spare", token["token"]), "viewer's token": (viewer["token"][5:].encode(),)}


async def _answers(mesh: Mesh) -> dict[str, bytes]:
    """What the mesh says of itself."""
    async with Api(mesh.connection) as api:
        said: dict[str, bytes] = {"backup": b"".join([line async for line in api.raw_lines("/v1/backup")])}
        for path in ("/v1/proxies", "/v1/proxies/web-1/config", "/v1/proxies/gate-1/config", "/v1/operators"):
            said[path] = codec.encode_struct(await api.get(path))
    for name, place in {host.name: host.address for host in mesh.topology.hosts}.items():
        reader, writer = await asyncio.open_connection(place, top.SCRAPE_PORT)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        said[f"scrape page of {name}"] = await reader.read()
        writer.close()
    return said


async def _whole_store(mesh: Mesh) -> dict[bytes, bytes]:
    tls = mesh.etcd.tls("root")
    credentials = grpc.ssl_channel_credentials(tls.ca_pem, tls.key_pem, tls.cert_pem)
    options = (("grpc.ssl_target_name_override", "etcd"),)
    async with grpc.aio.secure_channel(mesh.etcd.endpoints[0], credentials, options=options) as channel:
        ask = channel.unary_unary(
            rpcs.RANGE,
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=rpc.RangeResponse.FromString,
        )
        answer = await ask(rpc.RangeRequest(key=b"\0", range_end=b"\0"))
    return {item.key: item.value for item in answer.kvs}


def test_no_secret_lies_in_clear(running: Running, tmp_path: Path):
    mesh = running.mesh
    fresh = running.runner.run(_busy(mesh))
    secrets = scan.known_secrets(mesh.folder) | fresh
    # It knows what it looks for: a key for each host, gate, node, user and member, and every token.
    assert len(secrets) > 25
    assert all(texts and all(len(text) >= 20 for text in texts) for texts in secrets.values())
    planted = tmp_path / "planted.log"
    for name, texts in secrets.items():
        planted.write_bytes(b"a line with " + texts[-1] + b" in it\n")
        assert any(name in leak for leak in scan.leaks_in_files(tmp_path, secrets)), name

    store = running.runner.run(_whole_store(mesh))
    assert any(key.startswith(PRIVATE) for key in store)
    found = [leak for key, value in store.items() for leak in scan.leaks(f"etcd's {key!r}", key + value, secrets)]
    for key, value in store.items():
        if key.startswith(b"/holdfast/"):
            assert codec.load_json(value) is not None, key
    found += [
        leak for place, raw in running.runner.run(_answers(mesh)).items() for leak in scan.leaks(place, raw, secrets)
    ]
    pids = marked(mesh.mark)
    assert len(pids) > 20
    found += scan.leaks_of_processes(pids, secrets)
    # Logs, audit, and etcd's and OpenBao's files, with what was deleted or overwritten in them.
    found += scan.leaks_in_files(mesh.folder, secrets)
    assert found == []


def test_what_listens_on_a_path_is_for_its_owner_and_group(running: Running):
    sockets = [path for path in running.mesh.folder.rglob("*") if path.is_socket()]
    assert len(sockets) >= 3 * 7  # ADS, Envoy's admin, the agent's admin, of each host
    assert [path for path in sockets if stat.S_IMODE(path.stat().st_mode) & 0o007] == []
