"""Connections that never ask anything."""

import asyncio

from controlplane.api import idle
from tests.unit.controlplane.harness import mesh


async def connect(cp):
    host, _, port = cp.settings.listen.rpartition(":")
    return await asyncio.open_connection(
        host, int(port), ssl=cp.anonymous_tls(), server_hostname="controlplane.holdfast"
    )


def test_a_silent_connection_is_closed_and_one_that_asks_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(idle, "FIRST_SECONDS", 0.3)
    monkeypatch.setattr(idle, "LOOK_SECONDS", 0.05)

    async def run():
        async with mesh(tmp_path) as cp:
            silent, silent_writer = await connect(cp)
            asking, writer = await connect(cp)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await asking.readline()
            await asking.readuntil(b'{"ok":true}')
            dribble, dribble_writer = await connect(cp)
            dribble_writer.write(b"GET /heal")
            async with asyncio.timeout(10):
                assert await silent.read() == b""
                assert await dribble.read() == b""
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" in await asking.readline()
            for each in (silent_writer, writer, dribble_writer):
                each.close()

    asyncio.run(run())
