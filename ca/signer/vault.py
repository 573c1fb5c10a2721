"""The one door to Vault and OpenBao: their PKI engine signs this replica's intermediate.

Login is by AppRole; its two files are read at each login, so a rotated secret id needs no restart. The token is renewed
past half of its life, and replaced by a new login when it was revoked or has run out. A signature is needed every ten
days; between, an outage of Vault is not felt, and only told (`Authority.ask_signer`).
`hvac` blocks, so each call runs in a thread, with a time limit on the socket and one around it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hvac
import requests
from cryptography import x509
from hvac import exceptions as vault

from ca import template, verify
from ca.policy import Denied
from ca.signer.protocol import SignerError, SignerRefused, SignerUnavailable

T = TypeVar("T")

_AWAY = (
    vault.VaultDown,  # 503: sealed, or no active node
    vault.BadGateway,
    vault.InternalServerError,
    vault.RateLimitExceeded,
    vault.VaultNotInitialized,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
)
MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class VaultSettings:
    address: str
    """https://host:port"""
    ca_file: str
    """PEM of the CA behind the server's certificate. There is no way to switch the check off."""
    role_id_file: str
    secret_id_file: str
    mount: str = "pki"
    auth_mount: str = "approle"
    timeout: float = 10.0
    """Seconds for one call."""


@dataclass(frozen=True, slots=True)
class _Token:
    taken: float
    ttl: float
    renewable: bool

    def run_out(self, now: float) -> bool:
        return now >= self.taken + self.ttl

    def due(self, now: float) -> bool:
        return self.renewable and now >= self.taken + self.ttl / 2


class VaultSigner:
    def __init__(self, settings: VaultSettings, *, clock: Callable[[], float]) -> None:
        self._settings, self._clock = settings, clock
        if not settings.address.startswith("https://"):
            raise SignerRefused(f"the signer's address {settings.address} is not https://")
        session = requests.Session()
        # Neither proxies, nor another CA, nor credentials out of the environment.
        session.trust_env = False
        session.verify = settings.ca_file
        self._session = session
        self._client = hvac.Client(
            url=settings.address, token="", verify=settings.ca_file, timeout=settings.timeout, session=session
        )
        self._token: _Token | None = None
        self._lock = asyncio.Lock()

    async def sign_intermediate(self, csr_pem: str, ttl: float) -> str:
        if isinstance(fault := verify.csr(csr_pem), Denied):
            raise SignerRefused(fault.reason)

        def sign() -> Any:
            return self._client.secrets.pki.sign_intermediate(
                csr=csr_pem,
                common_name="holdfast intermediate",
                extra_params={
                    "ttl": f"{int(ttl)}s",
                    "not_before_duration": f"{int(template.BACKDATE)}s",
                    "max_path_length": 0,
                    "use_csr_values": False,
                    "format": "pem",
                },
                mount_point=self._settings.mount,
            )

        answer = await self._authenticated("sign an intermediate", sign)
        data = answer.get("data", {}) if isinstance(answer, dict) else {}
        return _chain(data.get("certificate"), data.get("ca_chain") or [data.get("issuing_ca")])

    async def roots(self) -> tuple[str, ...]:
        text = await self._authenticated(
            "read the CA chain",
            lambda: self._client.secrets.pki.read_ca_certificate_chain(mount_point=self._settings.mount),
        )
        roots = tuple(pem for pem in _blocks(str(text)) if _self_signed(pem))
        if not roots:
            raise SignerRefused(f"PKI mount {self._settings.mount} has no root in its chain")
        return roots

    async def close(self) -> None:
        self._session.close()

    async def _authenticated(self, what: str, call: Callable[[], T]) -> T:
        """Run with a live token; if the token turns out revoked, log in again, once."""
        async with self._lock:
            fresh = await self._ensure_token()
            try:
                return await self._run(what, call)
            except _ForbiddenError:
                if fresh:
                    raise SignerRefused(f"Vault does not permit this role to {what}") from None
                self._token = None
            await self._ensure_token()
            try:
                return await self._run(what, call)
            except _ForbiddenError:
                raise SignerRefused(f"Vault does not permit this role to {what}") from None

    async def _ensure_token(self) -> bool:
        """Hold a token; True if it was just got by a login."""
        token, now = self._token, self._clock()
        if token is not None and not token.run_out(now):
            if not token.due(now):
                return False
            try:
                answer = await self._run("renew the token", self._client.auth.token.renew_self)
            except (_ForbiddenError, SignerRefused):
                pass  # revoked, or past its longest life: a new login follows
            else:
                self._token = _read_token(answer, now)
                return False
        self._token = None
        self._token = await self._log_in(now)
        return True

    async def _log_in(self, now: float) -> _Token:
        def login() -> Any:
            role_id = _secret_file(self._settings.role_id_file)
            secret_id = _secret_file(self._settings.secret_id_file)
            return self._client.auth.approle.login(
                role_id=role_id, secret_id=secret_id, mount_point=self._settings.auth_mount
            )

        try:
            return _read_token(await self._run("log in", login), now)
        except (SignerRefused, _ForbiddenError) as exc:
            raise SignerRefused(f"Vault refuses the AppRole login: {exc}") from exc

    async def _run(self, what: str, call: Callable[[], T]) -> T:
        """One blocking call in a thread. The library's exceptions end here."""
        try:
            async with asyncio.timeout(self._settings.timeout * 2):
                return await asyncio.to_thread(call)
        except vault.Forbidden as exc:
            raise _ForbiddenError(what) from exc
        except (TimeoutError, *_AWAY) as exc:
            raise SignerUnavailable(f"Vault could not {what}: {_words(exc)}") from exc
        except (vault.VaultError, requests.exceptions.RequestException, OSError, ValueError) as exc:
            raise SignerRefused(f"Vault would not {what}: {_words(exc)}") from exc


class _ForbiddenError(SignerError):
    """403: the token is gone or lacks the policy. Never leaves this file."""


def _words(exc: BaseException) -> str:
    """Short, on one line. Vault's messages carry no secrets; a request's own text, which may, is not shown."""
    if isinstance(exc, vault.VaultDown):
        return "it is sealed, or no node is active"
    if isinstance(exc, vault.VaultError):
        return "; ".join(str(exc.args[0]).split("\n"))[:300] if exc.args else type(exc).__name__
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror} ({exc.filename})" if exc.filename else exc.strerror
    return type(exc).__name__


def _read_token(answer: Any, now: float) -> _Token:
    auth = answer.get("auth") if isinstance(answer, dict) else None
    if not isinstance(auth, dict):
        raise SignerRefused("Vault's answer to a login holds no token")
    ttl = float(auth.get("lease_duration") or 0)
    # 0: a token without an end.
    return _Token(now, ttl or float("inf"), bool(auth.get("renewable")))


def _secret_file(path: str) -> str:
    text = Path(path).read_text().strip()
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def _chain(certificate: object, above: object) -> str:
    """The intermediate and what lies between it and the root."""
    if not isinstance(certificate, str) or not isinstance(above, list):
        raise SignerRefused("Vault's answer holds no certificate")
    own = _blocks(certificate)
    between = [pem for entry in above if isinstance(entry, str) for pem in _blocks(entry) if not _self_signed(pem)]
    return "".join(dict.fromkeys([*own, *between]))


def _blocks(text: str) -> tuple[str, ...]:
    if len(text) > MAX_ANSWER_BYTES:
        raise SignerRefused("Vault's answer is too large")
    return verify.split(text)


def _self_signed(pem: str) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as exc:
        raise SignerRefused("Vault's answer holds a certificate that cannot be read") from exc
    return certificate.subject == certificate.issuer
