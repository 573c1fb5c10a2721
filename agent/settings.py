"""agent.yaml: read once, strictly; every fault at once, each with its path."""

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from agent import capture
from agent.capture import CaptureSettings
from mesh import codec
from mesh.model import MTLS_PORT, Frozen, GateSpec, GatewaySpec, Violation

DEFAULT_PATH = Path("/etc/holdfast/agent.yaml")
RUN_DIR = "/run/holdfast"
SUPERVISOR = "HOLDFAST_ENVOY_SUPERVISOR"
"""Set by holdfast-agent.service, which knows that there is one for Envoy."""


class SettingsError(Exception):
    """A settings file that cannot be used, with all of its faults."""

    def __init__(self, path: Path, faults: tuple[Violation, ...]) -> None:
        lines = [f"  {fault.path or '(the file)'}: {fault.reason}" for fault in faults]
        super().__init__("\n".join([f"{path} cannot be used:", *lines]))
        self.faults = faults


class EnvoySettings(Frozen, frozen=True, kw_only=True):
    command: str = "envoy"
    """A path, or a name: /opt/holdfast/envoy/current/ is looked into first, PATH next."""
    supervisor: Literal["auto", "own", "systemd"] = "auto"
    """Who starts Envoy's launcher. systemd: holdfast-envoy.service, as a user of its own. own: the agent. auto: the
    unit, where it was started on this host and `runDir` is the usual one."""
    run_dir: str = "/run/holdfast-envoy"
    """Of holdfast-envoy.service: Envoy's admin socket, its launcher's lock and record."""
    base_id: int | None = None
    """Envoy's shared-memory region; several Envoys on one machine need different ones. None: one is chosen."""
    concurrency: int | None = None
    """Worker threads. None: as many as the host has cores."""
    drain_seconds: int = 30
    """How long connections of a listener or an old Envoy may live on after it was replaced."""
    parent_shutdown_seconds: int = 45
    """When an old Envoy ends after a hot restart; more than drainSeconds."""
    max_connections: int = 50_000
    """From callers, at the same time; more are refused. Each takes up to two of Envoy's file descriptors."""
    max_heap_mib: int | None = None
    """At 95 % of it Envoy refuses requests. Less than what the host or the unit's MemoryMax lets it have. None: 2048,
    and on a small host 60 % of its memory."""


class Settings(Frozen, frozen=True, kw_only=True):
    node: str
    """The host's name in the mesh: a DNS label. The join token is bound to it."""
    address: str
    """Where other hosts reach this one's mTLS port: an IP address, of which a host with several has to say one."""
    bind: str = ""
    """Where Envoy listens for them. Empty: at `address`, and if that is of IPv6, at `::`, for both families. To be set
    behind NAT, where `address` is another machine's: to one of this host's own, `0.0.0.0` or `::`."""
    data_dir: str = "/var/lib/holdfast"
    """Last good state, certificates and keys; 0700."""
    run_dir: str = RUN_DIR
    """Sockets and pid files."""
    services_dir: str = "/etc/holdfast/services.d"
    controlplanes: tuple[str, ...] = ()
    """Base URLs, for the join; empty afterwards: those told at the join."""
    gates: tuple[str, ...] = ()
    """`<address>:<port>` of store gates; empty: those told at the join."""
    token_file: str = ""
    """A join token. `run` joins with it by itself while the host has no identity."""
    locality: str = ""
    """Where the host is: `region[/zone[/subzone]]`. What calls from here may prefer what is near (TrafficPolicy)."""
    mtls_port: int = MTLS_PORT
    scrape: str = "127.0.0.1:15020"
    """Where Prometheus reads the agent's and Envoy's metrics; empty: nowhere."""
    access_log: str = "/dev/stdout"
    trust_file: str = ""
    """Roots in PEM for servers outside of the mesh. Empty: those that the operating system trusts."""
    envoy: EnvoySettings = EnvoySettings()
    capture: CaptureSettings = CaptureSettings()
    """Calls by name need none of it but the socket; the rest is for those who want more to go through the proxy."""
    gate: GateSpec | None = None
    """Set on hosts that stand in front of etcd."""
    gateway: GatewaySpec | None = None
    """Set on hosts that pass connections between clusters; its node needs the role."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def listens_at(self) -> str:
        """The address of the mTLS port on this host."""
        return self.bind or ("::" if ":" in self.address else self.address)

    @property
    def data(self) -> Path:
        return Path(self.data_dir)

    @property
    def envoy_is_a_unit(self) -> bool:
        """Does Envoy's launcher run as a unit, and not under the agent?"""
        if self.envoy.supervisor != "auto":
            return self.envoy.supervisor == "systemd"
        if os.environ.get(SUPERVISOR) == "systemd":
            return True
        return self.run_dir == RUN_DIR and Path(self.envoy.run_dir).is_dir()

    @property
    def envoy_run_dir(self) -> Path:
        return Path(self.envoy.run_dir if self.envoy_is_a_unit else self.run_dir)

    @property
    def admin_socket(self) -> Path:
        return Path(self.run_dir) / "agent.sock"

    @property
    def xds_socket(self) -> Path:
        # A folder of its own, which Envoy's group may enter: the agent's own sockets are not its business.
        return Path(self.run_dir) / "xds" / "ads.sock"


