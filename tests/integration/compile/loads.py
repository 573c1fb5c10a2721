"""Callers that call one after another, and say what became of each call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import aiohttp

from tests.support.waiting import aeventually

PAUSE = 0.02
"""Between two calls: what is waited for, such as a server that starts, has the processors too.
A hundred calls are some three seconds, then, in which whoever was left out is tried again."""
STAGGER = 0.37
"""Each load's pause is longer by this part than that of the load before it: of loads in lockstep, one always has an
instance in hand as the next one calls, so each would be given the same one again and again."""

Call = Callable[[], Awaitable[str]]
"""Gives who answered; raises OSError, ClientError or ValueError if nobody did."""


class Load:
    """Calls one after another; `answers` and `failures` in their order."""

    def __init__(self, call: Call, pause: float = PAUSE) -> None:
        self._call, self._pause = call, pause
        self.answers: list[str] = []
        self.failures: list[str] = []

    async def run(self) -> None:
        while True:
            try:
                self.answers.append(await self._call())
            except (OSError, aiohttp.ClientError, ValueError) as exc:
                self.failures.append(repr(exc))
            await asyncio.sleep(self._pause)

    async def more(self, count: int) -> None:
        """Return after so many more answers."""
        wanted = len(self.answers) + count
        await aeventually(lambda: len(self.answers) >= wanted, timeout=90, what=f"{count} answers; {self.failures[:3]}")


async def more(all_of_them: Iterable[Load], count: int) -> None:
    """The same of each, at the same time."""
    await asyncio.gather(*(load.more(count) for load in all_of_them))


@contextlib.asynccontextmanager
async def loads(*calls: Call) -> AsyncIterator[list[Load]]:
    found = [Load(call, PAUSE * (1 + STAGGER * n)) for n, call in enumerate(calls)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(load.run()) for load in found]
        try:
            yield found
        finally:
            for task in tasks:
                task.cancel()


def asking(session: aiohttp.ClientSession, port: int, method: str = "GET", path: str = "/") -> Call:
    """HTTP/1.1, over kept connections."""

    async def ask() -> str:
        body = b"x" if method == "POST" else None
        async with session.request(method, f"http://127.0.0.1:{port}{path}", data=body) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise ValueError(f"{answer.status} {text} {dict(answer.headers)}")
            return text

    return ask


def greeting(port: int) -> Call:
    """TCP, each on a connection of its own: the first line that is said there."""

    async def ask() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(10):
                line = await reader.readline()
            if not line:
                raise ConnectionResetError("closed without a word")
            return line.decode().strip()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return ask
