"""A real OpenBao server: initialised, unsealed and set up by us, with its data on disk.

Not `-dev`: it can be sealed, stopped and started again with what it had. Storage is raft with one member. It speaks TLS
under a CA of its own. The PKI engine's root is made inside and never leaves; the control plane's AppRole may have an
intermediate signed, and nothing else.

    with Bao(directory) as bao:
        bao.set_up("mesh.example")
        settings = bao.address, bao.ca_file, bao.role_id_file, bao.secret_id_file

Calls are synchronous (run them with asyncio.to_thread beside a loop).
"""

import contextlib
import datetime as dt
import ipaddress
import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane.demo.binaries import find_bao
from controlplane.demo.process import Process, ProcessError, free_ports

MOUNT = "pki"
ROLE = "holdfast-controlplane"
ROOT_TTL = "87600h"
CALL_TIMEOUT = 10.0
ACTIVE = 200
"""Of /v1/sys/health: initialised, unsealed, active."""

POLICY = f"""
path "{MOUNT}/root/sign-intermediate" {{ capabilities = ["create", "update"] }}
path "{MOUNT}/ca_chain" {{ capabilities = ["read"] }}
path "{MOUNT}/cert/ca_chain" {{ capabilities = ["read"] }}
path "auth/token/renew-self" {{ capabilities = ["update"] }}
path "auth/token/lookup-self" {{ capabilities = ["read"] }}
"""

CONFIG = """
ui = false
log_level = "warn"
api_addr = "https://{host}:{port}"
cluster_addr = "https://{host}:{cluster_port}"
storage "raft" {{
  path = "{data}"
  node_id = "{node}"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "{host}:{port}"
  cluster_address = "{host}:{cluster_port}"
  tls_cert_file = "{cert}"
  tls_key_file = "{key}"
  tls_min_version = "tls13"
}}
"""


class BaoError(Exception):
    """OpenBao refused a call of the set-up; with its own words."""


