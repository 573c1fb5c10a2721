"""`apply --wait` and `delete --wait`: what is said meanwhile and at the end."""

import asyncio
import json

import pytest

from controlplane.cli.errors import CliError, Exit
from controlplane.cli.settle import conclude, progress
from mesh import keys
from mesh.model.uplink import Rejected
from tests.support.waiting import aeventually
from tests.unit.cli.test_commands import Cli
from tests.unit.controlplane.harness import agent, mesh, namespace, say, service

WAITING = {
    "revision": 7, "state": "waiting", "live": 414, "inForce": 412, "seconds": 60.0,
    "waiting": [{"node": "api-3", "reason": "stale"}, {"node": "api-4", "reason": "syncing"}], "waitingCount": 2,
    "rejected": [], "rejectedCount": 0,
    "offline": [{"node": "db-1", "since": 1_760_000_000.0}], "offlineCount": 1,
}  # fmt: skip


def test_progress_names_whom_it_waits_for():
    assert progress(WAITING) == "412/414 in force, waiting for api-3 (stale), api-4 (syncing)"
    many = WAITING | {"waiting": [{"node": f"n{n}", "reason": "x"} for n in range(5)], "waitingCount": 900}
    assert progress(many).endswith("n2 (x) and 897 more")


def test_the_end_names_stragglers_and_offline_hosts(capsys):
    with pytest.raises(CliError) as caught:
        conclude(WAITING)
    assert caught.value.exit_code == Exit.NOT_IN_FORCE == 3
    assert caught.value.details == ("api-3: stale", "api-4: syncing")
    assert "412 of 414" in caught.value.message
    assert "db-1 (not seen since 2025-10-09 08:53:20Z)" in capsys.readouterr().err
    conclude(WAITING | {"state": "in force", "inForce": 414, "waiting": [], "waitingCount": 0})
    said = capsys.readouterr().err
    assert "in force at 414 of 414 live proxies, after 60.0 s" in said
    assert "offline, and not waited for: db-1" in said


def test_apply_and_delete_wait_for_the_proxies(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            cli = Cli(cp, tmp_path)
            await cp.add_node("n1")
            epoch = (await cp.store.get(keys.EPOCH)).value.decode().strip('"')
            async with agent(cp) as ws:

                async def report(revision: int, **more) -> None:
                    values = {"observed": revision, "applied": revision, "phase": "serving", "envoy": "live"}
                    await say(ws, node="n1", epoch=epoch, **values | more)

                await report(1)
                await aeventually(lambda: cp.context.uplinks.told)
                shop = cli.file("shop.yaml", namespace(), service())
                late = await cli("apply", "-f", shop, "--wait", "--timeout", "1s")
                assert late.exit_code == 3, late.output
                assert "n1: has not seen it yet" in late.stderr
                assert "created" in late.stdout

                async def follow() -> None:
                    while True:
                        await report(await cp.store.revision())
                        await asyncio.sleep(0.2)

                following = asyncio.create_task(follow())
                done = await cli("apply", "-f", shop, "--wait", "-o", "json")
                assert done.exit_code == 0, done.output
                told = json.loads(done.stdout)
                assert (told["wait"]["state"], told["wait"]["inForce"]) == ("in force", 1)
                gone = await cli("delete", "svc", "api", "--wait")
                assert gone.exit_code == 0, gone.output
                assert "in force at 1 of 1 live proxies" in gone.stderr
                following.cancel()
                refused = Rejected(object="Service shop/api", reason="bad regex")
                await report(10**6, rejected=(refused,))
                bad = await cli("apply", "-f", shop, "--wait")
                assert bad.exit_code == 3
                assert "n1: Service shop/api is refused: bad regex" in bad.stderr

    asyncio.run(run())


def test_options_that_do_not_go_together(tmp_path):
    async def run():
        async with mesh(tmp_path) as cp:
            cli = Cli(cp, tmp_path)
            shop = cli.file("shop.yaml", namespace())
            for wrong in (["--dry-run", "--wait"], ["--require-all"], ["--wait", "--timeout", "soon"]):
                assert (await cli("apply", "-f", shop, *wrong)).exit_code == Exit.USAGE
            node = {"apiVersion": "holdfast.dev/v1", "kind": "Node", "metadata": {"name": "n9"}, "spec": {}}
            done = await cli("apply", "-f", cli.file("node.yaml", node), "--wait")
            assert (done.exit_code, "concerns" in done.stderr) == (0, True)

    asyncio.run(run())
