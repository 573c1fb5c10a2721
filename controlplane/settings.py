"""One frozen tree of a control-plane node's settings, read once, from YAML. All faults are reported at once."""

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from mesh.codec import BadDocument, convert_strict, load_yaml
from mesh.model import Violation

MAX_FILE_BYTES = 1024 * 1024
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")


class SettingsError(Exception):
    """The file cannot be used; `faults` says everything that is wrong with it."""

    def __init__(self, source: str, faults: tuple[Violation, ...]) -> None:
        self.source, self.faults = source, faults
        lines = "".join(f"\n  {fault.path or '(file)'}: {fault.reason}" for fault in faults)
        super().__init__(f"{source} cannot be used:{lines}")


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class EtcdSettings(_Part, frozen=True, kw_only=True):
    endpoints: tuple[str, ...]
    """`<address>:<port>` of the members."""
    ca: str = ""
    """Files in PEM: etcd's own CA, and this node's client certificate (CN holdfast-controlplane) and key."""
    cert: str = ""
    key: str = ""
    server_name: str = "etcd"
    """A DNS name in every member's certificate."""
    timeout_seconds: float = 5.0


class SignerSettings(_Part, frozen=True, kw_only=True):
    kind: Literal["builtin", "vault"] = "builtin"
    address: str = ""
    """Vault's URL."""
    ca_file: str = ""
    mount: str = "pki"
    role_id_file: str = ""
    secret_id_file: str = ""


class Limits(_Part, frozen=True, kw_only=True):
    """Bounds of one request. Raise etcd's own (--max-txn-ops, --max-request-bytes) along with the first two."""

    transaction_ops: int = 1000
    transaction_bytes: int = 1_400_000
    """etcd refuses requests over 1.5 MiB by default."""
    body_bytes: int = 4 * 1024 * 1024
    request_seconds: float = 30.0
    watches: int = 200
    """Watch requests of operators at the same time."""


class Settings(_Part, frozen=True, kw_only=True):
    replica: str
    """Name of this node among its equals; a DNS label. Part of its identity."""
    listen: str
    """`<address>:<port>` of the REST API."""
    advertise: str
    """URL where the other nodes, and agents, reach this one."""
    data_dir: str
    """Server key and certificate, and the sealed intermediate."""
    etcd: EtcdSettings
    seal_key_file: str
    """32 random bytes in base64: the key for values in the store's private part, and for keys on disk."""
    signer: SignerSettings = SignerSettings()
    dist_dir: str = "/var/lib/holdfast-controlplane/dist"
    """From where hosts install: made by `holdfast dist build`. Served to anybody, if it is there."""
    audit_log: str = ""
    """Empty: audit.log in the data directory."""
    audit_sync: Literal["always", "batch"] = "batch"
    """always: each line is on disk before the request is answered. batch: within a second."""
    gates: tuple[str, ...] = ()
    """`<address>:<port>` of the store gates, told to joining agents."""
    controlplanes: tuple[str, ...] = ()
    """URLs of all control-plane nodes, told to joining agents. Empty: the advertised one."""
    peer_addresses: tuple[str, ...] = ()
    """URLs of the control-plane nodes, as peers reach them. Empty: as agents do."""
    election_ttl_seconds: int = 5
    """A dead leader is replaced after this time."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    limits: Limits = Limits()

    @property
    def audit_path(self) -> Path:
        return Path(self.audit_log) if self.audit_log else Path(self.data_dir) / "audit.log"


_FILES = ("data_dir", "seal_key_file", "audit_log", "dist_dir")
_ETCD_FILES = ("ca", "cert", "key")
_SIGNER_FILES = ("ca_file", "role_id_file", "secret_id_file")


def load(path: Path) -> Settings:
    """Read a file. Relative paths in it are relative to its directory.

    Raises:
        SettingsError: with all faults.

    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(str(path), (Violation(path="", reason="larger than 1 MiB"),))
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(str(path), (Violation(path="", reason=f"cannot be read: {exc}"),)) from exc
    outcome = parse(text, path.parent)
    if isinstance(outcome, tuple):
        raise SettingsError(str(path), outcome)
    return outcome


