"""One host of the demo: its files, its application, its agent, and the Envoy that the agent keeps.

Launcher and Envoy live in sessions of their own, by design; here they are found by a mark in their environment, which
they inherit from the agent.
"""

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from controlplane.demo.process import Process
from controlplane.demo.reaper import HOST_MARK, MARK, end_all, marked

POLL_SECONDS = 0.02
STOP_SECONDS = 20.0
MAX_SOCKET_PATH = 100
"""The kernel takes 107 bytes for a unix socket's path."""

AS_ITS_UNIT = {"MALLOC_ARENA_MAX": "1", "MALLOC_TOP_PAD_": "16384", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""What the unit of a host's agent has in its environment, so that an agent here is as large as there."""


def program(name: str) -> str:
    """One of this project's console scripts: the one beside this Python, so that both are of one installation."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is neither beside {sys.executable} nor on PATH")
    return found


class Machine:
    """Its processes can be started, stopped gracefully, and killed as a power cut would.

    `scope`: its cluster; hosts of two clusters may have one name.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        mark: str,
        *,
        scope: str,
        settings: dict[str, Any],
        definition: dict[str, Any] | None = None,
        application: Sequence[str] = (),
    ) -> None:
        self.name, self.home, self.settings = name, home, settings
        self._definition = definition
        self._mark = f"{mark}/{scope}/{name}"
        env = {HOST_MARK: self._mark, MARK: mark}
        self.agent = Process(
            f"agent of {name}",
            [program("holdfast-agent"), "run", "--config", str(home / "agent.yaml")],
            log=home / "agent.log",
            env={**env, **AS_ITS_UNIT},
        )
        self.application = (
            Process(f"application of {name}", [sys.executable, "-m", "controlplane.demo.apps", *application],
                    log=home / "application.log", env=env)
            if application
            else None
        )  # fmt: skip

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def run(self) -> Path:
        return self.home / "run"

    def write(self, token: str) -> None:
        """Its files, as an operator or a roll-out would put them there."""
        services = self.home / "services.d"
        services.mkdir(parents=True, exist_ok=True)
        (self.home / "agent.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False))
        if self._definition:
            path = services / f"{self._definition['name']}.yaml"
            path.write_text(yaml.safe_dump(self._definition, sort_keys=False))
        path = self.home / "token"
        path.touch(mode=0o600)
        path.write_text(token + "\n")

    def start(self) -> None:
        """Start what does not run: the application, then the agent, which sees to Envoy."""
        if self.application and not self.application.running:
            self.application.start()
        if not self.agent.running:
            self.agent.start()

    def pids(self) -> list[int]:
        """All processes of this host: application, agent, launcher, Envoys."""
        return marked(self._mark, HOST_MARK)

    def envoys(self) -> list[int]:
        """Its Envoys: more than one during a hot restart."""
        return [pid for pid in self.pids() if _name(pid) == "envoy"]

    def launcher(self) -> int | None:
        """Its Envoy's launcher, if it runs."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.run / "launcher.pid").read_text())
            return pid if pid in self.pids() else None
        return None

    def kill9(self, *, application: bool = True) -> float:
        """End everything at once, with no chance to clean up.

        Returns the monotonic moment from which on its Envoys were dead, their connections closed. A kill takes some
        milliseconds, and until then they go on; what was under way at that moment was under way at the kill.
        """
        spared = {self.application.pid} if self.application and not application and self.application.running else set()
        # Envoy goes first: no request may find it alive with its application already dead, as none does when a host
        # loses its power. Its launcher goes before it, or there would be another.
        launcher, envoys = self.launcher(), self.envoys()
        others = [pid for pid in self.pids() if pid not in {*spared, *envoys, launcher}]
        watched = [os.pidfd_open(pid) for pid in envoys]
        try:
            for pid in (launcher, *envoys, *others):
                if pid:
                    _kill(pid)
            # The kernel says that a process has ended after it has closed what it had open.
            for descriptor in watched:
                select.select([descriptor], [], [], STOP_SECONDS)
            moment = time.monotonic()
        finally:
            for descriptor in watched:
                os.close(descriptor)
        self.agent.kill9()
        if self.application and application:
            self.application.kill9()
        # An Envoy that was being started while we looked would be left over.
        while left := [pid for pid in self.pids() if pid not in spared]:
            for pid in left:
                _kill(pid)
            time.sleep(POLL_SECONDS)
        return moment

    def stop(self) -> None:
        """Stop it all, politely first. May be repeated."""
        self.agent.stop(STOP_SECONDS)
        launcher = self.launcher()
        if launcher:
            with contextlib.suppress(ProcessLookupError):
                os.kill(launcher, signal.SIGINT)
        if self.application:
            self.application.stop()
        end_all(self._mark, name=HOST_MARK)
        self._sweep()

    def _sweep(self) -> None:
        """Shared memory of an Envoy that had no chance to remove it."""
        with contextlib.suppress(OSError, ValueError):
            base = int((self.run / "envoy.base-id").read_text())
            Path(f"/dev/shm/envoy_shared_memory_{base * 10}").unlink()  # noqa: S108 - where Envoy keeps it


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
