"""The host's own part: definitions, health and identities -> NodeLocal, and the instances to register."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import structlog

from agent import addresses, definitions
from agent import drained as draining
from agent import places as placing
from agent.capture import wants_ipv6
from agent.health import Monitor
from agent.identity.keeper import Keeper
from agent.identity.orders import GATE
from agent.settings import Settings
from agent.state import StoredIdentity
from agent.status import InstanceStatus
from mesh.aio import pause
from mesh.model import GATEWAY, Health, Instance, NodeLocal, ServiceDefinition, gateway_instance

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""Between looks at services.d; SIGHUP and `reload` look at once."""


_TRUST = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine
)


def _trusted(said: str) -> str:
    """Where the roots for servers outside of the mesh are: in the file that is said, or where the operating system has
    its own. Empty: nowhere; Envoy would refuse whatever names a file that is not there.
    """
    return next((place for place in ((said,) if said else _TRUST) if _holds_something(Path(place))), "")


def _holds_something(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_size > 0
    except OSError:
        return False


def _ports(settings: Settings) -> set[int]:
    """On which agent and Envoy listen themselves."""
    places = [settings.scrape, settings.gate.listen if settings.gate else ""]
    numbers = [place.rpartition(":")[2] for place in places]
    own = {settings.mtls_port, *((settings.gateway.port,) if settings.gateway else ())}
    return own | {*(int(number) for number in numbers if number.isdecimal())}


class Host:
    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self.places = placing.Places(settings.data, clock)
        self._folder = Path(settings.services_dir)
        self._trust_file, self._ipv6 = self._system()
        self._stamp: definitions.Stamp | None = None
        self.definitions = definitions.Definitions()
        self.drained = draining.Drained()
        self.envoy_drains = False
        """Envoy is being stopped: callers leave while it still serves. Nobody's word, so it is not kept."""

    def load_drained(self) -> None:
        """What was out of service when the agent ended, still is."""
        self.drained = draining.load(self._settings.data)

    def drain(self, what: str, now: float) -> None:
        """Take a service, or with '' the whole host, out of service. It is kept before it counts."""
        self._keep(self.drained.begin(what, now))

    def undrain(self, what: str) -> None:
        self._keep(self.drained.end(what))

    def _keep(self, drained: draining.Drained) -> None:
        draining.save(self._settings.data, drained)
        self.drained = drained

    def leaving(self, what: str, monitor: Monitor, held: Iterable[str]) -> tuple[Instance, ...]:
        """The instances that a drain of this is about."""
        return tuple(
            instance
            for instance in self.instances(monitor, held)
            if what in {"", f"{instance.spec.service}.{instance.metadata.namespace}"}
        )

    def load(self) -> bool:
        """Read services.d if it changed, and see whether the trusted roots or IPv6 came or went. True: something is not
        as it was before.
        """
        system = self._system()
        other, (self._trust_file, self._ipv6) = system != (self._trust_file, self._ipv6), system
        stamp = definitions.stamp(self._folder)
        if stamp == self._stamp:
            return other
        self._stamp = stamp
        loaded = definitions.load(self._folder, self._settings.node)
        self.places.give(loaded.good, _ports(self._settings))
        before, self.definitions = self.definitions, loaded
        for problem in loaded.problems:
            if problem not in before.problems:
                log.error("a service definition cannot be used", problem=problem)
        return loaded != before or other

    def _system(self) -> tuple[str, bool]:
        """Where the trusted roots are, and whether there is IPv6 to listen on."""
        return _trusted(self._settings.trust_file), addresses.here("::1")

    def look(self) -> None:
        """What definitions and places are on disk, for who is not the agent: nothing is given out."""
        self.definitions = definitions.load(self._folder, self._settings.node)
        self.places.look()

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Look now and then, until cancelled."""
        while True:
            await pause(LOOK_SECONDS)
            if await asyncio.to_thread(self.load):
                log.info("what the host says of itself changed", services=len(self.definitions.good))
                on_change()

    def wanted(self) -> set[str]:
        """Identities that this host needs, besides its own."""
        return {d.identity for d in self.definitions.good} | ({GATE} if self._settings.gate else set())

    def local(self, stored: StoredIdentity) -> NodeLocal:
        settings, wanted = self._settings, self.wanted()
        return NodeLocal(
            node=settings.node,
            address=settings.address,
            trust_domain=stored.trust_domain,
            cluster=stored.cluster,
            definitions=self.definitions.good,
            identities={name: identity for name, identity in stored.held.items() if name in wanted},
            bundle_roots=stored.roots,
            mtls_port=settings.mtls_port,
            bind=settings.listens_at,
            gate=settings.gate,
            gateway=settings.gateway,
            access_log=settings.access_log,
            locality=settings.locality,
            trust_file=self._trust_file,
            virtual=self.places.addresses(),
            capture_ports=self.places.ports(),
            capture_outbound=settings.capture.outbound is not None,
            capture_ipv6=self._ipv6 and wants_ipv6(settings.capture),
        )

    def instances(self, monitor: Monitor, held: Iterable[str]) -> tuple[Instance, ...]:
        """What to register: only what can prove who it is, so that no caller is sent to a port that cannot answer."""
        ready = set(held)
        own = tuple(self._instance(d, monitor) for d in self.definitions.good if d.identity in ready)
        return (*own, *self._gateway())

    def _gateway(self) -> Iterator[Instance]:
        """It shows nobody a certificate, so it needs none."""
        settings = self._settings
        if settings.gateway:
            health: Health = "draining" if self.drained.has(str(GATEWAY)) else "healthy"
            yield gateway_instance(
                settings.node, settings.address, settings.gateway, health, locality=settings.locality
            )

    def _instance(self, definition: ServiceDefinition, monitor: Monitor) -> Instance:
        settings = self._settings
        health = self._health(definition, monitor)
        return definition.instance_on(
            settings.node, settings.address, health, settings.mtls_port, locality=settings.locality
        )

    def _health(self, definition: ServiceDefinition, monitor: Monitor) -> Health:
        if self.envoy_drains or self.drained.has(f"{definition.name}.{definition.namespace}"):
            return "draining"
        return monitor.health(definition)

    def statuses(
        self, monitor: Monitor, keeper: Keeper, refused: "dict[str, str]", *, registered: bool
    ) -> tuple[InstanceStatus, ...]:
        """Each local service, in words."""
        found = [
            InstanceStatus(
                service=str(GATEWAY),
                identity="",
                health=gateway.spec.health,
                reason="",
                registered=refused.get(gateway.metadata.name) or ("yes" if registered else "no"),
            )
            for gateway in self._gateway()
        ]
        for definition in self.definitions.good:
            name = definition.instance_name(self._settings.node)
            tally = monitor.tallies.get((definition.namespace, definition.name))
            state = "yes" if registered and definition.identity in keeper.held else "no"
            found.append(
                InstanceStatus(
                    service=f"{definition.name}.{definition.namespace}",
                    identity=definition.identity,
                    health=self._health(definition, monitor),
                    reason=tally.reason if tally else "",
                    registered=refused.get(name) or state,
                )
            )
        return tuple(found)
