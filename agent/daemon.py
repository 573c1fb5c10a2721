"""Composition root: settings -> adapters -> one agent. The only place that reads the clock and takes signals."""

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from agent import events as ev
from agent.admin import AdminServer
from agent.assembly import Assembly, Outside
from agent.envoy.bootstrap import BootstrapSettings
from agent.envoy.process import Envoy, EnvoySettings
from agent.identity import process
from agent.scrape import ScrapeServer
from agent.settings import Settings
from agent.state import StoredIdentity
from agent.telling import Telling
from mesh import obs
from mesh.store.etcd import EtcdStore, Tls
from mesh.store.protocol import Store

log = structlog.get_logger(__name__)

GATE_NAME = "gate.holdfast"
"""The DNS name that only policy can put in a certificate: nobody else can pose as a store gate."""


def run(settings: Settings) -> None:
    """Run the agent until it is told to leave."""
    obs.setup_logging(settings.log_level)
    Path(settings.run_dir).mkdir(parents=True, exist_ok=True, mode=0o750)
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    agent = Assembly(settings, outside(settings))
    telling = Telling(agent)
    agent.connect(telling.report, telling.answers())
    servers = [AdminServer(settings.admin_socket, telling.commands()).run]
    if settings.scrape:
        servers.append(ScrapeServer(settings.scrape, telling.pages()).run)
    log.info("agent starts", node=settings.node, version=agent.outside.version)
    with _signals(agent, telling):
        await agent.run(servers)
    log.info("agent leaves", envoy="goes on" if agent.runtime.state.stopping != "drain" else "stopped")


def outside(settings: Settings) -> Outside:
    """The real world."""
    return Outside(
        envoy=Envoy(envoy_settings(settings)),
        exchange=process.run,
        open_store=_open_store,
        clock=time.time,
        rng=random.Random(),
        version=version(),
    )


def version() -> str:
    """Of the installed package. Read from the name of its metadata folder: the library for it takes 2 MB to load."""
    for folder in sys.path:
        for found in Path(folder).glob("holdfast-*.dist-info"):
            return found.name.split("-")[1].removesuffix(".dist")
    return "unknown"


def _open_store(gates: Sequence[str], stored: StoredIdentity) -> Store:
    tls = Tls("\n".join(stored.roots).encode(), stored.own.chain_pem.encode(), stored.own.key_pem.encode())
    return EtcdStore(gates, tls=tls, server_name=GATE_NAME)


def envoy_settings(settings: Settings) -> EnvoySettings:
    """What Envoy and its launcher are started with."""
    run_dir, envoy = Path(settings.run_dir), settings.envoy
    logs = (Path(settings.access_log),) if not settings.access_log.startswith("/dev/") else ()
    return EnvoySettings(
        run_dir=run_dir,
        bootstrap=BootstrapSettings(
            node=settings.node,
            cluster="holdfast",
            xds_socket=str(settings.xds_socket),
            admin_socket=str(run_dir / "envoy.sock"),
        ),
        command=envoy.command,
        base_id=envoy.base_id,
        concurrency=envoy.concurrency,
        drain_seconds=envoy.drain_seconds,
        parent_shutdown_seconds=envoy.parent_shutdown_seconds,
        rotate=logs,
    )


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
