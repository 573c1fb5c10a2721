"""The load against servers that answer, break off and stay silent."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.test_utils import TestServer

from controlplane.demo.apps import api_app
from controlplane.demo.check.load import Load


def with_server(app: web.Application, work: Callable[[int], Awaitable[None]]) -> None:
    async def go() -> None:
        async with TestServer(app, host="127.0.0.1") as server:
            await work(server.port)

    asyncio.run(go())


async def under_load(port: int, seconds: float, **settings: object) -> Load:
    load = Load("127.0.0.1", port, **settings)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(load.run())
        await asyncio.sleep(seconds)
        task.cancel()
    return load


def test_half_of_the_requests_open_a_connection_and_the_rate_is_kept():
    async def work(port: int) -> None:
        load = await under_load(port, 1.0, rate=50)
        assert all(r.ok and r.instance == "api-1" for r in load.requests)
        assert 40 <= len(load.requests) <= 60
        assert abs(sum(r.fresh for r in load.requests) - len(load.requests) / 2) <= 1

    with_server(api_app("api-1"), work)


def test_kept_connections_are_kept():
    peers: set[object] = set()

    async def work(port: int) -> None:
        load = await under_load(port, 0.5, rate=40)
        kept = sum(not r.fresh for r in load.requests)
        assert kept > 5
        assert len(peers) <= sum(r.fresh for r in load.requests) + 2

    async def answer(request: web.Request) -> web.Response:
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({"instance": "x"})

    app = web.Application()
    app.router.add_get("/load", answer)
    with_server(app, work)


def test_a_refused_connection_is_a_failure_with_its_reason():
    async def go() -> None:
        server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        load = await under_load(port, 0.2, rate=20)
        assert load.requests
        assert not any(r.ok for r in load.requests)
        assert "refused" in load.requests[0].error.casefold()

    asyncio.run(go())


def test_an_answer_that_breaks_off_is_a_failure():
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(cut, "127.0.0.1", 0)
        async with server:
            load = await under_load(server.sockets[0].getsockname()[1], 0.3, rate=20)
        assert load.requests
        assert all("closed after 4 bytes" in r.error for r in load.requests)

    asyncio.run(go())


def test_an_answer_by_somebody_else_is_a_failure():
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="I am not api")

    app = web.Application()
    app.router.add_get("/load", answer)

    async def work(port: int) -> None:
        load = await under_load(port, 0.2, rate=20)
        assert {r.error for r in load.requests} == {"an answer that is not api's"}

    with_server(app, work)


def test_silence_is_a_failure_after_the_timeout_and_requests_that_cannot_start_are_late():
    async def go() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()  # all it is told, and never an answer
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            load = await under_load(port, 0.4, rate=50, timeout=0.2, most_under_way=5)
            await asyncio.sleep(0)
        assert {r.error for r in load.requests} == {"no answer in 0.2 s"}
        assert load.late

    asyncio.run(go())
