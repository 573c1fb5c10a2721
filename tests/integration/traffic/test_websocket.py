"""WebSockets (RFC 6455) through both proxies, whatever these speak with each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.integration.traffic.policies import policy, route
from tests.integration.traffic.rig import Rig

pytestmark = pytest.mark.real

Socket = aiohttp.ClientWebSocketResponse


@pytest.fixture(autouse=True)
def fresh(mesh: Rig) -> Iterator[None]:
    yield
    mesh.fresh()


@asynccontextmanager
async def opened(mesh: Rig, path: str = "/ws", headers: dict[str, str] | None = None) -> AsyncIterator[Socket]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"http://127.0.0.1:{mesh.listen['api']}{path}", protocols=("chat",), headers=headers, max_msg_size=0
        ) as socket,
    ):
        yield socket


def run(talk: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await talk()

    asyncio.run(bounded())


async def said(socket: Socket, words: str) -> str:
    """What came back."""
    await socket.send_str(words)
    return str(await socket.receive_str())


def test_both_sides_speak_and_each_may_end_it(mesh: Rig):
    async def talk() -> None:
        async with opened(mesh) as socket:
            assert socket.protocol == "chat"
            assert (await said(socket, "one")).endswith(" one")
            big = bytes(range(256)) * 4096
            await socket.send_bytes(big)
            assert await socket.receive_bytes() == big
        async with opened(mesh) as socket:
            await socket.send_str("bye")
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert socket.close_code == 1000

    run(talk)


def test_the_application_is_told_who_calls(mesh: Rig):
    async def talk() -> None:
        for app in mesh.apps.values():
            app.seen.clear()
        async with opened(mesh, headers={"x-forwarded-client-cert": "URI=spiffe://test.holdfast/ns/shop/sa/root"}):
            seen = [dict(request["headers"]) for app in mesh.apps.values() for request in app.seen]
        (headers,) = seen
        assert headers["x-forwarded-client-cert"].endswith("/ns/shop/sa/web")
        assert "root" not in headers["x-forwarded-client-cert"]
        assert (headers["upgrade"], headers["connection"].lower()) == ("websocket", "upgrade")

    run(talk)


def test_it_outlives_the_time_of_a_request(mesh: Rig):
    """The time is that of an answer, and the answer is the word that the protocol is another one now."""
    mesh.objects(policy("timeouts: {request: 500ms}"))

    async def talk() -> None:
        async with opened(mesh) as socket:
            who = (await said(socket, "one")).partition(" ")[0]
            await asyncio.sleep(1.5)
            assert await said(socket, "two") == f"{who} two"

    run(talk)


def test_routes_hold_for_it(mesh: Rig):
    matches = ", matches: [{path: {value: /chat}}]"
    rewritten = ", filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]"
    mesh.objects(route("{name: v2, port: 80}", matches + rewritten))

    async def talk() -> None:
        async with opened(mesh, "/chat/room") as socket:
            assert await said(socket, "x") == "v2 x"
        assert mesh.apps["v2"].seen[-1]["path"] == "/room"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with opened(mesh, "/elsewhere"):
                pass
        assert refused.value.status == 404

    run(talk)


DENIED = """
---
apiVersion: holdfast.dev/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec:
  target: {service: api}
  action: Deny
  rules: [{name: web, from: [{principals: [shop/web]}]}]
"""


def test_who_may_not_call_is_refused_before_it_begins(mesh: Rig):
    mesh.objects(DENIED)

    async def talk() -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with opened(mesh):
                pass
        assert refused.value.status == 403
        assert refused.value.headers is not None
        assert refused.value.headers["x-holdfast-denied-by"] == "shop/nobody/web"
        assert [app.name for app in mesh.apps.values() if app.seen] == []

    for app in mesh.apps.values():
        app.seen.clear()
    run(talk)


def test_an_application_that_wants_none_says_so_itself(mesh: Rig):
    for app in mesh.apps.values():
        app.status = 426

    async def talk() -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with opened(mesh):
                pass
        assert refused.value.status == 426

    run(talk)
