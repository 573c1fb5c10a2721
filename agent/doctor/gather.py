"""The host -> facts. Whatever is missing or silent is a fact, too, and stops nothing else. Changes nothing."""

import asyncio
import email.utils
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import statvfs
from pathlib import Path
from ssl import SSLContext
from typing import Any

from agent import addresses, admin, definitions, minding, procfs, tls
from agent.daemon import GATE_NAME, version
from agent.doctor import systems
from agent.doctor.checks import AGENT, ENVOY, HOST
from agent.doctor.facts import Certificate, Disk, Facts, Process, Reached
from agent.envoy import record
from agent.envoy.admin import Admin, AdminError
from agent.hostd import client
from agent.hostd.client import HostError
from agent.hostd.system import listening_ports
from agent.hostd.wanted import RefusedError, parse
from agent.http import HttpError, Target, call
from agent.settings import Settings, SettingsError, load
from agent.state import Slots, StoredIdentity
from agent.uplink import SERVER_NAME
from mesh.oswords import words

SECONDS = 5.0
"""For each question that goes over the network or to a program."""
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"
UNITS = (AGENT, ENVOY, HOST)
INSTALLED = Path("/opt/holdfast/envoy/current")
JOURNAL = Path("/var/log/journal")
HOSTS = Path("/etc/hosts")
ACCESS_LOG = Path("/var/log/holdfast/access.log")

