"""The agent's own socket: one JSON line in, one JSON line out. What an operator on this host may ask or order.

Who may connect is the file's business: it lies in the agent's run directory, mode 0600.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
PATIENCE = 30.0
"""Seconds a client has to say something."""

Command = Callable[..., Awaitable[Any]]
"""With what it is about, where it is about something."""


class AdminError(Exception):
    """The agent cannot be asked, or refused; with what to do about it."""


class NoAgentError(AdminError):
    """Nobody listens there."""


class Asked(msgspec.Struct):
    do: str
    what: str = ""


class Answered(msgspec.Struct, omit_defaults=True):
    body: Any = None
    error: str = ""


class AdminServer:
    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path, self._commands = path, commands

    async def run(self) -> None:
        """Serve until cancelled."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)  # the socket is 0600 from its first moment on
        try:
            server = await asyncio.start_unix_server(self._serve, self._path, limit=MAX_LINE_BYTES)
        finally:
            os.umask(before)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(PATIENCE):
                    line = await reader.readline()
                if not line:
                    return
                writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            return  # the client is gone, silent, or sent a line without an end
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> Answered:
        try:
            asked = msgspec.json.decode(line, type=Asked)
        except msgspec.MsgspecError as exc:
            return Answered(error=f"not understood: {exc}")
        command = self._commands.get(asked.do)
        if command is None:
            return Answered(error=f"no such command: {asked.do[:80]!r}; there are {', '.join(sorted(self._commands))}")
        try:
            return Answered(body=await (command(asked.what) if asked.what else command()))
        except Exception as exc:  # whatever it is, the asker is told and the agent lives
            log.exception("a command of the admin socket failed", command=asked.do)
            return Answered(error=str(exc) or type(exc).__name__)


async def ask(path: Path, do: str, what: str = "", *, timeout: float = 20.0) -> Any:  # noqa: ASYNC109
    """Ask the agent of this host."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
            try:
                writer.write(msgspec.json.encode(Asked(do=do, what=what)) + b"\n")
                answer = msgspec.json.decode(await reader.readline(), type=Answered)
            finally:
                writer.close()
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        raise NoAgentError(f"no agent listens at {path}; is `holdfast-agent run` running on this host?") from exc
    except PermissionError as exc:
        raise AdminError(f"{path} may not be opened by this user; ask as the user the agent runs as") from exc
    except (OSError, TimeoutError, msgspec.MsgspecError) as exc:
        raise AdminError(f"the agent did not answer: {exc or type(exc).__name__}") from exc
    if answer.error:
        raise AdminError(answer.error)
    return answer.body
