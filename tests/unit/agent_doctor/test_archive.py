"""A dump of a host on which secrets were planted in everything that it reads: none of them is in it."""

import asyncio
import json
import os
import stat
import tarfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from agent.admin import AdminServer
from agent.cli import main
from agent.doctor import archive, gather
from agent.doctor.parts import MIB, Part, Source
from agent.doctor.secrets import GONE
from agent.envoy import record
from agent.envoy.record import Record, Running
from agent.settings import Settings
from agent.state import Slots, StoredIdentity, StoredRange, StoredWorld
from mesh.model import Identity
from mesh.store.follow import Known
from tests.support.waiting import eventually
from tests.unit.agent_doctor.test_secrets import key

PLANTED = [f"plantedSecret{n:02}x" for n in range(20)]
KEYS = [key() for _ in range(3)]
TOKEN = "hf1.0011223344556677.8899aabbccddeeff.0011223344556677"
NOW = 1_000_000.0

SAID = (
    f"a line that stays\nAuthorization: Bearer {PLANTED[0]}\ncookie: sid={PLANTED[1]}\nDB_PASSWORD={PLANTED[2]}\n"
    f"https://joe:{PLANTED[3]}@db/x\njoining with {TOKEN}\n{KEYS[0]}\n"
)


def envoys_words(path: str) -> bytes:
    """What an Envoy might tell that somebody gave secrets."""
    if path.startswith(("/config_dump", "/server_info", "/certs", "/memory")):
        tree = {
            "state": "LIVE",
            "stays": "a line that stays",
            "request_headers_to_add": [{"header": {"key": "Authorization", "value": PLANTED[4]}}],
            "match": {"headers": [{"name": "x-api-key", "string_match": {"exact": PLANTED[5]}}]},
            "private_key": {"inline_bytes": PLANTED[6]},
            "client_secret": {"inline_string": PLANTED[7]},
            "text": SAID,
            "key": KEYS[1],
        }
        return json.dumps(tree).encode()
    return SAID.encode()


async def admin_of_envoy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = envoys_words(head.split(" ")[1])
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


async def status() -> dict[str, object]:
    return {"phase": "serving", "problems": [SAID], "token": PLANTED[8], "stays": "a line that stays"}


async def helper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    answer = {"applied": True, "problems": [SAID], "password": PLANTED[9], "wanted": {}}
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()
    writer.close()


class Planted:
    """A host: its files, what lives on it, and the programs that tell of it."""

    def __init__(self, home: Path) -> None:
        self.home, self.run, self.data = home, home / "run", home / "data"
        for folder in (self.run, self.data, home / "services.d", home / "bin"):
            folder.mkdir()
        (home / "token").write_text(TOKEN + "\n")
        settings = {
            "node": "vm1",
            "address": "127.0.0.1",
            "dataDir": str(self.data),
            "runDir": str(self.run),
            "servicesDir": str(home / "services.d"),
            "controlplanes": ["https://127.0.0.1:1"],
            "tokenFile": str(home / "token"),
            "capture": {"socket": str(self.run / "host.sock")},
        }
        self.config = home / "agent.yaml"
        self.config.write_text(yaml.safe_dump(settings) + f"# password: {PLANTED[10]}\n")
        check = {"type": "script", "command": ["/bin/check", "--password", PLANTED[11], f"--token={PLANTED[12]}"]}
        service = {"name": "web", "ports": [{"port": 80}], "health": check, "labels": {"a-line": "that-stays"}}
        (home / "services.d" / "web.yaml").write_text(yaml.safe_dump(service))
        (home / "services.d" / "bad.yaml").write_text(f"not: [yaml\n{PLANTED[13]}")
        held = {f"shop/{n}": self.identity(f"x/{n}", pem) for n, pem in (("web", KEYS[1]), ("db", KEYS[2]))}
        own = self.identity("node/vm1", KEYS[0])
        stored = StoredIdentity(node="vm1", trust_domain="t", cluster="c", roots=(), own=own, held=held)
        Slots(self.data, "identity", StoredIdentity).save(stored)
        (self.data / "join.key").write_text(key())
        known = Known(revision=7)
        ranges = {"/holdfast/v1/mesh/objects/": StoredRange(known=known, values={"/x": PLANTED[14].encode()})}
        Slots(self.data, "world", StoredWorld).save(StoredWorld(epoch="e", ranges=ranges, held=SAID))
        launcher = {"last_exit": SAID, "command": ["envoy", "--token", PLANTED[15]]}
        (self.run / "envoy.json").write_text(json.dumps(launcher))
        for program in ("systemctl", "journalctl", "nft", "timedatectl"):
            path = home / "bin" / program
            path.write_text(f"#!/bin/sh\ncat <<'END'\n{SAID}\nEnvironment=API_KEY={PLANTED[16]}\nEND\n")
            path.chmod(0o755)

    @staticmethod
    def identity(name: str, pem: str) -> Identity:
        spiffe = f"spiffe://t/{name}"
        return Identity(spiffe_id=spiffe, chain_pem="", key_pem=pem, not_before=NOW, not_after=NOW + 1000)

    @contextmanager
    def alive(self):
        """Agent, Envoy and helper answer."""
        loop = asyncio.new_event_loop()
        up = threading.Event()

        async def serve() -> None:
            agent = asyncio.ensure_future(AdminServer(self.run / "agent.sock", {"status": status}).run())
            async with (
                await asyncio.start_unix_server(admin_of_envoy, self.run / "envoy.sock"),
                await asyncio.start_unix_server(helper, self.run / "host.sock"),
            ):
                while not (self.run / "agent.sock").exists():
                    await asyncio.sleep(0.01)
                up.set()
                await stop.wait()
            agent.cancel()
            await asyncio.wait({agent})

        stop = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        try:
            assert up.wait(10)
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()