_H2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What an HTTP/2 client says first (RFC 9113, 3.4): its preface, and settings that change nothing."""


class GatherError(Exception):
    """It cannot be had, with the reason."""


def run(*command: str, seconds: float = SECONDS, limit: int = 8 * 2**20) -> str:
    """What a program prints, of which the end is kept.

    Raises:
        GatherError: it is not there, takes too long, or fails, with its own words.

    """
    found = shutil.which(command[0], path=PROGRAMS)
    if found is None:
        raise GatherError(f"this host has no {command[0]}")
    try:
        done = subprocess.run([found, *command[1:]], capture_output=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise GatherError(f"{command[0]}: {exc}"[:300]) from exc
    if done.returncode:
        words = " ".join(done.stderr.decode(errors="replace").split()) or f"exit status {done.returncode}"
        raise GatherError(f"{command[0]}: {words[:300]}")
    return done.stdout[-limit:].decode(errors="replace")


def identity(settings: Settings) -> StoredIdentity | None:
    """What the host joined as, from the disk.

    Raises:
        GatherError: it may not be read.

    """
    folder = settings.data
    try:
        if folder.exists():
            next(folder.iterdir(), None)
    except OSError as exc:
        raise GatherError(f"{folder} cannot be read: {exc.strerror}") from exc
    found = Slots(folder, "identity", StoredIdentity).load()
    if not found and (files := sorted(path.name for path in folder.glob("identity.[01]"))):
        raise GatherError(f"{' and '.join(files)} in {folder} are damaged")
    return found[0] if found else None


def gather(config: Path, clock: Callable[[], float]) -> Facts:
    """All that doctor looks at. Takes some seconds, where something does not answer."""
    common = _of_the_machine()
    try:
        settings = load(config)
    except SettingsError as exc:
        return Facts(now=clock(), settings_fault=str(exc), **common)
    stored, fault = None, ""
    try:
        stored = identity(settings)
    except GatherError as exc:
        fault = str(exc)
    loaded = definitions.load(Path(settings.services_dir), settings.node)
    reached = asyncio.run(_ask_all(settings, stored, clock))
    pids = tuple(one.pid for one in envoys(settings))
    return Facts(
        now=clock(),
        node=settings.node,
        mtls_port=settings.mtls_port,
        scrape_port=int(settings.scrape.rpartition(":")[2]) if settings.scrape else 0,
        serves=any(one.ports for one in loaded.good),
        by_name=any(one.called_by for one in loaded.good),
        definition_faults=loaded.problems,
        joined_as=stored.node if stored else "",
        certificates=certificates(stored),
        envoy_installed=INSTALLED.readlink().name if INSTALLED.is_symlink() else "",
        version=version(),
        processes=tuple(_processes(pids)),
        wanted=minding.wanted(settings),
        address_fault=addresses.fault(settings, addresses.own(), addresses.here),
        disks=tuple(disks((settings.data, Path(settings.run_dir), JOURNAL.parent))),
        **_access_log(settings),
        **_helper(Path(settings.capture.socket)),
        **_rules(settings.mtls_port),
        **({"identity_fault": fault} | reached),
        **common,
    )


def certificates(stored: StoredIdentity | None) -> tuple[Certificate, ...]:
    """What of an identity may be told."""
    if stored is None:
        return ()
    held = {"node": stored.own, **stored.held}
    return tuple(Certificate(name, one.not_before, one.not_after) for name, one in sorted(held.items()))


def _of_the_machine() -> dict[str, Any]:
    found: dict[str, Any] = {"systemd": Path("/run/systemd/system").is_dir(), "listening": listening_ports()}
    with suppress(GatherError):
        found["units"] = systems.units(run("systemctl", "show", "-p", systems.UNIT_FIELDS, "--", *UNITS))
    if found["systemd"]:
        with suppress(OSError):
            found["journal_kept"] = JOURNAL.is_dir() and any(JOURNAL.iterdir())
            found["journal_bytes"] = sum(f.stat().st_size for f in JOURNAL.rglob("*.journal"))
    return found


def envoys(settings: Settings) -> tuple[record.Running, ...]:
    """The Envoys that run. Known by when they started: in a container, units may see another boot than a shell does."""
    found = record.read(settings.envoy_run_dir)
    return tuple(one for one in found.running if record.start_of(one.pid) == one.start) if found else ()


def _processes(envoys: Sequence[int]) -> list[Process]:
    return [Process("Envoy", procfs.limits_of(pid)) for pid in envoys[-1:]]


def disks(paths: Sequence[Path]) -> list[Disk]:
    """One for each file system."""
    found: dict[int, Disk] = {}
    for path in paths:
        with suppress(OSError):
            there = next(place for place in (path, *path.parents) if place.exists())
            about = statvfs(there)
            inodes = {"free_inodes": about.f_favail} if about.f_files else {}
            size = about.f_frsize
            disk = Disk(str(path), about.f_bavail * size, about.f_blocks * size, **inodes)
            found.setdefault(there.stat().st_dev, disk)
    return list(found.values())


def _access_log(settings: Settings) -> dict[str, Any]:
    path = ACCESS_LOG if settings.access_log == "/dev/stdout" else Path(settings.access_log)
    try:
        size = path.stat().st_size if path.is_file() else 0
    except OSError:
        size = 0
    return {"access_log": str(path), "access_log_bytes": size}


def _helper(socket: Path) -> dict[str, Any]:
    try:
        answer = client.ask(socket, "status", patience=SECONDS)
    except HostError as exc:
        return {"helper_fault": str(exc)}
    found: dict[str, Any] = {"helper": answer}
    with suppress(OSError, RefusedError):
        hosts = HOSTS.read_text(encoding="utf-8", errors="surrogateescape")
        found["names_missing"] = systems.missing_names(hosts, parse(answer.get("wanted", {})).names)
    return found


def _rules(mtls_port: int) -> dict[str, Any]:
    try:
        text = run("nft", "-j", "list", "ruleset", limit=64 * 2**20)
    except GatherError as exc:
        return {"nft": str(exc)}
    iptables = ""
    with suppress(GatherError):
        iptables = run("iptables-save")
    return {"table": systems.has_table(text), "rivals": systems.rivals(text, mtls_port, iptables)}


# --- over sockets ---


async def _ask_all(settings: Settings, stored: StoredIdentity | None, clock: Callable[[], float]) -> dict[str, Any]:
    """Everybody at the same time."""
    context, unusable = _context(stored)
    planes = tuple(dict.fromkeys((*settings.controlplanes, *(stored.controlplanes if stored else ()))))
    gates = settings.gates or (stored.gates if stored else ())
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_controlplane(url, context, clock)) for url in planes]
        doors = [group.create_task(_gate(gate, context)) for gate in gates]
        agent = group.create_task(_agent(settings))
        envoy = group.create_task(_envoy(settings))
    return {
        "controlplanes": tuple(task.result() for task in asked),
        "gates": tuple(task.result() for task in doors),
        **agent.result(),
        **envoy.result(),
        **({"identity_fault": unusable} if unusable else {}),
    }


def _context(stored: StoredIdentity | None) -> tuple[SSLContext | None, str]:
    """How to speak as this host, or why it cannot."""
    if stored is None:
        return None, ""
    try:
        return tls.context(tls.usable(stored.roots), stored.own), ""
    except (ValueError, OSError) as exc:  # an SSLError is an OSError
        return None, f"the certificate on disk cannot be used: {exc}"


async def _controlplane(url: str, context: SSLContext | None, clock: Callable[[], float]) -> Reached:
    """Its own health page, over TLS as its own; without an identity, whether anybody listens."""
    target = Target(url, context, SERVER_NAME)
    if context is None:
        return Reached(url, await _connects(target.host, target.port))
    sent = clock()
    try:
        answer = await call(target, "GET", "/readyz", timeout=SECONDS)
    except HttpError as exc:
        return Reached(url, _words(exc.__cause__ or exc))
    skew = None
    with suppress(KeyError, ValueError, TypeError):
        # The header has whole seconds: half of one is the best guess of the rest.
        date = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
        skew = date - (sent + clock()) / 2
    words = answer.body.decode(errors="replace").strip()[:200]
    return Reached(url, "" if answer.status == 200 else f"it is not ready: {words}", skew)


async def _gate(where: str, context: SSLContext | None) -> Reached:
    """Does it speak HTTP/2 with this host's certificate?"""
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    if context is None:
        return Reached(where, await _connects(host, int(port)))
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=context, server_hostname=GATE_NAME, ssl_handshake_timeout=SECONDS
            )
            try:
                writer.write(_H2)
                await reader.readexactly(9)  # the header of its settings
            finally:
                writer.transport.abort()
    except (OSError, EOFError, TimeoutError) as exc:
        return Reached(where, _words(exc))
    return Reached(where)


async def _connects(host: str, port: int) -> str:
    try:
        async with asyncio.timeout(SECONDS):
            _, writer = await asyncio.open_connection(host, port)
            writer.transport.abort()
    except (OSError, TimeoutError) as exc:
        return _words(exc)
    return ""


def _words(exc: BaseException) -> str:
    match exc:
        case TimeoutError():
            return f"no answer within {SECONDS:g} s"
        case EOFError():
            return "it hangs up"
        case OSError():
            return words(exc)
    return str(exc) or type(exc).__name__


async def _agent(settings: Settings) -> dict[str, Any]:
    try:
        return {"agent": await admin.ask(settings.admin_socket, "status", timeout=SECONDS)}
    except admin.AdminError as exc:
        return {"agent_fault": str(exc)}


async def _envoy(settings: Settings) -> dict[str, Any]:
    try:
        info = await Admin(settings.envoy_run_dir / "envoy.sock", timeout=SECONDS).server_info()
    except AdminError as exc:
        socket = settings.envoy_run_dir / "envoy.sock"
        return {"envoy_fault": f"nobody answers at {socket}: {_words(exc.__cause__ or exc)}"}
    return {"envoy_state": info.state, "envoy_version": info.version}
