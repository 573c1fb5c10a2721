"""The host's Envoy, as the agent sees it: start or adopt its launcher, tell it what to do, ask what is in force."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from agent.envoy import bootstrap, record
from agent.envoy.admin import Admin, AdminError, ServerInfo
from agent.envoy.bootstrap import BootstrapSettings
from agent.envoy.trial import Trial
from mesh.compile.types import Snapshot

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.02
START_SECONDS = 20.0
"""For the launcher's own start; a loaded machine is slow to start Python."""


class EnvoyError(Exception):
    """Envoy or its launcher could not be brought to do something, with the reason."""


@dataclass(frozen=True)
class EnvoySettings:
    run_dir: Path
    """Holds the launcher's lock and record, the bootstrap, the log; 0750."""
    bootstrap: BootstrapSettings
    command: str = "envoy"
    """Looked up on PATH unless it is a path."""
    base_id: int | None = None
    """None: Envoy chooses one that is free on this machine."""
    concurrency: int | None = None
    log_level: str = "warning"
    drain_seconds: float = 20.0
    parent_shutdown_seconds: int = 30
    """After a hot restart the old process ends this long after; must be more than drain_seconds."""
    rotate: tuple[Path, ...] = ()
    """Access logs to keep bounded, besides Envoy's own log."""


@dataclass(frozen=True)
class EnvoyState:
    """What the launcher has written down, checked against what runs."""

    phase: str = "down"
    """down, starting, live, handover, waiting (to restart after a crash), draining, orphaned (no launcher)."""
    pid: int = 0
    epoch: int = 0
    started: float = 0.0
    restarts: int = 0
    refused_restarts: int = 0
    launcher: int = 0
    pids: tuple[int, ...] = ()
    """All processes, those that drain included."""


