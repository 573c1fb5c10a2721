"""The parts of a dump: what each is called, and how it is had. Each fails by itself, with a reason.

Private keys are nowhere asked for: of secrets that Envoy is given, only names and versions are written down.
"""

import asyncio
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent import addresses, admin, definitions, kept, procfs
from agent.daemon import version
from agent.doctor import gather, secrets, systems
from agent.doctor.checks import checks
from agent.doctor.gather import GatherError, run
from agent.envoy import record
from agent.envoy.admin import Admin, AdminError
from agent.gather import Gathered
from agent.host import Host
from agent.hostd import client
from agent.hostd.system import listening_ports
from agent.pipeline import Pipeline
from agent.settings import Settings, SettingsError, load
from agent.state import Slots, StoredIdentity, StoredWorld
from mesh import codec, pb

MIB = 2**20
LINES = 2000
"""Of each unit's journal."""
ASK_SECONDS = 20.0
FIRST, FIRST_SECONDS = "/server_info", 5.0
"""What Envoy is asked first, and answers at once if it answers at all."""

SECRETS = "sds"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a dump."""

    file: str
    get: Callable[[], bytes]
    limit: int = 16 * MIB
    """Bytes, before they are packed."""
    end: bool = False
    """Of what is too long, the end is kept and not the beginning."""


class Source:
    """Where the parts of one host come from. Reads files when it is made; everything else when a part is asked for."""

    def __init__(self, config: Path, clock: Callable[[], float]) -> None:
        self.config, self.clock = config, clock
        self.settings: Settings | None = None
        self.fault = ""
        self._envoy_hangs = ""
        try:
            self.settings = load(config)
        except SettingsError as exc:
            self.fault = str(exc)

    @property
    def node(self) -> str:
        return self.settings.node if self.settings else "unknown"

    def needed(self) -> Settings:
        """The settings.

        Raises:
            GatherError: they cannot be used.

        """
        if self.settings is None:
            raise GatherError(self.fault)
        return self.settings

    def secrets(self) -> tuple[str, ...]:
        """All that this host holds and that nobody else may know, to be looked for in whatever goes out."""
        if self.settings is None:
            return ()
        found: list[str] = []
        for stored in Slots(self.settings.data, "identity", StoredIdentity).load():
            found += [one.key_pem for one in (stored.own, *stored.held.values())]
        files = [self.settings.data / "join.key"]
        files += [Path(self.settings.token_file)] if self.settings.token_file else []
        files += [Path(self.settings.gate.etcd_key)] if self.settings.gate else []
        for path in files:
            try:
                found.append(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
        return secrets.by_heart(found)

    def parts(self) -> Iterator[Part]:
        """In the order in which a reader wants them, should there be no room for all."""
        yield Part("doctor.json", self._doctor)
        yield Part("versions.json", self._versions)
        yield Part("clock.json", self._clock)
        yield Part("settings/agent.yaml", lambda: _yaml(self.config))
        yield from self._definitions()
        yield Part("agent/status.json", lambda: self._ask("status"))
        yield Part("agent/history.json", lambda: self._ask("history"), limit=16 * MIB)
        yield Part("agent/identity.json", self._identity)
        yield Part("agent/world.json", self._world)
        yield Part("agent/compiled.json", self._compiled, limit=32 * MIB)
        yield Part("limits.json", self._limits)
        yield Part("network.json", self._network)
        yield from self._units()
        yield from self._envoy()
        yield Part("host/status.json", self._helper)
        yield Part("host/hosts.txt", _block)
        yield Part("host/nft-holdfast.txt", lambda: run("nft", "-s", "list", "table", *systems.OWN).encode())
        yield Part("host/nft-tables.txt", lambda: run("nft", "list", "tables").encode())
        yield Part("host/routes.txt", lambda: run("ip", "-4", "route", "show", "table", "all").encode())

    def _doctor(self) -> bytes:
        return _json([finding._asdict() for finding in checks(gather.gather(self.config, self.clock))])

    def _versions(self) -> bytes:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
        envoy = gather.INSTALLED.readlink().name if gather.INSTALLED.is_symlink() else ""
        return _json(
            {
                "holdfast": version(),
                "envoyInstalled": envoy,
                "python": platform.python_version(),
                "kernel": platform.release(),
                "machine": platform.machine(),
                "system": system,
            }
        )

    def _clock(self) -> bytes:
        found: dict[str, Any] = {"now": self.clock(), "boot": record.boot()}
        found["uptimeSeconds"] = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        try:
            found["timedatectl"] = run("timedatectl", "show").splitlines()
        except GatherError as exc:
            found["timedatectl"] = str(exc)
        return _json(found)

    def _definitions(self) -> Iterator[Part]:
        folder = Path(self.settings.services_dir) if self.settings else None
        try:
            files = sorted(folder.iterdir()) if folder else []
        except OSError:
            files = []
        for path in files[: definitions.MAX_FILES]:
            if path.suffix in {".yaml", ".yml"} and path.is_file():
                yield Part(f"settings/services.d/{path.name}", partial(_yaml, path), limit=MIB)

    def _ask(self, do: str) -> bytes:
        return _json(asyncio.run(admin.ask(self.needed().admin_socket, do, timeout=ASK_SECONDS)))

    def _identity(self) -> bytes:
        """All but the keys."""
        stored = gather.identity(self.needed())
        if stored is None:
            raise GatherError("this host has not joined")
        held = {"node": stored.own, **stored.held}
        body = {
            **{name: getattr(stored, name) for name in ("node", "trust_domain", "cluster", "roles", "permitted")},
            "gates": stored.gates,
            "controlplanes": stored.controlplanes,
            "roots": stored.roots,
            "certificates": {
                name: {
                    "spiffeId": one.spiffe_id,
                    "chain": one.chain_pem,
                    "notBefore": one.not_before,
                    "notAfter": one.not_after,
                }
                for name, one in held.items()
            },
        }
        return _json(body)

    def _stored_world(self) -> StoredWorld:
        found = Slots(self.needed().data, "world", StoredWorld).load()
        if not found:
            raise GatherError(f"there is no last good state in {self.needed().data}, or it cannot be read")
        return found[0]

    def _world(self) -> bytes:
        stored = self._stored_world()
        ranges = {
            prefix: {"revision": held.known.revision, "keys": len(held.values), "unreadable": sorted(held.bad)}
            for prefix, held in stored.ranges.items()
        }
        standing = [{"object": f"{s.kind} {s.namespace}/{s.name}", "reason": s.reason} for s in stored.substitutes]
        return _json({"epoch": stored.epoch, "held": stored.held, "ranges": ranges, "substitutes": standing})

    def _compiled(self) -> bytes:
        """What the state on disk compiles to, also while no agent runs."""
        settings, stored, world = self.needed(), gather.identity(self.needed()), self._stored_world()
        if stored is None:
            raise GatherError("this host has not joined")
        host = Host(settings, self.clock)
        host.look()
        pipeline = Pipeline(host.local(stored))
        pipeline.world, pipeline.substitutes = Gathered(world).world, kept.substitutes(world)
        snapshot = pipeline.compile(pipeline.inputs()).snapshot
        shown: dict[str, Any] = {
            "revision": snapshot.revision,
            "digest": snapshot.digest.hex(),
            "problems": [f"{p.object or settings.node}: {p.path}: {p.reason}" for p in snapshot.problems],
        }
        for url, resources in snapshot.resources.items():
            name = pb.SHORT.get(url, url)
            shown[name] = {
                r.name: {"version": r.version}
                | ({} if name == SECRETS else {"body": pb.to_json(pb.decode(url, r.body))})
                for r in resources.values()
            }
        return _json(shown)

    def _limits(self) -> bytes:
        found: dict[str, Any] = {"self": msgspec.to_builtins(procfs.limits_of("self"))}
        for one in gather.envoys(self.needed()):
            found[f"envoy {one.role} {one.pid}"] = msgspec.to_builtins(procfs.limits_of(one.pid))
        found["disks"] = [msgspec.to_builtins(d) for d in gather.disks((self.needed().data, gather.JOURNAL.parent))]
        return _json(found)

    def _network(self) -> bytes:
        own = [a for a in addresses.own() if addresses.here(a)]
        return _json({"addresses": own, "listening": sorted(listening_ports())})

    def _units(self) -> Iterator[Part]:
        yield Part("units/show.txt", lambda: run("systemctl", "show", "--no-pager", "--", *gather.UNITS).encode())
        yield Part("units/files.txt", lambda: run("systemctl", "cat", "--no-pager", "--", *gather.UNITS).encode())
        for unit in gather.UNITS:
            command = ("journalctl", "--no-pager", "-q", "-o", "short-iso", "-n", str(LINES), "-u", unit)
            yield Part(f"units/{unit}.log", partial(_said, command), limit=4 * MIB, end=True)

    def _envoy(self) -> Iterator[Part]:
        yield Part("envoy/launcher.json", self._launcher)
        for file, path in (
            ("server_info.json", FIRST),
            ("stats.txt", "/stats"),
            ("clusters.txt", "/clusters"),
            ("listeners.txt", "/listeners"),
            ("memory.json", "/memory"),
            ("certs.json", "/certs"),
            ("config_dump.json", "/config_dump?include_eds"),
        ):
            yield Part(f"envoy/{file}", partial(self._admin, path), limit=32 * MIB)

    def _launcher(self) -> bytes:
        # Its folder is another user's: of a link there, root would read whatever it leads to.
        path = self.needed().envoy_run_dir / record.RECORD
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return _json(secrets.tree(json.loads(file.read(MIB))))

    def _admin(self, path: str) -> bytes:
        """An Envoy that does not answer the first question is not waited for again at each of the others."""
        socket = self.needed().envoy_run_dir / "envoy.sock"
        if self._envoy_hangs:
            raise GatherError(self._envoy_hangs)
        try:
            return asyncio.run(Admin(socket, timeout=ASK_SECONDS if path != FIRST else FIRST_SECONDS).get(path))
        except AdminError as exc:
            if path == FIRST:
                self._envoy_hangs = f"not asked, since it did not answer {FIRST}: {exc}"
            raise

    def _helper(self) -> bytes:
        return _json(client.ask(Path(self.needed().capture.socket), "status"))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _said(command: tuple[str, ...]) -> bytes:
    text = run(*command, seconds=ASK_SECONDS)
    if not text.strip():
        raise GatherError("its journal has no lines that this user may see")
    return text.encode()


def _yaml(path: Path) -> bytes:
    """As a tree without secrets. A file that is no YAML is left out: what is secret in it cannot be told."""
    try:
        documents = codec.load_yaml(path.read_bytes())
    except OSError as exc:
        raise GatherError(f"{path} cannot be read: {exc.strerror}") from exc
    except codec.BadDocument as exc:
        raise GatherError(f"{path} is no YAML, so what is secret in it cannot be told: line {exc.line}") from exc
    return yaml.safe_dump_all([secrets.tree(d) for d in documents], sort_keys=False, allow_unicode=True).encode()


def _block() -> bytes:
    """Of /etc/hosts, our own lines."""
    lines = gather.HOSTS.read_text(encoding="utf-8", errors="replace").splitlines()
    marks = [n for n, line in enumerate(lines) if "BEGIN holdfast" in line or "END holdfast" in line]
    if not marks:
        raise GatherError("there is no block of Holdfast in /etc/hosts")
    return ("\n".join(lines[marks[0] : marks[-1] + 1]) + "\n").encode()
