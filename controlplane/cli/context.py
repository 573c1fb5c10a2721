"""Which control plane to talk to, and as whom: flags, then environment, then the config file's context."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from controlplane.cli.errors import CliError, Exit
from mesh.model import Frozen

DEFAULT_PORT = 8443
HOW = (
    "set --addr and --token-file, or HOLDFAST_ADDR, HOLDFAST_TOKEN (or HOLDFAST_TOKEN_FILE) and HOLDFAST_CA, "
    "or write a context in ~/.config/holdfast/config.yaml (see `holdfast --help`)"
)


class Context(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One named control plane of the config file."""

    addresses: tuple[str, ...] = ()
    token_file: str = ""
    ca: str = ""
    namespace: str = ""


class ConfigFile(Frozen, frozen=True, kw_only=True, forbid_unknown_fields=True):
    current: str = ""
    contexts: dict[str, Context] = {}


@dataclass(frozen=True, slots=True)
class Flags:
    """What was said on the command line; empty where nothing was."""

    addr: str = ""
    token_file: str = ""
    ca: str = ""
    context: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    addresses: tuple[str, ...]
    """Base URLs, tried in turn."""
    token: str
    ca: str
    """Path of the PEM file that the servers must chain to."""
    namespace: str
    source: str
    """Where the addresses came from, for messages."""


def config_path(env: Mapping[str, str]) -> Path:
    if said := env.get("HOLDFAST_CONFIG"):
        return Path(said)
    base = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".config")
    return Path(base) / "holdfast" / "config.yaml"


def load_config(path: Path) -> ConfigFile:
    """The config file; an empty one if there is none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ConfigFile()
    except OSError as exc:
        raise CliError(f"{path} cannot be read: {exc.strerror}") from exc
    import yaml

    try:
        return msgspec.convert(yaml.safe_load(text) or {}, ConfigFile)
    except (yaml.YAMLError, msgspec.ValidationError) as exc:
        raise CliError(f"{path} is not a config file: {exc}", code=Exit.USAGE, hint="see `holdfast --help`") from exc


def base_url(address: str) -> str:
    """`host`, `host:port` or an https URL as a base URL."""
    url = address if "://" in address else f"https://{address}"
    parts = urlsplit(url)
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as exc:
        raise CliError(f"address {address!r}: {exc}", code=Exit.USAGE) from exc
    if parts.scheme != "https" or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise CliError(
            f"address {address!r} is not one of a control plane",
            code=Exit.USAGE,
            hint=f"write host:port or https://host:port; without a port, {DEFAULT_PORT} is meant",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{port}"


def resolve(flags: Flags, env: Mapping[str, str], config: ConfigFile) -> Connection:
    """The connection to use.

    Raises:
        CliError: no address, an unknown context, or a token file that cannot be read.

    """
    wanted = flags.context or env.get("HOLDFAST_CONTEXT", "") or config.current
    if wanted and wanted not in config.contexts:
        known = ", ".join(sorted(config.contexts)) or "none"
        raise CliError(f"no context {wanted!r} in the config file", code=Exit.USAGE, hint=f"it has: {known}")
    saved = config.contexts.get(wanted, Context())
    said = flags.addr or env.get("HOLDFAST_ADDR", "")
    source = "--addr" if flags.addr else "HOLDFAST_ADDR" if said else f"context {wanted}"
    addresses = [a.strip() for a in said.split(",") if a.strip()] if said else list(saved.addresses)
    if not addresses:
        raise CliError("no control plane to talk to", code=Exit.USAGE, hint=HOW)
    return Connection(
        addresses=tuple(base_url(a) for a in addresses),
        token=_token(flags, env, saved),
        ca=_expand(flags.ca or env.get("HOLDFAST_CA", "") or saved.ca),
        namespace=env.get("HOLDFAST_NAMESPACE", "") or saved.namespace or "default",
        source=source,
    )


def _token(flags: Flags, env: Mapping[str, str], saved: Context) -> str:
    if not flags.token_file and (token := env.get("HOLDFAST_TOKEN", "").strip()):
        return token
    path = _expand(flags.token_file or env.get("HOLDFAST_TOKEN_FILE", "") or saved.token_file)
    if not path:
        return ""
    try:
        return Path(path).read_text().strip()
    except OSError as exc:
        raise CliError(f"token file {path} cannot be read: {exc.strerror}", hint=HOW) from exc


def _expand(path: str) -> str:
    return str(Path(path).expanduser()) if path else ""


def from_environment(flags: Flags) -> Connection:
    """As resolve, of this process's environment."""
    return resolve(flags, os.environ, load_config(config_path(os.environ)))
