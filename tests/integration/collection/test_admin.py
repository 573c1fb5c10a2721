"""Which control-plane node a play asks: with a real one that is ready, and one beside it that is not."""

import asyncio
import json
import sys
from urllib.parse import urlsplit

import pytest

from tests.integration.controlplane.fleet import running
from tests.support.collection import ansible

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_the_first_node_that_is_ready_is_asked_and_the_play_says_so(tmp_path):
    folder = tmp_path / "controller"
    folder.mkdir()

    async def play(port: int, *addresses: str) -> str:
        hosts = {f"cp-{number}": {"ansible_host": address} for number, address in enumerate(addresses, 1)}
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        groups = {"holdfast_controlplane": {"hosts": hosts}}
        inventory = {"vars": {**variables, "holdfast_api_port": port}, "children": groups}
        (folder / "inventory.json").write_text(json.dumps({"all": inventory}))
        command = ("ansible-playbook", "-i", "inventory.json", "holdfast.mesh.backup")
        done = await asyncio.to_thread(ansible, folder, *command)
        # There is no token, so it ends there; which one it would ask was decided before.
        said = " ".join(done.stdout.split())
        assert "the administrator's token" in said, said
        return said

    async def run() -> None:
        async with running(tmp_path, "cp1") as fleet:
            url = urlsplit(fleet.settings["cp1"].advertise)
            assert url.hostname
            assert url.port
            said = await play(url.port, "127.0.0.9", "127.0.0.8", url.hostname, "127.0.0.7")
            assert "cp-3 is asked: cp-1, cp-2 cannot be reached, or has a node that is not ready" in said, said
            assert "is asked:" not in await play(url.port, url.hostname, "127.0.0.9")
            # None is ready: the first that can be reached is asked, and tells what is wrong with it.
            assert "is asked:" not in await play(url.port, "127.0.0.9", "127.0.0.8")

    asyncio.run(run())