class Envoy:
    def __init__(self, settings: EnvoySettings) -> None:
        self._settings = settings
        self._bootstrap = settings.run_dir / "bootstrap.json"
        self.admin = Admin(Path(settings.bootstrap.admin_socket))
        self._trial = Trial(settings.command, settings.run_dir, settings.bootstrap)

    async def ensure(self) -> Literal["running", "started", "adopted", "replaced"]:
        """See to it that a launcher with these settings runs. Envoy itself is not waited for.

        running: nothing was to do. started: Envoy was down. adopted: Envoy ran without a launcher. replaced: the
        launcher had other settings; they count from the next hot restart on. A bootstrap that changed does so too.

        Raises:
            EnvoyError: the launcher cannot be started.

        """
        run_dir = self._settings.run_dir
        run_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._write_bootstrap()
        command = self._command()
        old = record.read(run_dir)
        pid = record.launcher_of(run_dir)
        if pid is not None:
            if old is not None and old.command == command:
                return "running"
            os.kill(pid, signal.SIGUSR2)
            await self._until(lambda: record.launcher_of(run_dir) is None, "the old launcher does not leave")
        ran = old is not None and bool(record.alive(old))
        await self._launch(command)
        if not ran:
            return "started"
        return "adopted" if pid is None else "replaced"

    async def hot_restart(self, *, timeout: float = 60.0) -> None:  # noqa: ASYNC109 - the reason is told after it
        """Replace Envoy without losing a connection. Returns when the new process serves.

        Raises:
            EnvoyError: it does not run, or the new process was not live in time. The old one serves on; the launcher
                goes on trying.

        """
        before = self.state()
        if not before.launcher or not before.pid:
            raise EnvoyError("Envoy is not running")
        os.kill(before.launcher, signal.SIGHUP)

        def replaced() -> bool:
            state = self.state()
            return state.pid not in {0, before.pid} and state.phase == "live"

        await self._until(replaced, "the new process is not live", timeout)

    async def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        """End Envoy and its launcher; with `drain`, connections may finish first. May be repeated.

        Raises:
            EnvoyError: it did not end in time.

        """
        settings = self._settings
        state = self.state()
        if state.phase == "orphaned":
            await self._launch(self._command())
            state = self.state()
        if not state.launcher:
            return
        with suppress(ProcessLookupError):
            os.kill(state.launcher, signal.SIGTERM if drain else signal.SIGINT)
        limit = timeout or (settings.drain_seconds if drain else 0) + 15.0
        await self._until(lambda: record.launcher_of(settings.run_dir) is None, "the launcher does not end", limit)

    def state(self) -> EnvoyState:
        """Cheap: two small files and one look into /proc a process."""
        launcher = record.launcher_of(self._settings.run_dir) or 0
        written = record.read(self._settings.run_dir)
        if written is None:
            return EnvoyState(phase="starting" if launcher else "down", launcher=launcher)
        running = record.alive(written)
        current = next((r for r in running if r.role == "current"), None)
        if not launcher:
            phase = "orphaned" if running else "down"
        else:
            phase = written.phase if running or written.phase == "draining" else "waiting"
        return EnvoyState(
            phase=phase,
            pid=current.pid if current else 0,
            epoch=current.epoch if current else 0,
            started=written.started,
            restarts=written.restarts,
            refused_restarts=written.refused_restarts,
            launcher=launcher,
            pids=tuple(r.pid for r in running),
        )

    async def ready(self) -> bool:
        """Does it serve?"""
        info = await self.info()
        return info is not None and info.state == "LIVE"

    async def info(self) -> ServerInfo | None:
        """What it says of itself, or None if it does not answer."""
        try:
            return await self.admin.server_info()
        except AdminError:
            return None

    async def warming(self) -> int:
        """How much of what it acknowledged is not in force yet. Raises AdminError, as those below do."""
        return await self.admin.warming()

    async def stats(self, pattern: str = "") -> Mapping[str, int]:
        return await self.admin.stats(pattern)

    async def prometheus(self) -> bytes:
        return await self.admin.prometheus()

    async def config_dump(self) -> Any:
        return await self.admin.config_dump()

    async def validate(self, snapshot: Snapshot) -> str | None:
        """Why Envoy would refuse this snapshot, or None. Not for the hot path: it starts an Envoy."""
        return await self._trial.run(snapshot)

    def _command(self) -> tuple[str, ...]:
        settings = self._settings
        found = shutil.which(settings.command)
        if found is None:
            raise EnvoyError(f"{settings.command} is not on PATH")
        arguments = [found, "-c", str(self._bootstrap), "--log-level", settings.log_level]
        if settings.concurrency is not None:
            arguments += ["--concurrency", str(settings.concurrency)]
        return tuple(arguments)

    def _write_bootstrap(self) -> None:
        rendered = bootstrap.render(self._settings.bootstrap)
        with suppress(FileNotFoundError):
            if self._bootstrap.read_bytes() == rendered:
                return
        temporary = self._bootstrap.with_suffix(".new")
        temporary.write_bytes(rendered)
        temporary.replace(self._bootstrap)

    async def _launch(self, command: tuple[str, ...]) -> None:
        settings = self._settings
        arguments = ["--detach", "--run-dir", str(settings.run_dir), "--admin", settings.bootstrap.admin_socket]
        arguments += ["--drain-seconds", str(settings.drain_seconds)]
        arguments += ["--parent-shutdown-seconds", str(settings.parent_shutdown_seconds)]
        arguments += [] if settings.base_id is None else ["--base-id", str(settings.base_id)]
        for path in settings.rotate:
            arguments += ["--rotate", str(path)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "agent.envoy.launcher", *arguments, "--", *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                _, words = await process.communicate()
        except TimeoutError as exc:
            process.kill()
            await process.wait()
            raise EnvoyError(f"the launcher did not start in {START_SECONDS} s") from exc
        if process.returncode:
            raise EnvoyError(f"the launcher did not start: {words.decode(errors='replace').strip()[-500:]}")
        await self._until(self._written_by_launcher, "the launcher writes no record")

    def _written_by_launcher(self) -> bool:
        written = record.read(self._settings.run_dir)
        return written is not None and written.launcher == record.launcher_of(self._settings.run_dir)

    @staticmethod
    async def _until(done: Callable[[], bool], failure: str, seconds: float = START_SECONDS) -> None:
        """The launcher is no child of ours and a file is all it says: looked at until it is so."""
        try:
            async with asyncio.timeout(seconds):
                while not done():  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as exc:
            raise EnvoyError(f"{failure} after {seconds:g} s") from exc