def parse(text: str, base: Path) -> Settings | tuple[Violation, ...]:
    """Settings, or everything that is wrong with the text."""
    try:
        documents = load_yaml(text)
    except BadDocument as exc:
        return (Violation(path="", reason=str(exc)),)
    if len(documents) != 1:
        return (Violation(path="", reason=f"holds {len(documents)} documents instead of one"),)
    settings = convert_strict(Settings, documents[0])
    if isinstance(settings, tuple):
        return settings
    return _check(settings) or _anchor(settings, base)


def _check(settings: Settings) -> tuple[Violation, ...]:
    """What types cannot say."""
    faults: list[Violation] = []

    def need(path: str, reason: str, *, ok: bool) -> None:
        if not ok:
            faults.append(Violation(path=path, reason=reason))

    need("replica", "must be a DNS label (a-z, 0-9, '-')", ok=bool(_LABEL.match(settings.replica)))
    need("listen", "must be <address>:<port>", ok=is_address(settings.listen, zero=True))
    for name in ("data_dir", "seal_key_file"):
        need(yaml_name(name), "must not be empty", ok=bool(getattr(settings, name)))
    need("advertise", "must be an https:// URL without a path", ok=_is_url(settings.advertise))
    for index, url in enumerate(settings.controlplanes):
        need(f"controlplanes[{index}]", "must be an https:// URL without a path", ok=_is_url(url))
    for index, gate in enumerate(settings.gates):
        need(f"gates[{index}]", "must be <address>:<port>", ok=is_address(gate))
    need("etcd.endpoints", "needs at least one member", ok=bool(settings.etcd.endpoints))
    for index, member in enumerate(settings.etcd.endpoints):
        need(f"etcd.endpoints[{index}]", "must be <address>:<port>", ok=is_address(member))
    need("etcd.timeoutSeconds", "must be positive", ok=settings.etcd.timeout_seconds > 0)
    need("electionTtlSeconds", "must be from 2 to 60", ok=2 <= settings.election_ttl_seconds <= 60)
    for name in ("transaction_ops", "transaction_bytes", "body_bytes", "request_seconds", "watches"):
        need(f"limits.{yaml_name(name)}", "must be positive", ok=getattr(settings.limits, name) > 0)
    if settings.signer.kind == "vault":
        for name in ("address", "role_id_file", "secret_id_file"):
            need(f"signer.{yaml_name(name)}", "is needed for vault", ok=bool(getattr(settings.signer, name)))
    return tuple(faults)


def yaml_name(name: str) -> str:
    """A field's name as it is in the file."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def is_address(text: str, *, zero: bool = False) -> bool:
    """Is it `<address>:<port>`? Port 0 only where the system may choose."""
    host, colon, port = text.rpartition(":")
    return bool(host and colon and port.isascii() and port.isdigit() and (0 if zero else 1) <= int(port) <= 65535)


def split_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname) and parts.path in {"", "/"} and not parts.query


def _anchor(settings: Settings, base: Path) -> Settings:
    """Relative paths become absolute; a URL loses its trailing slash."""

    def moved(part: Any, names: tuple[str, ...]) -> dict[str, str]:
        return {name: str(base / getattr(part, name)) if getattr(part, name) else "" for name in names}

    replace = msgspec.structs.replace
    return replace(
        settings,
        **moved(settings, _FILES),
        advertise=settings.advertise.rstrip("/"),
        controlplanes=tuple(url.rstrip("/") for url in settings.controlplanes or (settings.advertise,)),
        etcd=replace(settings.etcd, **moved(settings.etcd, _ETCD_FILES)),
        signer=replace(settings.signer, **moved(settings.signer, _SIGNER_FILES)),
    )
