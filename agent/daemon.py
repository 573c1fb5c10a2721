"""Composition root: settings -> adapters -> one agent. The only place that reads the clock and takes signals."""

import asyncio
import contextlib
import fcntl
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from agent import events as ev
from agent import minding, notify, resolver
from agent.admin import AdminServer
from agent.assembly import Assembly
from agent.envoy.bootstrap import BootstrapSettings
from agent.envoy.process import Envoy, EnvoySettings
from agent.identity import process
from agent.outside import Outside
from agent.scrape import ScrapeServer
from agent.settings import Settings
from agent.telling import Telling
from mesh import obs
from mesh.aio import keep, pause
from mesh.model import Identity
from mesh.store.etcd import EtcdStore, Tls
from mesh.store.protocol import Store

log = structlog.get_logger(__name__)

GATE_NAME = "gate.holdfast"
"""The DNS name that only policy can put in a certificate: nobody else can pose as a store gate."""
BEAT_SECONDS = 15.0
INSTALLED = Path("/opt/holdfast/envoy/current/envoy")


class StartError(Exception):
    """The agent cannot run here, with what to do about it."""


def run(settings: Settings, config: Path) -> None:
    """Run the agent with these settings of this file, until it is told to leave.

    Raises:
        StartError: its directories cannot be used, or another one runs on them.

    """
    obs.setup_logging(settings.log_level)
    with _alone(Path(settings.run_dir)):
        asyncio.run(_run(settings, config))


@contextlib.contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Two agents on one run directory would take each other's sockets. The lock ends as the process ends."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = (run_dir / "agent.lock").open("w", encoding="ascii")
    except OSError as exc:
        raise StartError(f"{run_dir} cannot be used: {exc.strerror}; see runDir in agent.yaml") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise StartError(f"another agent runs on {run_dir}; stop it, or give this one a runDir of its own") from exc
        yield


async def _run(settings: Settings, config: Path) -> None:
    agent = Assembly(settings, outside(settings))
    telling = Telling(agent, config)
    agent.connect(telling.report, telling.answers())
    servers = [_kept("admin socket", AdminServer(settings.admin_socket, telling.commands()).run, agent)]
    servers += [_beating(agent), telling.minder.run]
    if settings.scrape:
        servers.append(_kept("scrape port", ScrapeServer(settings.scrape, telling.pages()).run, agent))
    log.info("agent starts", node=settings.node, version=agent.outside.version)
    with _signals(agent, telling):
        await agent.run(servers)
    log.info("agent leaves", envoy="goes on" if agent.runtime.state.stopping != "drain" else "stopped")


def _kept(name: str, serve: Callable[[], Awaitable[None]], agent: Assembly) -> Callable[[], Coroutine[Any, Any, None]]:
    """A port that is taken is no reason to leave: it is tried again, and the log says so."""

    async def forever() -> None:
        await keep(name, serve, retry_on=OSError, rng=agent.outside.rng)

    return forever


def _beating(agent: Assembly) -> Callable[[], Coroutine[Any, Any, None]]:
    """Tell the service manager that the agent is up, and that its loop and its machine turn."""

    async def beat() -> None:
        await agent.xds.listening.wait()
        notify.tell("READY=1")
        seconds = notify.watchdog_seconds()
        while True:
            agent.runtime.post(ev.Beat())
            await pause(seconds / 4 if seconds else BEAT_SECONDS)

    return beat


def outside(settings: Settings) -> Outside:
    """The real world."""
    return Outside(
        envoy=Envoy(envoy_settings(settings)),
        exchange=process.run,
        open_store=_open_store,
        clock=time.time,
        look_up=resolver.lookup,
        rng=random.Random(),
        version=version(),
    )


def version() -> str:
    """Of the installed package. Read from the name of its metadata folder: the library for it takes 2 MB to load."""
    for folder in sys.path:
        for found in Path(folder).glob("holdfast-*.dist-info"):
            return found.name.split("-")[1].removesuffix(".dist")
    return "unknown"


def _open_store(gates: Sequence[str], roots: Sequence[str], own: Identity) -> Store:
    tls = Tls("\n".join(roots).encode(), own.chain_pem.encode(), own.key_pem.encode())
    return EtcdStore(gates, tls=tls, server_name=GATE_NAME)


def envoy_settings(settings: Settings) -> EnvoySettings:
    """What Envoy and its launcher are started with."""
    run_dir, envoy, unit = settings.envoy_run_dir, settings.envoy, settings.envoy_is_a_unit
    enough = minding.wanted(settings)
    logs = (Path(settings.access_log),) if not settings.access_log.startswith("/dev/") else ()
    return EnvoySettings(
        run_dir=run_dir,
        bootstrap=BootstrapSettings(
            node=settings.node,
            cluster="holdfast",
            xds_socket=str(settings.xds_socket),
            admin_socket=str(run_dir / "envoy.sock"),
            max_heap_bytes=enough.heap,
            max_downstream_connections=enough.connections,
        ),
        command=_program(envoy.command),
        base_id=envoy.base_id,
        concurrency=envoy.concurrency,
        drain_seconds=envoy.drain_seconds,
        parent_shutdown_seconds=envoy.parent_shutdown_seconds,
        rotate=logs,
        handed=Path(settings.run_dir) / "envoy" if unit else None,
        shared=(settings.xds_socket.parent, settings.xds_socket) if unit else (),
    )


def _program(command: str) -> str:
    """The host's own installation goes before what PATH may hold; a path is what it says."""
    return str(INSTALLED) if command == INSTALLED.name and INSTALLED.is_file() else command


@contextlib.contextmanager
def _signals(agent: Assembly, telling: Telling) -> Iterator[None]:
    """SIGTERM and SIGINT: the agent leaves, Envoy goes on. SIGHUP: look at services.d."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[object]] = set()

    def reload() -> None:
        task = loop.create_task(telling.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    handlers = {
        signal.SIGTERM: lambda: agent.runtime.post(ev.Stop()),
        signal.SIGINT: lambda: agent.runtime.post(ev.Stop()),
        signal.SIGHUP: reload,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
        sys.stderr.flush()
