"""A replica as a CA: its signer, its intermediate, its own TLS identity, and the bundle that it publishes."""

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from ca import bundle
from ca.authority import Authority, ServerIdentity
from ca.policy import lifetimes
from ca.seal import Cipher
from ca.signer.builtin import BuiltinSigner
from ca.signer.protocol import Signer, SignerError
from controlplane.api.tls import PeerTrust, ServerTls, client_context, usable
from controlplane.mirror import Mirror
from controlplane.settings import Settings
from controlplane.touched import Touched
from controlplane.view import View
from mesh.aio import Backoff, keep, pause
from mesh.model import MeshConfig
from mesh.store.errors import StoreError
from mesh.store.protocol import Store
from multicluster.link import PeerContext, peer_context

log = structlog.get_logger(__name__)

LOOK_SECONDS = 60.0
"""Between looks at the bundle and at the own certificate's age."""


def make_signer(
    settings: Settings, store: Store, cipher: Cipher, trust_domain: str, clock: Callable[[], float]
) -> Signer:
    """The signer that the settings name. Raises SignerError if they cannot be right."""
    wanted = settings.signer
    if wanted.kind == "builtin":
        return BuiltinSigner(store, cipher, trust_domain, clock=clock)
    # Its client library is a tenth of a node's start, and of no use to one that signs by itself.
    from ca.signer.vault import VaultSettings, VaultSigner

    return VaultSigner(
        VaultSettings(
            address=wanted.address,
            ca_file=wanted.ca_file,
            role_id_file=wanted.role_id_file,
            secret_id_file=wanted.secret_id_file,
            mount=wanted.mount,
        ),
        clock=clock,
    )


class Issuing:
    """Start it first: nothing can be served without a certificate of the own."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        signer: Signer,
        cipher: Cipher,
        config: MeshConfig,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._store, self._clock, self._rng = store, clock, rng
        self._directory = Path(settings.data_dir)
        self.authority = Authority(
            signer,
            trust_domain=config.spec.trust_domain,
            replica=settings.replica,
            directory=self._directory,
            cipher=cipher,
            clock=clock,
            rng=rng,
            life=lifetimes(config.spec),
        )
        self._identity: ServerIdentity | None = None
        self._files: tuple[Path, Path] | None = None
        self._bundle_roots: tuple[str, ...] = ()
        self._peers: tuple[PeerTrust, ...] = ()
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._tell: Callable[[float, str], None] = lambda _end, _fault: None
        self.signer_fault = ""
        """Why the signer would not sign, when it was last asked."""
        self.tls: ServerTls | None = None

    async def start(self) -> None:
        """Hold an intermediate and a server certificate; wait while the signer is away and the disk has none."""
        backoff = Backoff(self._rng, base=0.2, cap=10.0)
        while True:
            try:
                await self.authority.start()
                self._renew_identity()
                return
            except SignerError as exc:
                log.warning("waiting for the signer", error=str(exc))
            await pause(backoff.next())

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Called when the own certificate or the trusted roots change."""
        self._listeners.append(listener)

    def report_to(self, tell: Callable[[float, str], None]) -> None:
        """Called with the intermediate's end (unix seconds) and the signer's fault, again and again."""
        self._tell = tell

    @property
    def roots(self) -> tuple[str, ...]:
        return self.authority.roots

    @property
    def trusted(self) -> tuple[str, ...]:
        """Roots that client certificates may lead to."""
        return tuple(dict.fromkeys((*self.authority.roots, *self._bundle_roots)))

    def valid_until(self) -> float:
        issuer = self.authority.issuer
        return issuer.not_after if issuer else 0.0

    async def rotate(self) -> None:
        await self.authority.rotate_now()
        self._renew_identity()
        self._tell(self.valid_until(), self.signer_fault)

    def client(self) -> ssl.SSLContext:
        """TLS for dialling other replicas."""
        assert self._files is not None
        return client_context(*self._files, self.trusted)

    def peer_client(self, roots: tuple[str, ...], trust_domain: str) -> PeerContext:
        """TLS for dialling a peer's control plane."""
        assert self._files is not None
        return peer_context(*self._files, usable(roots), trust_domain)

    def follow(self, mirror: Mirror) -> None:
        """Trust what the published bundle says, and issue as long as the MeshConfig says."""

        def notice(touched: Touched) -> None:
            if touched.config and (config := mirror.view.config):
                self.authority.life = lifetimes(config.spec)
            if touched.bundles and (known := mirror.view.bundle(self.authority.trust_domain)):
                # What stands in the store may be anything; it must not end this replica, or shut everybody out.
                self._bundle_roots = usable(known.spec.roots)
                self._reload()
            if touched.bundles or touched.peerings:
                peers = tuple(peers_of(mirror.view, self.authority.trust_domain))
                if peers != self._peers:
                    self._peers = peers
                    self._reload()

        mirror.subscribe(notice)

    async def run(self) -> None:
        """Keep the intermediate, the bundle and the own certificate fresh."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep("intermediate", self.authority.run, retry_on=SignerError, rng=self._rng))
            group.create_task(
                keep("bundle", self._publish, retry_on=(StoreError, bundle.BundleError), rng=self._rng, cap=10.0)
            )
            group.create_task(self._look_at_signer())
            group.create_task(keep("identity", self._stay_valid, retry_on=SignerError, rng=self._rng))

    async def _publish(self) -> None:
        while True:
            await bundle.publish(self._store, self.authority.trust_domain, self.authority.roots, self._clock())
            await pause(LOOK_SECONDS)

    async def _look_at_signer(self) -> None:
        """It is needed once in weeks: who sealed it by a reboot must hear of it before."""
        while True:
            fault = await self.authority.ask_signer()
            if fault != self.signer_fault:
                log.warning("the signer's state", fault=fault or "none any more", runway_ends=self.valid_until())
            self.signer_fault = fault
            self._tell(self.valid_until(), fault)
            await pause(LOOK_SECONDS)

    async def _stay_valid(self) -> None:
        while True:
            held = self._identity
            # Renewed at a third of its life, as everything here.
            if held is None or self._clock() > held.not_before + (held.not_after - held.not_before) / 3:
                self._renew_identity()
            await pause(LOOK_SECONDS)

    def _renew_identity(self) -> None:
        self._identity = self.authority.server_identity()
        self._files = self._identity.write(self._directory)
        self._reload()

    def _reload(self) -> None:
        if self._files is None:
            return
        if self.tls is None:
            self.tls = ServerTls(*self._files, self.trusted, self._peers)
        else:
            self.tls.renew(*self._files, self.trusted, self._peers)
        for listener in self._listeners:
            listener()


def peers_of(view: View, own: str) -> Iterator[PeerTrust]:
    """Whose control planes may dial us, each by the bundle of its own trust domain; also, to hear it, one deleted."""
    known = {peering.metadata.name: peering.spec.trust_domain for peering in view.peerings()}
    for name, domain in sorted(known.items()):
        bundle = view.bundle(domain)
        if domain != own and bundle is not None and (roots := usable(bundle.spec.roots)):
            yield PeerTrust(name, domain, roots)
    for name, record in sorted(view.peers.items()):
        if name not in known and record.state == "deleted" and (roots := usable(record.roots)):
            yield PeerTrust(name, record.trust_domain, roots)
