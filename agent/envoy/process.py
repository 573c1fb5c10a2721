"""The host's Envoy, as the agent sees it: start or adopt its launcher, tell it what to do, ask what is in force."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from agent.envoy import bootstrap, record, requests, wanted
from agent.envoy.admin import Admin, AdminError, ServerInfo
from agent.envoy.bootstrap import BootstrapSettings
from agent.envoy.trial import Trial
from mesh.compile.types import Snapshot

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.02
START_SECONDS = 20.0
"""For the launcher's own start; a loaded machine is slow to start Python."""
UNIT = "holdfast-envoy.service"
SIGNALS = {"restart": signal.SIGHUP, "stop": signal.SIGTERM, "end": signal.SIGINT}


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
    handed: Path | None = None
    """Envoy and its launcher are a unit of their own, with a user of its own: a folder of the agent's from which that
    launcher learns what is wanted. `run_dir` is the launcher's then, and nothing is written there. None: the agent
    starts the launcher itself."""
    shared: tuple[Path, ...] = ()
    """What else Envoy's user may open, by its group."""


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
        own = settings.handed or settings.run_dir
        self._bootstrap = own / "bootstrap.json"
        self.admin = Admin(Path(settings.bootstrap.admin_socket))
        self._trial = Trial(settings.command, own, settings.bootstrap)

    async def ensure(self) -> Literal["running", "started", "adopted", "replaced"]:
        """See to it that a launcher with these settings runs. Envoy itself is not waited for.

        running: nothing was to do. started: Envoy was down. adopted: Envoy ran without a launcher. replaced: the
        launcher had other settings; they count from the next hot restart on. A bootstrap that changed does so too.

        Raises:
            EnvoyError: the launcher cannot be started.

        """
        if self._settings.handed is not None:
            return self._hand_over(self._settings.handed)
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

    def _hand_over(self, handed: Path) -> Literal["running", "started"]:
        """Say what is wanted, and let Envoy's user read it. The launcher starts Envoy, or has."""
        settings = self._settings
        handed.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._write_bootstrap()
        rotate = tuple(str(path) for path in settings.rotate)
        said = wanted.Wanted(self._arguments(), settings.drain_seconds, settings.parent_shutdown_seconds, rotate)
        # The bootstrap before what names it: a launcher may read both at any moment.
        self._share(handed, self._bootstrap, *settings.shared)
        self._share(wanted.write(handed, said))
        state = self.state()
        if not state.launcher:
            raise EnvoyError(f"{UNIT} does not run; `systemctl start {UNIT}`, then `journalctl -u {UNIT}` tells more")
        return "running" if state.pids else "started"

    def _share(self, *paths: Path) -> None:
        try:
            group = self._settings.run_dir.stat().st_gid
        except OSError as exc:
            raise EnvoyError(f"{self._settings.run_dir}: {exc.strerror}; `systemctl start {UNIT}` makes it") from exc
        for path in paths:
            try:
                os.chown(path, -1, group)
                path.chmod(0o750 if path.is_dir() else 0o660 if path.is_socket() else 0o640)
            except OSError as exc:
                raise EnvoyError(
                    f"{path} cannot be given to group {group}, Envoy's: {exc.strerror}; the agent's user must be in it"
                ) from exc

    async def hot_restart(self, *, timeout: float = 60.0) -> None:  # noqa: ASYNC109 - the reason is told after it
        """Replace Envoy without losing a connection. Returns when the new process serves.

        Raises:
            EnvoyError: it does not run, or the new process was not live in time. The old one serves on; the launcher
                goes on trying.

        """
        before = self.state()
        if not before.launcher or not before.pid:
            raise EnvoyError("Envoy is not running")
        await self._ask(before.launcher, "restart")

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
        if state.phase == "orphaned" and settings.handed is None:
            await self._launch(self._command())
            state = self.state()
        if not state.launcher:
            return
        await self._ask(state.launcher, "stop" if drain else "end")
        limit = timeout or (settings.drain_seconds if drain else 0) + 15.0
        await self._until(lambda: record.launcher_of(settings.run_dir) is None, "the launcher does not end", limit)

    async def renew_launcher(self) -> None:
        """Let the launcher go on as the version that is on disk now. Envoy does not notice; its unit's own only.

        Raises:
            EnvoyError: it cannot be asked, or did not come back.

        """
        if self._settings.handed is None:
            return
        said = self._said_at()
        await self._ask(0, "renew")
        # It says anew what it found. The process is the same, so its number tells nothing.
        await self._until(
            lambda: bool(self.state().launcher) and self._said_at() != said, "the launcher does not come back"
        )

    def _said_at(self) -> int:
        with suppress(OSError):
            return (self._settings.run_dir / record.RECORD).stat().st_mtime_ns
        return 0

    async def _ask(self, launcher: int, word: str) -> None:
        """By a signal to a launcher of our own user; a unit's is asked over its socket."""
        if self._settings.handed is None:
            with suppress(ProcessLookupError):
                os.kill(launcher, SIGNALS[word])
            return
        try:
            await asyncio.to_thread(requests.ask, self._settings.run_dir, word)
        except requests.RequestError as exc:
            raise EnvoyError(str(exc)) from exc

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
        found = _on_path(settings.command)
        if found is None:
            raise EnvoyError(f"{settings.command} is not on PATH")
        return (found, *self._arguments())

    def _arguments(self) -> tuple[str, ...]:
        settings = self._settings
        arguments = ("-c", str(self._bootstrap), "--log-level", settings.log_level)
        return arguments if settings.concurrency is None else (*arguments, "--concurrency", str(settings.concurrency))

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


def _on_path(program: str) -> str | None:
    """Where it is, if it can be started. As shutil.which, which would load the compression libraries: 0.5 MB."""
    folders = [Path()] if os.sep in program else map(Path, os.get_exec_path())
    found = ((folder / program).absolute() for folder in folders)
    return next((str(path) for path in found if path.is_file() and os.access(path, os.X_OK)), None)
