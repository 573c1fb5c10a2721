"""An application that speaks first, and callers that say nothing: only those who are let in hear it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from controlplane.demo.process import free_port
from mesh.model import Identity, LocalPort
from tests.integration.compile.hosts import Background, Host, context, greeting_app
from tests.support.meshes import TestCa, bundle, config, definition, local, policy, rule, service, world

pytestmark = pytest.mark.real

CALLEE = "127.0.0.63"
BANNER = b"hello "


class Callee(NamedTuple):
    ca: TestCa
    host: Host
    folder: Path
    port: int


@pytest.fixture(scope="module")
def callee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callee]:
    folder, ca, background = tmp_path_factory.mktemp("first"), TestCa(), Background()
    app, mtls = free_port(CALLEE), free_port(CALLEE)
    apps = background.call(greeting_app(CALLEE, app))
    names = ("db", "locked", "wide")
    here = definition("db", LocalPort(port=app, name="tcp", address=CALLEE), labels={"app": "db"}, service_account="db")
    state = world(
        config(),
        bundle(ca.root),
        *(
            service(name, port=5432, protocol="tcp", target="tcp", accounts=["db"], selector={"app": "db"})
            for name in names
        ),
        policy("db", "db", rule("shop/web", "shop/bad", name="web"), rule(namespaces=["ops"], name="ops")),
        policy("never", "db", rule("shop/bad", name="bad"), action="Deny"),
        policy("wide", "wide", rule(namespaces=["ops"])),
        policy("but", "wide", rule("ops/cron", name="cron"), action="Deny"),
    )
    host = Host("callee", folder, background)
    try:
        more = {"address": CALLEE, "mtls_port": mtls, "access_log": str(host.log)}
        host.publish(state, local(here, identities={"shop/db": ca.workload("shop/db")}, **more))
        yield Callee(ca, host, folder, mtls)
    finally:
        host.close()
        background.loop.call_soon_threadsafe(apps.close)
        background.close()


def heard(callee: Callee, mine: Identity, service_name: str = "db") -> bytes:
    """What a caller hears that says nothing: up to the banner, or until it is hung up on."""

    async def listen() -> bytes:
        tls = context(callee.folder, mine, callee.ca.root)
        name = f"5432.{service_name}.shop.east.mesh"
        reader, writer = await asyncio.open_connection(CALLEE, callee.port, ssl=tls, server_hostname=name)
        try:
            async with asyncio.timeout(10):
                return await reader.readexactly(len(BANNER))
        except asyncio.IncompleteReadError as exc:
            return exc.partial
        except OSError:  # an alert of TLS is one
            return b""
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)  # it closes its socket in the loop's next round

    return asyncio.run(listen())


@pytest.mark.parametrize("who", ["shop/web", "ops/backup"])
def test_who_is_let_in_hears_it(callee: Callee, who: str):
    assert heard(callee, callee.ca.workload(who)) == BANNER


@pytest.mark.parametrize(
    ("who", "service_name", "rules"),
    [
        ("shop/stranger", "db", "shop/never/bad or default-deny"),
        ("shop/bad", "db", "shop/never/bad or default-deny"),
        ("opsx/backup", "db", "shop/never/bad or default-deny"),
        ("shop/web", "locked", "default-deny"),
        ("shop/web", "wide", "default-deny"),
    ],
)
def test_others_hear_nothing_and_are_named(callee: Callee, who: str, service_name: str, rules: str):
    mine = callee.ca.workload(who)
    assert heard(callee, mine, service_name) == b""
    sni = f"5432.{service_name}.shop.east.mesh"
    line = callee.host.logged(lambda x: x.get("sni") == sni and mine.spiffe_id in str(x))
    assert line["denied_by"] == rules
    assert "SAN" in str(line["details"])
    assert (line["source"], line["service"]) == (mine.spiffe_id, f"{service_name}.shop:5432")


def test_a_certificate_that_is_no_good_is_not_blamed_on_a_rule(callee: Callee):
    assert heard(callee, callee.ca.workload("shop/web", hours=-1)) == b""
    line = callee.host.logged(lambda x: "expired" in str(x["details"]))
    assert line["protocol"] == "tls"
    assert "denied_by" not in line
