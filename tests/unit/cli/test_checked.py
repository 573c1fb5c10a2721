"""`apply --all-or-nothing`: what is said at each end."""

import asyncio

import pytest

from controlplane.cli.checked import judge
from controlplane.cli.errors import CliError, Exit
from tests.unit.cli.test_commands import Cli
from tests.unit.controlplane.harness import namespace, service
from tests.unit.controlplane.test_api_checked import BAD, shop


def test_each_end_has_its_words_and_exit_code(tmp_path):
    async def run():
        async with shop(tmp_path) as (cp, proxy):
            cli = Cli(cp, tmp_path)
            file = cli.file("shop.yaml", namespace(), service())
            done = await cli("apply", "-f", file, "--all-or-nothing")
            assert done.exit_code == 0, done.output
            assert "Service shop/api  created" in done.stdout
            assert "in force at 1 of 1 live proxies" in done.stderr
            proxy.refuses = {"Service shop/api": "address in use"}
            file = cli.file("shop.yaml", service(serviceAccounts=["other"]))
            back = await cli("apply", "-f", file, "--all-or-nothing")
            assert back.exit_code == 3, back.output
            assert "the objects are again what they were" in back.stderr
            assert "n1: Service shop/api is refused: address in use" in back.stderr
            assert "- api" in (await cli("get", "svc", "api", "-o", "yaml")).stdout
            bad = cli.file("bad.yaml", service() | {"spec": {"portz": 1}})
            wrong = await cli("apply", "-f", bad, "--all-or-nothing")
            assert wrong.exit_code == Exit.REFUSED
            assert "bad.yaml: Service shop/api spec.portz" in wrong.stderr
            assert (await cli("apply", "-f", file, "--all-or-nothing", "--dry-run")).exit_code == Exit.USAGE

    asyncio.run(run())


def test_a_refusal_names_proxy_object_and_envoys_words(tmp_path):
    async def run():
        async with shop(tmp_path, judge=BAD) as (cp, _):
            cli = Cli(cp, tmp_path)
            done = await cli("apply", "-f", cli.file("shop.yaml", service()), "--all-or-nothing")
            assert done.exit_code == Exit.REFUSED
            assert "nothing was written: 1 proxies would refuse it" in done.stderr
            assert "n1: Service shop/api: no such regex" in done.stderr
            assert (await cli("get", "svc", "api")).exit_code == Exit.NOT_FOUND

    asyncio.run(run())


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ({"outcome": "conflict", "reasons": ["somebody else changed x"]}, Exit.CONFLICT, "nothing was written"),
        (
            {"outcome": "unknown", "refusals": [], "unknown": [{"node": "a", "reason": "busy"}], "unknownCount": 1},
            Exit.FAILED,
            "not all could be asked",
        ),
        (
            {
                "outcome": "not put back",
                "revision": 7,
                "reasons": ["somebody else changed x"],
                "progress": {"rejected": [], "rejectedCount": 1},
            },
            Exit.NOT_IN_FORCE,
            "it was not put back: revision 7 stays written",
        ),
    ],
)
def test_other_ends(end, code, words):
    with pytest.raises(CliError) as caught:
        judge(end)
    assert (caught.value.exit_code, words in caught.value.message) == (code, True)