@pytest.fixture
def planted(tmp_path, monkeypatch):
    host = Planted(tmp_path)
    monkeypatch.setattr(gather, "PROGRAMS", f"{tmp_path}/bin:/usr/bin:/bin")
    return host


def dump(host: Planted, out: Path, *more: str):
    return CliRunner().invoke(main, ["debug", "dump", "--config", str(host.config), "--out", str(out), *more])


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name.partition("/")[2]: tar.extractfile(m).read() for m in tar.getmembers()}


def all_secrets() -> list[bytes]:
    bodies = [line for pem in KEYS for line in pem.splitlines() if not line.startswith("-----")]
    return [text.encode() for text in (*PLANTED, TOKEN, *bodies)]


def test_no_planted_secret_is_in_it(planted, tmp_path):
    out = tmp_path / "x.tar.gz"
    with planted.alive():
        result = dump(planted, out)
    assert result.exit_code == 0, result.output
    found = members(out)
    for secret in all_secrets():
        for name, raw in found.items():
            assert secret not in raw, (name, secret)
        assert secret.decode() not in result.output
    # It was read, and what is no secret is still there.
    for name in ("agent/status.json", "envoy/config_dump.json", "envoy/stats.txt", "units/holdfast-agent.service.log"):
        assert b"a line that stays" in found[name], name
        assert GONE.encode() in found[name], name
    assert b"that-stays" in found["settings/services.d/web.yaml"]
    assert b"spiffe://t/node/vm1" in found["agent/identity.json"]
    assert b'"revision": 7' in found["agent/world.json"]
    states = {part["file"]: part["state"] for part in json.loads(found["index.json"])["parts"]}
    assert states["settings/services.d/bad.yaml"] == "missing"
    assert states["agent/compiled.json"] == "ok"
    assert set(found) == {name for name, state in states.items() if state != "missing"} | {"index.json"}


def test_a_link_in_envoys_folder_leads_to_nobody_elses_file(planted, tmp_path):
    """That folder is Envoy's user's; who makes the dump is root."""
    precious = tmp_path / "shadow"
    precious.write_text('{"root": "a line of the shadow file"}')
    record = planted.run / "envoy.json"
    record.unlink()
    record.symlink_to(precious)
    out = tmp_path / "x.tar.gz"
    assert dump(planted, out).exit_code == 0
    found = members(out)
    states = {part["file"]: part["state"] for part in json.loads(found["index.json"])["parts"]}
    assert states["envoy/launcher.json"] == "missing"
    assert not [name for name, raw in found.items() if b"shadow file" in raw]


def test_nobody_else_may_read_it_and_nothing_is_overwritten(planted, tmp_path):
    out = tmp_path / "x.tar.gz"
    before = os.umask(0)
    try:
        assert dump(planted, out).exit_code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    size = out.stat().st_size
    again = dump(planted, out)
    assert again.exit_code == 1
    assert "there already" in again.output
    assert out.stat().st_size == size
    nowhere = dump(planted, tmp_path / "none" / "x.tar.gz")
    assert nowhere.exit_code == 1
    assert "--out" in nowhere.output


