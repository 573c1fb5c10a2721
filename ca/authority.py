"""A replica's intermediate: made, kept sealed on disk, rotated; and the leaves that it signs in this process.

The signer is needed only to have an intermediate signed. Between, and after a restart, leaves are issued from what is
held, so a Vault that is away is not felt until the runway ends.
"""

import asyncio
import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from ca import disk, keys, policy, rotation, template, verify
from ca.policy import Denied, Grant, Lifetimes
from ca.rotation import Activate, Prepare, Retire, Runway, Slot, Wait
from ca.seal import Cipher, SealError
from ca.signer.protocol import Signer, SignerError, SignerRefused
from mesh import aio

log = structlog.get_logger(__name__)

FILE = "intermediate.json"
DEFAULT_LIFE = Lifetimes()
NEW_ROOT_HOLD = 600.0
"""Seconds that an intermediate under a root not seen before waits: the bundle is published with it at once, and every
host must hold it before the first leaf leads to it."""
LONGEST_WAIT = 3600.0
"""Seconds between looks at the clock: a clock that is set right must not find us asleep for days."""


class _Stored(msgspec.Struct, frozen=True):
    """One slot on disk, inside the seal."""

    chain: str
    key: str
    jitter: float
    ready: float = 0.0


class _File(msgspec.Struct, frozen=True):
    roots: tuple[str, ...]
    current: _Stored | None = None
    upcoming: _Stored | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """A verified intermediate with its key, ready to issue."""

    stored: _Stored
    issuer: verify.Issuer
    key: template.PrivateKey
    parent: template.Parent

    @property
    def slot(self) -> Slot:
        return Slot(self.issuer.not_before, self.issuer.not_after, self.stored.jitter, self.stored.ready)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """The control plane's own certificate and key, for its TLS."""

    chain_pem: str
    key_pem: str
    not_before: float
    not_after: float

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Put both where Python's TLS can load them (0600); (chain file, key file)."""
        chain, key = directory / "server.pem", directory / "server.key"
        disk.write_private(key, self.key_pem.encode())
        disk.write_private(chain, self.chain_pem.encode())
        return chain, key


