"""The redirector with a helper on a real socket, that answers as it is told."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import pytest

from agent import redirect, redirector
from agent.hostd.wanted import Caller, Name, Wanted
from agent.redirector import Redirector

WEB = Wanted((Name("api.shop.mesh", "127.64.0.1"),), (Caller("shop/web", 16400, ("web",)),))


class Helper:
    """Takes one line a connection, and answers it."""

    def __init__(self, path: Path, answer: dict[str, Any]) -> None:
        self._path, self.answer = path, answer
        self.heard: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(json.loads(await reader.readline()))
        await self.open.wait()
        writer.write(json.dumps(self.answer).encode() + b"\n")
        writer.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def with_redirector(path: Path, test: Callable[[Redirector, list[bytes]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        published: list[bytes] = []
        mine = Redirector(path, published.append, lambda: None)
        running = asyncio.ensure_future(mine.run())
        try:
            await test(mine, published)
        finally:
            running.cancel()

    asyncio.run(main())


def test_the_helper_hears_what_is_in_force_and_again_when_it_starts_anew(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(redirector, "LOOK_SECONDS", 0.02)
    path = tmp_path / "host.sock"

    async def test(mine: Redirector, published: list[bytes]) -> None:
        async with Helper(path, {"applied": True, "capture": "none"}) as helper:
            mine.post(redirect.Offered(b"1", WEB))
            assert published == [b"1"]
            mine.post(redirect.InForce(WEB))
            await until(lambda: mine.state.done)
            assert helper.heard[0]["do"] == "apply"
            assert helper.heard[0]["body"]["callers"][0]["identity"] == "shop/web"
        async with Helper(path, {"applied": True, "problems": ["there is no user web"]}) as helper:
            await until(lambda: bool(helper.heard))
            await until(lambda: mine.state.problems == ("there is no user web",))

    with_redirector(path, test)


@pytest.mark.parametrize("answer", [{"error": "no nft here: apt-get install nftables"}, None])
def test_a_helper_that_refuses_or_is_not_there_is_a_problem_and_holds_nothing_up(tmp_path: Path, answer):
    path = tmp_path / "host.sock"

    async def test(mine: Redirector, published: list[bytes]) -> None:
        async with Helper(path, answer or {}) as _:
            if answer is None:
                path.unlink()
            mine.post(redirect.Offered(b"1", WEB))
            mine.post(redirect.InForce(WEB))
            await until(lambda: bool(mine.state.problems))
            assert ("apt-get install nftables" if answer else "holdfast-host.service") in mine.state.problems[0]
            mine.post(redirect.Offered(b"2", Wanted()))
            await until(lambda: published == [b"1", b"2"])

    with_redirector(path, test)


def test_envoy_keeps_a_listener_until_nobody_is_sent_there_but_not_for_long(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(redirector, "HOLD_SECONDS", 0.3)
    path = tmp_path / "host.sock"

    async def test(mine: Redirector, published: list[bytes]) -> None:
        async with Helper(path, {"applied": True}) as helper:
            mine.post(redirect.Offered(b"1", WEB))
            mine.post(redirect.InForce(WEB))
            await until(lambda: mine.state.done)
            helper.open.clear()
            mine.post(redirect.Offered(b"2", Wanted()))
            await until(lambda: len(helper.heard) == 2)
            assert helper.heard[1] == {"do": "apply", "body": {}}
            assert published == [b"1"]
            await until(lambda: published == [b"1", b"2"])  # the helper has still not answered
            helper.open.set()
            await until(lambda: mine.state.done)

    with_redirector(path, test)