class Bao:
    """One server in one directory. Stop it, also on failure: use it as a context manager."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1", login_ttl: str = "1h") -> None:
        """`login_ttl`: of the tokens that the AppRole gives, such as 1h."""
        self.directory, self.host, self._login_ttl = directory, host, login_ttl
        self.port, self._cluster_port = free_ports(2, host)
        self.ca_file = directory / "tls" / "ca.pem"
        self.role_id_file, self.secret_id_file = directory / "role-id", directory / "secret-id"
        self._secrets = directory / "init.json"
        self.process = Process(
            "bao",
            [str(find_bao()), "server", f"-config={directory / 'bao.hcl'}"],
            log=directory / "bao.log",
            env={"HOME": str(directory), "SKIP_SETCAP": "1"},
        )

    @property
    def address(self) -> str:
        return f"https://{self.host}:{self.port}"

    @property
    def signer(self) -> dict[str, Any]:
        """`signer` of a control-plane node's settings."""
        return {
            "kind": "vault",
            "address": self.address,
            "caFile": str(self.ca_file),
            "mount": MOUNT,
            "roleIdFile": str(self.role_id_file),
            "secretIdFile": str(self.secret_id_file),
        }

    def start(self) -> Self:
        """Start it and, if it has been initialised, unseal it. On return it serves."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.ca_file.exists():
            self._configure()
        self.process.start()
        try:
            self.process.wait_for_port(self.host, self.port)
            if not self._secrets.exists():
                self._initialise()
            self.unseal()
        except BaseException:
            self.process.stop()
            raise
        return self

    def stop(self) -> None:
        """May be repeated. Its data stays; start() goes on with it."""
        self.process.stop()

    def seal(self) -> None:
        """It forgets its master key and answers nothing until unseal()."""
        self.call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Give it its key and wait until it serves. May be repeated."""
        self.call("PUT", "sys/unseal", {"key": self._secret("key")}, token="")
        self.process.wait_until(lambda: self.health() == ACTIVE, what="become active")

    def health(self) -> int:
        """The HTTP status of its health page; 0: no answer. 503: sealed."""
        try:
            with self._open("GET", "sys/health", None, "") as response:
                return int(response.status)
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code
        except OSError:
            return 0

    def set_up(self, trust_domain: str) -> None:
        """PKI engine with a root inside, and the AppRole with its two files. Once."""
        self.call("POST", f"sys/mounts/{MOUNT}", {"type": "pki", "config": {"max_lease_ttl": ROOT_TTL}})
        root = {"common_name": f"{trust_domain} root", "key_type": "ec", "key_bits": 384, "ttl": ROOT_TTL}
        self.call("POST", f"{MOUNT}/root/generate/internal", {**root, "max_path_length": 1})
        self.call("PUT", f"sys/policies/acl/{ROLE}", {"policy": POLICY})
        self.call("POST", "sys/auth/approle", {"type": "approle"})
        limits = {"token_ttl": self._login_ttl, "token_max_ttl": "24h", "token_no_default_policy": True}
        self.call("POST", f"auth/approle/role/{ROLE}", {"token_policies": [ROLE], **limits})
        role_id = self.call("GET", f"auth/approle/role/{ROLE}/role-id")["data"]["role_id"]
        _private(self.role_id_file, role_id)
        self.renew_secret_id()

    def renew_secret_id(self) -> None:
        """Write a new secret id; the old ones stay valid."""
        answer = self.call("POST", f"auth/approle/role/{ROLE}/secret-id")
        _private(self.secret_id_file, answer["data"]["secret_id"])

    def revoke_tokens(self) -> None:
        """End every token that the AppRole has given; it may log in again."""
        self.call("PUT", "sys/leases/revoke-prefix/auth/approle/login", {"sync": True})

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, token: str | None = None
    ) -> dict[str, Any]:
        """One call of its API, as root unless a token is given.

        Raises:
            BaoError: it refused, or does not answer.

        """
        try:
            with self._open(method, path, body, self._secret("token") if token is None else token) as response:
                raw = response.read()
        except urllib.error.HTTPError as exc:
            with exc:
                raise BaoError(f"{method} {path}: {exc.code} {exc.read()[:500].decode(errors='replace')}") from exc
        except OSError as exc:
            raise BaoError(f"{method} {path}: {exc}") from exc
        answer = json.loads(raw) if raw else {}
        return answer if isinstance(answer, dict) else {}

    def __enter__(self) -> Self:
        return self if self.process.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self, method: str, path: str, body: dict[str, Any] | None, token: str) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the address is ours and https
            f"{self.address}/v1/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"X-Vault-Token": token} if token else {},
        )
        context = ssl.create_default_context(cafile=str(self.ca_file))
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers).open(request, timeout=CALL_TIMEOUT)

    def _initialise(self) -> None:
        answer: dict[str, Any] = {}

        def initialised() -> bool:
            with contextlib.suppress(BaoError):  # its listener is up a moment before its core is
                answer.update(self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token=""))
            return bool(answer)

        self.process.wait_until(initialised, what="be initialised")
        _private(self._secrets, json.dumps({"key": answer["keys_base64"][0], "token": answer["root_token"]}))

    def _secret(self, name: str) -> str:
        try:
            return str(json.loads(self._secrets.read_text())[name])
        except FileNotFoundError as exc:
            raise ProcessError("OpenBao was not initialised here") from exc

    def _configure(self) -> None:
        tls = self.directory / "tls"
        tls.mkdir(mode=0o700, exist_ok=True)
        (self.directory / "data").mkdir(mode=0o700, exist_ok=True)
        cert, key = _make_tls(tls, self.host)
        config = CONFIG.format(
            host=self.host,
            port=self.port,
            cluster_port=self._cluster_port,
            data=self.directory / "data",
            node="bao-0",
            cert=cert,
            key=key,
        )
        (self.directory / "bao.hcl").write_text(config)


def _private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _make_tls(directory: Path, host: str) -> tuple[Path, Path]:
    """A CA for this server alone, whose key is forgotten at once, and the server's certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID

    from ca import template
    from ca.signer.memory import new_root

    now = dt.datetime.now(dt.UTC)
    root = new_root("OpenBao's own CA", now.timestamp())
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=3650) - dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(template.Parent.of(root.certificate).key_id, critical=False)
        .sign(root.key, hashes.SHA384())
    )
    chain, key_file = directory / "server.pem", directory / "server.key"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    _private(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    (directory / "ca.pem").write_text(root.pem)
    return chain, key_file