class Authority:
    """Start it before use; run() keeps it fresh. Issuing is synchronous and takes a tenth of a millisecond."""

    def __init__(
        self,
        signer: Signer,
        *,
        trust_domain: str,
        replica: str,
        directory: Path,
        cipher: Cipher,
        clock: Callable[[], float],
        rng: random.Random,
        life: Lifetimes = DEFAULT_LIFE,
    ) -> None:
        self._signer, self._cipher, self._clock, self._rng, self.life = signer, cipher, clock, rng, life
        self.trust_domain, self.replica = trust_domain, replica
        self._path = directory / FILE
        self._aad = f"disk/{trust_domain}/{replica}/{FILE}"
        self._roots: tuple[str, ...] = ()
        self._current: _Held | None = None
        self._upcoming: _Held | None = None
        self._lock = asyncio.Lock()

    @property
    def roots(self) -> tuple[str, ...]:
        """Roots (PEM) that this replica's chains lead to; first the one of what it issues and serves now.

        That one is what join tokens pin, so it must be the root of the certificate that a joining host is shown.
        """
        return self._roots

    @property
    def issuer(self) -> verify.Issuer | None:
        """What issues now."""
        return self._current.issuer if self._current else None

    def runway(self, now: float) -> Runway:
        """How long issuing can go on without the signer."""
        if self._current is None:
            return rotation.runway(0, 0, now)
        return rotation.runway(self._current.issuer.not_before, self._current.issuer.not_after, now)

    async def start(self) -> None:
        """Hold an intermediate: the one on disk, or a new one.

        Raises:
            SignerError: there is none on disk that still lasts, and the signer gives none.

        """
        async with self._lock:
            await asyncio.to_thread(self._load)
            while not isinstance(step := self._next(), Wait):
                if isinstance(step, Prepare) and self._current is not None:
                    break  # the held one lasts; run() renews it in its own time
                await self._do(step)

    async def run(self) -> None:
        """Rotate when it is time. Ends only by SignerError (run it with mesh.aio.keep) or by cancelling."""
        while True:
            async with self._lock:
                while not isinstance(step := self._next(), Wait):
                    await self._do(step)
            await aio.pause(max(1.0, min(LONGEST_WAIT, step.until - self._clock())))

    async def ask_signer(self) -> str:
        """Why it would not sign now; empty if it answers.

        It is asked for its roots, so this tells that it is there, open and has its mount, and that our login holds
        where one is due; whether this replica may still sign is only seen when it signs.
        """
        try:
            await self._signer.roots()
        except SignerError as exc:
            return str(exc)
        return ""

    async def rotate_now(self) -> None:
        """Have a new intermediate signed and issue with it, whatever the time; later if its root is a new one.

        Raises:
            SignerError: the signer gives none; the old one goes on issuing.

        """
        async with self._lock:
            await self._do(Prepare())
            if self._next() == Activate():
                await self._do(Activate())

    def issue(self, grant: Grant, public_key: template.PublicKey, now: float) -> str | Denied:
        """The chain (PEM) for this grant: the leaf, then the intermediate. The caller verifies it (ca.verify.chain)."""
        held = self._current
        if held is None or now >= held.issuer.not_after:
            return Denied("this replica holds no intermediate that is valid now", retry_after=30.0)
        serial = x509.random_serial_number()
        signed = template.leaf(grant, public_key, held.parent, now, serial).sign(held.key, hashes.SHA256())
        return signed.public_bytes(Encoding.PEM).decode("ascii") + held.issuer.chain_pem

    def server_identity(self) -> ServerIdentity:
        """A fresh key and certificate for the control plane's own TLS: name controlplane.holdfast.

        Raises:
            SignerRefused: the replica's name is impossible, or no valid intermediate is held.

        """
        now, key_pem = self._clock(), keys.new_key()
        public_key = _private_key(key_pem).public_key()
        grant = policy.replica(self.replica, self.trust_domain, self.life)
        chain = grant if isinstance(grant, Denied) else self.issue(grant, public_key, now)
        if isinstance(grant, Denied) or isinstance(chain, Denied) or self._current is None:
            raise SignerRefused(chain.reason if isinstance(chain, Denied) else "no intermediate is held")
        leaf = verify.chain(chain, grant, public_key, self._current.issuer, now)
        if isinstance(leaf, Denied):
            raise SignerRefused(leaf.reason)
        return ServerIdentity(chain, key_pem, leaf.not_before, leaf.not_after)

    def _next(self) -> rotation.Step:
        return rotation.step(
            self._current.slot if self._current else None,
            self._upcoming.slot if self._upcoming else None,
            self._clock(),
        )

    async def _do(self, step: Prepare | Activate | Retire) -> None:
        """One step; what it changed is on disk before it is in force, so a crash finds it again."""
        match step:
            case Prepare():
                roots, upcoming = await self._prepare()
                await self._save(roots, self._current, upcoming)
                log.info("intermediate prepared", not_after=upcoming.issuer.not_after)
            case Activate():
                await self._save(self._roots, self._upcoming, None)
                log.info("intermediate activated")
            case Retire():
                await self._save(self._roots, self._current, None)

    async def _save(self, roots: tuple[str, ...], current: _Held | None, upcoming: _Held | None) -> None:
        file = _File(roots, current.stored if current else None, upcoming.stored if upcoming else None)
        sealed = self._cipher.seal(msgspec.json.encode(file), self._aad)
        await asyncio.to_thread(disk.write_private, self._path, sealed)
        self._roots, self._current, self._upcoming = _ordered(roots, current), current, upcoming

    async def _prepare(self) -> tuple[tuple[str, ...], _Held]:
        key_pem = keys.new_key()
        chain = await self._signer.sign_intermediate(keys.new_csr(key_pem), self.life.intermediate)
        roots = await self._signer.roots()
        now = self._clock()
        held = _hold(_Stored(chain, key_pem, self._rng.random()), roots, now)
        if isinstance(held, Denied):
            raise SignerRefused(f"what the signer signed is not what was asked for: {held.reason}")
        if self._current is not None and held.issuer.root_pem not in self._roots:
            log.warning("the signer has a new root; it is published first", activate_after=now + NEW_ROOT_HOLD)
            stored = msgspec.structs.replace(held.stored, ready=now + NEW_ROOT_HOLD)
            held = dataclasses.replace(held, stored=stored)
        # Not yet retired roots of chains that are still in use stay known.
        return tuple(dict.fromkeys((*roots, *self._roots))), held

    def _load(self) -> None:
        """Take what is on disk, as far as it is whole and in date. Anything else is as if it were not there."""
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return
        try:
            file = msgspec.json.decode(self._cipher.open(sealed, self._aad), type=_File)
        except (SealError, msgspec.DecodeError) as exc:
            log.warning("the intermediate on disk cannot be used", path=str(self._path), error=str(exc))
            return
        self._roots = file.roots
        for place, stored in (("_current", file.current), ("_upcoming", file.upcoming)):
            held = _hold(stored, file.roots, self._clock()) if stored else None
            if isinstance(held, Denied):
                log.warning("an intermediate on disk is not used", error=held.reason)
            setattr(self, place, None if isinstance(held, Denied) else held)
        self._roots = _ordered(file.roots, self._current)


def _ordered(roots: tuple[str, ...], current: _Held | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys((current.issuer.root_pem, *roots))) if current else roots


def _hold(stored: _Stored, roots: tuple[str, ...], now: float) -> _Held | Denied:
    """Verify an intermediate against its key and the roots."""
    try:
        key = _private_key(stored.key)
    except (ValueError, SignerError) as exc:
        return Denied(str(exc))
    issuer = verify.issuer(stored.chain, roots, key.public_key(), now)
    if isinstance(issuer, Denied):
        return issuer
    return _Held(stored, issuer, key, template.Parent.of(issuer.certificate))


def _private_key(pem: str) -> template.PrivateKey:
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SignerRefused("the intermediate's key is not ECDSA")
    return key
