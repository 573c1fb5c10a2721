"""`holdfast plan`: a table of what would change, and what is not known."""

import asyncio
import json

from controlplane.cli.errors import Exit
from controlplane.cli.plan import rows, summary
from mesh import keys
from tests.support.waiting import aeventually
from tests.unit.cli.test_commands import Cli
from tests.unit.controlplane.harness import agent, mesh, namespace, service
from tests.unit.controlplane.test_api_plan import CHANGED, answering

FOUND = {
    "proxies": [
        {"node": "a", "changes": [{"type": "lds", "name": "in", "action": "change"}], "more": 3, "problems": []},
        {"node": "b", "changes": [], "more": 0, "problems": ["Service x: no port"]},
    ],
    "unchanged": 7,
    "unknown": [{"node": "c", "reason": "offline"}],
}


def test_changed_proxies_are_listed_and_the_others_counted():
    assert rows(FOUND) == [["a", "lds", "in", "change"], ["a", "-", "and 3 more; --proxy a names them", "-"]]
    assert summary(FOUND) == [
        "problem at b: Service x: no port",
        "not known: c: offline",
        "1 proxies would change, 8 would not, 1 not known; nothing was written",
    ]


def test_plan_shows_resources_and_writes_nothing(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            cli = Cli(cp, tmp_path)
            await cp.add_node("n1")
            await cp.apply(namespace(), service("old"))
            async with agent(cp, "n1", answers=answering(CHANGED)):
                await aeventually(lambda: cp.context.uplinks.connections())
                before = (await cp.store.list(keys.MESH)).items  # a node's word on itself comes when it comes
                shop = cli.file("shop.yaml", service())
                done = await cli("plan", "-f", shop)
                assert done.exit_code == 0, done.output
                assert "Service shop/api  created" in done.stdout
                assert "n1     lds   inbound   change" in done.stdout
                assert "1 proxies would change, 0 would not; nothing was written" in done.stderr
                told = json.loads((await cli("plan", "-f", shop, "--proxy", "n1", "-o", "json")).stdout)
                assert told["proxies"][0]["changes"][0]["name"] == "inbound"
                gone = await cli("plan", "-f", cli.file("old.yaml", service("old")), "--delete")
                assert "Service shop/old  deleted" in gone.stdout
                assert (await cli("plan", "-f", shop, "--proxy", "nobody")).exit_code == Exit.NOT_FOUND
                bad = await cli("plan", "-f", cli.file("bad.yaml", service() | {"spec": {"portz": 1}}))
                assert bad.exit_code == Exit.REFUSED
                assert "bad.yaml: Service shop/api spec.portz" in bad.stderr
                assert (await cp.store.list(keys.MESH)).items == before

    asyncio.run(run())
