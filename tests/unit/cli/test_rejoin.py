"""A host that was made anew under its old name, and one with another name: by the commands, as operators do it."""

import asyncio
import random
import time

import yaml
from click.testing import CliRunner

from agent.cli import main as agent
from agent.identity import exchange
from agent.identity.joiner import Joiner
from agent.identity.orders import Order, SignOrder
from agent.settings import load
from agent.state import Disk
from tests.unit.cli.test_commands import Cli, operate


def settings(folder, cli: Cli, node: str = "vm1"):
    """An installation of the agent, with an empty disk."""
    folder.mkdir()
    path = folder / "agent.yaml"
    body = {
        "node": node,
        "address": "127.0.0.1",
        "dataDir": str(folder / "data"),
        "controlplanes": [cli.env["HOLDFAST_ADDR"]],
    }
    path.write_text(yaml.safe_dump(body))
    return path


async def join(config, token):
    return await asyncio.to_thread(
        CliRunner().invoke, agent, ["join", "--config", str(config), "--token-file", str(token)]
    )


async def renews(cli: Cli, stored) -> str:
    """Why the CA does not take this certificate for the node's; empty: it does."""
    asked = SignOrder(
        urls=(cli.env["HOLDFAST_ADDR"],), roots=stored.roots, trust_domain=stored.trust_domain, node=stored.node,
        own=stored.own, wanted=("node",),
    )  # fmt: skip
    return (await exchange.run(Order(now=time.time(), sign=asked))).error


def test_a_host_made_anew_joins_under_its_name_and_the_old_certificate_is_void(tmp_path):
    async def work(cli: Cli):
        first, second = tmp_path / "first.token", tmp_path / "second.token"
        made = await cli("token", "create", "vm1", "-i", "shop/web", "--out", str(first))
        assert made.exit_code == 0, made.output
        before = settings(tmp_path / "before", cli)
        assert (await join(before, first)).exit_code == 0
        (old,) = Disk(tmp_path / "before" / "data").identities.load()
        assert await renews(cli, old) == ""

        after = settings(tmp_path / "after", cli)
        used = await join(after, first)
        assert used.exit_code == 1
        assert "`holdfast token create vm1 -i NAMESPACE/ACCOUNT --out FILE`" in used.output
        assert "`holdfast-agent join --token-file FILE`" in used.output

        assert (await cli("token", "create", "vm1", "-i", "shop/web", "--out", str(second))).exit_code == 0
        done = await join(after, second)
        assert done.exit_code == 0, done.output
        (new,) = Disk(tmp_path / "after" / "data").identities.load()
        assert await renews(cli, new) == ""
        refused = await renews(cli, old)
        assert "void" in refused
        assert "a host has joined under this name" in refused

    operate(tmp_path, work)


def test_a_host_with_another_name_is_told_both_ways(tmp_path):
    async def work(cli: Cli):
        token = tmp_path / "token"
        await cli("token", "create", "vm1", "--out", str(token))
        config = settings(tmp_path / "host", cli)
        assert (await join(config, token)).exit_code == 0
        config.write_text(config.read_text().replace("vm1", "vm2"))
        renamed = load(config)
        joiner = Joiner(
            renamed, Disk(renamed.data), exchange.run, on_joined=lambda _: None, clock=time.time, rng=random.Random(1)
        )
        task = asyncio.create_task(joiner.run())
        joiner.start()
        try:
            async with asyncio.timeout(10):
                while not joiner.problem:
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.wait({task})
        assert "joined as vm1, and agent.yaml says that it is vm2" in joiner.problem
        assert "set `node` back to vm1" in joiner.problem
        assert "holdfast token create vm2" in joiner.problem
        assert "holdfast delete node vm1" in joiner.problem
        examined = await asyncio.to_thread(CliRunner().invoke, agent, ["doctor", "--config", str(config)])
        assert "FAULT    identity: it joined as vm1, and agent.yaml says that it is vm2" in examined.output

    operate(tmp_path, work)


def test_a_node_is_shown_whole_and_may_be_applied_again_as_shown(tmp_path):
    async def work(cli: Cli):
        token = tmp_path / "token"
        await cli("token", "create", "vm1", "-i", "shop/web", "--out", str(token))
        assert (await join(settings(tmp_path / "host", cli), token)).exit_code == 0
        listed = await cli("get", "nodes")
        titles, row = (line.split() for line in listed.stdout.splitlines())
        shown = dict(zip(titles, row, strict=True))
        assert (shown["STATE"], shown["ADDRESS"], shown["IDENTITIES"]) == ("away", "127.0.0.1", "shop/web")
        said = await cli("get", "node", "vm1", "-o", "yaml")
        document = yaml.safe_load(said.stdout)
        assert document["status"]["connected"] is False
        assert document["spec"]["address"] == "127.0.0.1"
        again = await cli("apply", "-f", "-", stdin=said.stdout)
        assert again.exit_code == 0, again.output
        assert "connected" in (await cli("describe", "node", "vm1")).stdout

    operate(tmp_path, work)
