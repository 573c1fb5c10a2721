import asyncio

import aiohttp
import pytest
from aiohttp import web

from agent import http
from agent.http import HttpError, Target, call, status_of, websocket
from tests.fakes.tcp import listening


async def served(handlers, scenario):
    app = web.Application(client_max_size=1 << 22)
    app.add_routes(handlers)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with asyncio.timeout(20):
            await scenario(Target(f"http://127.0.0.1:{runner.addresses[0][1]}"))
    finally:
        await runner.cleanup()


async def raw(answer: bytes, scenario):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with listening(serve) as port:
        await scenario(Target(f"http://127.0.0.1:{port}"))


def test_a_body_goes_there_and_back():
    async def echo(request):
        assert request.headers["Content-Type"] == "application/json"
        return web.Response(body=await request.read(), status=201)

    async def chunked(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for part in (b"one ", b"two ", b"x" * 100_000):
            await response.write(part)
        await response.write_eof()
        return response

    async def scenario(target):
        body = b"{}" * 100_000
        assert (await call(target, "POST", "/echo", body=body))[::2] == (201, body)
        answer = await call(target, "GET", "/chunked")
        assert (answer.status, len(answer.body)) == (200, 100_008)
        assert await status_of(target, "/nowhere", timeout=2) == 404

    asyncio.run(served([web.post("/echo", echo), web.get("/chunked", chunked)], scenario))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000,
    ],
)
def test_what_is_not_an_answer_is_one_kind_of_error(answer):
    async def scenario(target):
        with pytest.raises(HttpError):
            await call(target, "GET", "/", timeout=2)

    asyncio.run(raw(answer, scenario))


def test_nobody_there_and_nobody_answering():
    async def scenario(target):
        with pytest.raises(HttpError, match="within"):
            await call(target, "GET", "/", timeout=0.1)

    async def silent(request):
        await asyncio.Event().wait()

    asyncio.run(served([web.get("/", silent)], scenario))
    with pytest.raises(HttpError):
        asyncio.run(call(Target("http://127.0.0.1:1"), "GET", "/"))


def test_a_websocket_carries_messages_of_any_size_and_answers_pings():
    async def handler(request):
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        await socket.ping(b"are you there")
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT
            if message.data == "bye":
                break
            await socket.send_str(message.data)
        await socket.close()
        return socket

    async def scenario(target):
        async with websocket(target, "/ws") as socket:
            for size in (0, 1, 125, 126, 65535, 65536, 300_000):
                await socket.send("é" * size)
                assert await socket.receive() == "é" * size
            await socket.send("bye")
            assert await socket.receive() is None
        with pytest.raises(HttpError, match="404"):
            async with websocket(target, "/nowhere"):
                pass

    asyncio.run(served([web.get("/ws", handler)], scenario))


def test_a_message_that_is_too_large_ends_the_connection(monkeypatch):
    monkeypatch.setattr(http, "MAX_MESSAGE_BYTES", 1000)

    async def handler(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str("x" * 2000)
        await socket.receive()
        return socket

    async def scenario(target):
        with pytest.raises(HttpError, match="too large"):
            async with websocket(target, "/ws") as socket:
                await socket.receive()

    asyncio.run(served([web.get("/ws", handler)], scenario))


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\x85abcdhello",  # masked: no server may
        b"\xf1\x01x",  # reserved bits
        b"\x81\xff" + b"\xff" * 8,
        b"\x81",
        b"\x81\x02\xff\xfe",  # not UTF-8
    ],
)
def test_frames_that_no_server_may_send_end_the_connection(frame):
    async def serve(reader, writer):
        import base64
        import hashlib

        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line.split(": ")[1] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
        accept = base64.b64encode(hashlib.sha1(key.encode() + http._GUID).digest())
        writer.write(b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nsec-websocket-accept: " + accept + b"\r\n\r\n" + frame)
        writer.close()

    async def scenario():
        async with listening(serve) as port:
            with pytest.raises(HttpError):
                async with websocket(Target(f"http://127.0.0.1:{port}"), "/", timeout=2) as socket:
                    async with asyncio.timeout(5):
                        await socket.receive()

    asyncio.run(scenario())