def load(path: Path) -> Settings:
    """The settings in a file.

    Raises:
        SettingsError: with all that is wrong with it.

    """
    try:
        documents = codec.load_yaml(path.read_bytes())
    except OSError as exc:
        hint = "; write one, or name another with --config" if isinstance(exc, FileNotFoundError) else ""
        reason = f"it cannot be read: {exc.strerror}{hint}"
        raise SettingsError(path, (Violation(path="", reason=reason),)) from exc
    except codec.BadDocument as exc:
        raise SettingsError(path, (Violation(path="", reason=str(exc)),)) from exc
    if len(documents) != 1:
        raise SettingsError(path, (Violation(path="", reason=f"expected one document, found {len(documents)}"),))
    parsed = codec.convert_strict(Settings, documents[0])
    faults = parsed if isinstance(parsed, tuple) else check(parsed)
    if faults:
        raise SettingsError(path, faults)
    assert isinstance(parsed, Settings)
    return parsed


def check(settings: Settings) -> tuple[Violation, ...]:
    """What the types do not say."""
    from mesh.model.checks import address_fault, label_fault, locality_fault

    faults: list[tuple[str, str]] = []
    if reason := label_fault(settings.node):
        faults.append(("node", reason))
    if reason := address_fault(settings.address) or _unreachable_fault(settings.address):
        faults.append(("address", reason))
    if settings.bind and (reason := address_fault(settings.bind)):
        faults.append(("bind", reason))
    if settings.locality and (reason := locality_fault(settings.locality)):
        faults.append(("locality", reason))
    faults += [
        (f"controlplanes[{index}]", f"{url!r} is not of the form https://<address>:<port>")
        for index, url in enumerate(settings.controlplanes)
        if not _is_https(url)
    ]
    endpoints = [(f"gates[{index}]", gate) for index, gate in enumerate(settings.gates)]
    endpoints += [("scrape", settings.scrape)] if settings.scrape else []
    if settings.gate:
        endpoints += [("gate.listen", settings.gate.listen)]
        endpoints += [(f"gate.etcd[{index}]", member) for index, member in enumerate(settings.gate.etcd)]
        if not settings.gate.etcd:
            faults.append(("gate.etcd", "at least one member is needed"))
    faults += [(path, f"{text!r} is not <address>:<port>") for path, text in endpoints if not _is_endpoint(text)]
    if not 0 < settings.mtls_port < 65536:
        faults.append(("mtlsPort", "a port is between 1 and 65535"))
    envoy = settings.envoy
    if envoy.max_connections < 1:
        faults.append(("envoy.maxConnections", "at least one is needed"))
    if envoy.max_heap_mib is not None and envoy.max_heap_mib < 64:
        faults.append(("envoy.maxHeapMib", "an Envoy needs 64 MiB at the very least"))
    if envoy.drain_seconds < 0:
        faults.append(("envoy.drainSeconds", "is negative"))
    if envoy.parent_shutdown_seconds <= envoy.drain_seconds:
        faults.append(("envoy.parentShutdownSeconds", "must be more than drainSeconds: the old Envoy ends then"))
    named = [Violation(path=path, reason=reason) for path, reason in faults]
    named += _gateway_faults(settings)
    return (*named, *capture.faults(settings.capture, capture.mesh_hosts(settings.gates, settings.controlplanes)))


def _unreachable_fault(text: str) -> str:
    """Can nobody else reach it, whoever has it?"""
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast:
        return f"{text} is where a host listens, not where others reach it: name one address of this host"
    return ""


def _host_fault(text: str) -> str:
    if not text or any(c.isspace() or c in "/[]" for c in text) or not text.isprintable():
        return f"{text[:80]!r} is not an address"
    return ""


def _gateway_faults(settings: Settings) -> Iterator[Violation]:
    if settings.gateway:
        yield from settings.gateway.check("gateway")
        if settings.gateway.port == settings.mtls_port:
            yield Violation(path="gateway.port", reason="is mtlsPort: both are listened on")


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.path in {"", "/"} and parts.port != 0
    except ValueError:
        return False


def _is_endpoint(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return not _host_fault(host.strip("[]")) and port.isascii() and port.isdigit() and int(port) < 65536
