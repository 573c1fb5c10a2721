"""What a host says of itself, from its settings and services.d."""

import asyncio
from pathlib import Path

from agent.health import Monitor
from agent.host import Host
from agent.settings import Settings
from agent.state import StoredIdentity
from mesh.model import GATEWAY, GatewaySpec
from tests.support.meshes import fake_identity


def test_where_a_host_is_goes_into_its_compile_and_its_registration(tmp_path: Path):
    (tmp_path / "api.yaml").write_text("name: api\nnamespace: shop\nports: [{port: 8080}]\n")
    settings = Settings(
        node="vm1",
        address="10.0.0.1",
        services_dir=str(tmp_path),
        data_dir=str(tmp_path),
        locality="eu/a",
        mtls_port=15444,
    )
    host = Host(settings, lambda: 1.0)
    assert host.load()
    held = {"shop/api": fake_identity("shop/api")}
    stored = StoredIdentity(
        node="vm1", trust_domain="east.test", cluster="east", own=fake_identity("x/y"), held=held, roots=()
    )
    assert host.local(stored).locality == "eu/a"

    async def registered():
        async with asyncio.TaskGroup() as group:
            monitor = Monitor(group, lambda: None)
            return host.instances(monitor, held)

    (instance,) = asyncio.run(registered())
    assert (instance.spec.locality, instance.spec.mtls_port, instance.spec.address) == ("eu/a", 15444, "10.0.0.1")


def test_roots_that_come_and_go_are_noticed_and_a_file_that_is_not_there_is_not_named(tmp_path: Path):
    roots = tmp_path / "roots.pem"
    settings = Settings(
        node="vm1", address="10.0.0.1", services_dir=str(tmp_path / "services.d"), data_dir=str(tmp_path),
        trust_file=str(roots),
    )  # fmt: skip
    stored = StoredIdentity(node="vm1", trust_domain="east.test", cluster="east", own=fake_identity("x/y"))
    host = Host(settings, lambda: 1.0)
    host.load()
    assert host.local(stored).trust_file == ""
    roots.write_text("")
    assert not host.load()
    roots.write_text("-----BEGIN CERTIFICATE-----")
    assert host.load()
    assert host.local(stored).trust_file == str(roots)
    assert not host.load()
    roots.unlink()
    assert host.load()
    assert host.local(stored).trust_file == ""


def test_a_gateway_registers_without_an_identity_and_drains_with_its_host(tmp_path: Path):
    settings = Settings(
        node="gw1", address="10.0.0.9", services_dir=str(tmp_path / "none"), data_dir=str(tmp_path),
        locality="eu/a", gateway=GatewaySpec(port=15999),
    )  # fmt: skip
    host = Host(settings, lambda: 1.0)
    host.load()

    async def registered():
        async with asyncio.TaskGroup() as group:
            monitor = Monitor(group, lambda: None)
            return host.instances(monitor, ()), host.leaving("", monitor, ())

    ((before,), _) = asyncio.run(registered())
    assert (before.spec.service, before.metadata.namespace) == GATEWAY[::-1]
    assert (before.spec.mtls_port, before.spec.health, before.spec.locality) == (15999, "healthy", "eu/a")
    host.drain("", 2.0)
    ((after,), leaving) = asyncio.run(registered())
    assert after.spec.health == "draining"
    assert leaving == (after,)
