"""A dump of this host for the control plane: made by a process of its own, as `holdfast-agent debug dump` makes it.

That one loads what a daemon has no use for, and ends. It has the agent's rights: what only root sees is missing.
"""

import asyncio
import base64
import json
import sys
from contextlib import suppress
from pathlib import Path

from mesh.model.uplink import MAX_ANSWER_BYTES

SECONDS = 50.0
"""Less than the control plane waits."""
MAX_MIB = 48
"""Before it is packed; what is text packs to a tenth of it and less."""


class DumpError(Exception):
    """There is no dump, with the reason."""


class Dumper:
    """One at a time."""

    def __init__(self, config: Path) -> None:
        self._config, self._one = config, asyncio.Lock()

    async def answer(self, _: str) -> str:
        """JSON: the archive in base64."""
        if self._one.locked():
            raise DumpError("another dump of this host is being made; try again in a minute")
        async with self._one:
            packed = base64.b64encode(await self._made()).decode()
        if len(packed) > MAX_ANSWER_BYTES - 100:
            raise DumpError("it is too large for this way; on the host: holdfast-agent debug dump")
        return json.dumps({"archive": packed})

    async def _made(self) -> bytes:
        command = ["debug", "dump", "--config", str(self._config), "--out", "-", "--max-mib", str(MAX_MIB)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "agent.main", *command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(SECONDS):
                out, said = await process.communicate()
        except TimeoutError:
            raise DumpError(f"it was not done after {SECONDS:g} s; on the host: holdfast-agent debug dump") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode:
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise DumpError(f"it was not made: {last[:300]}")
        return out