def test_with_everything_dead_each_missing_part_has_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "PROGRAMS", str(tmp_path))
    out = tmp_path / "x.tar.gz"
    result = CliRunner().invoke(
        main, ["debug", "dump", "--config", str(tmp_path / "none.yaml"), "--out", str(out), "-o", "json"]
    )
    assert result.exit_code == 0, result.output
    index = json.loads(result.stdout)
    parts = {part["file"]: part for part in index["parts"]}
    assert "none.yaml" in parts["agent/status.json"]["reason"]
    assert parts["units/show.txt"]["reason"] == "this host has no systemctl"
    assert all(part["reason"] for part in index["parts"] if part["state"] == "missing")
    assert parts["doctor.json"]["state"] == "ok"
    assert parts["versions.json"]["state"] == "ok"
    assert "collecting" in result.stderr


def test_state_on_disk_is_enough_to_compile(planted):
    part = next(p for p in Source(planted.config, lambda: NOW).parts() if p.file == "agent/compiled.json")
    body = json.loads(part.get())
    assert set(body) >= {"revision", "digest", "problems", "cds", "lds", "rds", "eds", "sds"}
    assert not (planted.data / "virtual.json").exists(), "nothing is written"


def test_what_is_too_long_is_cut_or_left_out(tmp_path):
    log = Part("log", lambda: b"old\n" * 100 + b"new\n", limit=8, end=True)
    whole = Part("doc.json", lambda: b'{"a": "' + b"x" * 100 + b'"}', limit=50)
    assert archive.collect(log, (), MIB)[0] == b"old\nnew\n"
    raw, entry = archive.collect(whole, (), MIB)
    assert (raw, entry.state) == (b"", "missing")
    assert "109 bytes" in entry.reason
    assert archive.collect(Part("doc.json", lambda: b"12345"), (), 4)[1].state == "missing"
    assert archive.collect(Part("log", lambda: b"12345", end=True), (), 0)[1] == ("log", "cut", 0, "the end of 5 bytes")


def test_a_part_that_breaks_stops_no_other(tmp_path):
    def breaks() -> bytes:
        raise RuntimeError(f"password: {PLANTED[0]}")

    index = archive.write(
        tmp_path / "x.tar.gz",
        [Part("a", breaks), Part("b", lambda: b"fine")],
        (),
        {"name": "n", "created": NOW},
        lambda _: None,
    )
    assert [part["state"] for part in index["parts"]] == ["missing", "ok"]
    assert PLANTED[0] not in json.dumps(index)


def test_a_write_that_breaks_leaves_no_file(tmp_path):
    def say(_: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        archive.write(tmp_path / "x.tar.gz", [Part("a", bytes)], (), {"name": "n", "created": NOW}, say)
    assert not (tmp_path / "x.tar.gz").exists()


def test_doctor_says_what_to_do_and_fails_for_a_fault(planted):
    command = ["doctor", "--config", str(planted.config)]
    with planted.alive():
        result = CliRunner().invoke(main, command)
        told = CliRunner().invoke(main, [*command, "-o", "json"])
    assert result.exit_code == 1
    assert "FAULT    control plane: https://127.0.0.1:1" in result.output
    assert "-> " in result.output
    body = json.loads(told.stdout)
    assert body["verdict"] == "fault"
    found = {finding["check"]: finding for finding in body["findings"]}
    assert found["certificate shop/web"]["verdict"] == "fault", "they ended in 1970"
    assert found["agent"]["verdict"] == "fault", "it has a problem"
    assert told.exit_code == 1
    eventually(lambda: not (planted.run / "agent.sock").exists())


def test_a_damaged_identity_is_told_as_that_and_without_noise(planted):
    (planted.data / "identity.0").write_bytes(b"holdfast1 1 5 x\nhalf")
    (planted.data / "identity.1").unlink(missing_ok=True)
    said = CliRunner().invoke(main, ["doctor", "--config", str(planted.config)])
    assert "FAULT    identity: identity.0 in" in said.output
    assert "damaged" in said.output
    assert "token create vm1" in said.output
    assert said.stderr == ""


def test_an_envoy_is_known_by_its_start_whatever_boot_its_launcher_saw(tmp_path):
    start = record.start_of(os.getpid())
    running = (Running(os.getpid(), start, 0, "current"), Running(os.getpid(), start + 1, 0, "elder"))
    record.write(tmp_path, Record(launcher=1, boot="another", phase="live", running=running))
    settings = Settings(node="vm1", address="127.0.0.1", run_dir=str(tmp_path))
    assert gather.envoys(settings) == running[:1]
