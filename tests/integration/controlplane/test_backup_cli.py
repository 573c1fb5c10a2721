"""Init, backup and restore as an operator runs them, against a real etcd; what followers make of a restored store."""

import asyncio
import random
import subprocess
import sys
from contextlib import asynccontextmanager

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from controlplane.cli.errors import Exit
from controlplane.cli.main import main
from controlplane.demo.etcd_cluster import EtcdCluster
from mesh import keys
from mesh.store.follow import Follower
from tests.integration.controlplane.fleet import DOMAIN, Fleet
from tests.support.followed import Followed
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import namespace, service

pytestmark = pytest.mark.real

AGENTS_READ = (keys.OBJECTS, keys.ENDPOINTS, keys.BUNDLES)


class Operator:
    """The `holdfast` command in a folder of its own."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.folder = fleet, fleet.folder
        self.config = str(fleet.folder / "cp1.yaml")
        self.environment = {
            "HOLDFAST_ADDR": fleet.settings["cp1"].advertise,
            "HOLDFAST_TOKEN_FILE": str(self.folder / "admin.token"),
            "HOLDFAST_CA": str(self.folder / "ca.pem"),
        }

    async def run(self, *arguments: str, code: Exit = Exit.OK) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, main, arguments, env=self.environment)
        assert done.exit_code == code, done.output
        assert isinstance(done.exception, SystemExit | None), done.output
        return done.output

    async def init(self, *more: str, code: Exit = Exit.OK) -> str:
        pki = self.fleet.cluster.pki
        return await self.run(
            *("init", "mesh", "--config", self.config, "--trust-domain", DOMAIN),
            *("--etcd-root-cert", str(pki / "root.pem"), "--etcd-root-key", str(pki / "root-key.pem"), *more),
            code=code,
        )

    async def apply(self, *objects) -> None:
        file = self.folder / "objects.yaml"
        file.write_text(yaml.safe_dump_all(objects))
        await self.run("apply", "-f", str(file))

    async def services(self) -> set[str]:
        listed = msgspec.json.decode(await self.run("get", "services", "-n", "shop", "-o", "json"))
        return {item["metadata"]["name"] for item in listed["items"]}

    async def restore(self, *more: str, file: str = "saved", code: Exit = Exit.OK) -> str:
        return await self.run("restore", str(self.folder / file), "--config", self.config, *more, code=code)


@asynccontextmanager
async def operator(tmp_path):
    """A mesh that the command set up, with one running replica."""
    cluster = EtcdCluster(tmp_path / "etcd", members=1)
    fleet = Fleet(cluster, tmp_path / "cp", "cp1")
    try:
        cluster.launch()
        await cluster.ready()
        made = Operator(fleet)
        token = made.folder / "admin.token"
        await made.init("--token-file", str(token), "--ca-file", str(made.folder / "ca.pem"))
        await fleet.init()  # it is there already; this tells the roots
        fleet.token = token.read_text().strip()
        await fleet.start()
        yield made
    finally:
        fleet.close()
        cluster.close()


async def stopped(it: Operator, store) -> None:
    it.fleet.processes["cp1"].stop()
    await aeventually(lambda: _nobody_there(store), timeout=20)


async def _nobody_there(store) -> bool:
    return not (await store.list(keys.REPLICAS)).items


async def epoch_of(store) -> bytes:
    return (await store.get(keys.EPOCH)).value


@asynccontextmanager
async def following(follower):
    """What it tells, while the block lasts."""
    followed = Followed()
    task = asyncio.create_task(followed.consume(follower))
    try:
        yield followed
    finally:
        task.cancel()


def test_a_restore_brings_back_what_was_saved_and_followers_resync(tmp_path):
    async def run():
        async with operator(tmp_path) as it:
            saved = {f"s{n}" for n in range(30)}
            await it.apply(namespace(), *[service(name) for name in sorted(saved)])
            host = await it.fleet.join("cp1", "n1", "127.0.0.1", "shop/s1")
            said = await it.run("backup", str(it.folder / "saved"))
            assert DOMAIN in said
            assert (it.folder / "saved").stat().st_mode & 0o777 == 0o600
            # Since then: much is new, one is gone, one is changed, a host has joined.
            await it.apply(*[service(f"new{n}") for n in range(40)], service("s2", serviceAccounts=["other"]))
            await it.run("delete", "service", "s3", "-n", "shop")
            late = await it.fleet.join("cp1", "n2", "127.0.0.2", "shop/s1")

            gate = it.fleet.cluster.store("holdfast-gate")
            away = Follower(gate, AGENTS_READ, rng=random.Random(1))
            async with following(away) as before:
                await aeventually(lambda: before.holds_what(gate, AGENTS_READ))
            epoch = await epoch_of(gate)
            deletions = (await gate.get(keys.DELETIONS)).revision
            store = it.fleet.cluster.store()

            assert "cp1" in await it.restore("--overwrite", code=Exit.REFUSED)
            assert "new0" in await it.services()
            await stopped(it, store)
            assert "keys" in await it.restore(code=Exit.REFUSED)  # not empty
            assert await epoch_of(gate) == epoch
            async with following(Follower(gate, AGENTS_READ, rng=random.Random(2))) as live:
                await aeventually(lambda: live.holds_what(gate, AGENTS_READ))
                await it.restore("--overwrite")
                assert await epoch_of(gate) != epoch
                await aeventually(lambda: live.holds_what(gate, AGENTS_READ))
            # What went is declared, for whoever followed all the while.
            assert (await gate.get(keys.DELETIONS)).revision > deletions

            # A follower that was away compares everything anew, and says so.
            back = Follower(gate, AGENTS_READ, rng=random.Random(3), known=away.known())
            after = Followed()
            after.data, after.revisions = dict(before.data), dict(before.revisions)
            task = asyncio.create_task(after.consume(back))
            await aeventually(lambda: after.holds_what(gate, AGENTS_READ))
            await aeventually(lambda: {event.prefix for event in after.listings if event.restored} == set(AGENTS_READ))
            task.cancel()
            await gate.close()
            await store.close()

            await it.fleet.start()
            assert await it.services() == saved
            # The root of trust and the hosts of then are known; who has joined since has to join again.
            assert (await it.fleet.call("cp1", "POST", "/v1/register", {"instances": []}, node=host))[0] == 200
            assert (await it.fleet.call("cp1", "POST", "/v1/register", {"instances": []}, node=late))[0] == 403

    asyncio.run(run())


def test_a_lost_etcd_is_restored_even_if_the_restore_breaks_off(tmp_path):
    """Into an empty one, which knows no users yet; init makes them afterwards."""

    async def run():
        async with operator(tmp_path) as it:
            # So many that the restore has a good part of its way before it when it is killed.
            names = [f"s{n}" for n in range(1800)]
            for start in range(0, len(names), 600):
                await it.apply(namespace(), *[service(name) for name in names[start : start + 600]])
            await it.run("backup", str(it.folder / "saved"))
            it.fleet.processes["cp1"].stop()
            it.fleet.cluster.wipe()
            it.fleet.cluster.launch()
            await it.fleet.cluster.ready()
            command = [sys.executable, "-m", "controlplane.cli.main", "restore", str(it.folder / "saved")]
            with subprocess.Popen([*command, "--config", it.config], stderr=subprocess.PIPE) as begun:
                assert begun.stderr
                while b"restoring keys" not in begun.stderr.readline():
                    assert begun.poll() is None
                begun.kill()
            store = it.fleet.cluster.store()
            # Half of it is there, and nobody takes it for the whole.
            assert await store.get(keys.EPOCH) is None
            assert "broken off" in await it.init(code=Exit.REFUSED)
            await it.restore()
            assert await store.get(keys.EPOCH)
            await store.close()
            assert "was set up already" in await it.init()
            admin = it.fleet.cluster.admin()
            assert await admin.auth_enabled()
            await admin.close()
            await it.fleet.start()
            assert await it.services() == set(names)

    asyncio.run(run())


def test_a_damaged_backup_is_refused_and_nothing_is_written(tmp_path):
    async def run():
        async with operator(tmp_path) as it:
            await it.apply(namespace(), service("kept"))
            await it.run("backup", str(it.folder / "saved"))
            assert "exists already" in await it.run("backup", str(it.folder / "saved"), code=Exit.FAILED)
            store = it.fleet.cluster.store()
            await stopped(it, store)
            revision, whole = await store.revision(), (it.folder / "saved").read_bytes()
            damaged = {
                "cut": whole[: len(whole) // 2],
                "altered": whole.replace(b"kept", b"gone"),
                "empty": b"",
                "garbage": b"\x00\xff\n" * 10,
            }
            for how, content in damaged.items():
                (it.folder / how).write_bytes(content)
                assert "no whole backup" in await it.restore("--overwrite", file=how, code=Exit.REFUSED)
            await it.restore("--overwrite", file="missing", code=Exit.NOT_FOUND)
            assert await store.revision() == revision
            await store.close()

    asyncio.run(run())
