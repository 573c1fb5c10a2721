"""The inventory plugin as an operator uses it: ansible-inventory, ansible, and a real control plane on a real etcd."""

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from mesh.model.uplink import Report, Up
from tests.integration.controlplane.fleet import Fleet, running
from tests.support.collection import ansible
from tests.support.waiting import aeventually
from tests.unit.controlplane.harness import namespace, service

pytestmark = pytest.mark.real

EVIL = "{{ lookup('ansible.builtin.pipe', 'touch evaluated') }}"
"""What an agent in the wrong hands might report as its version."""


def encoded(message: Up) -> str:
    import msgspec

    return msgspec.json.encode(message).decode()


def plain(value):
    """Text that is never evaluated is marked so."""
    return value["__ansible_unsafe"] if value.keys() == {"__ansible_unsafe"} else value


class Mesh:
    """Nodes `db` (of two services, in the rack 7 of eu/a), `web` (drained), and `gone`; asked as a viewer."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.environment = {
            "HOLDFAST_ADDR": fleet.settings["cp1"].advertise,
            "HOLDFAST_CA": str(folder / "ca.pem"),
            "HOLDFAST_TOKEN_FILE": str(folder / "viewer.token"),
        }

    def write(self, name: str = "holdfast.yml", **settings) -> None:
        (self.folder / name).write_text(yaml.safe_dump({"plugin": "holdfast.mesh.mesh", **settings}))

    async def run(self, *command: str, source: str = "holdfast.yml", **more: str):
        environment = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1", **self.environment, **more}
        command = (command[0], "-i", source, *command[1:])
        return await asyncio.to_thread(ansible, self.folder, *command, more=environment)

    async def listed(self, **more: str):
        done = await self.run("ansible-inventory", "--list", **more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout, object_hook=plain), done.stderr

    async def refused(self, **more: str) -> str:
        done = await self.run("ansible-inventory", "--list", **more)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        # Messages are wrapped to the terminal.
        return " ".join(done.stderr.split())


@asynccontextmanager
async def mesh(tmp_path):
    async with running(tmp_path, "cp1") as fleet:
        folder = tmp_path / "controller"
        folder.mkdir()
        (folder / "ca.pem").write_text(fleet.roots)
        _, viewer = await fleet.call("cp1", "POST", "/v1/operators", {"name": "ansible", "role": "viewer"})
        (folder / "viewer.token").write_text(viewer["token"] + "\n")
        status, said = await fleet.apply("cp1", namespace(), service("api"), service("db"), service("idle"))
        assert status == 200, said
        async with hosts(fleet):
            yield Mesh(fleet, folder)


@asynccontextmanager
async def hosts(fleet: Fleet):
    db = await fleet.join("cp1", "db", "127.0.0.2", "shop/db", "shop/api")
    web = await fleet.join("cp1", "web", "127.0.0.3", "shop/api")
    await fleet.join("cp1", "gone", "127.0.0.4")
    async with fleet.uplink("cp1", db) as of_db, fleet.uplink("cp1", web) as of_web:
        for host, instances in ((db, [db.instance("db", locality="us"), db.instance()]), (web, [web.instance()])):
            assert (await fleet.call("cp1", "POST", "/v1/register", {"instances": instances}, node=host))[0] == 200
        status, said = await fleet.call("cp1", "GET", "/v1/objects/nodes/db")
        said["metadata"]["labels"] = {"tier": "gold"}
        said["spec"]["locality"] = "eu/a/rack-7"
        said.pop("status", None)
        status, said = await fleet.call("cp1", "PUT", "/v1/objects/nodes/db", said)
        assert status in {200, 201}, said
        report = Report(node="db", version="0.1.0", phase="serving", envoy="live", envoy_version="1.40.0")
        await of_db.send_str(encoded(Up(report=report)))
        await of_web.send_str(encoded(Up(report=Report(node="web", version=EVIL, maintenance=1.0))))

        async def heard() -> bool:
            _, told = await fleet.call("cp1", "GET", "/v1/proxies")
            return [bool(item["report"]) for item in told["items"]] == [True, False, True]

        await aeventually(heard, timeout=10, what="all reports are there")
        yield


def test_hosts_groups_and_variables_are_the_meshs_and_compose_and_keyed_groups_work(tmp_path):
    async def run():
        async with mesh(tmp_path) as it:
            it.write(
                keyed_groups=[{"key": "holdfast_mesh.envoy_version", "prefix": "envoy"}],
                compose={"rack": "holdfast_mesh.locality.subzone | default('none')"},
                groups={"unracked": "rack == 'none'"},
            )
            found, said = await it.listed()
            assert "WARNING" not in said
            groups = {name: group.get("hosts", []) for name, group in found.items() if name != "_meta"}
            expected = {
                "mesh_nodes": ["db", "gone", "web"],
                "mesh_connected": ["db", "web"],
                "mesh_away": ["gone"],
                "mesh_maintenance": ["web"],
                "mesh_role_agent": ["db", "gone", "web"],
                "mesh_label_tier_gold": ["db"],
                "mesh_subzone_eu_a_rack_7": ["db"],
                "mesh_service_shop__api": ["db", "web"],
                "mesh_service_shop__db": ["db"],
                "envoy_1_40_0": ["db"],
                "unracked": ["gone", "web"],
            }
            assert {name: groups.get(name) for name in expected} == expected
            assert "mesh_service_shop__idle" in found["all"]["children"]
            of_db = found["_meta"]["hostvars"]["db"]
            assert [of_db[name] for name in ("ansible_host", "holdfast_address")] == ["127.0.0.2"] * 2
            assert of_db["holdfast_node"] == "db"
            facts = of_db["holdfast_mesh"]
            assert (facts["agent_version"], facts["phase"]) == ("0.1.0", "serving")
            assert sorted(facts["identities"]) == ["shop/api", "shop/db"]
            assert {i["name"]: i["health"] for i in facts["services"]} == {"api": "healthy", "db": "healthy"}
            assert of_db["rack"] == "rack-7"

            # A play may use all of it, and what a host reports is text.
            done = await it.run(
                *("ansible", "mesh_maintenance", "-c", "local", "-m", "ansible.builtin.debug"),
                *("-a", "msg={{ holdfast_mesh.agent_version }}-{{ holdfast_node }}"),
            )
            assert done.returncode == 0, done.stderr
            assert EVIL + "-web" in done.stdout
            assert not (it.folder / "evaluated").exists()
            done = await it.run(
                *("ansible", "mesh_service_shop__db", "-c", "local", "-m", "ansible.builtin.debug"),
                *("-a", "msg={{ holdfast_service.ports[0].port }}"),
            )
            assert '"msg": "80"' in done.stdout or '"msg": 80' in done.stdout

    asyncio.run(run())


def test_a_cache_answers_without_the_control_plane_until_it_is_refreshed(tmp_path):
    async def run():
        async with mesh(tmp_path) as it:
            cache = it.folder / "cache"
            it.write(cache=True, cache_plugin="ansible.builtin.jsonfile", cache_connection=str(cache))
            before, _ = await it.listed()
            token = (it.folder / "viewer.token").read_text().strip()
            assert [path for path in cache.iterdir() if token in path.read_text()] == []
            it.fleet.processes["cp1"].kill9()
            assert (await it.listed())[0] == before
            done = await it.run("ansible-inventory", "--list", "--flush-cache")
            assert done.returncode != 0
            assert "no control plane answers" in " ".join(done.stderr.split())

    asyncio.run(run())


def test_what_is_wrong_is_told_with_what_to_do(tmp_path):
    async def run():
        async with mesh(tmp_path) as it:
            it.write()
            here = it.environment["HOLDFAST_ADDR"]
            # A node that is down is passed over, wherever it stands in the list.
            found, _ = await it.listed(HOLDFAST_ADDR=f"127.0.0.1:1, {here}")
            assert found["mesh_nodes"]["hosts"] == ["db", "gone", "web"]
            said = await it.refused(HOLDFAST_ADDR="127.0.0.1:1")
            assert "no control plane answers: 127.0.0.1:1: [Errno 111] Connection refused" in said
            pki = it.fleet.cluster.pki / "ca.pem"
            assert "is this the CA of that mesh?" in await it.refused(HOLDFAST_CA=str(pki))
            assert "set `ca`, or HOLDFAST_CA" in await it.refused(HOLDFAST_CA="")
            assert "nowhere.token cannot be read" in await it.refused(HOLDFAST_TOKEN_FILE="/nowhere.token")
            said = await it.refused(HOLDFAST_TOKEN="hfo_wrong")
            assert "/v1/objects/nodes: " in said
            assert "token" in said
            it.write("other.yml")
            done = await it.run("ansible-inventory", "--list", source="other.yml")
            assert done.returncode != 0

    asyncio.run(run())


def test_the_documentation_can_be_shown(tmp_path):
    done = ansible(tmp_path, "ansible-doc", "-t", "inventory", "holdfast.mesh.mesh")
    assert done.returncode == 0, done.stderr
    for words in (
        "mesh_service_<namespace>__<service>",
        "HOLDFAST_TOKEN_FILE",
        "keyed_groups",
        "cache_timeout",
        "EXAMPLES",
    ):
        assert words in done.stdout
